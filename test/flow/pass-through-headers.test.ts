import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { play, type Stage } from '../support/pass-through-front.js';
import { connect } from '../support/raw-client.js';
import type { RawExchange } from '../support/raw-origin.js';

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
  await exchange.respond({ status: 299, reason: 'Quite Fine', headers: [...ANSWER_LINES, ...HOP_BY_HOP], body: 'ok' });
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
