import { type FieldRules, originFields } from '../model/client-fields.js';
import { withForwarding } from '../model/forwarded.js';
import {
  withAnnouncedTrailers,
  fieldValue,
  type HeaderLine,
  type Headers,
  forwardableHeaders,
  linesThat,
} from '../model/headers.js';
import type { RelayedAnswer } from '../model/messages.js';
import { METHODS_WITHOUT_CONTENT } from '../model/methods.js';
import type { RequestHead } from '../model/request-head.js';
import { remembered } from '../model/remembered.js';
import { rebaseReference, pathOf, resolveReference } from '../model/uri.js';

/** The framing of an outgoing request's body. */
export type Framing = 'none' | 'length' | 'chunked';

/**
 * The header lines of the request to the origin: the client's end-to-end lines in their order and case, one `Host`, our own
 * framing and forwarding fields. `host` is the value of `Host`, `via` this proxy's name.
 */
export function headersForOrigin(head: RequestHead, host: string, via?: string): HeaderLine[] {
  return linesForOrigin(head, head.headers, host, via);
}

/** `received`: the lines of the head, maybe without some of them. */
function linesForOrigin(head: RequestHead, received: Headers, host: string, via?: string): HeaderLine[] {
  const { scheme, authority, httpVersion, connection } = head;
  const { peerAddress, peerIsTrusted, clientAddress } = connection;
  const facts = { peerAddress, peerIsTrusted, clientAddress, scheme, authority, httpVersion };
  return withHopFields(head, received, withForwarding(endToEndLines(head, received, host), facts, via));
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
): Headers {
  const lines = linesForOrigin(head, originFields(head.headers, route), host, via);
  const { trustsTargetOverrides, reservedNames, authorize } = route;
  // Names with `_` are gone by now, except those of the forwarding fields.
  const rules = { passesUnderscores: true, trustsTargetOverrides, reservedNames, authorize };
  const kept = originFields(lines, rules);
  return added.length === 0 ? kept : [...kept, ...added];
}

/** Like `headersForOrigin` for another node of the cluster: without forwarding fields of this hop. */
export function headersForNode(head: RequestHead, host: string): HeaderLine[] {
  return withHopFields(head, head.headers, endToEndLines(head, head.headers, host));
}

/** The end-to-end lines among those received, with `host` as the value of the first `Host`, or as the first line. */
function endToEndLines(head: RequestHead, received: Headers, host: string): HeaderLine[] {
  const framing = framingOf(head);
  const lines: HeaderLine[] = [];
  let hasHost = false;
  for (const line of forwardableHeaders(received, framing === 'chunked')) {
    const [name, value] = line;
    const field = name.toLowerCase();
    if (field !== 'host') {
      if (!isReplaced(field, value, head, framing)) lines.push(line);
    } else if (!hasHost) {
      lines.push(value === host ? line : [name, host]);
      hasHost = true;
    }
  }
  if (!hasHost) lines.unshift(['Host', host]);
  return lines;
}

/** Adds the fields of this hop to `lines`. */
function withHopFields(head: RequestHead, received: Headers, lines: HeaderLine[]): HeaderLine[] {
  const framing = framingLine(head, lines, framingOf(head));
  if (framing) lines.push(framing);
  if (acceptsTrailers(received)) lines.push(['TE', 'trailers'], ['Connection', 'keep-alive, TE']);
  return lines;
}

/**
 * The framing of the body. Without an explicit one Node decides by the method and sends the body of a DELETE without
 * any, which the origin would take for the next request.
 */
export function framingOf({ hasBody, contentLength }: RequestHead): Framing {
  if (!hasBody) return 'none';
  return contentLength === undefined ? 'chunked' : 'length';
}

function isReplaced(field: string, value: string, head: RequestHead, framing: Framing): boolean {
  switch (field) {
    case 'content-length':
      return framing === 'chunked' || (framing === 'none' && Number(value) !== 0);
    case 'expect':
      return !head.expectsContinue && /^\s*100-continue\s*$/i.test(value);
    default:
      return false;
  }
}

/** Adds the framing. The client's `Connection` may have removed its `Content-Length`, which the body still needs. */
function framingLine(head: RequestHead, lines: Headers, framing: Framing): HeaderLine | undefined {
  if (framing === 'chunked') return ['Transfer-Encoding', 'chunked'];
  if (fieldValue(lines, 'content-length') !== undefined) return undefined;
  if (framing === 'length') return ['Content-Length', `${head.contentLength!}`];
  return METHODS_WITHOUT_CONTENT.has(head.method) ? undefined : ['Content-Length', '0'];
}

/** If the client accepts trailers, so do we: `TE` applies to one hop and is sent again for ours (RFC 9110 §10.1.4). */
function acceptsTrailers(received: Headers): boolean {
  const codings = fieldValue(received, 'te');
  return codings !== undefined && codings.split(',').some((coding) => /^\s*trailers\s*$/i.test(coding));
}

/** The value of `Host` for requests to this origin URL. */
export const hostOf = remembered((origin) => new URL(origin).host);

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
export function answerFields(headers: Headers, context: AnswerContext, altSvc?: string): Headers {
  const lines = withoutAltSvc(headers);
  const rewritten = lines.some(isReference)
    ? lines.map((line): HeaderLine => (isReference(line) ? [line[0], referenceFor(line[1], context)] : line))
    : lines;
  return altSvc === undefined ? rewritten : [...rewritten, ['Alt-Svc', altSvc]];
}

function isReference([name]: HeaderLine): boolean {
  return (name.length === 8 || name.length === 16) && REFERENCES.test(name);
}

/** The origin's answer for its client, with `answerFields` applied to headers and trailers. */
export function answerFor(answer: RelayedAnswer, context: AnswerContext, altSvc?: string): RelayedAnswer {
  const trailersFor = (trailers: Headers): Headers => answerFields(trailers, context);
  const headers = withAnnouncedTrailers(answerFields(answer.headers, context, altSvc), trailersFor);
  return { ...answer, headers, trailers: () => trailersFor(answer.trailers()) };
}

/** Removes `Alt-Svc`: an alternative service of the origin is not one of this proxy (RFC 7838 §3). */
export function withoutAltSvc(headers: Headers): Headers {
  return linesThat(([name]) => name.length !== 7 || name.toLowerCase() !== 'alt-svc', headers);
}

function referenceFor(reference: string, { route, publicUrl, target }: AnswerContext): string {
  const { origin, delivery } = route;
  const rebased = delivery.rewriteLocation ? rebaseReference(reference, origin, publicUrl) : reference;
  if (target === undefined) return rebased;
  const resolved = resolveReference(target, rebased);
  return resolved === rebased ? rebased : pathOf(publicUrl) + resolved;
}
