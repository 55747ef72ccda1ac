import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { exchangeOver, TRANSPORTS } from '../support/open-request.js';
import { serverPort } from '../support/server-port.js';
import { openTunnel } from '../support/tunnel-client.js';
import { until } from '../support/temporary.js';
import type { WireRequest } from '../support/wire-response.js';

/** The origin of the first leads back to it by an address that no configuration shows; the next two are each other's. */
let own: TestApp;
let wire: CuttingProxy;
let first: TestApp;
let second: TestApp;
let origin: FakeOrigin;

beforeAll(async () => {
  const port = await serverPort();
  wire = await CuttingProxy.start(port);
  origin = await startFakeOrigin({ status: 200, body: 'ok' });
  const around = `http://127.0.0.1:${wire.port}`;
  const config = [
    `listen: 127.0.0.1:${port}`,
    'routes:',
    '  - match: { path: /asked/** }',
    '    authorize: { preflight: true }',
    '  - match: { path: /guarded/** }',
    `    origin: ${origin.url}`,
    `    authorize: { forward_auth: { url: "${around}/check" } }`,
    '  - match: { path: /scanned/** }',
    `    origin: ${origin.url}`,
    `    delivery: { wait: 100ms, gate: { http: "${around}/scan" } }`,
    '  - match: { path: /straight/** }',
    `    origin: ${origin.url}`,
  ].join('\n');
  own = await startTestApp({ origin: around, config });
  const next = await serverPort();
  first = await startTestApp({ origin: `http://127.0.0.1:${next}` });
  second = await startTestApp({ origin: first.url, config: `listen: 127.0.0.1:${next}` });
});

afterAll(async () => {
  await Promise.all([own.stop(), first.stop(), second.stop()]);
  await wire.stop();
  await origin.close();
});

const CREATION: HeaderLine[] = [
  ['Upload-Draft-Interop-Version', '8'],
  ['Upload-Complete', '?1'],
];

const REQUESTS: Readonly<Record<string, WireRequest>> = {
  'a GET': { method: 'GET', target: '/x' },
  'a plain POST': { method: 'POST', target: '/x', body: 'hello' },
  'an upload': { method: 'POST', target: '/x', headers: CREATION, body: 'hello' },
};

const OF_OWN: Readonly<Record<string, WireRequest>> = {
  ...REQUESTS,
  'an upload that the origin is asked about': { method: 'POST', target: '/asked/x', headers: CREATION, body: 'hello' },
  'a request that the authorization service is asked about': { method: 'GET', target: '/guarded/x' },
};

describe.each(TRANSPORTS)('over %s', (transport) => {
  test.each(Object.entries(OF_OWN))('%s that comes back costs one connection and is a 508', async (_, request) => {
    const before = wire.connections;
    expect((await exchangeOver(transport, own.url, request)).status).toBe(508);
    expect(wire.connections - before).toBeLessThanOrEqual(1);
  });

  test.each(Object.entries(REQUESTS))('%s that comes back from another proxy is a 508', async (_, request) => {
    expect((await exchangeOver(transport, first.url, request)).status).toBe(508);
    expect((await exchangeOver(transport, second.url, request)).status).toBe(508);
  });

  test.each(['1.1 rufh-proxy', '1.1 rufh-proxy-000000000000 (x)', '1.1 fred, 2.0 rufh-proxy-0'])(
    'a request that came through somebody else (%s) passes',
    async (via) => {
      const request: WireRequest = { method: 'GET', target: '/straight/x', headers: [['Via', via]] };
      expect((await exchangeOver(transport, own.url, request)).status).toBe(200);
      expect(origin.requests.at(-1)!.header('via')).toMatch(/, (?:1\.1|2\.0) rufh-proxy-[0-9a-f]{12}$/);
    },
  );
});

test('a request to switch protocols that comes back is a 508', async () => {
  for (const { url } of [own, first, second]) {
    const client = await openTunnel(url, '', '/x');
    expect((await client.readFinal()).status).toBe(508);
    client.destroy();
  }
});

test('a gate that leads back gives no verdict, and makes no upload of its own', async () => {
  const before = wire.connections;
  const upload: WireRequest = { method: 'POST', target: '/scanned/x', headers: CREATION, body: 'hello' };
  expect((await exchangeOver('HTTP/1.1', own.url, upload)).status).toBeGreaterThanOrEqual(502);
  const told = await until(
    () => own.log.find(({ msg }) => msg === 'the gate gave no verdict: the upload is not delivered'),
    'the gate to be asked',
  );
  expect(told).toMatchObject({ err: { message: 'the gate answered 508' } });
  expect(wire.connections - before).toBe(1);
});

test('the log says which route leads back', async () => {
  await exchangeOver('HTTP/1.1', own.url, { method: 'GET', target: '/x' });
  const told = own.log.filter(({ msg }) => msg === 'forwarding loop: the origin leads back to this proxy');
  expect(told.at(-1)).toMatchObject({ route: 'default', origin: `http://127.0.0.1:${wire.port}`, path: '/x' });
});
