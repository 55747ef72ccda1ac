// Issue 9, "done when" 3: reports of others, tried on the whole proxy. docs/field-cases.md tells where each is from.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { connectH2 } from '../support/h2-client.js';
import { requestOnce } from '../support/raw-client.js';
import { answerOk, startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import type { WireRequest, WireResponse } from '../support/wire-response.js';

let origin: RawOrigin;
let app: TestApp;

beforeAll(async () => {
  origin = await startRawOrigin();
  app = await startTestApp({ origin: origin.url });
});
afterAll(async () => {
  await app.stop();
  await origin.close();
});

async function over(transport: 'HTTP/1.1' | 'HTTP/2', request: WireRequest): Promise<WireResponse> {
  if (transport === 'HTTP/1.1') return requestOnce(app.url, request);
  const client = await connectH2(app.url);
  const response = await client.request(request);
  await client.close();
  return response;
}

const UPLOAD = [['Upload-Complete', '?1'] as const, ['Upload-Draft-Interop-Version', '6'] as const];
const REQUESTS: [string, WireRequest][] = [
  ['a GET', { method: 'GET', target: '/files' }],
  ['a plain POST', { method: 'POST', target: '/files', body: 'hello' }],
  ['an upload', { method: 'POST', target: '/files', body: 'hello', headers: UPLOAD }],
];

// RFC 9110 §15: beyond 599 there is no status, and a client takes one for a 5xx. Origins use them, and Node sends none over HTTP/2.
describe.each([599, 600, 777, 999])('an answer with the status %i', (status) => {
  test.each(REQUESTS)(
    'to %s arrives as it is, or over HTTP/2 with its fields and content under a 502',
    async (_, request) => {
      origin.setScript(async (exchange) => {
        await exchange.readBody();
        await exchange.respond({ status, reason: 'Odd', headers: [['X-Kept', 'yes']], body: 'why' });
      });
      for (const transport of ['HTTP/1.1', 'HTTP/2'] as const) {
        const response = await over(transport, request);
        expect(response.status).toBe(transport === 'HTTP/2' && status > 599 ? 502 : status);
        expect([response.header('x-kept'), response.body.toString()]).toEqual(['yes', 'why']);
      }
    },
  );
});

// The origin took the upload and its answer was lost: a second PUT would meet a 412, which the client would take for its own.
test.each([
  ['If-None-Match', '*', [502, 201], 2],
  ['If-Match', '"1"', [502, 201], 2],
  ['X-No-Condition', '1', [201], 2],
] as const)('a PUT with %s: %s whose answer is lost', async (name, value, statuses, requests) => {
  const first = origin.exchanges.length;
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    if (origin.exchanges.length === first + 1) exchange.socket.destroy();
    else await exchange.respond({ status: 201, body: 'made' });
  });
  const headers = [...UPLOAD, [name, value] as const];
  const creation = await requestOnce(app.url, { method: 'PUT', target: '/files', body: 'hello', headers });
  const seen: number[] = [creation.status];
  expect(origin.exchanges.length - first).toBe(statuses.length === 1 ? requests : 1);
  if (statuses.length > 1) {
    // It was told that nobody knows: completing the upload again is its own decision.
    const target = new URL(creation.interims[0]!.header('location')!).pathname;
    const again = [...UPLOAD, ['Upload-Offset', '4'] as const, ['Content-Type', 'application/partial-upload'] as const];
    seen.push((await requestOnce(app.url, { method: 'PATCH', target, body: 'o', headers: again })).status);
  }
  expect(seen).toEqual(statuses);
  expect(origin.exchanges.length - first).toBe(requests);
});

// A balancer sends requests over connections that it keeps: ours must not end before its own (620 s is for Google's 600 s).
test.each([
  ['', 'timeout=75'],
  [', keep_alive: 620s', 'timeout=620'],
  [', keep_alive: 5s', 'timeout=5'],
])('a listener with {…%s} says and keeps its time for idle connections', async (setting, told) => {
  const other = await startTestApp({ origin: origin.url, config: `listen: { address: 127.0.0.1:0${setting} }` });
  try {
    origin.setScript(answerOk);
    expect((await requestOnce(other.url, { method: 'GET', target: '/' })).header('keep-alive')).toBe(told);
  } finally {
    await other.stop();
  }
});
