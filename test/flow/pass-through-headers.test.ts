import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, exchangeOver, openTunnel, TRANSPORTS } from '../support/client.js';
import { CuttingProxy } from '../support/network.js';
import { play, type Stage } from '../support/pass-through-front.js';
import type { RawExchange } from '../support/raw-origin.js';
import { serverPort, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireRequest } from '../support/wire.js';

describe('headers', () => {
  const REQUEST_LINES: HeaderLine[] = [
    ['HOST', 'Example.org:8080'],
    ['X-B', '1'],
    ['x-a', '2'],
    ['X-b', '3'],
    ['Cookie', 'a=1'],
    ['X-A', ''],
    ['If-Match', '"\xe9"'],
    ['X-B', '4'],
  ];

  const ANSWER_LINES: HeaderLine[] = [
    ['SERVER', 'old'],
    ['Set-Cookie', 'a=1'],
    ['X-One', '1'],
    ['set-cookie', 'b=2'],
    ['X-Two', 'caf\xe9'],
    ['X-One', '3'],
    ['Content-Type', 'text/plain'],
    ['Date', 'Sun, 22 Nov 2026 00:00:00 GMT'],
  ];

  const HOP_BY_HOP: HeaderLine[] = [
    ['Connection', 'X-Hop, keep-alive'],
    ['X-Hop', '1'],
    ['Keep-Alive', 'timeout=7'],
    ['Proxy-Connection', 'keep-alive'],
    ['Proxy-Authenticate', 'Basic'],
    ['Proxy-Authorization', 'Basic x'],
  ];

  async function answer(exchange: RawExchange): Promise<void> {
    await exchange.readBody();
    await exchange.respond({
      status: 299,
      reason: 'Quite Fine',
      headers: [...ANSWER_LINES, ...HOP_BY_HOP],
      body: 'ok',
    });
  }

  async function exchangeLines({ front, origin }: Stage) {
    const client = await connect(front.url);
    const headers = [...REQUEST_LINES, ...HOP_BY_HOP];
    const response = await client.request({ method: 'GET', target: '/', headers });
    client.destroy();
    return { atOrigin: origin.exchanges[0]!.headerLines, response };
  }

  describe('field lines', () => {
    test('lose case, order and repetitions with http-proxy alone', async () => {
      const { atOrigin, response } = await play('bare', exchangeLines, { script: answer });
      expect(atOrigin.slice(0, REQUEST_LINES.length)).not.toEqual(REQUEST_LINES);
      expect(response.headerLines.slice(0, ANSWER_LINES.length)).not.toEqual(ANSWER_LINES);
      expect(atOrigin.map(([name]) => name)).toContain('proxy-authorization');
    });

    test('reach the origin as they were, without those of one hop', async () => {
      const { atOrigin } = await play('ours', exchangeLines, { script: answer });
      expect(atOrigin).toEqual([
        ...REQUEST_LINES,
        ['Forwarded', 'for=127.0.0.1;host="Example.org:8080";proto=http'],
        ['X-Forwarded-For', '127.0.0.1'],
        ['X-Forwarded-Host', 'Example.org:8080'],
        ['X-Forwarded-Proto', 'http'],
        ['Via', '1.1 rufh-proxy'],
        ['Connection', 'keep-alive'],
      ]);
    });

    test('reach the client as they were, without those of one hop', async () => {
      const { response } = await play('ours', exchangeLines, { script: answer });
      expect(response.statusLine).toBe('HTTP/1.1 299 Quite Fine');
      expect(response.headerLines).toEqual([
        ...ANSWER_LINES,
        ['Content-Length', '2'],
        ['Connection', 'keep-alive'],
        ['Keep-Alive', 'timeout=5'],
      ]);
    });
  });

  test('an answer without a date gets ours (RFC 9110 §6.6.1)', async () => {
    await play('ours', async ({ front }) => {
      const client = await connect(front.url);
      const response = await client.request({ method: 'GET', target: '/' });
      client.destroy();
      expect(Date.parse(response.header('date')!)).toBeGreaterThan(0);
    });
  });

  test('the origin gets its own name as Host when the route says so', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.request({ method: 'GET', target: '/', headers: [['Host', 'example.org']] });
        client.destroy();
        expect(origin.exchanges[0]!.header('host')).toBe(`127.0.0.1:${origin.port}`);
        expect(origin.exchanges[0]!.header('x-forwarded-host')).toBe('example.org');
      },
      { preserveHost: false },
    );
  });

  test('an HTTP/1.0 client that names no host gets an answer', async () => {
    await play('ours', async ({ front, origin }) => {
      const client = await connect(front.url);
      await client.send('GET / HTTP/1.0\r\n\r\n');
      expect((await client.readFinal()).body.toString()).toBe('ok');
      await client.ended();
      expect(origin.exchanges[0]!.requestLine).toBe('GET / HTTP/1.1');
      expect(origin.exchanges[0]!.header('host')).not.toBe('');
      expect(origin.exchanges[0]!.header('via')).toBe('1.0 rufh-proxy');
    });
  });

  test('an HTTP/1.0 client can keep its connection', async () => {
    await play('ours', async ({ front }) => {
      const client = await connect(front.url);
      for (let round = 0; round < 2; round++) {
        await client.send('GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n');
        expect((await client.readFinal()).body.toString()).toBe('ok');
      }
      client.destroy();
    });
  });

  const TARGETS = ['/a//b/../c?x=http://y//z&&', '/%2e%2E/%61;p=1?', '/?', '//host/path', '/a%20b|c'];

  async function targetsAtOrigin({ front, origin }: Stage): Promise<string[]> {
    const client = await connect(front.url);
    for (const target of TARGETS) await client.request({ method: 'GET', target });
    client.destroy();
    return origin.exchanges.map(({ target }) => target);
  }

  describe('request targets', () => {
    test('are cleaned up with http-proxy alone', async () => {
      expect(await play('bare', targetsAtOrigin)).not.toEqual(TARGETS);
    });

    test('reach the origin to the letter', async () => {
      expect(await play('ours', targetsAtOrigin)).toEqual(TARGETS);
    });

    test('an asterisk stays one', async () => {
      await play('ours', async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.request({ method: 'OPTIONS', target: '*' });
        client.destroy();
        expect(origin.exchanges[0]!.requestLine).toBe('OPTIONS * HTTP/1.1');
      });
    });
  });

  test.each([204, 304])('an answer of %i stays without content and without framing', async (status) => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        for (let round = 0; round < 2; round++) {
          const response = await client.request({ method: 'GET', target: '/' });
          expect(response.status).toBe(status);
          expect(response.header('etag')).toBe('"1"');
          expect(response.header('content-length')).toBeUndefined();
          expect(response.header('transfer-encoding')).toBeUndefined();
        }
        client.destroy();
      },
      { script: (exchange) => exchange.respond({ status, headers: [['ETag', '"1"']] }) },
    );
  });

  test('the answer to HEAD keeps the length of what is not sent', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        const response = await client.request({ method: 'HEAD', target: '/' });
        expect(response.header('content-length')).toBe('12345');
        expect((await client.request({ method: 'HEAD', target: '/' })).status).toBe(200);
        client.destroy();
      },
      { script: (exchange) => exchange.respond({ status: 200, headers: [['Content-Length', '12345']] }) },
    );
  });

  test('what the origin says at once is not held back until it says more', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.sendHead('GET', '/events');
        const head = await client.readHead();
        expect(head!.status).toBe(200);
        const body = client.bodyOf(head!);
        await origin.exchanges[0]!.write('5\r\nhello\r\n');
        expect((await body.read(5)).toString()).toBe('hello');
        client.destroy();
      },
      { script: (exchange) => exchange.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n') },
    );
  });

  test('what the client says at once is not held back until it says more', async () => {
    await play('ours', async ({ front, origin }) => {
      const client = await connect(front.url);
      await client.sendHead('POST', '/', [['Content-Length', '5']]);
      expect((await origin.exchange(0)).header('content-length')).toBe('5');
      await client.send('hello');
      expect((await client.readFinal()).status).toBe(200);
      client.destroy();
    });
  });

  test('pipelined requests are answered in their order, each with its own answer', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      await exchange.interim(103, [['X-For', exchange.target]]);
      await exchange.respond({ status: 200, body: exchange.target });
    };
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        const targets = Array.from({ length: 20 }, (_, at) => `/${at}`);
        await client.send(targets.map((target) => `GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`).join(''));
        for (const target of targets) {
          const response = await client.readFinal();
          expect(response.body.toString()).toBe(target);
          for (const interim of response.interims) expect(interim.header('x-for')).toBe(target);
        }
        client.destroy();
      },
      { script },
    );
  });
});

describe('loops', () => {
  /** The origin of the first leads back to it by an address that no configuration shows; the next two are each other's. */
  let own: TestApp;
  let wire: CuttingProxy;
  let first: TestApp;
  let second: TestApp;
  let origin: TestOrigin;

  beforeAll(async () => {
    const port = await serverPort();
    wire = await CuttingProxy.start(port);
    origin = await startTestOrigin({ status: 200, body: 'ok' });
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
    'an upload that the origin is asked about': {
      method: 'POST',
      target: '/asked/x',
      headers: CREATION,
      body: 'hello',
    },
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
});

describe('warnings', () => {
  const CHILD = join(import.meta.dirname, '../support/pass-through-child.ts');

  async function warningsOf(which: 'ours' | 'bare', ...flags: string[]): Promise<{ name: string; code?: string }[]> {
    const { stdout } = await promisify(execFile)(process.execPath, [...flags, '--import', 'tsx', CHILD, which]);
    return JSON.parse(stdout) as { name: string; code?: string }[];
  }

  test('http-proxy alone uses what Node has deprecated since version 22', async () => {
    const codes = (await warningsOf('bare')).map(({ code }) => code);
    const isDeprecated = Number(process.versions.node.split('.')[0]) >= 22;
    expect(codes.filter((code) => code === 'DEP0060')).toEqual(isDeprecated ? ['DEP0060'] : []);
  });

  test('ours passes through without a warning, also where a deprecation is an error', async () => {
    expect(await warningsOf('ours', '--throw-deprecation')).toEqual([]);
  });
});
