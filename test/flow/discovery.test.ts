import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { exchangeOver, openRequest, TRANSPORTS } from '../support/client.js';
import { comparable, FlowClient, VARIANTS } from '../support/flow-client.js';
import { type RawOrigin, type RawScript, startRawOrigin } from '../support/raw-origin.js';
import { clientDialect, creationLines, DIALECTS, versionLines } from '../support/resumable-client.js';
import { serverPort } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

/** What tells of tus, in any response to OPTIONS where it is offered. */
const TUS_LINES: readonly HeaderLine[] = [
  ['Tus-Resumable', '1.0.0'],
  ['Tus-Version', '1.0.0'],
  [
    'Tus-Extension',
    'creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,termination,concatenation',
  ],
  ['Tus-Checksum-Algorithm', 'sha1,md5,sha256,sha512'],
];

describe('pass-through', () => {
  const LIMIT = 'min-size=0, max-age=86400';

  /** Lets in who says `Authorization: good`. */
  let auth: TestOrigin;
  let origin: RawOrigin;
  let app: TestApp;

  beforeAll(async () => {
    auth = await startTestOrigin((request) => ({ status: request.header('Authorization') === 'good' ? 200 : 401 }));
    origin = await startRawOrigin(() => undefined);
    const dead = `http://127.0.0.1:${await serverPort()}`;
    app = await startTestApp({
      origin: origin.url,
      config: `
routes:
  - match: { path: /plain/dead }
    origin: ${dead}
    resumable: false
  - match: { path: /guarded/dead }
    origin: ${dead}
    authorize: { forward_auth: { url: "${auth.url}/check" } }
  - match: { path: /files/dead }
    origin: ${dead}
  - match: { path: /files/silent }
    delivery: { timeout: 1s }
  - match: { path: /files/** }
  - match: { path: /plain/** }
    resumable: false
  - match: { path: /guarded/** }
    authorize: { forward_auth: { url: "${auth.url}/check" } }
`,
    });
  });

  afterAll(async () => {
    await app.stop();
    await origin.close();
    await auth.close();
  });

  beforeEach(() => {
    origin.exchanges.length = 0;
  });

  afterEach(() => origin.setScript(() => undefined));

  /** What a client sees of an answer, where it is the same whatever carries it. */
  interface Seen {
    readonly status: number;
    readonly body: string;
    readonly limit: string | undefined;
    readonly own: string | undefined;
  }

  function seen(response: WireResponse): Seen {
    const isProblem = response.header('Content-Type') === 'application/problem+json';
    return {
      status: response.status,
      body: isProblem ? 'a problem' : response.body.toString('latin1'),
      limit: response.header('Upload-Limit'),
      own: response.header('X-Own'),
    };
  }

  const says =
    (status: number, body = '', headers: HeaderLine[] = [['X-Own', 'caf\xe9']]): RawScript =>
    (exchange) =>
      exchange.respond({ status, headers, body });

  const asItIs = (status: number, body = ''): Seen => ({ status, body, limit: undefined, own: 'caf\xe9' });
  const together = (status: number, body = ''): Seen => ({ ...asItIs(status, body), limit: LIMIT });
  const OURS: Seen = { status: 200, body: '', limit: LIMIT, own: undefined };
  const PROBLEM: Seen = { status: 502, body: 'a problem', limit: undefined, own: undefined };
  const SILENT: Seen = { status: 204, body: '', limit: undefined, own: undefined };

  interface Case {
    readonly name: string;
    readonly script: RawScript;
    /** What it is on a resumable route, and where nothing is resumable. */
    readonly resumable: Seen;
    readonly plain: Seen;
    readonly path?: string;
  }

  const CASES: readonly Case[] = [
    {
      name: '200 with a body',
      script: says(200, '<wadl/>'),
      resumable: together(200, '<wadl/>'),
      plain: asItIs(200, '<wadl/>'),
    },
    { name: '200 without a body', script: says(200), resumable: together(200), plain: asItIs(200) },
    { name: '204 with fields', script: says(204), resumable: together(204), plain: asItIs(204) },
    { name: '204 and nothing else', script: says(204, '', [['Server', 'x']]), resumable: OURS, plain: SILENT },
    { name: '301', script: says(301, 'there'), resumable: together(301, 'there'), plain: asItIs(301, 'there') },
    { name: '401', script: says(401, 'who?'), resumable: together(401, 'who?'), plain: asItIs(401, 'who?') },
    { name: '404', script: says(404, 'no'), resumable: OURS, plain: asItIs(404, 'no') },
    { name: '405', script: says(405, 'no'), resumable: OURS, plain: asItIs(405, 'no') },
    { name: '501', script: says(501, 'no'), resumable: OURS, plain: asItIs(501, 'no') },
    { name: '500', script: says(500, 'bad'), resumable: asItIs(500, 'bad'), plain: asItIs(500, 'bad') },
    { name: '503', script: says(503, 'bad'), resumable: asItIs(503, 'bad'), plain: asItIs(503, 'bad') },
    { name: 'no answer', script: (exchange) => void exchange.socket.destroy(), resumable: PROBLEM, plain: PROBLEM },
    { name: 'no HTTP', script: (exchange) => exchange.write('hello\r\n\r\n'), resumable: PROBLEM, plain: PROBLEM },
    { name: 'nothing, being down', script: () => undefined, resumable: PROBLEM, plain: PROBLEM, path: 'dead' },
  ];

  const GOOD: HeaderLine = ['Authorization', 'good'];

  describe.each(TRANSPORTS)('OPTIONS over %s', (transport) => {
    const ask = (target: string, headers: HeaderLine[] = []): Promise<WireResponse> =>
      exchangeOver(transport, app.url, { method: 'OPTIONS', target, headers });

    describe.each(['files', 'guarded', 'plain'])('below /%s', (place) => {
      test.each(CASES)('of an origin that says $name', async ({ script, path = 'x', ...expected }) => {
        origin.setScript(script);
        const response = await ask(`/${place}/${path}`, [GOOD]);
        expect(seen(response)).toEqual(expected[place === 'plain' ? 'plain' : 'resumable']);
        const names = response.headerLines.map(([name]) => name.toLowerCase());
        for (const name of ['upload-limit', 'accept-patch', 'content-length'])
          expect(names.filter((other) => other === name).length).toBeLessThanOrEqual(1);
      });
    });

    test('that the authorization service refuses asks no origin', async () => {
      const response = await ask('/guarded/x');
      expect([response.status, response.header('Upload-Limit')]).toEqual([401, undefined]);
      expect(origin.exchanges).toEqual([]);
    });

    test('of the whole server asks the origin for the whole server', async () => {
      origin.setScript(says(200, 'words'));
      const response = await ask('*');
      expect([response.status, response.body.toString(), response.header('X-Own')]).toEqual([200, 'words', 'caf\xe9']);
      expect(origin.exchanges.map(({ requestLine }) => requestLine)).toEqual(['OPTIONS * HTTP/1.1']);
    });

    test('waits for an origin that takes its time', async () => {
      let release: () => void = () => undefined;
      const released = new Promise<void>((resolve) => (release = resolve));
      origin.setScript(async (exchange) => {
        await released;
        await says(200, 'at last')(exchange);
      });
      const response = ask('/files/slow');
      await origin.exchange(0);
      release();
      expect(seen(await response)).toEqual(together(200, 'at last'));
    });

    test('of an origin that stays silent is 504 after the time of its route', async () => {
      expect(seen(await ask('/files/silent'))).toEqual({ ...PROBLEM, status: 504 });
    });

    test('passes its body on, and gets an answer that comes before the end of that', async () => {
      origin.setScript(async (exchange) => {
        await exchange.readBytes(4);
        await says(404, 'no')(exchange);
      });
      const request = await openRequest(transport, app.url, { method: 'OPTIONS', target: '/files/x' });
      await request.send('four');
      expect(seen(await request.readFinal())).toEqual(OURS);
      await request.close();
    });

    test('gets our answer without the end of one that has none', async () => {
      origin.setScript(async (exchange) => {
        await exchange.write('HTTP/1.1 404 Not Found\r\n\r\n');
        while (!exchange.socket.destroyed) await exchange.write(Buffer.alloc(16_384));
      });
      expect(seen(await ask('/files/x'))).toEqual(OURS);
      await (
        await origin.exchange(0)
      ).closed;
    });

    test.each(DIALECTS)(
      'in dialect %s has every field of ours once, and of the origin all but those',
      async (interop) => {
        const own = versionLines(clientDialect(interop));
        origin.setScript((exchange) =>
          exchange.respond({
            status: 200,
            headers: [
              ['Allow', 'GET, POST'],
              ['allow', 'PROPFIND'],
              ['DAV', '1, 2'],
              ['upload-limit', 'max-size=1'],
              ['Upload-Limit', 'max-size=2'],
              ['Upload-Draft-Interop-Version', '99'],
              ['Accept-Patch', 'application/json-patch+json,APPLICATION/partial-upload'],
              ['Access-Control-Allow-Origin', '*'],
              ['Alt-Svc', 'h3=":443"'],
              ['X-Hop', '1'],
              ['Connection', 'X-Hop'],
              ['Set-Cookie', 'a=1'],
              ['Set-Cookie', 'b=2'],
            ],
            body: 'words',
          }),
        );
        const response = await ask('/files/x', own);
        const lines = response.headerLines.filter(([name]) => !/^(?:connection|keep-alive|date)$/i.test(name));
        const expected: HeaderLine[] = [
          ['Allow', 'GET, POST'],
          ['allow', 'PROPFIND'],
          ['DAV', '1, 2'],
          ['Access-Control-Allow-Origin', '*'],
          ['Set-Cookie', 'a=1'],
          ['Set-Cookie', 'b=2'],
          ['Content-Length', '5'],
          ...own,
          ['Upload-Limit', LIMIT.replace('max-age', clientDialect(interop).limitKey ?? 'max-age')],
          ['Accept-Patch', 'application/json-patch+json, APPLICATION/partial-upload'],
          ...TUS_LINES,
        ];
        expect(sorted(lines)).toEqual(sorted(expected));
      },
    );
  });

  /** HTTP/2 and Node put lines of one name together: only what they say is compared. */
  function sorted(lines: readonly HeaderLine[]): string[] {
    return lines.map(([name, value]) => `${name.toLowerCase()}: ${value}`).sort();
  }

  test('a kept connection to the origin outlives an answer that ours takes the place of', async () => {
    origin.setScript(says(404, 'no'));
    const before = origin.connections.length;
    for (const target of ['/files/1', '/files/2', '/files/3'])
      await exchangeOver('HTTP/1.1', app.url, { method: 'OPTIONS', target });
    expect(origin.exchanges).toHaveLength(3);
    expect(origin.connections.length - before).toBeLessThanOrEqual(1);
  });

  test('a CORS preflight stays the origin’s alone', async () => {
    origin.setScript(says(405, 'no'));
    const headers: HeaderLine[] = [
      ['Origin', 'https://page.example'],
      ['Access-Control-Request-Method', 'POST'],
    ];
    const response = await exchangeOver('HTTP/1.1', app.url, { method: 'OPTIONS', target: '/files/x', headers });
    expect(seen(response)).toEqual(asItIs(405, 'no'));
  });

  test('a page may read every discovery, and one that the origin allows it stays', async () => {
    const paged = await startTestApp({ origin: origin.url, config: 'cors: { allow_origins: [https://page.example] }' });
    const asked = async (script: RawScript): Promise<(string | undefined)[]> => {
      origin.setScript(script);
      const headers: HeaderLine[] = [['Origin', 'https://page.example']];
      const response = await exchangeOver('HTTP/1.1', paged.url, { method: 'OPTIONS', target: '/x', headers });
      return [`${response.status}`, response.header('Access-Control-Allow-Origin'), response.header('Vary')];
    };
    expect(await asked(says(200, 'words'))).toEqual(['200', 'https://page.example', 'Origin']);
    expect(await asked(says(404, 'no'))).toEqual(['200', 'https://page.example', 'Origin']);
    expect(await asked(says(503, 'bad'))).toEqual(['503', 'https://page.example', 'Origin']);
    expect(await asked((exchange) => void exchange.socket.destroy())).toEqual([
      '502',
      'https://page.example',
      'Origin',
    ]);
    expect(await asked(says(200, '', [['Access-Control-Allow-Origin', '*']]))).toEqual(['200', '*', 'Origin']);
    await paged.stop();
  });
});

describe('uploads', () => {
  const LIMITS = 'max-size=1000000, min-size=10, max-append-size=50000, min-append-size=5';

  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open({
      config: `
limits: { max_size: 1000000, min_size: 10, max_append_size: 50000, min_append_size: 5, max_age: 2h }
routes:
  - match: { path: /files/**, methods: [POST, PUT] }
  - match: { path: /plain/** }
    resumable: false
`,
    });
  });

  afterAll(async () => {
    await proxy.close();
  });

  test.each(VARIANTS)(
    'over $transport, interop $interop, a target tells its limits beside what the origin says of it',
    async ({ transport, interop, seed }) => {
      const client = new FlowClient(proxy, transport, interop);
      const target = `/files/x?seed=${seed}`;
      proxy.answer(target, {
        status: 200,
        headers: [
          ['Allow', 'GET, POST'],
          ['X-Origin', 'yes'],
          ['Accept-Patch', 'application/json-patch+json'],
          ['Upload-Limit', 'max-size=1'],
          ['Content-Type', 'text/plain'],
        ],
        body: 'words about it',
      });
      const headers = versionLines(client.dialect);
      const response = await client.send({ method: 'OPTIONS', target, headers });
      const lines = [
        'Allow: GET, POST',
        'X-Origin: yes',
        'Content-Type: text/plain',
        'Content-Length: 14',
        'Date: <now>',
        ...headers.map(([name, value]) => `${name}: ${value}`),
        `Upload-Limit: ${LIMITS}, ${client.dialect.limitKey ?? 'max-age'}=<all>`,
        'Accept-Patch: application/json-patch+json, application/partial-upload',
        ...TUS_LINES.map(([name, value]) => `${name}: ${value}`),
        'Tus-Max-Size: 1000000',
      ];
      expect(comparable(response, { maxAgeSeconds: 7200 })).toEqual({
        status: 200,
        lines: transport === 'HTTP/1.1' ? [...lines, 'Connection: keep-alive', 'Keep-Alive: timeout=75'] : lower(lines),
        body: 'words about it',
      });
      expect(proxy.requestsFor(target)).toMatchObject([{ method: 'OPTIONS', size: 0 }]);
    },
  );

  function lower(lines: readonly string[]): string[] {
    return lines.map((line) => line.replace(/^[^:]+/, (name) => name.toLowerCase()));
  }

  test.each([404, 405, 501])('an origin that answers OPTIONS with %i is left out of it', async (status) => {
    const client = new FlowClient(proxy, 'HTTP/1.1', 'final');
    const target = `/files/unknown?status=${status}`;
    proxy.answer(target, { status, headers: [['Allow', 'GET']], body: 'not that' });
    const response = await client.send({ method: 'OPTIONS', target });
    expect(response).toMatchObject({ status: 200 });
    expect(response.header('Allow')).toBeUndefined();
    expect(response.header('Upload-Limit')).toBe(`${LIMITS}, ${client.dialect.limitKey}=7200`);
    expect(response.header('Accept-Patch')).toBe('application/partial-upload');
  });

  test('a discovery that names completeness is a discovery', async () => {
    const client = new FlowClient(proxy, 'HTTP/1.1', 'final');
    const headers = creationLines(client.dialect, { complete: true });
    const response = await client.send({ method: 'OPTIONS', target: '/files/named', headers });
    expect(response.status).toBe(200);
    expect(response.header('Upload-Limit')).toBe(`${LIMITS}, ${client.dialect.limitKey}=7200`);
  });

  test('an upload tells its limits without asking the origin', async () => {
    const client = new FlowClient(proxy, 'HTTP/1.1', '8', LIMITS);
    const created = await client.send({
      method: 'POST',
      target: '/files/y',
      headers: creationLines(client.dialect, { complete: false, length: 20 }),
      body: '',
    });
    const { target } = client.at(created.header('Location')!);
    const response = await client.send({ method: 'OPTIONS', target, headers: versionLines(client.dialect) });
    expect(response.status).toBe(200);
    expect(response.header('Upload-Limit')).toBe(`${LIMITS}, ${client.dialect.limitKey}=7200`);
    expect(proxy.requestsFor(target)).toEqual([]);
  });

  test.each(['/plain/x', '/elsewhere'])(
    'OPTIONS on %s, which is not resumable, is the origin’s alone',
    async (target) => {
      proxy.answer(target, { status: 200, headers: [['Allow', 'GET']], body: 'words' });
      const response = await proxy.send('HTTP/1.1', { method: 'OPTIONS', target });
      expect(response).toMatchObject({ status: 200 });
      expect(response.body.toString()).toBe('words');
      expect(response.header('Upload-Limit')).toBeUndefined();
    },
  );
});
