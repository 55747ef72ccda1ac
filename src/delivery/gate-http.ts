import type { Readable } from 'node:stream';
import { request } from 'undici';
import type { HeaderLine } from '../model/headers.js';
import type { Gate } from '../model/route.js';
import { GateFailed, type GateFacts, type Verdict } from './gate.js';

type HttpGate = Extract<Gate, { kind: 'http' }>;

/** What a client is given of a refusal's body at most. */
const LONGEST_BODY = 1024 * 1024;

/** Names the verdict where the status alone would allow it. */
const VERDICT = 'x-upload-verdict';

/**
 * Posts the bytes to a service. 2xx allows, or quarantines with `X-Upload-Verdict: quarantine`; 4xx refuses, and the
 * client gets its status, type and body. Anything else is no verdict.
 */
export async function askService(
  gate: HttpGate,
  facts: GateFacts,
  bytes: Readable,
  signal: AbortSignal,
): Promise<Verdict> {
  const response = await request(gate.url, {
    method: 'POST',
    headers: headersOf(facts),
    body: facts.length === 0 ? null : bytes,
    signal,
    headersTimeout: gate.timeoutMs,
    bodyTimeout: gate.timeoutMs,
  });
  const { statusCode: status } = response;
  const body = status === 204 ? withoutContent(response.body) : await readBody(response.body);
  const said = one(response.headers[VERDICT])?.trim().toLowerCase();
  if (status >= 200 && status < 300) {
    return said === 'quarantine' ? { kind: 'quarantined', problem: quarantined(body) } : { kind: 'allowed' };
  }
  if (status < 400 || status > 499) throw new GateFailed(`the gate answered ${status}`);
  const type = one(response.headers['content-type']);
  const headers: HeaderLine[] = type === undefined ? [] : [['Content-Type', type]];
  return { kind: 'refused', answer: { status, headers, body } };
}

function headersOf({ method, target, length, contentType, filename, client, via }: GateFacts): Record<string, string> {
  return {
    'Content-Type': contentType,
    'Content-Length': `${length}`,
    'X-Upload-Method': method,
    'X-Upload-Target': target,
    'X-Upload-Client': client,
    ...(via === undefined ? {} : { Via: `1.1 ${via}` }),
    ...(filename === undefined ? {} : { 'X-Upload-Filename': encodeURIComponent(filename) }),
  };
}

/** RFC 9112 §6.3: a 204 ends with its head, whatever length that announces; undici would miss the content. */
function withoutContent(body: Readable): Buffer {
  body.on('error', () => undefined).destroy();
  return Buffer.alloc(0);
}

async function readBody(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of body) {
    if (size < LONGEST_BODY) pieces.push(piece);
    size += piece.length;
  }
  return Buffer.concat(pieces).subarray(0, LONGEST_BODY);
}

function one(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}

function quarantined(body: Buffer): string {
  return body.toString('utf8').trim().slice(0, 500) || 'the gate keeps it back';
}
