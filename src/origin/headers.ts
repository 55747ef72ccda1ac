import { type FieldRules, originFields } from '../model/client-fields.js';
import { withForwarding } from '../model/forwarded.js';
import {
  withAnnouncedTrailers,
  fieldValue,
  type HeaderLine,
  type Headers,
  forwardableHeaders,
} from '../model/headers.js';
import type { RelayedAnswer } from '../model/messages.js';
import { METHODS_WITHOUT_CONTENT } from '../model/methods.js';
import type { RequestHead } from '../model/request-head.js';
import { rebaseReference, pathOf, resolveReference } from '../model/uri.js';

/** The framing of an outgoing request's body. */
export type Framing = 'none' | 'length' | 'chunked';

/**
 * The header lines of the request to the origin: the client's end-to-end lines in their order and case, one `Host`, our own
 * framing and forwarding fields. `host` is the value of `Host`, `via` this proxy's name.
 */
export function headersForOrigin(head: RequestHead, host: string, via?: string): HeaderLine[] {
  return withHopFields(head, withForwarding(endToEndLines(head, host), { ...head, ...head.connection }, via));
}

/** The route's rules for request headers, and the lines that are added. */
export interface RouteHeaderOptions {
  readonly route: FieldRules;
  readonly addedHeaders?: Headers;
  readonly via?: string;
}

/**
 * Like `headersForOrigin` for a route: without the fields that its clients must not send, and with `addedHeaders` of the
 * authorization service. Those come last, so that the client's `Connection` cannot remove them.
 */
export function headersForRoute(
  head: RequestHead,
  host: string,
  { route, addedHeaders: added = [], via }: RouteHeaderOptions,
): HeaderLine[] {
  const lines = headersForOrigin({ ...head, headers: originFields(head.headers, route) }, host, via);
  const { trustsTargetOverrides, reservedNames, authorize } = route;
  // Names with `_` are gone by now, except those of the forwarding fields.
  const rules = { passesUnderscores: true, trustsTargetOverrides, reservedNames, authorize };
  return [...originFields(lines, rules), ...added];
}

/** Like `headersForOrigin` for another node of the cluster: without forwarding fields of this hop. */
export function headersForNode(head: RequestHead, host: string): HeaderLine[] {
  return withHopFields(head, endToEndLines(head, host));
}

function endToEndLines(head: RequestHead, host: string): HeaderLine[] {
  const framing = framingOf(head);
  const forwarded = forwardableHeaders(head.headers, framing === 'chunked').filter(
    (line) => !isReplaced(line, head, framing),
  );
  return withHost(forwarded, host);
}

function withHopFields(head: RequestHead, lines: readonly HeaderLine[]): HeaderLine[] {
  return [...lines, ...framingLines(head, lines, framingOf(head)), ...acceptedTrailers(head)];
}

/**
 * The framing of the body. Without an explicit one Node decides by the method and sends the body of a DELETE without
 * any, which the origin would take for the next request.
 */
export function framingOf({ hasBody, contentLength }: RequestHead): Framing {
  if (!hasBody) return 'none';
  return contentLength === undefined ? 'chunked' : 'length';
}

function isReplaced([name, value]: HeaderLine, head: RequestHead, framing: Framing): boolean {
  switch (name.toLowerCase()) {
    case 'content-length':
      return framing === 'chunked' || (framing === 'none' && Number(value) !== 0);
    case 'expect':
      return !head.expectsContinue && /^\s*100-continue\s*$/i.test(value);
    default:
      return false;
  }
}

/** Adds the framing. The client's `Connection` may have removed its `Content-Length`, which the body still needs. */
function framingLines(head: RequestHead, lines: Headers, framing: Framing): HeaderLine[] {
  if (framing === 'chunked') return [['Transfer-Encoding', 'chunked']];
  if (fieldValue(lines, 'content-length') !== undefined) return [];
  if (framing === 'length') return [['Content-Length', `${head.contentLength!}`]];
  return METHODS_WITHOUT_CONTENT.has(head.method) ? [] : [['Content-Length', '0']];
}

function withHost(lines: readonly HeaderLine[], host: string): HeaderLine[] {
  const isHost = ([name]: HeaderLine): boolean => name.length === 4 && name.toLowerCase() === 'host';
  const first = lines.find(isHost);
  if (!first) return [['Host', host], ...lines];
  return lines.flatMap((line): HeaderLine[] => {
    if (!isHost(line)) return [line];
    return line === first ? [[line[0], host]] : [];
  });
}

/** If the client accepts trailers, so do we: `TE` applies to one hop and is sent again for ours (RFC 9110 §10.1.4). */
function acceptedTrailers({ headers }: RequestHead): HeaderLine[] {
  const accepted = (fieldValue(headers, 'te') ?? '').split(',').some((coding) => /^\s*trailers\s*$/i.test(coding));
  return accepted
    ? [
        ['TE', 'trailers'],
        ['Connection', 'keep-alive, TE'],
      ]
    : [];
}

/** The client's view of an origin's answer, for rewriting references. */
export interface AnswerContext {
  readonly route: { readonly origin: string; readonly delivery: { readonly rewriteLocation?: boolean } };
  /** The public base URL: scheme, authority and an optional path, without a trailing slash. */
  readonly publicUrl: string;
  /** The origin's target, if the client's request was for another one, against which relative references would not resolve. */
  readonly target?: string;
}

/** The fields whose references are rewritten, as by every gateway; references in other fields and in bodies are not. */
const REFERENCES = /^(?:location|content-location)$/i;

/**
 * The fields of an origin's answer for its client: references are rewritten, and the origin's `Alt-Svc`, which would lead
 * around this proxy, is replaced by `altSvc`.
 */
export function answerFields(headers: Headers, context: AnswerContext, altSvc?: string): HeaderLine[] {
  const lines = withoutAltSvc(headers).map(([name, value]): HeaderLine => {
    return REFERENCES.test(name) ? [name, referenceFor(value, context)] : [name, value];
  });
  return altSvc === undefined ? lines : [...lines, ['Alt-Svc', altSvc]];
}

/** The origin's answer for its client, with `answerFields` applied to headers and trailers. */
export function answerFor(answer: RelayedAnswer, context: AnswerContext, altSvc?: string): RelayedAnswer {
  const trailersFor = (trailers: Headers): HeaderLine[] => answerFields(trailers, context);
  const headers = withAnnouncedTrailers(answerFields(answer.headers, context, altSvc), trailersFor);
  return { ...answer, headers, trailers: () => trailersFor(answer.trailers()) };
}

/** Removes `Alt-Svc`: an alternative service of the origin is not one of this proxy (RFC 7838 §3). */
export function withoutAltSvc(headers: Headers): HeaderLine[] {
  return headers.filter(([name]) => name.toLowerCase() !== 'alt-svc');
}

function referenceFor(reference: string, { route, publicUrl, target }: AnswerContext): string {
  const { origin, delivery } = route;
  const rebased = delivery.rewriteLocation ? rebaseReference(reference, origin, publicUrl) : reference;
  if (target === undefined) return rebased;
  const resolved = resolveReference(target, rebased);
  return resolved === rebased ? rebased : pathOf(publicUrl) + resolved;
}
