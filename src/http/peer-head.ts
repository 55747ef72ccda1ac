import { fieldValue, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import type { UnknownEnd } from '../model/upload.js';
import type { RequestHead } from '../model/request-head.js';
import type { Reply } from '../protocol/protocol.js';
import type { HttpRequest } from './exchange.js';
import { linesForNode } from './origin-lines.js';
import { type ClientFacts, PEER_FIELD } from './peer-signature.js';
import { BadHead, readHead } from './request-head.js';

const OURS: ReadonlySet<string> = new Set([PEER_FIELD.toLowerCase()]);
const LENGTH: ReadonlySet<string> = new Set(['content-length']);

/** In an answer to another node: after which attempt of which upload the outcome is unknown. */
const UNKNOWN_END_FIELD = 'RUFH-Unknown-End';
const UNKNOWN_END: ReadonlySet<string> = new Set([UNKNOWN_END_FIELD.toLowerCase()]);

/** A reply as the node gets it that passes it on: an origin has no say in what it notes. */
export function withUnknownEnd(reply: Reply, end: UnknownEnd | undefined): Reply {
  const headers = withoutFields(reply.headers, UNKNOWN_END);
  return { ...reply, headers: end ? [...headers, [UNKNOWN_END_FIELD, `${end.attempt} ${end.id}`]] : headers };
}

/** What an answer of another node says for this node alone, and what is left of it for the client. */
export function takeUnknownEnd(headers: Headers): { readonly headers: HeaderLine[]; readonly end?: UnknownEnd } {
  const [, attempt, id] = /^(\d{1,15}) (\S+)$/.exec(fieldValue(headers, UNKNOWN_END_FIELD) ?? '') ?? [];
  const forClient = withoutFields(headers, UNKNOWN_END);
  return id === undefined ? { headers: forClient } : { headers: forClient, end: { id, attempt: Number(attempt) } };
}

export function factsOf(head: RequestHead): ClientFacts {
  const { httpVersion, scheme, authority, base, connection, contentLength } = head;
  const hasNoLength = contentLength === undefined;
  return { httpVersion, scheme, authority, ...(base === undefined ? {} : { base }), connection, hasNoLength };
}

/** The client's lines, and those that our own hop needs. A signature that a client made up stays behind. */
export function linesForOwner(head: RequestHead): HeaderLine[] {
  return withoutFields(linesForNode(head, fieldValue(head.headers, 'host') ?? head.authority), OURS);
}

/** A head as the client's own node has read it, whatever the way between that node and this one looks like. */
export function readPeerHead(req: HttpRequest, facts: ClientFacts): RequestHead | BadHead {
  const head = readHead(req, { provenanceOf: () => facts });
  if (head instanceof BadHead) return head;
  const { httpVersion, hasNoLength } = facts;
  const isBare = hasNoLength && head.contentLength === 0;
  return {
    ...head,
    httpVersion,
    headers: withoutFields(head.headers, isBare ? new Set([...OURS, ...LENGTH]) : OURS),
    contentLength: isBare ? undefined : head.contentLength,
  };
}
