import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { exchangeOver, TRANSPORTS, type Transport } from '../support/open-request.js';

let auth: FakeOrigin;
let origin: FakeOrigin;
let app: TestApp;

beforeAll(async () => {
  origin = await startFakeOrigin({ status: 200, body: 'done' });
  auth = await startFakeOrigin({ status: 401 });
  const guard = `authorize: { forward_auth: "${auth.url}" }`;
  const config = `
routes:
  - match: { path: /api/**, methods: [DELETE, PUT] }
    ${guard}
  - match: { path: /admin/** }
    ${guard}
  - name: open
    match: { path: [/api/**, /up/**] }
`;
  app = await startTestApp({ origin: origin.url, config });
});

afterAll(async () => {
  await app.stop();
  await Promise.all([origin, auth].map((server) => server.close()));
});

async function statusOf(transport: Transport, method: string, target: string, headers: readonly HeaderLine[]) {
  const response = await exchangeOver(transport, app.url, { method, target, headers: [['Host', 'api'], ...headers] });
  return response.status;
}

const SPELLINGS = ['/api/x', '/API/x', '//api/x', '/z/..%2fapi/x', '/api;a/x', '/%2fapi/x', '/api%2fx', '/%61pi/x'];
const OVERRIDES: readonly HeaderLine[] = [
  ['X-HTTP-Method-Override', 'DELETE'],
  ['X-HTTP-Method-Override', '"DELETE"'],
  ['X-Http-Method', 'put;q=1'],
  ['HTTP-Method-Override', 'DELETE'],
  ['X-HTTP-Verb', 'PUT'],
  ['X-Override-Method', 'DELETE'],
];
const UPLOAD: HeaderLine = ['Upload-Complete', '?1'];

describe.each(TRANSPORTS)('over %s', (transport) => {
  test.each(SPELLINGS)('no field or query at %s does a method that another route is asked for', async (spelling) => {
    origin.requests.length = 0;
    for (const override of OVERRIDES)
      for (const more of [[], [UPLOAD]])
        expect(await statusOf(transport, 'POST', spelling, [override, ...more])).toBe(400);
    expect(await statusOf(transport, 'POST', `${spelling}?_method=DELETE`, [])).toBe(400);
    expect(origin.requests).toEqual([]);
    expect(await statusOf(transport, 'POST', spelling, [['X-HTTP-Method-Override', 'PATCH']])).toBe(200);
  });

  test('no MOVE or COPY writes to a place that another route is asked for', async () => {
    origin.requests.length = 0;
    for (const method of ['MOVE', 'COPY'])
      for (const destination of ['/admin/x', 'http://api/admin/x', '//admin/x', '/api/x'])
        expect(await statusOf(transport, method, '/up/a', [['Destination', destination]])).toBe(400);
    expect(origin.requests).toEqual([]);
    expect(await statusOf(transport, 'MOVE', '/up/a', [['Destination', '/up/b']])).toBe(200);
    expect(await statusOf(transport, 'MOVE', '/admin/a', [['Destination', '/admin/b']])).toBe(401);
  });
});
