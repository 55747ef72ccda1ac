import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { exchangeOver, TRANSPORTS } from '../support/open-request.js';

let auth: FakeOrigin;
let origin: FakeOrigin;
/** One route of it asks a service. */
let guarding: TestApp;
/** None of its routes does. */
let open: TestApp;

beforeAll(async () => {
  origin = await startFakeOrigin({ status: 200, body: 'done' });
  auth = await startFakeOrigin({ status: 401 });
  const asks = `forward_auth: { url: "${auth.url}", copy_headers: [Remote-User, X-Tenant], principal_header: X-Princ }`;
  const uploads = `
  - match: { path: /up/** }
  - match: { path: /passed/** }
    headers: { underscores: pass }
    resumable: false
`;
  const guard = `
  - match: { path: /admin/** }
    authorize: { ${asks} }`;
  guarding = await startTestApp({ origin: origin.url, config: `routes:${guard}${uploads}` });
  open = await startTestApp({ origin: origin.url, config: `routes:${uploads}` });
});

afterAll(async () => {
  await Promise.all([guarding.stop(), open.stop()]);
  await Promise.all([origin, auth].map((server) => server.close()));
});

beforeEach(() => {
  origin.requests.length = 0;
});

const SERVICE_NAMES = [
  'Remote-User',
  'Remote.User',
  'X-Tenant',
  'x~tenant',
  'X-Princ',
  'X-Auth-Request-Email',
  'X-Auth-User',
];
const WITH_UNDERSCORES = ['Remote_User', 'X_TENANT'];
const CREDENTIALS: readonly HeaderLine[] = [
  ['Authorization', 'Basic YTpi'],
  ['Cookie', 'own=1'],
];

const REQUESTS: readonly (readonly [method: string, target: string, more: readonly HeaderLine[]])[] = [
  ['GET', '/other', []],
  ['POST', '/other', []],
  ['POST', '/passed/x', []],
  ['POST', '/up/x', []],
  ['POST', '/up/x', [['Upload-Complete', '?1']]],
  ['OPTIONS', '/up/x', []],
  ['OPTIONS', '*', []],
];

describe.each(TRANSPORTS)('over %s, an open route', (transport) => {
  test.each(REQUESTS)('%s %s %j says nothing by the names of a service that another route asks', async (...request) => {
    const [method, target, more] = request;
    const forged = [...SERVICE_NAMES, ...WITH_UNDERSCORES].map((name): HeaderLine => [name, 'forged']);
    const headers: HeaderLine[] = [['Host', 'api'], ...more, ...forged, ...CREDENTIALS];
    const forgedAt = () => origin.requests.at(-1)!.headers.filter(([, value]) => value === 'forged');
    expect((await exchangeOver(transport, guarding.url, { method, target, headers })).status).toBe(200);
    expect(forgedAt()).toEqual([]);
    for (const [name, value] of CREDENTIALS) expect(origin.requests.at(-1)!.header(name)).toBe(value);
    expect((await exchangeOver(transport, open.url, { method, target, headers })).status).toBe(200);
    expect(forgedAt()).toHaveLength(
      SERVICE_NAMES.length + (target.startsWith('/passed') ? WITH_UNDERSCORES.length : 0),
    );
    expect(auth.requests).toEqual([]);
  });
});

test('a request to change protocols says nothing by them either', async () => {
  const headers: HeaderLine[] = [
    ['Host', 'api'],
    ['Connection', 'Upgrade'],
    ['Upgrade', 'own'],
    ...SERVICE_NAMES.map((name): HeaderLine => [name, 'forged']),
  ];
  expect((await exchangeOver('HTTP/1.1', guarding.url, { method: 'GET', target: '/other', headers })).status).toBe(200);
  const [got] = origin.requests;
  expect([got!.header('Upgrade'), got!.headers.filter(([, value]) => value === 'forged')]).toEqual(['own', []]);
});
