import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net';
import { afterEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, requestOnce } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { type Front, type FrontOptions, play, type Stage, startFront } from '../support/pass-through-front.js';
import { answerOk, type RawExchange } from '../support/raw-origin.js';
import { makeCertificate, serverPort } from '../support/temporary.js';
import { startTestOrigin } from '../support/test-origin.js';
import type { WireResponse } from '../support/wire.js';

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function frontOf(origin: string, options?: FrontOptions): Promise<Front> {
  const front = await startFront(origin, options);
  closers.push(() => front.close());
  return front;
}

async function listenOn(server: Server, host = '127.0.0.1'): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  closers.push(() => new Promise((resolve) => server.close(resolve)));
  return (server.address() as AddressInfo).port;
}

function expectProblem(response: WireResponse, status: number, detail: RegExp): void {
  expect(response.status).toBe(status);
  expect(response.header('content-type')).toBe('application/problem+json');
  const problem = JSON.parse(response.body.toString()) as Record<string, unknown>;
  expect(problem).toMatchObject({ type: 'about:blank', status });
  expect(problem['title']).toBe(status === 502 ? 'Bad Gateway' : 'Gateway Timeout');
  expect(problem['detail']).toMatch(detail);
}

describe('an origin that cannot be reached', () => {
  test('gives 502, which says so without naming addresses', async () => {
    const port = await serverPort();
    const codes: string[] = [];
    const metrics = { passThroughError: (code: string) => codes.push(code) };
    const front = await frontOf(`http://127.0.0.1:${port}`, { metrics });
    const response = await requestOnce(front.url, { method: 'POST', target: '/', body: 'hello' });
    expectProblem(response, 502, /refused the connection/);
    expect(response.body.toString()).not.toContain(`${port}`);
    expect(response.header('cache-control')).toBe('no-store');
    expect(codes).toEqual(['ECONNREFUSED']);
  });

  test('gives 502 when its name does not exist', async () => {
    const front = await frontOf('http://nothing.invalid');
    expectProblem(await requestOnce(front.url, { method: 'GET', target: '/' }), 502, /name could not be resolved/);
  });

  test('gives 502 without content to HEAD, and to HTTP/2', async () => {
    const origin = `http://127.0.0.1:${await serverPort()}`;
    const head = await requestOnce((await frontOf(origin)).url, { method: 'HEAD', target: '/' });
    expect([head.status, head.body.length]).toEqual([502, 0]);
    const client = await connectH2((await frontOf(origin, { speaks: 'h2c' })).url);
    expectProblem(await client.request({ method: 'POST', target: '/', body: 'hello' }), 502, /refused the connection/);
    await client.close();
  });
});

const BAD_ANSWERS: [string, string, RegExp][] = [
  ['no HTTP', 'hello\r\n\r\n', /not valid HTTP/],
  ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab', /not valid HTTP/],
  [
    'length and chunked',
    'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
    /not valid HTTP/,
  ],
  ['a coding we did not ask for', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n', /coding/],
  [
    'a switch nobody asked for',
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n',
    /switched/,
  ],
  ['half a head', 'HTTP/1.1 200 OK\r\nX-A: ', /without an answer/],
];

describe('an origin whose answer is', () => {
  test.each(BAD_ANSWERS)('%s gives 502', async (_, answer, detail) => {
    const script = async (exchange: RawExchange): Promise<void> => {
      await exchange.write(answer);
      exchange.end();
    };
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        for (let round = 0; round < 2; round++) {
          expectProblem(await client.request({ method: 'POST', target: '/', body: 'hello' }), 502, detail);
        }
        client.destroy();
      },
      { script },
    );
  });
});

describe('an origin that is silent for too long', () => {
  test('before its answer gives 504', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const response = await requestOnce(front.url, { method: 'POST', target: '/', body: 'hello' });
        expectProblem(response, 504, /silent for more than 0.1 s/);
        await (
          await origin.exchange(0)
        ).closed;
      },
      { timeoutMs: 100, script: () => undefined },
    );
  });

  test('when it reads nothing gives 504', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const body = Buffer.alloc(16 * 2 ** 20);
        expectProblem(await requestOnce(front.url, { method: 'POST', target: '/', body }), 504, /silent/);
      },
      { timeoutMs: 100, script: () => undefined },
    );
  });

  test('in the middle of its answer breaks it', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.sendHead('GET', '/');
        const body = client.bodyOf((await client.readHead())!);
        await expect(body.readAll()).rejects.toThrow('closed within a body');
        client.destroy();
      },
      { timeoutMs: 100, script: (exchange) => exchange.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello') },
    );
  });

  test('is not silent while the client is slow to send, or to read', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      await exchange.readBody();
      await exchange.respond({ status: 200, body: Buffer.alloc(16 * 2 ** 20) });
    };
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.sendHead('POST', '/', [['Content-Length', '10']]);
        await client.send('hello');
        await pause(300);
        await client.send('hello');
        const head = await client.readHead();
        await pause(300);
        const body = client.bodyOf(head!);
        await body.readAll();
        expect([head!.status, body.size]).toEqual([200, 16 * 2 ** 20]);
        client.destroy();
      },
      { timeoutMs: 100, script },
    );
  });
});

/** Lets time pass where nothing must happen. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

describe('a connection that the origin closes while our request is on its way', () => {
  /** The first request is answered; the second meets the end of the connection. */
  const closeOnSecond = async (exchange: RawExchange): Promise<void> => {
    if (exchange.connectionIndex === 0 && exchange.index === 1) exchange.socket.destroy();
    else await answerOk(exchange);
  };

  const second =
    (method: string, body?: string, headers?: readonly HeaderLine[]) =>
    async ({ front, origin }: Stage) => {
      const client = await connect(front.url);
      await client.request({ method: 'GET', target: '/first' });
      const response = await client.request({ method, target: '/second', body, headers });
      client.destroy();
      return { status: response.status, requests: origin.exchanges.map(({ requestLine }) => requestLine) };
    };

  test.each(['GET', 'HEAD', 'OPTIONS', 'DELETE', 'PUT'])('a %s without content is sent once more', async (method) => {
    const { status, requests } = await play('ours', second(method), { script: closeOnSecond });
    expect(status).toBe(200);
    expect(requests).toEqual(['GET /first HTTP/1.1', `${method} /second HTTP/1.1`, `${method} /second HTTP/1.1`]);
  });

  test('gives 502 with http-proxy alone', async () => {
    expect((await play('bare', second('GET'), { script: closeOnSecond })).status).toBe(502);
  });

  test.each([
    ['POST', undefined],
    ['PATCH', undefined],
    ['PUT', 'hello'],
    ['GET', 'hello'],
  ])('a %s that may have been processed, or has content (%s), is not', async (method, body) => {
    const { status, requests } = await play('ours', second(method, body), { script: closeOnSecond });
    expect(status).toBe(502);
    expect(requests).toHaveLength(2);
  });

  test.each([
    ['PUT', 'If-None-Match', 2],
    ['DELETE', 'If-Match', 2],
    ['DELETE', 'If-Unmodified-Since', 2],
    ['GET', 'If-None-Match', 3],
  ])(
    'a %s with %s is not sent again where its second would meet what its first has done (%i requests)',
    async (method, condition, requests) => {
      const played = await play('ours', second(method, undefined, [[condition, '"1"']]), { script: closeOnSecond });
      expect(played.status).toBe(requests === 3 ? 200 : 502);
      expect(played.requests).toHaveLength(requests);
    },
  );

  test('nothing is sent a third time', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      if (exchange.index > 0) exchange.socket.destroy();
      else await answerOk(exchange);
    };
    const { status, requests } = await play('ours', second('GET'), { script });
    expect(status).toBe(502);
    expect(requests).toHaveLength(3);
  });

  test('nothing is sent again once the origin has said something', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      if (exchange.index === 0) return answerOk(exchange);
      await exchange.interim(102);
      exchange.end();
    };
    const { status, requests } = await play('ours', second('GET'), { script });
    expect(status).toBe(502);
    expect(requests).toHaveLength(2);
  });

  test('a first request on a new connection is not sent again', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        expect((await requestOnce(front.url, { method: 'GET', target: '/' })).status).toBe(502);
        expect(origin.exchanges).toHaveLength(1);
      },
      { script: (exchange) => void exchange.socket.destroy() },
    );
  });
});

describe('an answer that announces content it cannot have', () => {
  const answers: [string, string, string][] = [
    ['HEAD', '200 OK', 'Content-Length: 5'],
    ['HEAD', '404 Not Found', 'Transfer-Encoding: chunked'],
    ['HEAD', '204 No Content', 'Content-Length: 5'],
    ['GET', '204 No Content', 'Content-Length: 5'],
    ['GET', '204 No Content', 'Transfer-Encoding: chunked'],
    ['GET', '304 Not Modified', 'Content-Length: 5'],
    ['POST', '304 Not Modified', 'Transfer-Encoding: chunked'],
  ];

  test.each(answers)('is the last on its connection (%s, %s, %s)', async (method, status, line) => {
    const isOdd = (exchange: RawExchange): boolean => exchange.requestLine.includes('/odd');
    const script = async (exchange: RawExchange): Promise<void> => {
      if (!isOdd(exchange)) return answerOk(exchange);
      await exchange.readBody();
      await exchange.write(`HTTP/1.1 ${status}\r\n${line}\r\n\r\n`);
    };
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        const odd = await client.request({ method, target: '/odd' });
        expect([odd.status, odd.body.length]).toEqual([Number(status.slice(0, 3)), 0]);
        const { connectionIndex } = origin.exchanges[0]!;
        // An origin that sends the content all the same answers nobody else with it.
        if (origin.connections[connectionIndex]!.open)
          origin.connections[connectionIndex]!.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil');
        for (let count = 1; count <= 2; count++) {
          expect((await client.request({ method: 'GET', target: '/next' })).body.toString()).toBe('ok');
          expect(origin.exchanges[count]!.connectionIndex).toBe(1);
        }
        client.destroy();
      },
      { script },
    );
  });

  test.each([
    ['HEAD', '200 OK', 'Content-Length: 0'],
    ['GET', '204 No Content', 'X-No: content'],
    ['GET', '304 Not Modified', 'Content-Length: 0'],
  ])('is not one that announces none: its connection serves on (%s, %s, %s)', async (method, status, line) => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        for (let count = 0; count < 3; count++) await client.request({ method, target: '/' });
        expect(origin.connections).toHaveLength(1);
        client.destroy();
      },
      { script: (exchange) => exchange.write(`HTTP/1.1 ${status}\r\n${line}\r\n\r\n`) },
    );
  });
});

describe('origins of every kind', () => {
  test('behind TLS', async () => {
    const certificate = makeCertificate();
    const server = createTlsServer(certificate, (request, response) => request.pipe(response));
    const origin = `https://localhost:${await listenOn(server)}`;
    const front = await frontOf(origin, { tls: { ca: certificate.cert } });
    for (let round = 0; round < 2; round++) {
      const response = await requestOnce(front.url, { method: 'POST', target: '/', body: 'hello' });
      expect([response.status, response.body.toString()]).toEqual([200, 'hello']);
    }
    const strict = await frontOf(origin);
    expectProblem(await requestOnce(strict.url, { method: 'GET', target: '/' }), 502, /secure connection/);
    server.closeAllConnections();
  });

  test('on IPv6', async () => {
    const server = createTcpServer((socket) => {
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'));
    });
    const front = await frontOf(`http://[::1]:${await listenOn(server, '::1')}`, { preserveHost: false });
    expect((await requestOnce(front.url, { method: 'GET', target: '/' })).body.toString()).toBe('ok');
  });

  test('below a path of their own', async () => {
    const origin = await startTestOrigin();
    closers.push(() => origin.close());
    const front = await frontOf(`${origin.url}/api/v1`);
    await requestOnce(front.url, { method: 'GET', target: '/things?x=1' });
    expect(origin.requests.map(({ target }) => target)).toEqual(['/api/v1/things?x=1']);
  });
});
