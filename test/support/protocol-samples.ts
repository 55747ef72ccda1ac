import type { HeaderLine } from '../../src/model/headers.js';
import type { RequestHead } from '../../src/model/request-head.js';
import type { Limits } from '../../src/model/route.js';
import type { Answer, Upload } from '../../src/model/upload.js';
import type { Reply, ReplyContext } from '../../src/protocol/protocol.js';

const NOW = Date.UTC(2026, 10, 22, 12);

export const LIMITS: Limits = {
  maxSize: 1_000_000,
  minSize: 0,
  maxAppendSize: 500_000,
  minAppendSize: 10,
  maxAgeSeconds: 86_400,
};

export const CONTEXT: ReplyContext = {
  uploadUrl: ({ id }) => `https://proxy.example/.uploads/${id}`,
  limits: LIMITS,
  nowMs: NOW,
};

/** A request head from its first line and its field lines, as one would type it. Has no body unless told. */
export function head(text: string, facts: Partial<RequestHead> = {}): RequestHead {
  const [first, ...fields] = text.trim().split(/\n\s*/);
  const [method, target] = first!.split(' ') as [string, string];
  const headers = fields.map((field): HeaderLine => {
    const colon = field.indexOf(':');
    return [field.slice(0, colon), field.slice(colon + 1).trim()];
  });
  return {
    method,
    target,
    path: target,
    httpVersion: '1.1',
    scheme: 'https',
    authority: 'proxy.example',
    headers,
    hasBody: false,
    expectsContinue: false,
    connection: {
      peerAddress: '127.0.0.1',
      encrypted: true,
      clientAddress: '127.0.0.1',
      peerIsTrusted: false,
      relaysInterim: true,
      isClientsOwn: true,
    },
    ...facts,
  };
}

/** 600 of a file's bytes, with an hour to live. */
export function upload(facts: Partial<Upload> = {}): Upload {
  return {
    id: 'b530ce8ff',
    route: 'files',
    dialect: '6',
    request: {
      method: 'POST',
      target: '/files',
      httpVersion: '1.1',
      scheme: 'https',
      authority: 'proxy.example',
      headers: [],
      peerAddress: '127.0.0.1',
      clientAddress: '127.0.0.1',
      peerIsTrusted: false,
    },
    limits: LIMITS,
    phase: 'receiving',
    offset: 600,
    reprDigests: [],
    deliveryKey: 'key',
    attempts: [],
    attemptCount: 0,
    createdAt: NOW - 60_000,
    expiresAt: NOW + 3_600_000,
    ...facts,
  };
}

/** All 1000 bytes, the last of them not acknowledged. */
export function wholeUpload(facts: Partial<Upload> = {}): Upload {
  return upload({ phase: 'complete', offset: 1000, length: 1000, heldBack: { lastByte: 10 }, ...facts });
}

/** A whole upload that the origin has answered. */
export function answeredUpload(status: number): Upload {
  const answer: Answer = {
    status,
    reason: '',
    headers: [],
    trailers: [],
    bodySize: 0,
    body: { in: 'record' },
    at: NOW,
  };
  return wholeUpload({ phase: 'answered', answer });
}

/** A reply the way it would stand on the wire. The origin's body is shown by its size. */
export function wireText(reply: Reply | undefined): string {
  if (!reply) return '(nothing)';
  const first = reply.reason === undefined ? String(reply.status) : `${reply.status} ${reply.reason}`;
  const fields = reply.headers.map(([name, value]) => `${name}: ${value}`);
  const text = [first, ...fields].join('\n');
  if (reply.body === undefined) return text;
  return `${text}\n\n${typeof reply.body === 'string' ? reply.body : `(the origin's body, ${reply.bodySize ?? 'unknown'} bytes)`}`;
}
