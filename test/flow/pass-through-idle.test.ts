import type { IncomingMessage } from 'node:http';
import { afterEach, describe, expect, test } from '@jest/globals';
import { silentLog } from '../../src/observe/log.js';
import { ReverseProxy, type ReverseProxyOptions } from '../../src/proxy/reverse-proxy.js';
import type { Listener } from '../../src/server/listener.js';
import { InvalidHead, readHead } from '../../src/server/request-head.js';
import { RequestRates } from '../../src/server/slow-clients.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';
import { ReadGate } from '../../src/streams/read-gate.js';
import { connect } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { play } from '../support/pass-through-front.js';
import { type RawExchange, type RawOrigin, type RawScript, startRawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';
import { closeListeners, openListener } from '../support/test-listener.js';

describe('idle connections', () => {
  async function listen(exchange: RawExchange): Promise<void> {
    await exchange.readBody();
    await exchange.respond({ status: 200, body: 'ok' });
  }

  /** The client may pause for as long as no machine here is slow enough to; the origin for as long as no test lasts. */
  const LIMITS = { idleTimeoutMs: 100, timeoutMs: 60_000 };

  /** Nobody is fast enough for it. */
  const requestRates = new RequestRates({ bytesPerSecond: 1e12, windowMs: 40 });

  /** A client whose whole body is here is answered within these limits, by an origin that thinks for longer than they allow. */
  async function isAnswered(limits: Parameters<typeof play>[2]): Promise<void> {
    const script = async (exchange: RawExchange): Promise<void> => {
      await exchange.readBody();
      await new Promise((resolve) => setTimeout(resolve, 300));
      await exchange.respond({ status: 200, body: 'ok' });
    };
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        expect((await client.request({ method: 'POST', target: '/', body: 'hello' })).status).toBe(200);
        client.destroy();
      },
      { ...limits, script },
    );
  }

  describe('a client whose body comes too slowly', () => {
    test('is told so', async () => {
      await play(
        'ours',
        async ({ front, origin }) => {
          const client = await connect(front.url);
          await client.sendHead('POST', '/', [['Content-Length', '10']]);
          await client.send('hello');
          const answer = await client.readFinal();
          expect(answer.status).toBe(408);
          expect(JSON.parse(answer.body.toString())).toMatchObject({ detail: expect.stringContaining('too slowly') });
          client.destroy();
          await origin.exchanges[0]!.closed;
          expect(origin.exchanges[0]!.body.endedCleanly).toBe(false);
        },
        { requestRates, timeoutMs: 60_000, script: listen },
      );
    });

    test('is not meant where the origin does not say 100', async () => {
      await play(
        'ours',
        async ({ front }) => {
          const client = await connect(front.url);
          await client.sendHead('POST', '/', [
            ['Content-Length', '10'],
            ['Expect', '100-continue'],
          ]);
          expect((await client.readFinal()).status).toBe(504);
          client.destroy();
        },
        { requestRates, timeoutMs: 400, script: () => undefined },
      );
    });

    test.each(['http/1.1', 'h2c'] as const)('is not meant where the origin does not read (%s)', async (speaks) => {
      await play(
        'ours',
        async ({ front }) => {
          const request = { method: 'POST', target: '/', body: Buffer.alloc((speaks === 'h2c' ? 8 : 32) * 2 ** 20) };
          // The origin is silent for too long, which is another's fault than the client's.
          if (speaks === 'h2c') {
            const client = await connectH2(front.url);
            expect((await client.request(request)).status).toBe(504);
            client.cut();
          } else {
            const client = await connect(front.url);
            expect((await client.request(request)).status).toBe(504);
            client.destroy();
          }
        },
        {
          requestRates: new RequestRates({ bytesPerSecond: 1e6, windowMs: 100 }),
          speaks,
          timeoutMs: 1000,
          script: () => undefined,
        },
      );
    });

    test('is not meant where all of it is here and the origin thinks', async () => {
      await isAnswered({ requestRates, timeoutMs: 60_000 });
    });
  });

  describe('a client whose body stops', () => {
    test('is told so, and loses its connection when nothing more comes', async () => {
      await play(
        'ours',
        async ({ front, origin }) => {
          const client = await connect(front.url);
          await client.sendHead('POST', '/', [['Content-Length', '10']]);
          await client.send('hello');
          const answer = await client.readFinal();
          expect(answer.status).toBe(408);
          expect(JSON.parse(answer.body.toString())).toMatchObject({
            status: 408,
            detail: expect.stringContaining('more than 0.1 s'),
          });
          await client.ended();
          await origin.exchanges[0]!.closed;
          expect(origin.exchanges[0]!.body.endedCleanly).toBe(false);
        },
        { ...LIMITS, script: listen, discardLimits: { bytes: 1_000, ms: 50 } },
      );
    });

    test('is told so over HTTP/2, where only the stream ends', async () => {
      await play(
        'ours',
        async ({ front }) => {
          const client = await connectH2(front.url);
          const exchange = client.start({ method: 'POST', target: '/' });
          await exchange.send('hello');
          expect((await exchange.readFinal()).status).toBe(408);
          expect(await exchange.ended()).toBe(0);
          expect((await client.request({ method: 'GET', target: '/' })).status).toBe(200);
          await client.close();
        },
        { ...LIMITS, speaks: 'h2c', script: listen, discardLimits: { bytes: 1_000, ms: 50 } },
      );
    });

    test('is not to blame for an origin that does not say 100', async () => {
      await play(
        'ours',
        async ({ front }) => {
          const client = await connect(front.url);
          await client.sendHead('POST', '/', [
            ['Content-Length', '10'],
            ['Expect', '100-continue'],
          ]);
          expect((await client.readFinal()).status).toBe(504);
          client.destroy();
        },
        { idleTimeoutMs: 20, timeoutMs: 200, script: () => undefined },
      );
    });

    test('is not to blame for an origin that thinks about its answer', async () => {
      await isAnswered(LIMITS);
    });
  });

  describe('who is kept from being read', () => {
    const trust = new TrustedProxies([]);
    let origin: RawOrigin;
    let passThrough: ReverseProxy;
    let gate: ReadGate | undefined;

    afterEach(async () => {
      gate = undefined;
      await closeListeners();
      await passThrough.close();
      await origin.close();
    });

    /** Our pass-through behind a listener of ours, which knows the connections that bodies come on. */
    async function open(
      script: RawScript,
      { timeoutMs = 60_000, ...options }: Partial<ReverseProxyOptions> & { readonly timeoutMs?: number },
      begin: (request: IncomingMessage) => void = () => undefined,
    ): Promise<Listener> {
      origin = await startRawOrigin(script);
      passThrough = new ReverseProxy({ log: silentLog(), ...options });
      const route = { origin: origin.url, delivery: { preserveHost: true, timeoutMs } };
      return openListener((exchange) => {
        const head = readHead(exchange.req, trust);
        if (head instanceof InvalidHead) throw new Error(head.detail);
        begin(exchange.req as IncomingMessage);
        void passThrough.forward(exchange, { head, route });
      });
    }

    function hold(target: string | undefined, { socket }: IncomingMessage): void {
      if (target !== '/held') return;
      gate = ReadGate.of(socket);
      gate.hold();
    }

    test.each<[string, Partial<ReverseProxyOptions>]>([
      ['stopped', { idleTimeoutMs: 100 }],
      ['is too slow', { requestRates }],
    ])('is no client that %s', async (_what, limits) => {
      const listener = await open(listen, limits, (request) => hold(request.url, request));
      const held = await connect(listener.url);
      await held.sendHead('POST', '/held', [['Content-Length', '10']]);
      await until(() => gate, 'the request');
      // As long as somebody needs to be given up, twice over.
      for (let count = 0; count < 2; count++) {
        const other = await connect(listener.url);
        await other.sendHead('POST', '/', [['Content-Length', '10']]);
        await other.send('hello');
        expect((await other.readFinal()).status).toBe(408);
        other.destroy();
      }
      await held.send('helloworld');
      gate!.release();
      expect((await held.readFinal()).status).toBe(200);
      held.destroy();
    });
  });
});

describe('an origin is not silent', () => {
  /** Long enough for two silent answers, one after the other, to be given up. */
  async function untilTwoAreSilent(url: string): Promise<void> {
    for (let count = 0; count < 2; count++) {
      const other = await connect(url);
      await other.sendHead('GET', '/silent');
      await expect(other.readFinal()).rejects.toThrow();
      other.destroy();
    }
  }

  const BEGINNING = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none';

  test('while it sends tiny chunks', async () => {
    let isEnough = false;
    let count = 0;
    const script = async (exchange: RawExchange): Promise<void> => {
      if (exchange.target === '/silent') return exchange.write(BEGINNING);
      await exchange.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
      for (; !isEnough; count++) {
        await exchange.write('1\r\nx\r\n');
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      await exchange.write('0\r\n\r\n');
    };
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.sendHead('GET', '/');
        await untilTwoAreSilent(front.url);
        isEnough = true;
        expect((await client.readFinal()).body.toString()).toBe('x'.repeat(count));
        client.destroy();
      },
      { script, timeoutMs: 300 },
    );
  });

  test('while its client does not read', async () => {
    const size = 64 * 1024 * 1024;
    let sent = 0;
    const script = async (exchange: RawExchange): Promise<void> => {
      if (exchange.target === '/silent') return exchange.write(BEGINNING);
      await exchange.write(`HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n`);
      for (const piece = Buffer.alloc(65_536); sent < size; sent += piece.length) await exchange.write(piece);
    };
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.sendHead('GET', '/');
        const body = client.bodyOf((await client.readHead())!);
        await untilTwoAreSilent(front.url);
        // The rest of the answer waits at the origin.
        expect(sent).toBeLessThan(size);
        await body.readAll();
        expect(body.size).toBe(size);
        client.destroy();
      },
      { script, timeoutMs: 300 },
    );
  });
});

describe('backpressure', () => {
  const MIB = 1024 * 1024;
  const SIZE = 100 * MIB;
  /** What the kernel's buffers on the way and ours may hold together. */
  const MOST_UNDER_WAY = 24 * MIB;

  /** The count when it no longer grows: nothing more is accepted. */
  async function settled(count: () => number): Promise<number> {
    let seen = -1;
    let calm = 0;
    await until(
      () => {
        calm = count() === seen ? calm + 1 : 0;
        seen = count();
        return calm > 40;
      },
      () => `an end of the growth (${count()})`,
    );
    return seen;
  }

  /** Writes as much as is accepted, and counts it. */
  class Source {
    accepted = 0;
    private readonly piece = Buffer.alloc(65_536);

    async run(write: (bytes: Buffer) => Promise<void>): Promise<void> {
      while (this.accepted < SIZE) {
        await write(this.piece);
        this.accepted += this.piece.length;
      }
    }
  }

  describe('an answer of 100 MiB to a client that does not read', () => {
    const answering = (source: Source) => async (exchange: RawExchange) => {
      await exchange.write(`HTTP/1.1 200 OK\r\nContent-Length: ${SIZE}\r\n\r\n`);
      await source.run((bytes) => exchange.write(bytes));
    };

    test('stays at the origin', async () => {
      const source = new Source();
      await play(
        'ours',
        async ({ front }) => {
          const client = await connect(front.url);
          await client.sendHead('GET', '/');
          const body = client.bodyOf((await client.readHead())!);
          expect(await settled(() => source.accepted)).toBeLessThan(MOST_UNDER_WAY);
          await body.readAll();
          expect(body.size).toBe(SIZE);
          client.destroy();
        },
        { script: answering(source) },
      );
    });

    test('stays at the origin when the client speaks HTTP/2', async () => {
      const source = new Source();
      await play(
        'ours',
        async ({ front }) => {
          const client = await connectH2(front.url);
          const stream = client.session.request({ ':path': '/' });
          await until(() => source.accepted > 0, 'the beginning of the answer');
          expect(await settled(() => source.accepted)).toBeLessThan(MOST_UNDER_WAY);
          let size = 0;
          stream.on('data', (bytes: Buffer) => (size += bytes.length));
          await until(() => size === SIZE, 'the whole answer', 60_000);
          await client.close();
        },
        { script: answering(source), speaks: 'h2c' },
      );
    });
  });

  describe('a body of 100 MiB for an origin that does not read', () => {
    /** Reads nothing until it is told to. */
    function waiting() {
      let goOn: () => void = () => undefined;
      const told = new Promise<void>((resolve) => (goOn = resolve));
      const script = async (exchange: RawExchange): Promise<void> => {
        await told;
        await exchange.readBody();
        await exchange.respond({ status: 200, body: 'ok' });
      };
      return { script, goOn: () => goOn() };
    }

    test('stays at the client', async () => {
      const { script, goOn } = waiting();
      const source = new Source();
      await play(
        'ours',
        async ({ front, origin }) => {
          const client = await connect(front.url);
          await client.sendHead('POST', '/', [['Content-Length', `${SIZE}`]]);
          const sending = source.run((bytes) => client.send(bytes));
          expect(await settled(() => source.accepted)).toBeLessThan(MOST_UNDER_WAY);
          goOn();
          await sending;
          expect((await client.readFinal()).status).toBe(200);
          expect(origin.exchanges[0]!.body.size).toBe(SIZE);
          client.destroy();
        },
        { script },
      );
    });

    test('stays at the client when it speaks HTTP/2', async () => {
      const { script, goOn } = waiting();
      const source = new Source();
      await play(
        'ours',
        async ({ front, origin }) => {
          const client = await connectH2(front.url);
          const exchange = client.start({ method: 'POST', target: '/' });
          const sending = source.run((bytes) => exchange.send(bytes));
          expect(await settled(() => source.accepted)).toBeLessThan(MOST_UNDER_WAY);
          goOn();
          await sending;
          exchange.end();
          expect((await exchange.readFinal()).status).toBe(200);
          expect(origin.exchanges[0]!.body.size).toBe(SIZE);
          await client.close();
        },
        { script, speaks: 'h2c' },
      );
    });
  });
});
