import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { fieldKey } from '../../src/model/client-fields.js';
import type { HeaderLine } from '../../src/model/headers.js';
import {
  connect,
  exchangeOver,
  type RawClient,
  requestOnce,
  type Transport,
  TRANSPORTS,
  WANTED,
} from '../support/client.js';
import { OTHER_TARGETS } from '../support/forgeries.js';
import { type OriginRequest, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

describe('routes', () => {
  /** Lets in who says `Authorization: good`, and calls everybody alice. */
  let auth: TestOrigin;
  let origin: TestOrigin;
  let app: TestApp;

  const SETTINGS = (url: string): string =>
    [
      'trusted_proxies: [127.0.0.1/32]',
      'limits: { min_size: 3 }',
      `authorize: { forward_auth: { url: "${url}/check", copy_headers: [Remote-User, X-Forwarded-Email] } }`,
      'routes:',
      '  - match: { path: /uploads-only/** }',
      '    authorize: { scope: uploads }',
      '  - match: { path: /open/** }',
      '    authorize: { forward_auth: null }',
      '    headers: { underscores: pass }',
      '  - match: { path: /** }',
    ].join('\n');

  beforeAll(async () => {
    origin = await startTestOrigin({ status: 200, body: 'made' });
    auth = await startTestOrigin((request) =>
      request.header('Authorization') === 'good'
        ? {
            status: 200,
            headers: [
              ['Remote-User', 'alice'],
              ['X-Forwarded-Email', 'alice@example'],
            ],
          }
        : { status: 401, headers: [['WWW-Authenticate', 'Bearer']], body: 'who?' },
    );
    app = await startTestApp({ origin: origin.url, config: SETTINGS(auth.url) });
  });

  afterAll(async () => {
    await app.stop();
    await origin.close();
    await auth.close();
  });

  beforeEach(() => {
    origin.requests.length = 0;
    auth.requests.length = 0;
  });

  const FORGED: HeaderLine[] = [
    ['Remote-User', 'root'],
    ['remote_user', 'root'],
    ['REMOTE.USER', 'root'],
    ['X-Forwarded-Email', 'root@example'],
    ['X_Forwarded_Email', 'root@example'],
    ['X_Other', 'root'],
  ];

  const GOOD: HeaderLine = ['Authorization', 'good'];

  const TUS_CREATION: HeaderLine[] = [
    ['Tus-Resumable', '1.0.0'],
    ['Upload-Length', '5'],
    ['Content-Type', 'application/offset+octet-stream'],
  ];

  /** Everything that a client may send to a target: all of it is asked for. */
  const REQUESTS: Readonly<Record<string, WireRequest>> = {
    GET: { method: 'GET', target: '/a' },
    HEAD: { method: 'HEAD', target: '/a' },
    DELETE: { method: 'DELETE', target: '/a' },
    OPTIONS: { method: 'OPTIONS', target: '/a' },
    'a CORS preflight': { method: 'OPTIONS', target: '/a', headers: [['Access-Control-Request-Method', 'POST']] },
    'a plain POST': { method: 'POST', target: '/a', body: 'hello' },
    'a plain PUT': { method: 'PUT', target: '/a', body: 'hello' },
    'a PROPFIND': { method: 'PROPFIND', target: '/a' },
    'a tus creation': { method: 'POST', target: '/a', headers: TUS_CREATION, body: 'hello' },
    'an unknown version': {
      method: 'POST',
      target: '/a',
      headers: [
        ['Upload-Draft-Interop-Version', '99'],
        ['Upload-Complete', '?1'],
      ],
      body: 'hello',
    },
    'an upload in one request': { method: 'POST', target: '/a', headers: [['Upload-Complete', '?1']], body: 'hello' },
    'an upload below min_size': { method: 'POST', target: '/a', headers: [['Upload-Complete', '?1']], body: 'a' },
    'a completeness that is none': {
      method: 'POST',
      target: '/a',
      headers: [['Upload-Complete', 'yes']],
      body: 'hello',
    },
  };

  describe.each(TRANSPORTS)('over %s, on a route with forward_auth', (transport) => {
    const send = (request: WireRequest, more: HeaderLine[]): Promise<WireResponse> =>
      exchangeOver(transport, app.url, {
        ...request,
        headers: [['Host', 'api'], ...(request.headers ?? []), ...more],
      });

    test.each(Object.keys(REQUESTS))('%s that the service refuses reaches no origin', async (name) => {
      const response = await send(REQUESTS[name]!, FORGED);
      expect([response.status, response.header('WWW-Authenticate')]).toEqual([401, 'Bearer']);
      expect([auth.requests.length, origin.requests.length]).toEqual([1, 0]);
      expect(auth.requests[0]!.header('X-Forwarded-Method')).toBe(REQUESTS[name]!.method);
      expect(auth.requests[0]!.header('X-Forwarded-Uri')).toBe('/a');
      expect(rootIn(auth.requests[0]!)).toEqual([]);
    });

    test.each(Object.keys(REQUESTS))(
      '%s that the service lets in is asked for once, and says nothing forged',
      async (name) => {
        const response = await send(REQUESTS[name]!, [GOOD, ...FORGED]);
        expect(Math.floor(response.status / 100)).toBe(2);
        expect([auth.requests.length, origin.requests.length]).toEqual([1, 1]);
        const [got] = await origin.waitForRequests(1);
        expect(rootIn(got!)).toEqual([]);
        expect([got!.header('Remote-User'), got!.header('X-Forwarded-Email')]).toEqual(['alice', 'alice@example']);
        expect(got!.body.toString()).toBe(REQUESTS[name]!.body ?? '');
      },
    );

    test('what the service says cannot be named away by Connection', async () => {
      await exchangeOver('HTTP/1.1', app.url, {
        method: 'GET',
        target: '/a',
        headers: [['Host', 'api'], GOOD, ['Connection', 'Remote-User, X-Forwarded-Email']],
      });
      expect(origin.requests[0]!.header('Remote-User')).toBe('alice');
    });

    test('with scope: uploads a plain body is not asked for, but says nothing forged', async () => {
      expect((await send({ ...REQUESTS['a plain POST']!, target: '/uploads-only/a' }, FORGED)).status).toBe(200);
      expect(auth.requests.length).toBe(0);
      expect(rootIn(origin.requests[0]!)).toEqual([]);
      const upload = { ...REQUESTS['an upload in one request']!, target: '/uploads-only/a' };
      expect((await send(upload, FORGED)).status).toBe(401);
    });

    test('a route of its own may be open to all, and take fields with underscores', async () => {
      expect((await send({ method: 'GET', target: '/open/a' }, FORGED)).status).toBe(200);
      expect(auth.requests.length).toBe(0);
      expect(origin.requests[0]!.header('X_Other')).toBe('root');
    });
  });

  /** Fields of a request that carry what the client made up. */
  function rootIn(request: OriginRequest): readonly HeaderLine[] {
    return request.headers.filter(([, value]) => value.includes('root'));
  }

  test('a body that waits for 100 is never asked for by a refusal, and streams once it is let in', async () => {
    const head = 'POST /a HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 9\r\n';
    const refused = await connect(app.url);
    await refused.send(`${head}\r\n`);
    const answer = await refused.readFinal();
    expect([answer.status, answer.interims.length, answer.body.toString()]).toEqual([401, 0, 'who?']);
    refused.destroy();
    const taken = await connect(app.url);
    await taken.send(`${head}Authorization: good\r\n\r\n`);
    expect((await taken.readHead())!.status).toBe(100);
    await taken.send('some body');
    expect((await taken.readFinal()).status).toBe(200);
    expect((await origin.waitForRequests(1))[0]!.body.toString()).toBe('some body');
    taken.destroy();
  });

  test('a request to change protocols is asked for like any other', async () => {
    const refused = await askToSwitch([['Remote_User', 'root']]);
    const answer = await refused.readFinal();
    expect([answer.status, answer.body.toString(), origin.requests.length]).toEqual([401, 'who?', 0]);
    expect(auth.requests[0]!.header('X-Forwarded-Uri')).toBe('/chat');
    refused.destroy();
    const taken = await askToSwitch([GOOD, ...FORGED]);
    await origin.waitForRequests(1);
    expect(rootIn(origin.requests[0]!)).toEqual([]);
    expect(origin.requests[0]!.header('Remote-User')).toBe('alice');
    taken.destroy();
  });

  async function askToSwitch(more: readonly HeaderLine[]): Promise<RawClient> {
    const client = await connect(app.url);
    const lines = [['Host', 'api'] as const, ...WANTED, ...more].map(([name, value]) => `${name}: ${value}\r\n`);
    await client.send(`GET /chat HTTP/1.1\r\n${lines.join('')}\r\n`);
    return client;
  }

  test('names of the service are taken out of trailers too', async () => {
    const client = await connect(app.url);
    const head = 'POST /a HTTP/1.1\r\nHost: api\r\nAuthorization: good\r\nTransfer-Encoding: chunked\r\n\r\n';
    await client.send(`${head}2\r\nab\r\n0\r\nRemote-User: root\r\nRemote_User: root\r\nX_Y: root\r\nX-Sum: 7\r\n\r\n`);
    expect((await client.readFinal()).status).toBe(200);
    expect((await origin.waitForRequests(1))[0]!.trailers).toEqual([['X-Sum', '7']]);
    client.destroy();
  });

  /** A name as applications may read it too. */
  function spellings(name: string): HeaderLine[] {
    const all = [name, name.toLowerCase(), name.toUpperCase().replaceAll('-', '_'), name.replaceAll('-', '.')];
    return all.map((spelling) => [spelling, 'forged']);
  }

  function said(request: OriginRequest, name: string): string[] {
    return request.headers.filter(([field]) => fieldKey(field) === fieldKey(name)).map(([, value]) => value);
  }

  describe.each([
    ['a trusted proxy', ['127.0.0.1/32']],
    ['anybody', []],
  ])('behind %s', (_peer, trusted) => {
    const CONFIG = (more: string): string =>
      `trusted_proxies: ${JSON.stringify(trusted)}\nheaders: { underscores: pass${more} }\n` +
      `authorize: { forward_auth: "${auth.url}" }\nroutes: [{ match: { path: /open/** }, authorize: { forward_auth: null } }]`;

    /** What the service is told for a request with this field in all its spellings. */
    async function toldBy(name: string, own: TestApp): Promise<string[]> {
      auth.requests.length = 0;
      const headers: HeaderLine[] = [['Host', 'api'], ...spellings(name)];
      await requestOnce(own.url, { method: 'PUT', target: '/b', headers, body: 'x' });
      return said(auth.requests[0]!, name);
    }

    // The service is asked about the target that we see, also where the application may believe in another one.
    test.each(['', ', original_url: trust'])(
      'no word of a client about the target reaches the service, however it is spelt%s',
      async (more) => {
        const own = await startTestApp({ origin: origin.url, config: CONFIG(more) });
        const ours: Readonly<Record<string, string>> = { 'X-Forwarded-Uri': '/b', 'X-Forwarded-Method': 'PUT' };
        for (const name of [...OTHER_TARGETS, 'X-Original-Host', 'X-Script-Name'])
          expect([name, await toldBy(name, own)]).toEqual([name, name in ours ? [ours[name]] : []]);
        await own.stop();
      },
    );

    test('host and scheme are told to the service once, as the connection or a trusted proxy says', async () => {
      const own = await startTestApp({ origin: origin.url, config: CONFIG('') });
      expect(await toldBy('X-Forwarded-Host', own)).toEqual([trusted.length > 0 ? 'forged' : 'api']);
      expect(await toldBy('X-Forwarded-Proto', own)).toEqual(['http']);
      await own.stop();
    });

    test.each(['', ', original_url: trust'])('no origin is told of another target%s', async (more) => {
      const own = await startTestApp({ origin: origin.url, config: CONFIG(more) });
      const headers: HeaderLine[] = [['Host', 'api'], ...OTHER_TARGETS.flatMap(spellings)];
      await requestOnce(own.url, { method: 'GET', target: '/open/a', headers });
      const upload: HeaderLine[] = [...headers, ['Upload-Complete', '?1']];
      await requestOnce(own.url, { method: 'POST', target: '/open/b', headers: upload, body: 'hello' });
      await own.stop();
      expect(origin.requests.map(({ target }) => target)).toEqual(['/open/a', '/open/b']);
      const isBelieved = more !== '' && trusted.length > 0;
      for (const request of origin.requests)
        for (const name of OTHER_TARGETS) expect(said(request, name).length).toBe(isBelieved ? 4 : 0);
    });
  });
});

describe('identities', () => {
  let auth: TestOrigin;
  let origin: TestOrigin;
  /** One route of it asks a service. */
  let guarding: TestApp;
  /** None of its routes does. */
  let open: TestApp;

  beforeAll(async () => {
    origin = await startTestOrigin({ status: 200, body: 'done' });
    auth = await startTestOrigin({ status: 401 });
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
    test.each(REQUESTS)(
      '%s %s %j says nothing by the names of a service that another route asks',
      async (...request) => {
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
      },
    );
  });

  test('a request to change protocols says nothing by them either', async () => {
    const headers: HeaderLine[] = [
      ['Host', 'api'],
      ['Connection', 'Upgrade'],
      ['Upgrade', 'own'],
      ...SERVICE_NAMES.map((name): HeaderLine => [name, 'forged']),
    ];
    expect((await exchangeOver('HTTP/1.1', guarding.url, { method: 'GET', target: '/other', headers })).status).toBe(
      200,
    );
    const [got] = origin.requests;
    expect([got!.header('Upgrade'), got!.headers.filter(([, value]) => value === 'forged')]).toEqual(['own', []]);
  });
});

describe('methods', () => {
  let auth: TestOrigin;
  let origin: TestOrigin;
  let app: TestApp;

  beforeAll(async () => {
    origin = await startTestOrigin({ status: 200, body: 'done' });
    auth = await startTestOrigin({ status: 401 });
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
});
