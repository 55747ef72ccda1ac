import { once } from 'node:events';
import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { HttpOrigin } from '../../src/delivery/http-origin.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { Exchange } from '../../src/server/exchange.js';
import { ReadGate } from '../../src/streams/read-gate.js';
import { limitSmallPieces, sinceReadHeldMs } from '../../src/streams/small-pieces.js';
import { connect, type RawClient, type Transport, TRANSPORTS } from '../support/client.js';
import { block, frame } from '../support/hostile-http2.js';
import { startRawOrigin } from '../support/raw-origin.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { appendLines, clientDialect, creationLines, type DialectName } from '../support/resumable-client.js';
import { until } from '../support/temporary.js';
import { closeListeners, ok, openListener } from '../support/test-listener.js';
import { type OriginRequest, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

describe('small pieces', () => {
  // Issue 9, §5: chunks and DATA of one byte cost no more than large ones, and do not keep others waiting.
  afterEach(closeListeners);

  const COUNT = 20_000;
  const [DATA, HEADERS, SETTINGS] = [0, 1, 4];
  const PREFACE = `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${frame(SETTINGS, 0, 0, '')}`;
  const FIELDS = [
    [':method', 'POST'],
    [':scheme', 'http'],
    [':path', '/'],
    [':authority', 'h'],
  ] as const;

  const BODIES = {
    'HTTP/1.1': `POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(COUNT)}0\r\n\r\n`,
    'HTTP/2': `${PREFACE}${frame(HEADERS, 0x4, 1, block(FIELDS))}${frame(DATA, 0, 1, 'x').repeat(COUNT)}${frame(DATA, 1, 1, '')}`,
  };

  test.each(Object.entries(BODIES))('a body of single bytes over %s is taken in few pieces', async (_, bytes) => {
    const sizes: number[] = [];
    let isComplete = false;
    let wasHeld = false;
    const take = (exchange: Exchange): void => {
      exchange.req.on('data', ({ length }: Buffer) => {
        sizes.push(length);
        // So many come with one read that others have to be let in before the next.
        wasHeld ||= sinceReadHeldMs(exchange.req) < Infinity;
      });
      exchange.req.once('end', () => {
        isComplete = true;
        ok(exchange);
      });
    };
    const listener = await openListener(take);
    const client = await connect(listener.url);
    client.socket.resume();
    await client.send(Buffer.from(bytes, 'latin1'));
    await until(() => isComplete, 'the whole body');
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(COUNT);
    expect(sizes.length).toBeLessThan(COUNT / 50);
    expect(wasHeld).toBe(true);
    client.destroy();
  });

  describe('an answer of single bytes', () => {
    const PIECES = 4000;

    /** How many bytes of the connection it takes to bring it to the client. */
    async function cost(send: (client: RawClient) => Promise<void>): Promise<number> {
      const origin = await startRawOrigin(async (exchange) => {
        await exchange.readBody();
        await exchange.write(
          `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(PIECES)}0\r\n\r\n`,
        );
      });
      const app = await startTestApp({ origin: origin.url });
      const client = await connect(app.url);
      try {
        await send(client);
        expect((await client.readFinal()).body.toString()).toBe('x'.repeat(PIECES));
        return client.socket.bytesRead;
      } finally {
        client.destroy();
        await app.stop();
        await origin.close();
      }
    }

    // A chunk of one byte takes six.
    test('reaches who asked for it in few', async () => {
      expect(await cost((client) => client.sendHead('GET', '/'))).toBeLessThan(2 * PIECES);
    });

    test('reaches an upload in few', async () => {
      const headers = creationLines(clientDialect('6'), { complete: true });
      const upload = (client: RawClient): Promise<void> =>
        client.sendRequest({ method: 'POST', target: '/', headers, body: 'hello' });
      expect(await cost(upload)).toBeLessThan(2 * PIECES);
    });
  });

  test('an answer of single bytes is taken in few pieces by a delivery', async () => {
    const origin = await startRawOrigin((exchange) =>
      exchange.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${'1\r\nx\r\n'.repeat(COUNT)}0\r\n\r\n`),
    );
    const sender = new HttpOrigin();
    const request = { origin: origin.url, method: 'GET', target: '/', headers: [], content: { size: 0 } } as const;
    const { body } = await sender.send(
      { ...request, timeoutMs: 20_000, connection: 'fresh' },
      new AbortController().signal,
    );
    const sizes: number[] = [];
    body.on('data', ({ length }: Buffer) => sizes.push(length));
    await once(body, 'end');
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(COUNT);
    expect(sizes.length).toBeLessThan(COUNT / 50);
    await sender.close();
    await origin.close();
  });

  /** A connection as far as reading from it is concerned. */
  function fakeSocket() {
    const steps: string[] = [];
    const handle = { reading: true, readStart: () => steps.push('start'), readStop: () => steps.push('stop') };
    return { socket: { _handle: handle, destroyed: false } as unknown as Socket, handle, steps };
  }

  describe('a connection that is held', () => {
    test('is read again when all who held it let it go, and whoever wanted to read meanwhile waits', () => {
      const { socket, handle, steps } = fakeSocket();
      const gate = ReadGate.of(socket);
      expect(ReadGate.sinceHeldMs(socket)).toBe(Infinity);
      gate.hold();
      gate.hold();
      handle.readStart();
      gate.release();
      expect([steps, ReadGate.sinceHeldMs(socket)]).toEqual([['stop'], 0]);
      gate.release();
      expect(steps).toEqual(['stop', 'start']);
      expect(ReadGate.sinceHeldMs(socket)).toBeGreaterThanOrEqual(0);
      expect(ReadGate.sinceHeldMs(socket)).toBeLessThan(Infinity);
    });

    test('is not read when nobody wants it any more', () => {
      const { socket, handle, steps } = fakeSocket();
      const gate = ReadGate.of(socket);
      gate.hold();
      handle.readStop();
      gate.release();
      expect(steps).toEqual(['stop', 'stop']);
    });

    test('is one of many that send tiny pieces: one is read at a time', async () => {
      jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'performance'] });
      try {
        const turn = (): Promise<void> => jest.advanceTimersByTimeAsync(0);
        const senders = Array.from({ length: 5 }, () => {
          const fake = fakeSocket();
          const body = new Readable({ read: () => undefined });
          limitSmallPieces(body, fake.socket);
          return { ...fake, body };
        });
        for (const { body } of senders) for (let count = 0; count < 300; count++) body.push(Buffer.from('x'));
        const held = (): number => senders.filter(({ steps }) => steps.at(-1) === 'stop').length;
        expect(held()).toBe(5);
        expect(senders.map(({ body }) => sinceReadHeldMs(body))).toEqual([0, 0, 0, 0, 0]);
        await turn();
        const counts: number[] = [];
        for (let looks = 0; looks < 1000 && held() > 0; looks++) {
          counts.push(held());
          await jest.advanceTimersByTimeAsync(1);
        }
        expect([...new Set(counts)]).toEqual([5, 4, 3, 2, 1]);
      } finally {
        jest.useRealTimers();
      }
    });

    test('few pieces hold nobody', () => {
      const { socket, steps } = fakeSocket();
      const body = new Readable({ read: () => undefined });
      limitSmallPieces(body, socket);
      for (let count = 0; count < 100; count++) body.push(Buffer.from('x'));
      expect([steps, sinceReadHeldMs(body)]).toEqual([[], Infinity]);
    });
  });
});

describe('small uploads', () => {
  // Issue 9: an upload below `min_size` reaches the origin as a large one does, whatever its route makes of uploads.
  const KINDS = ['plain', 'gated', 'framed', 'moved', 'renamed', 'rechecked'] as const;
  const SIZES = { small: 5, large: 200 } as const;
  const VERSIONS: readonly DialectName[] = ['3', '8', 'final'];

  const CONFIG = (service: string): string => `
limits: { min_size: 100 }
routes:
  - match: { path: /gated/** }
    delivery: { gate: { command: ["/bin/sh", "-c", "! grep -q VIRUS"] } }
  - match: { path: /framed/** }
    delivery: { framing: multipart }
  - match: { path: /moved/** }
    delivery: { target: "/in{path}" }
  - match: { path: /renamed/** }
    delivery: { method: PUT }
  - match: { path: /rechecked/** }
    authorize: { forward_auth: "${service}", recheck: true }
    plain_bodies: spool
  - match: { path: /** }
`;

  describe.each(['embedded', 'redis'] as const)('with the %s store', (kind) => {
    let redis: RedisServer | undefined;
    let service: TestOrigin;
    let proxy: TestProxy;
    let flows = 0;

    beforeAll(async () => {
      redis = kind === 'redis' ? await startRedis() : undefined;
      service = await startTestOrigin({ status: 204 });
      const store = redis ? `store: { type: redis, url: "${redis.url}" }\nspool: { shared: true }\n` : '';
      proxy = await TestProxy.open({ config: store + CONFIG(service.url) });
    });
    afterAll(async () => {
      await proxy.close();
      await service.close();
      await redis?.stop();
    });

    /** How a client may bring the same bytes. */
    const WAYS = {
      'at once (?1)': (transport: Transport, dialect: DialectName, target: string, body: string) => {
        const headers = creationLines(clientDialect(dialect), { complete: true, length: body.length });
        return proxy.send(transport, { method: 'POST', target, headers, body });
      },
      'later (?0)': async (transport: Transport, dialect: DialectName, target: string, body: string) => {
        const version = clientDialect(dialect);
        const headers = creationLines(version, { complete: false, length: body.length });
        const created = await proxy.send(transport, { method: 'POST', target, headers, body: '' });
        expect(created.status).toBe(201);
        const append = appendLines(version, { offset: 0, complete: true });
        const { pathname } = new URL(created.header('Location')!);
        return proxy.send(transport, { method: 'PATCH', target: pathname, headers: append, body });
      },
      'as an ordinary body': (transport: Transport, _: DialectName, target: string, body: string) =>
        proxy.send(transport, { method: 'POST', target, body }),
    } as const;

    /** What the origin got of the request, but for what differs from upload to upload. */
    function shapeOf(request: OriginRequest, name: string): readonly unknown[] {
      const { method, target, body } = request;
      const type = request.header('Content-Type')?.replace(/boundary=.*/, 'boundary');
      const content = body
        .toString()
        .replace(/x+/, 'x')
        .replaceAll(/--[^\r\n]+/g, '--boundary');
      return [method, target.replace(name, 'name'), type, content];
    }

    const sent = (path: string): OriginRequest[] => proxy.origin.requests.filter(({ target }) => target.includes(path));

    const cases = KINDS.flatMap((shape) =>
      (Object.keys(WAYS) as (keyof typeof WAYS)[]).map((way) => [shape, way] as const),
    );

    describe.each(TRANSPORTS)('over %s', (transport) => {
      test.each(cases)('%s, %s: small and large reach the origin alike', async (shape, way) => {
        // What versions say is the same over both, and to both stores.
        const isFirst = kind === 'embedded' && transport === 'HTTP/1.1' && way !== 'as an ordinary body';
        for (const dialect of isFirst ? VERSIONS : (['8'] as const)) {
          const shapes: unknown[] = [];
          for (const size of Object.values(SIZES)) {
            const name = `name-${flows++}-`;
            const asked = service.requests.length;
            const response: WireResponse = await WAYS[way](transport, dialect, `/${shape}/${name}`, 'x'.repeat(size));
            expect([response.status, response.body.toString()]).toEqual([200, 'ok']);
            expect(service.requests.length > asked).toBe(shape === 'rechecked');
            expect(sent(name)).toHaveLength(1);
            shapes.push(shapeOf(sent(name)[0]!, name));
          }
          expect(shapes[0]).toEqual(shapes[1]);
        }
      });

      test.each(Object.keys(WAYS) as (keyof typeof WAYS)[])('the gate sees a small body %s', async (way) => {
        const name = `virus-${flows++}-`;
        const response = await WAYS[way](transport, '8', `/gated/${name}`, 'VIRUS');
        expect([response.status, sent(name)]).toEqual([422, []]);
      });
    });

    // Redis, beside what `plain-bodies` shows on one machine.
    const CLIENTS: readonly (readonly [string, readonly HeaderLine[]])[] = [
      [
        'of a version nobody knows',
        [
          ['Upload-Draft-Interop-Version', '99'],
          ['Upload-Complete', '?1'],
        ],
      ],
    ];
    test.each(CLIENTS)('an ordinary body %s goes through the gate all the same', async (_, headers) => {
      const name = `ordinary-${flows++}-`;
      const ask = { method: 'POST', target: `/gated/${name}`, headers };
      expect((await proxy.send('HTTP/1.1', { ...ask, body: 'VIRUS' })).status).toBe(422);
      expect(sent(name)).toEqual([]);
      expect((await proxy.send('HTTP/1.1', { ...ask, body: 'hello' })).status).toBe(200);
      expect(sent(name).map(({ body }) => body.toString())).toEqual(['hello']);
    });
  });
});
