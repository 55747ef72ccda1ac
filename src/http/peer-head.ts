import { fieldValue, type HeaderLine, withoutFields } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import type { HttpRequest } from './exchange.js';
import { linesForNode } from './origin-lines.js';
import { type ClientFacts, PEER_FIELD } from './peer-signature.js';
import { BadHead, readHead } from './request-head.js';

const OURS: ReadonlySet<string> = new Set([PEER_FIELD.toLowerCase()]);
const LENGTH: ReadonlySet<string> = new Set(['content-length']);

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
