import { announcing, type HeaderLine, type Headers } from '../model/headers.js';
import type { RelayedAnswer } from '../model/outcome.js';
import { moved, pathOf, resolveAt } from '../model/uri-reference.js';

/** Where a client gets an origin's answer. */
export interface AnswerPlace {
  readonly route: { readonly origin: string; readonly delivery: { readonly rewriteLocation?: boolean } };
  /** What clients put before a target: scheme and authority, and a path when there is one; no trailing slash. */
  readonly publicUrl: string;
  /** The target that the answer is of, where the client asked for it at another: relative references mean nothing there. */
  readonly target?: string;
}

/** Of the fields that refer to something, those that every gateway knows; in others, as in bodies, references stay as they are. */
const REFERENCES = /^(?:location|content-location)$/i;

/**
 * The fields of an origin's answer as its client may take them: references that lead where the origin meant, and none of the
 * ways around us that `Alt-Svc` offers. `altSvc` is offered instead.
 */
export function answerFields(headers: Headers, place: AnswerPlace, altSvc?: string): HeaderLine[] {
  const lines = withoutAltSvc(headers).map(([name, value]): HeaderLine => {
    return REFERENCES.test(name) ? [name, referenceFor(value, place)] : [name, value];
  });
  return altSvc === undefined ? lines : [...lines, ['Alt-Svc', altSvc]];
}

/** The whole answer as its client may take it: what its head may not say is not said behind its body either. */
export function answerFor(answer: RelayedAnswer, place: AnswerPlace, altSvc?: string): RelayedAnswer {
  const trailersFor = (trailers: Headers): HeaderLine[] => answerFields(trailers, place);
  const headers = announcing(answerFields(answer.headers, place, altSvc), trailersFor);
  return { ...answer, headers, trailers: () => trailersFor(answer.trailers()) };
}

/** RFC 7838 §3: an alternative of the origin's is none of ours. */
export function withoutAltSvc(headers: Headers): HeaderLine[] {
  return headers.filter(([name]) => name.toLowerCase() !== 'alt-svc');
}

function referenceFor(reference: string, { route, publicUrl, target }: AnswerPlace): string {
  const { origin, delivery } = route;
  const own = delivery.rewriteLocation ? moved(reference, origin, publicUrl) : reference;
  if (target === undefined) return own;
  const resolved = resolveAt(target, own);
  return resolved === own ? own : pathOf(publicUrl) + resolved;
}
