import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, requestOnce } from '../support/client.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { type OriginAnswer, type OriginRequest, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

let origin: TestOrigin;
let auth: TestOrigin;
let app: TestApp | undefined;

beforeEach(async () => {
  origin = await startTestOrigin({ status: 201, body: 'made' });
  auth = await startTestOrigin({
    status: 200,
    headers: [
      ['Remote-User', 'ann'],
      ['X-Team', 'blue'],
      ['X-Secret', 's'],
    ],
  });
});

afterEach(async () => {
  await app?.stop();
  await origin.close();
  await auth.close();
});

async function start(settings: string): Promise<void> {
  app = await startTestApp({ origin: origin.url, config: settings });
}

function send(method: string, target: string, headers: HeaderLine[], body?: string): Promise<WireResponse> {
  return requestOnce(app!.url, { method, target, headers: [['Host', 'api'], ...headers], body });
}

const create = (complete: '?0' | '?1', headers: HeaderLine[] = [], body = 'hello'): Promise<WireResponse> =>
  send('POST', '/files?x=1', [['Upload-Complete', complete], ...headers], body);

const append = (target: string, offset: number, headers: HeaderLine[] = [], body = ''): Promise<WireResponse> =>
  send(
    'PATCH',
    target,
    [
      ['Upload-Complete', '?1'],
      ['Upload-Offset', `${offset}`],
      ['Content-Type', 'application/partial-upload'],
      ...headers,
    ],
    body,
  );

const targetOf = (response: WireResponse): string => new URL(response.header('Location')!).pathname;

describe('forward_auth', () => {
  const settings = (more = ''): string =>
    `authorize: { forward_auth: { url: "${auth.url}/check", copy_headers: [Remote-User, X-Team] }${more} }`;

  test('is told method, target and headers, and its chosen headers reach the origin in place of the client’s', async () => {
    await start(settings());
    const response = await create('?1', [
      ['Authorization', 'Bearer a'],
      ['remote-user', 'mallory'],
    ]);
    expect(response.status).toBe(201);
    const [asked] = auth.requests;
    expect([asked!.method, asked!.target, asked!.size]).toEqual(['GET', '/check', 0]);
    expect(asked!.header('X-Forwarded-Method')).toBe('POST');
    expect(asked!.header('X-Forwarded-Uri')).toBe('/files?x=1');
    expect(asked!.header('Authorization')).toBe('Bearer a');
    const [got] = await origin.waitForRequests(1);
    expect(got!.header('Remote-User')).toBe('ann');
    expect(got!.header('X-Team')).toBe('blue');
    expect(got!.header('X-Secret')).toBeUndefined();
  });

  test('its refusal is relayed before the body is taken, and nothing is kept', async () => {
    auth.answerWith({ status: 401, headers: [['WWW-Authenticate', 'Bearer']], body: 'who?' });
    await start(settings());
    const client = await connect(app!.url);
    await client.send(
      'POST /files HTTP/1.1\r\nHost: api\r\nUpload-Complete: ?1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n',
    );
    const response = await client.readFinal();
    client.destroy();
    expect(response.status).toBe(401);
    expect(response.interims).toEqual([]);
    expect(response.header('WWW-Authenticate')).toBe('Bearer');
    expect(response.header('Upload-Complete')).toBe('?0');
    expect(response.header('Location')).toBeUndefined();
    expect(response.body.toString()).toBe('who?');
    expect(origin.requests.length).toBe(0);
  });

  test('when it gives no answer nobody is let in', async () => {
    auth.answerWith({ hangUp: true });
    await start(settings());
    const response = await create('?1');
    expect(response.status).toBe(503);
    expect(response.header('Content-Type')).toBe('application/problem+json');
    expect(response.header('Retry-After')).toBe('5');
    expect(origin.requests.length).toBe(0);
  });

  test('with recheck it is asked again, for the creation’s target, before the upload counts as complete', async () => {
    await start(settings(', recheck: true'));
    const target = targetOf(await create('?0'));
    auth.answerWith({ status: 403, body: 'no more' });
    const refused = await append(target, 5, [['Authorization', 'Bearer b']], ' world');
    expect([refused.status, refused.body.toString()]).toEqual([403, 'no more']);
    expect(refused.header('Upload-Complete')).toBe('?0');
    expect(origin.requests.length).toBe(0);
    expect(auth.requests.at(-1)!.header('X-Forwarded-Uri')).toBe('/files?x=1');
    expect(auth.requests.at(-1)!.header('Authorization')).toBe('Bearer b');
    auth.answerWith({ status: 204 });
    // The last byte does not count before the upload is complete: the client comes back with it.
    expect((await send('HEAD', target, [])).header('Upload-Offset')).toBe('10');
    const accepted = await append(target, 10, [], 'd');
    expect([accepted.status, accepted.body.toString()]).toEqual([201, 'made']);
    expect((await origin.waitForRequests(1))[0]!.body.toString()).toBe('hello world');
  });
});

describe('with recheck the origin hears of one identity', () => {
  /** Says whose token it is, and knows nobody without one. */
  const byToken = (request: OriginRequest): OriginAnswer => {
    const token = request.header('Authorization')?.slice('Bearer '.length) ?? request.header('Cookie');
    return token === undefined ? { status: 401 } : { status: 200, headers: [['Remote-User', token]] };
  };

  test.each([
    [
      'with recheck, that of the completing request',
      ', recheck: true',
      [['Authorization', 'Bearer bob']],
      ['Bearer bob', undefined, 'bob'],
    ],
    [
      'by another credential, and the older one is gone',
      ', recheck: true',
      [['Cookie', 'bob']],
      [undefined, 'bob', 'bob'],
    ],
    [
      'without recheck the service has seen one request only',
      '',
      [['Authorization', 'Bearer new']],
      ['Bearer new', undefined, 'ann'],
    ],
  ] satisfies [string, string, HeaderLine[], (string | undefined)[]][])('%s', async (_what, more, headers, told) => {
    auth.answerWith(byToken);
    await start(
      `authorize: { forward_auth: { url: "${auth.url}", copy_headers: [Remote-User] }${more} }\n` +
        'delivery: { framing: { type: multipart, fields_from_headers: { by: Remote-User, token: Authorization, s: Cookie } } }',
    );
    const target = targetOf(await create('?0', [['Authorization', 'Bearer ann']]));
    expect((await append(target, 5, headers, ' world')).status).toBe(201);
    const [got] = await origin.waitForRequests(1);
    expect(['Authorization', 'Cookie', 'Remote-User'].map((name) => got!.header(name))).toEqual(told);
    const form = got!.body.toString();
    const fields = ['token', 's', 'by'].map((name) => new RegExp(`name="${name}"\r\n\r\n(.*)\r\n`).exec(form)?.[1]);
    expect(fields).toEqual(told);
  });

  test('who brings other credentials for an upload that is parked is asked about, too', async () => {
    auth.answerWith(byToken);
    origin.answerWith((request) => ({ status: request.header('Remote-User') === 'bob' ? 201 : 401 }));
    await start(`authorize: { forward_auth: { url: "${auth.url}", copy_headers: [Remote-User] }, recheck: true }`);
    const target = targetOf(await create('?0', [['Authorization', 'Bearer ann']]));
    expect((await append(target, 5, [['Authorization', 'Bearer ann']], ' world')).status).toBe(401);
    const before = origin.requests.length;
    auth.answerWith({ status: 403 });
    expect((await append(target, 10, [['Authorization', 'Bearer eve']], 'd')).status).toBe(403);
    expect(origin.requests.length).toBe(before);
    auth.answerWith(byToken);
    expect((await append(target, 10, [['Authorization', 'Bearer bob']], 'd')).status).toBe(201);
  });
});

test.each([
  ['X-CSRF-TOKEN', 'credentials: [Authorization, Cookie, X-CSRF-Token]', 201],
  ['x-api-key', 'credentials: [X-Api-Key]', 201],
  ['X-CSRF-TOKEN', '', 419],
] as const)('a new %s delivers a parked upload with %j: %i', async (name, setting, status) => {
  origin.answerWith((request) => ({ status: request.header(name) === 'new' ? 201 : 419 }));
  await start(`delivery: { park_on: [419], ${setting} }`);
  const target = targetOf(await create('?0', [[name, 'old']]));
  expect((await append(target, 5, [[name, 'old']], ' world')).status).toBe(419);
  expect((await append(target, 10, [[name, 'new']], 'd')).status).toBe(status);
  expect((await send('HEAD', target, [])).header('Upload-Complete')).toBe(status === 201 ? '?1' : '?0');
});

test('a refusal of the service shows nothing that it says to us alone', async () => {
  await auth.close();
  auth = await startTestOrigin({
    status: 403,
    headers: [
      ['Remote-User', 'ann'],
      ['X_Princ', 'ann'],
      ['X-Auth-Request-User', 'ann'],
      ['Remote_Groups', 'admins'],
      ['Alt-Svc', 'h3=":1"'],
      ['Upload-Offset', '7'],
      ['Location', 'https://login.example/'],
      ['Set-Cookie', 'a=b'],
    ],
  });
  await start(
    `authorize: { forward_auth: { url: "${auth.url}", copy_headers: [Remote-User], principal_header: X-Princ } }`,
  );
  for (const answer of [await create('?1'), await send('GET', '/files', [])]) {
    expect(answer.status).toBe(403);
    expect([answer.header('Location'), answer.header('Set-Cookie')]).toEqual(['https://login.example/', 'a=b']);
    const hidden = ['X-Auth-Request-User', 'Remote_Groups', 'Remote-User', 'X_Princ', 'Alt-Svc', 'Upload-Offset'];
    expect(hidden.filter((name) => answer.header(name) !== undefined)).toEqual([]);
  }
});

describe('preflight', () => {
  test.each(['/a\\..\\..\\b', '/a|b', '/a/{x}/^', '/a//b', '/a/%2e%2e/b', '/a?q=\\..\\'])(
    'asks about the very octets of %j that the origin gets later, and shows a refusal like any answer',
    async (target) => {
      const raw = await startRawOrigin(async (exchange) => {
        await exchange.respond({
          status: 403,
          headers: [
            ['Alt-Svc', 'h3=":1"'],
            ['Upload-Limit', 'max-size=1'],
            ['Location', `${raw.url}/why`],
          ],
          body: 'no',
        });
      });
      app = await startTestApp({
        origin: raw.url,
        config: 'authorize: { preflight: true }\ndelivery: { preserve_host: false }',
      });
      const headers: HeaderLine[] = [['Upload-Complete', '?1']];
      const answer = await send('POST', target, headers, 'hello');
      expect([raw.exchanges[0]!.method, raw.exchanges[0]!.target]).toEqual(['POST', target]);
      expect([answer.status, answer.header('Location')]).toEqual([403, 'http://api/why']);
      expect([answer.header('Alt-Svc'), answer.header('Upload-Limit')]).toEqual([undefined, undefined]);
      await raw.close();
    },
  );

  test.each([
    ['as it is', '', '?1', [], 'POST', '/files?x=1', 'Content-Length: 5', 'image/png'],
    ['a part of more', '', '?0', [['Upload-Length', '99']], 'POST', '/files?x=1', 'Content-Length: 99', 'image/png'],
    ['a part of nobody knows how much', '', '?0', [], 'POST', '/files?x=1', 'Transfer-Encoding: chunked', 'image/png'],
    [
      'elsewhere',
      'target: "/in{target}", method: PUT',
      '?1',
      [],
      'PUT',
      '/in/files?x=1',
      'Content-Length: 5',
      'image/png',
    ],
    [
      'a form',
      'framing: multipart',
      '?1',
      [],
      'POST',
      '/files?x=1',
      'Transfer-Encoding: chunked',
      'multipart/form-data; boundary=',
    ],
  ] satisfies [string, string, '?0' | '?1', HeaderLine[], string, string, string, string][])(
    'asks about the request that the origin would get: %s',
    async (_what, delivery, complete, headers, method, target, framing, type) => {
      const raw = await startRawOrigin(async (exchange) => {
        await exchange.respond({ status: 403, body: 'no' });
      });
      app = await startTestApp({
        origin: raw.url,
        config: `authorize: { preflight: true }\ndelivery: { ${delivery} }`,
      });
      expect((await create(complete, [['Content-Type', 'image/png'], ...headers])).status).toBe(403);
      const [asked] = raw.exchanges;
      expect([asked!.method, asked!.target]).toEqual([method, target]);
      expect(asked!.headText).toContain(`${framing}\r\n`);
      expect(asked!.header('Content-Type')).toContain(type);
      await raw.close();
    },
  );

  test('an origin that refuses the head is heard before the body, and its answer relayed', async () => {
    const raw = await startRawOrigin(async (exchange) => {
      await exchange.respond({ status: 413, headers: [['X-Why', 'big']], body: 'too big' });
    });
    app = await startTestApp({ origin: raw.url, config: 'authorize: { preflight: true }' });
    const response = await create('?1');
    expect([response.status, response.header('X-Why'), response.body.toString()]).toEqual([413, 'big', 'too big']);
    expect(raw.exchanges[0]!.headText).toContain('Expect: 100-continue');
    expect(raw.exchanges[0]!.headText).not.toMatch(/Upload-/i);
    await raw.close();
  });

  test('an origin that says 100 gets the whole in a request of its own', async () => {
    await start('authorize: { preflight: true }');
    const response = await create('?1');
    expect(response.status).toBe(201);
    const whole = await origin.waitForRequests(1);
    expect(whole.map(({ body }) => body.toString())).toEqual(['hello']);
  });
});

describe('an upload that is bound', () => {
  test('to a header is nobody else’s to see, continue or cancel', async () => {
    await start('bind_to: [X-Api-Key]');
    const mine: HeaderLine[] = [['X-Api-Key', 'k1']];
    const target = targetOf(await create('?0', mine));
    for (const other of [[], [['X-Api-Key', 'k2']]] as HeaderLine[][]) {
      expect((await send('HEAD', target, other)).status).toBe(404);
      expect((await append(target, 5, other)).status).toBe(404);
      expect((await send('DELETE', target, other)).status).toBe(404);
    }
    expect((await send('HEAD', target, mine)).header('Upload-Offset')).toBe('5');
    expect((await append(target, 5, mine)).status).toBe(201);
  });

  test('to the principal follows whoever the authorization service says it is', async () => {
    await start(`authorize: { forward_auth: "${auth.url}" }\nbind_to: principal`);
    const target = targetOf(await create('?0', [['Authorization', 'Bearer old']]));
    auth.answerWith({ status: 200, headers: [['Remote-User', 'bob']] });
    expect((await send('HEAD', target, [['Authorization', 'Bearer bob']])).status).toBe(404);
    auth.answerWith({ status: 200, headers: [['Remote-User', 'ann']] });
    expect((await send('HEAD', target, [['Authorization', 'Bearer new']])).status).toBe(204);
    expect((await append(target, 5, [['Authorization', 'Bearer new']])).status).toBe(201);
    expect((await origin.waitForRequests(1))[0]!.header('Authorization')).toBe('Bearer new');
  });

  test('to the principal is nobody’s where the service refuses, names nobody, or cannot say', async () => {
    await start(`authorize: { forward_auth: "${auth.url}" }\nbind_to: principal`);
    const target = targetOf(await create('?0'));
    for (const answer of [{ status: 401 }, { status: 302 }, { status: 200 }] as const) {
      auth.answerWith(answer);
      expect((await send('HEAD', target, [])).status).toBe(404);
      expect((await append(target, 5)).status).toBe(404);
      expect((await send('DELETE', target, [])).status).toBe(404);
    }
    for (const answer of [{ status: 500 }, { hangUp: true }] as const) {
      auth.answerWith(answer);
      expect((await send('HEAD', target, [])).status).toBe(503);
    }
    auth.answerWith({ status: 200, headers: [['Remote-User', 'ann']] });
    expect((await send('HEAD', target, [])).header('Upload-Offset')).toBe('5');
  });

  test.each([
    ['no principal', []],
    ['an empty one', [['Remote-User', ' ']]],
  ] as [string, HeaderLine[]][])('to the principal cannot begin with %s', async (_what, headers) => {
    await start(`authorize: { forward_auth: "${auth.url}" }\nbind_to: principal`);
    auth.answerWith({ status: 200, headers });
    const refused = await create('?0');
    expect([refused.status, refused.header('Location')]).toEqual([403, undefined]);
    expect(refused.body.toString()).toContain('named nobody');
  });
});

describe('who is asked and gives no answer of HTTP', () => {
  type NoAnswer = (exchange: RawExchange) => Promise<void> | void;
  const halfAHead = 'HTTP/1.1 200 OK\r\nX-A: ';
  const NO_ANSWERS: [string, NoAnswer][] = [
    ['101', ({ socket }) => void socket.write('HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n')],
    ['the end without a byte', ({ socket }) => void socket.end()],
    ['a reset', ({ socket }) => void socket.resetAndDestroy()],
    ['half a head, and the end', ({ socket }) => void socket.end(halfAHead)],
    ['half a head, and nothing', ({ socket }) => void socket.write(halfAHead)],
    ['nothing', () => undefined],
  ];
  let nobody: RawOrigin;
  let noAnswer: NoAnswer;
  beforeEach(async () => {
    nobody = await startRawOrigin((exchange) => noAnswer(exchange));
  });
  afterEach(() => nobody.close());

  const askers: [string, () => string, (response: WireResponse) => void][] = [
    [
      'the authorization service',
      () => `authorize: { forward_auth: { url: "${nobody.url}/v", timeout: 300ms } }`,
      ({ status }) => expect([status, origin.requests.length]).toEqual([503, 0]),
    ],
    [
      'the gate',
      () => `delivery: { wait: 300ms, gate: { http: "${nobody.url}/g", timeout: 300ms } }`,
      ({ status }) => expect([status >= 503, origin.requests.length]).toEqual([true, 0]),
    ],
    [
      'the origin of a delivery',
      () => 'delivery: { timeout: 300ms, retry: { attempts: 1 } }',
      ({ status }) => expect(status).toBeGreaterThanOrEqual(502),
    ],
    [
      'the origin beforehand',
      () => 'authorize: { preflight: true }\ndelivery: { timeout: 300ms }',
      ({ status }) => expect([status, nobody.exchanges.length]).toEqual([201, 2]),
    ],
  ];

  test.each(
    askers.flatMap(([who, settings, told]) => NO_ANSWERS.map(([how, play]) => ({ who, how, settings, told, play }))),
  )('$who, by $how: the client is told in time', async ({ who, settings, told, play }) => {
    noAnswer = async (exchange) => {
      if (who === 'the origin beforehand' && exchange.header('Expect') === undefined)
        return exchange.respond({ status: 201, body: 'made' });
      await play(exchange);
    };
    const origins = /origin/.test(who) ? nobody : origin;
    app = await startTestApp({ origin: origins.url, config: settings() });
    told(await create('?1'));
  });
});
