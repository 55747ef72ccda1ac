import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { fieldKey } from '../../src/model/client-fields.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { exchangeOver, TRANSPORTS, type Transport } from '../support/open-request.js';

/** Asked about everything, and lets in who says `Authorization: good`. */
let auth: FakeOrigin;
let origin: FakeOrigin;
/** Of the routes that are for uploads alone. */
let uploads: FakeOrigin;
let app: TestApp;

beforeAll(async () => {
  origin = await startFakeOrigin({ status: 200, body: 'made' });
  uploads = await startFakeOrigin({ status: 200, body: 'made' });
  auth = await startFakeOrigin((request) => ({
    status: request.header('Authorization') === 'good' ? 200 : 401,
    headers: [['Remote-User', 'alice']],
  }));
  const guard = `authorize: { forward_auth: { url: "${auth.url}", copy_headers: [Remote-User] } }`;
  const config = `
routes:
  - name: open
    match: { path: /open-post/**, methods: [POST] }
    origin: ${uploads.url}
    limits: { max_size: 7 }
  - match: { path: /open-post/** }
    ${guard}
  - match: { path: /guarded-post/**, methods: [POST] }
    origin: ${uploads.url}
    limits: { max_size: 7 }
    ${guard}
  - match: { path: /guarded-options/**, methods: [GET, OPTIONS] }
    ${guard}
  - name: uploads
    match: { path: /guarded-options/**, methods: [POST] }
    origin: ${uploads.url}
    limits: { max_size: 7 }
  - match: { path: /guarded/** }
    ${guard}
  - match: { path: [/, /top/**], methods: [OPTIONS] }
    ${guard}
`;
  app = await startTestApp({ origin: origin.url, config });
});

afterAll(async () => {
  await app.stop();
  await Promise.all([origin, uploads, auth].map((server) => server.close()));
});

beforeEach(() => {
  for (const server of [origin, uploads, auth]) server.requests.length = 0;
});

const FORGED: HeaderLine[] = [
  ['Remote-User', 'root'],
  ['Remote.User', 'root'],
];
const PREFLIGHT: HeaderLine[] = [
  ['Origin', 'https://page.example'],
  ['Access-Control-Request-Method', 'POST'],
];

function options(transport: Transport, target: string, more: readonly HeaderLine[]) {
  return exchangeOver(transport, app.url, {
    method: 'OPTIONS',
    target,
    headers: [['Host', 'api'], ...FORGED, ...more],
  });
}

const KINDS: readonly (readonly [kind: string, more: HeaderLine[], isDiscovery: boolean])[] = [
  ['a discovery', [], true],
  ['a preflight', PREFLIGHT, false],
];

describe.each(TRANSPORTS)('over %s, OPTIONS', (transport) => {
  /** Which route OPTIONS has is said by the routes, like that of any other method. */
  test.each([
    { target: '/open-post/x', isAsked: true, announces: true },
    { target: '/guarded-post/x', isAsked: false, announces: true },
    { target: '/guarded-options/x', isAsked: true, announces: true },
    { target: '/guarded/x', isAsked: true, announces: false },
    { target: '/top/x', isAsked: true, announces: false },
    { target: '*', isAsked: true, announces: false },
    { target: '/other/x', isAsked: false, announces: false },
  ])('$target is asked for as its own route says: $isAsked', async ({ target, isAsked, announces }) => {
    for (const [, more, isDiscovery] of KINDS) {
      for (const server of [origin, auth]) server.requests.length = 0;
      const turnedAway = await options(transport, target, more);
      expect(turnedAway.status).toBe(isAsked ? 401 : 200);
      expect([auth.requests.length, origin.requests.length]).toEqual(isAsked ? [1, 0] : [0, 1]);
      const response = await options(transport, target, [...more, ['Authorization', 'good']]);
      expect(response.status).toBe(200);
      const got = origin.requests.at(-1)!;
      expect([got.method, got.target]).toEqual(['OPTIONS', target]);
      const identity = got.headers.filter(([name]) => fieldKey(name) === 'remote-user').map(([, value]) => value);
      // Also on an open path, because the same application may be behind it.
      expect(identity).toEqual(isAsked ? ['alice'] : []);
      const limit = response.header('Upload-Limit') ?? '';
      expect(limit.includes('max-size=7')).toBe(isDiscovery && announces);
      // What no route names is not resumable here.
      expect(limit !== '').toBe(isDiscovery && !['/top/x', '*', '/other/x'].includes(target));
    }
    expect(uploads.requests).toEqual([]);
  });
});

describe('where only some routes are guarded, OPTIONS *', () => {
  test.each(TRANSPORTS)('over %s carries no identity that any of them has', async (transport) => {
    const guard = `authorize: { forward_auth: { url: "${auth.url}", copy_headers: [Remote-User] } }`;
    const own = await startTestApp({
      origin: origin.url,
      config: `routes:\n  - match: { path: /guarded/** }\n    ${guard}\n`,
    });
    const response = await exchangeOver(transport, own.url, {
      method: 'OPTIONS',
      target: '*',
      headers: [['Host', 'api'], ...FORGED],
    });
    await own.stop();
    expect([response.status, auth.requests.length, origin.requests[0]!.target]).toEqual([200, 0, '*']);
    expect(origin.requests[0]!.headers.filter(([, value]) => value === 'root')).toEqual([]);
  });
});

test('a preflight that a page of cors.allow_origins sends is answered by us, without the service and the origin', async () => {
  const own = await startTestApp({
    origin: origin.url,
    config: `cors: { allow_origins: ["https://page.example"] }\nauthorize: { forward_auth: "${auth.url}" }\n`,
  });
  const response = await exchangeOver('HTTP/1.1', own.url, {
    method: 'OPTIONS',
    target: '/x',
    headers: [['Host', 'api'], ...PREFLIGHT],
  });
  await own.stop();
  expect([response.status, response.header('Access-Control-Allow-Origin')]).toEqual([204, 'https://page.example']);
  expect([auth.requests.length, origin.requests.length]).toEqual([0, 0]);
});
