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
import type { RequestHead } from '../model/request-head.js';
import { rebaseReference, pathOf, resolveReference } from '../model/uri.js';

/** Methods whose requests need no Content-Length to say that they have no content (RFC 9110 §8.6). */
const METHODS_WITHOUT_CONTENT = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT']);

/** How the body of an outgoing request is delimited. */
export type Framing = 'none' | 'length' | 'chunked';

/**
 * The header lines of the request to the origin: the client's end-to-end lines in their order, case and number, one
 * Host, framing by us alone, and what the origin is told of the hop before us. `host`: what it gets as Host;
 * `via`: our name.
 */
export function headersForOrigin(head: RequestHead, host: string, via?: string): HeaderLine[] {
  return forOurHop(head, withForwarding(endToEndLines(head, host), { ...head, ...head.connection }, via));
}

export interface RouteHeaderOptions {
  readonly route: FieldRules;
  readonly addedHeaders?: Headers;
  readonly via?: string;
}

/**
 * The same for a route: without what its clients may not say, and with `added`, which the authorization service says in
 * place of everybody else. Those come last, where no `Connection` of the client can name them away.
 */
export function headersForRoute(
  head: RequestHead,
  host: string,
  { route, addedHeaders: added = [], via }: RouteHeaderOptions,
): HeaderLine[] {
  const lines = headersForOrigin({ ...head, headers: originFields(head.headers, route) }, host, via);
  return [...originFields(lines, { ...route, passesUnderscores: true }), ...added];
}

/** The same, as if there was no hop before us: for a node of ours. */
export function headersForNode(head: RequestHead, host: string): HeaderLine[] {
  return forOurHop(head, endToEndLines(head, host));
}

function endToEndLines(head: RequestHead, host: string): HeaderLine[] {
  const framing = framingOf(head);
  const passed = forwardableHeaders(head.headers, framing === 'chunked').filter(
    (line) => !isReplaced(line, head, framing),
  );
  return withHost(passed, host);
}

function forOurHop(head: RequestHead, lines: readonly HeaderLine[]): HeaderLine[] {
  return [...lines, ...framingLines(head, lines, framingOf(head)), ...acceptedTrailers(head)];
}

/**
 * What certainly delimits the body. Node frames by the method when nobody does, and then sends the body of a DELETE bare:
 * the origin takes it for the next request.
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

/** `Connection` may name Content-Length, which must not take it from the body. */
function framingLines(head: RequestHead, lines: Headers, framing: Framing): HeaderLine[] {
  if (framing === 'chunked') return [['Transfer-Encoding', 'chunked']];
  if (fieldValue(lines, 'content-length') !== undefined) return [];
  if (framing === 'length') return [['Content-Length', `${head.contentLength!}`]];
  return METHODS_WITHOUT_CONTENT.has(head.method) ? [] : [['Content-Length', '0']];
}

function withHost(lines: readonly HeaderLine[], host: string): HeaderLine[] {
  const at = lines.findIndex(([name]) => name.toLowerCase() === 'host');
  const others = lines.filter(([name]) => name.toLowerCase() !== 'host');
  return [...others.slice(0, Math.max(at, 0)), [lines[at]?.[0] ?? 'Host', host], ...others.slice(Math.max(at, 0))];
}

/** A client that takes trailers may get the origin's: TE is said again for our hop (RFC 9110 §10.1.4). */
function acceptedTrailers({ headers }: RequestHead): HeaderLine[] {
  const accepted = (fieldValue(headers, 'te') ?? '').split(',').some((coding) => /^\s*trailers\s*$/i.test(coding));
  return accepted
    ? [
        ['TE', 'trailers'],
        ['Connection', 'keep-alive, TE'],
      ]
    : [];
}

/** Where a client gets an origin's answer. */
export interface AnswerContext {
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
export function answerFields(headers: Headers, place: AnswerContext, altSvc?: string): HeaderLine[] {
  const lines = withoutAltSvc(headers).map(([name, value]): HeaderLine => {
    return REFERENCES.test(name) ? [name, referenceFor(value, place)] : [name, value];
  });
  return altSvc === undefined ? lines : [...lines, ['Alt-Svc', altSvc]];
}

/** The whole answer as its client may take it: what its head may not say is not said behind its body either. */
export function answerFor(answer: RelayedAnswer, place: AnswerContext, altSvc?: string): RelayedAnswer {
  const trailersFor = (trailers: Headers): HeaderLine[] => answerFields(trailers, place);
  const headers = withAnnouncedTrailers(answerFields(answer.headers, place, altSvc), trailersFor);
  return { ...answer, headers, trailers: () => trailersFor(answer.trailers()) };
}

/** RFC 7838 §3: an alternative of the origin's is none of ours. */
export function withoutAltSvc(headers: Headers): HeaderLine[] {
  return headers.filter(([name]) => name.toLowerCase() !== 'alt-svc');
}

function referenceFor(reference: string, { route, publicUrl, target }: AnswerContext): string {
  const { origin, delivery } = route;
  const own = delivery.rewriteLocation ? rebaseReference(reference, origin, publicUrl) : reference;
  if (target === undefined) return own;
  const resolved = resolveReference(target, own);
  return resolved === own ? own : pathOf(publicUrl) + resolved;
}
