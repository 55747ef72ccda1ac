import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { exchangeOver, openRequest, TRANSPORTS, type Transport } from '../support/open-request.js';
import { made, originFaults } from '../support/origin-faults.js';
import { startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { appendLines, clientDialect, creationLines } from '../support/resumable-client.js';
import { randomBytes, until } from '../support/temporary.js';
import type { WireResponse } from '../support/wire-response.js';

/** The delivery matrix as real clients see it, over both versions of HTTP: what stands in its cells is on the wire. */
const CONFIG = `
delivery:
  wait: 30s
  retry: { attempts: 4, first_delay: 10ms, longest_delay: 20ms, while_waiting: 30s, in_background: 0s }
`;
const BYTES = randomBytes(1024 * 1024, 9);
const dialect = clientDialect('10');
const faults = new Map(originFaults().map((fault) => [fault.name, fault]));

let origin: RawOrigin;
let app: TestApp;

beforeEach(async () => {
  origin = await startRawOrigin(made);
  app = await startTestApp({ origin: origin.url, config: CONFIG });
});

afterEach(async () => {
  await app.stop();
  await origin.close();
});

function meets(name: string): void {
  const fault = faults.get(name)!;
  origin.setScript((exchange) => (exchange.index === 0 ? fault.script(exchange, Promise.resolve()) : made(exchange)));
}

function create(transport: Transport, method: string): Promise<WireResponse> {
  const headers = creationLines(dialect, { complete: true, length: BYTES.length });
  return exchangeOver(transport, app.url, { method, target: '/files', headers, body: BYTES });
}

/** Sends the end of the upload again: the held-back last byte, as complete. */
function complete(transport: Transport, url: string, authorization?: string): Promise<WireResponse> {
  const headers = [
    ...appendLines(dialect, { offset: BYTES.length - 1, complete: true }),
    ...(authorization === undefined ? [] : [['Authorization', authorization] as const]),
  ];
  const target = new URL(url).pathname;
  return exchangeOver(transport, app.url, { method: 'PATCH', target, headers, body: BYTES.subarray(-1) });
}

function said(response: WireResponse) {
  return [response.status, response.header('Upload-Complete'), response.header('Upload-Offset')];
}

function urlIn({ interims }: WireResponse): string {
  return interims.find(({ status }) => status === 104)!.header('location')!;
}

const WHOLE = String(BYTES.length);
const HELD_BACK = String(BYTES.length - 1);

describe.each(TRANSPORTS)('over %s', (transport) => {
  test.each([
    ['answers 503', 'POST', [201, '?1', WHOLE], 2],
    ['answers 429', 'POST', [429, '?1', HELD_BACK], 1],
    ['answers slowly', 'POST', [200, '?1', HELD_BACK], 1],
    ['answers and closes', 'PUT', [200, '?1', WHOLE], 1],
    ['refuses early with 413', 'POST', [413, '?1', HELD_BACK], 1],
    ['resets after half the body', 'PUT', [201, '?1', WHOLE], 2],
    ['cuts its answer', 'PUT', [201, '?1', WHOLE], 2],
    ['answers with garbage', 'PUT', [201, '?1', WHOLE], 2],
  ])('an origin that %s: its client’s %s', async (name, method, expected, requests) => {
    meets(name);
    expect(said(await create(transport, method))).toEqual(expected);
    expect(origin.exchanges).toHaveLength(requests);
  });

  test.each(['resets after the headers', 'resets after half the body', 'cuts its answer', 'answers with garbage'])(
    'an origin that %s gets a POST once, and again only when its client, which was told, asks for it',
    async (name) => {
      meets(name);
      const told = await create(transport, 'POST');
      expect(said(told)).toEqual([503, '?0', HELD_BACK]);
      expect(Number(told.header('Retry-After'))).toBeGreaterThan(0);
      expect(told.body.toString()).toContain('Appending its end again sends it once more.');
      expect(origin.exchanges).toHaveLength(1);
      const url = urlIn(told);
      expect(said(await complete(transport, url))).toEqual([201, '?1', WHOLE]);
      expect(said(await complete(transport, url))).toEqual([201, '?1', WHOLE]);
      expect(origin.exchanges).toHaveLength(2);
    },
  );

  test('a 401 of the origin is relayed, not as the end: the same upload goes out with new credentials', async () => {
    meets('refuses early with 401');
    const first = await create(transport, 'POST');
    expect([said(first), first.body.toString()]).toEqual([[401, '?0', HELD_BACK], 'no']);
    const url = urlIn(first);
    const again = await complete(transport, url);
    expect([said(again), again.body.toString()]).toEqual([[401, '?0', HELD_BACK], 'no']);
    expect(origin.exchanges).toHaveLength(1);
    expect(said(await complete(transport, url, 'Bearer fresh'))).toEqual([201, '?1', WHOLE]);
    expect(origin.exchanges[1]!.header('authorization')).toBe('Bearer fresh');
  });

  test('a client that leaves, and is back when the answer is there, gets it', async () => {
    let release: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    const fault = faults.get('answers 500')!;
    origin.setScript((exchange) => fault.script(exchange, released));
    const headers = creationLines(dialect, { complete: true, length: BYTES.length });
    const leaving = await openRequest(transport, app.url, { method: 'POST', target: '/files', headers });
    const interim = await leaving.readInterim();
    await leaving.send(BYTES);
    await leaving.end();
    await origin.exchange(0);
    leaving.leave('reset');
    release!();
    const url = interim.header('location')!;
    await until(() => app.log.some(({ msg }) => msg === 'upload ended'), 'the answer to be recorded');
    expect(said(await complete(transport, url))).toEqual([500, '?1', HELD_BACK]);
    expect(origin.exchanges).toHaveLength(1);
  });
});
