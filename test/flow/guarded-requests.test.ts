import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { fieldKey } from '../../src/model/client-fields.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, exchangeOver, type Transport, TRANSPORTS } from '../support/client.js';
import { connectH2, H2Exchange } from '../support/http2-client.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

describe('OPTIONS', () => {
  /** Asked about everything, and lets in who says `Authorization: good`. */
  let auth: TestOrigin;
  let origin: TestOrigin;
  /** Of the routes that are for uploads alone. */
  let uploads: TestOrigin;
  let app: TestApp;

  beforeAll(async () => {
    origin = await startTestOrigin({ status: 200, body: 'made' });
    uploads = await startTestOrigin({ status: 200, body: 'made' });
    auth = await startTestOrigin((request) => ({
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
});

describe('targets', () => {
  /** The little of Express that is used here. */
  interface Application extends RequestListener {
    use(path: string, handler: (request: IncomingMessage, response: ServerResponse) => void): void;
  }

  const express = createRequire(import.meta.url)('express') as () => Application;

  let app: TestApp;
  let auth: TestOrigin;
  let server: Server;

  afterEach(async () => {
    await app.stop();
    await auth.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  /** The marker that a request carries and its origin tells of, so that answers are not mixed up. */
  const MARK = 'x-mark';

  /** An origin that notes which requests have reached its protected part. */
  async function startOrigin(listener: RequestListener): Promise<string> {
    server = createServer(listener);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  async function startProxy(origin: string, ignoreCase: string): Promise<void> {
    // Requests for the path with a token in it are let in, so that the service decides by what it is told of the target.
    auth = await startTestOrigin((request) => ({
      status: /^\/protected\/ok(?:[/?]|$)/i.test(request.header('X-Forwarded-Uri') ?? '') ? 200 : 401,
    }));
    const match = `{ path: [/protected, /protected/**]${ignoreCase} }`;
    const config = `routes:\n  - match: ${match}\n    authorize: { forward_auth: "${auth.url}" }\n  - match: { path: /open/** }\n`;
    app = await startTestApp({ origin, config });
  }

  /** Ways to say "slash", "dot segment" and "protected" that some server understands. */
  const SLASHES = [
    '/',
    '//',
    '\\',
    '%2f',
    '%2F',
    '%5c',
    '/./',
    '/;/',
    '/%2e/',
    '%252f',
    '%c0%af',
    '%ef%bc%8f',
    '/\\',
    ';a/',
  ];
  const UPS = [
    '..',
    '%2e%2e',
    '.%2e',
    '%2E.',
    '..;',
    '..;a=b',
    '%252e%252e',
    '..%00',
    '%c0%ae%c0%ae',
    '..%20',
    '%u002e%u002e',
  ];
  const NAMES = [
    'protected',
    'Protected',
    'PROTECTED',
    '%70rotected',
    'pro%74ected',
    'p%72otecte%64',
    '%2570rotected',
    'protected;a',
    'protected.',
    'protected%20',
    'protected%00',
    'pro%09tected',
    '%ef%bd%90rotected',
  ];

  /** Every name behind every way down and up; the same ones in every run. */
  function targets(): string[] {
    const all = new Set<string>();
    for (const name of NAMES) {
      for (const slash of SLASHES) {
        all.add(`${slash.startsWith('/') || slash === '\\' ? '' : '/'}${slash}${name}/x`).add(`/${name}${slash}x`);
        all.add(`/${name}${slash}`).add(`/${name}${slash}ok${slash}x`).add(`/${name}/ok${slash}..${slash}x`);
        for (const up of UPS) all.add(`/open${slash}${up}${slash}${name}/x`).add(`/${name}${slash}${up}${slash}open/x`);
      }
      all.add(`/${name}`).add(`/${name}?x`).add(`/${name}%3fx`).add(`/${name}%23x`).add(`http://h/${name}/x`);
    }
    return [...all].filter((target) => target.startsWith('/') || target.startsWith('http'));
  }

  /** Sends every target over its own few connections; the statuses by target. */
  async function sendAll(over: 'HTTP/1.1' | 'HTTP/2'): Promise<Map<string, number>> {
    const statuses = new Map<string, number>();
    const all = targets();
    if (over === 'HTTP/2') {
      const h2 = await connectH2(app.url);
      const send = async (target: string): Promise<void> => {
        const path = target.replace(/^http:\/\/h/, '');
        const response = await h2.request({
          method: 'GET',
          target: path,
          headers: [
            ['Host', 'h'],
            [MARK, path],
          ],
        });
        statuses.set(target, response.status);
      };
      for (let at = 0; at < all.length; at += 50) await Promise.all(all.slice(at, at + 50).map(send));
      await h2.close();
      return statuses;
    }
    const client = await connect(app.url);
    for (const target of all) {
      await client.send(`GET ${target} HTTP/1.1\r\nHost: h\r\n${MARK}: ${target}\r\n\r\n`);
      statuses.set(target, (await client.readFinal()).status);
    }
    client.destroy();
    return statuses;
  }

  /** What the service has said yes to. */
  function letIn(): Set<string> {
    const yes = auth.requests.filter((request) =>
      /^\/protected\/ok(?:[/?]|$)/i.test(request.header('X-Forwarded-Uri')!),
    );
    return new Set(yes.map((request) => request.header(MARK)!));
  }

  test.each(['HTTP/1.1', 'HTTP/2'] as const)(
    'over %s no spelling reaches the protected handler of an Express application unasked',
    async (over) => {
      const reached: string[] = [];
      const application = express();
      application.use('/protected', (request, response) => {
        reached.push(request.headers[MARK] as string);
        response.end('secret');
      });
      application.use('/', (_request, response) => void response.end('public'));
      await startProxy(await startOrigin(application), ', ignore_case: true');
      const statuses = await sendAll(over);
      expect(statuses.size).toBeGreaterThan(2000);
      const yes = letIn();
      expect(reached.filter((mark) => !yes.has(mark))).toEqual([]);
      // The service was asked, and has let in, what is spelt properly.
      expect(reached.length).toBeGreaterThan(0);
      expect([...new Set(statuses.values())].sort()).toEqual([200, 400, 401]);
    },
  );

  /** Ways in which servers read a path. */
  const READERS: readonly ((path: string) => string)[] = [
    (path) => path,
    (path) => new URL(unescapeOnce(path).replaceAll('\\', '/'), 'http://h').pathname,
    (path) => unescapeOnce(new URL(path.replace(/^\/+/, '/'), 'http://h').pathname),
    (path) => new URL(unescapeOnce(unescapeOnce(path)).replaceAll('\\', '/'), 'http://h').pathname,
    (path) => new URL(path.replace(/;[^/]*/g, ''), 'http://h').pathname,
    (path) => path.replace(/\/+/g, '/'),
    (path) => (URL.canParse(path, 'http://h') ? new URL(path, 'http://h').pathname : path),
  ];

  test('no spelling reaches the protected part of an origin, in whatever way that reads a path', async () => {
    const reached = new Set<string>();
    const origin = await startOrigin((request, response) => {
      const path = request.url!.split('?')[0]!;
      if (READERS.some((read) => /^\/protected(?:[/.;]|$)/i.test(read(path))))
        reached.add(request.headers[MARK] as string);
      response.end('ok');
    });
    await startProxy(origin, '');
    expect((await sendAll('HTTP/2')).size).toBeGreaterThan(2000);
    const yes = letIn();
    expect([...reached].filter((mark) => !yes.has(mark))).toEqual([]);
    expect(reached.size).toBeGreaterThan(0);
  });

  function unescapeOnce(path: string): string {
    return path.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)));
  }
});

describe('trailers', () => {
  let auth: TestOrigin;
  let origin: TestOrigin;
  let app: TestApp;

  beforeAll(async () => {
    origin = await startTestOrigin({ status: 200, body: 'made' });
    auth = await startTestOrigin({ status: 200, headers: [['Remote-User', 'alice']] });
    const config = `
authorize: { forward_auth: { url: "${auth.url}", copy_headers: [Remote-User], principal_header: X-Princ } }
routes:
  - match: { path: /eager/** }
    delivery: { mode: eager }
  - match: { path: /plain/** }
    plain_bodies: spool
  - match: { path: /open/** }
    authorize: { forward_auth: null }
`;
    app = await startTestApp({ origin: origin.url, config });
  });

  afterAll(async () => {
    await app.stop();
    await origin.close();
    await auth.close();
  });

  beforeEach(() => {
    origin.requests.length = 0;
  });

  /** What no client may say, in its head or behind its body, on a guarded route and on others. */
  const OF_THE_SERVICE = ['Remote-User', 'Remote_User', 'REMOTE.USER', 'X-Princ', 'x_princ'];
  const OF_NOBODY = [
    'X_Under',
    'Forwarded',
    'X-Forwarded-For',
    'X.Forwarded.For',
    'X-Forwarded-Host',
    'X-Forwarded-Proto',
    'X-Forwarded-Port',
    'X-Forwarded-Uri',
    'X-Real-IP',
    'X-Original-URL',
    'X-Rewrite-URL',
    'X-Script-Name',
    'Via',
    'X-HTTP-Method-Override',
    'HTTP-Method-Override',
    'X-HTTP-Verb',
    'Destination',
    'Authorization',
    'Cookie',
  ];

  async function send(transport: Transport, target: string, headers: HeaderLine[], trailers: HeaderLine[]) {
    if (transport === 'HTTP/1.1') {
      const announced = trailers.map(([name]) => name).join(', ');
      const client = await connect(app.url);
      await client.sendHead('POST', target, [
        ['Host', 'api'],
        ...headers,
        ['Trailer', announced],
        ['Transfer-Encoding', 'chunked'],
      ]);
      await client.sendChunk('hello');
      await client.endChunks(trailers);
      const { status } = await client.readFinal();
      client.destroy();
      return status;
    }
    const client = await connectH2(app.url);
    const fields = Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value]));
    const stream = client.session.request({ ':method': 'POST', ':path': target, ...fields }, { waitForTrailers: true });
    stream.once('wantTrailers', () => stream.sendTrailers(Object.fromEntries(trailers)));
    stream.end('hello');
    const { status } = await new H2Exchange(stream, 5000).readFinal();
    await client.close();
    return status;
  }

  /** Every way that trailers take to an origin. */
  const WAYS: readonly (readonly [way: string, path: string, headers: HeaderLine[]])[] = [
    ['passed through', '/pass', []],
    ['of an ordinary body in the spool', '/plain', []],
    ['of an upload', '/upload', [['Upload-Complete', '?1']]],
    ['of an eager upload', '/eager', [['Upload-Complete', '?1']]],
  ];

  describe.each(TRANSPORTS)('over %s, trailers', (transport) => {
    test.each(WAYS)(
      '%s say nothing that is for the service, for proxies or for the head',
      async (_way, path, headers) => {
        const forged = [...OF_THE_SERVICE, ...OF_NOBODY].map((name): HeaderLine => [name, 'forged']);
        expect(await send(transport, `${path}/x`, headers, [['X-Sum', '7'], ...forged, ['X-Other', '8']])).toBe(200);
        const [got] = await origin.waitForRequests(1);
        expect(got!.body.toString()).toBe('hello');
        const names = got!.trailers.map(([name, value]) => [name.toLowerCase(), value]);
        expect(names).toEqual([
          ['x-sum', '7'],
          ['x-other', '8'],
        ]);
        expect(got!.header('Remote-User')).toBe('alice');
        // Also announced are only those that come.
        expect(got!.header('Trailer')?.toLowerCase() ?? 'x-sum, x-other').toBe('x-sum, x-other');
      },
    );

    test('on an open route say nothing of it either, because another route asks the service', async () => {
      const forged = [...OF_THE_SERVICE, ...OF_NOBODY].map((name): HeaderLine => [name, 'forged']);
      expect(await send(transport, '/open/x', [['Upload-Complete', '?1']], [['X-Sum', '7'], ...forged])).toBe(200);
      const [got] = await origin.waitForRequests(1);
      expect(got!.trailers.map(([name, value]) => [name.toLowerCase(), value])).toEqual([['x-sum', '7']]);
    });
  });
});
