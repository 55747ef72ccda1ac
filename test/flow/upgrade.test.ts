import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, LEAVING, openTunnel, type RawClient, requestOnce, WANTED } from '../support/client.js';
import { play, type Stage } from '../support/pass-through-front.js';
import { answerOk, type RawExchange } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';

describe('upgrades', () => {
  const SWITCHED =
    'HTTP/1.1 101 Web Socket Protocol Handshake\r\nUPGRADE: websocket\r\nAlt-Svc: h3=":443"\r\nX-B: 1\r\nSec-WebSocket-Accept: s3p\r\n' +
    'Connection: Upgrade\r\nx-b: 2\r\n\r\n';

  /** Switches, says something at once, then repeats what it hears. */
  async function echo(exchange: RawExchange): Promise<void> {
    await exchange.write(`${SWITCHED}welcome`);
    for (;;) await exchange.write(await exchange.readRaw(1));
  }

  async function switched(setup: Stage, early?: string): Promise<RawClient> {
    const client = await openTunnel(setup.front.url, early);
    expect((await client.readHead())!.status).toBe(101);
    expect((await client.readRaw(7)).toString()).toBe('welcome');
    return client;
  }

  describe('a request to switch protocols', () => {
    test('reaches the origin with its fields as they were', async () => {
      await play(
        'ours',
        async (setup) => {
          (await switched(setup)).destroy();
          expect(setup.origin.exchanges[0]!.requestLine).toBe('GET /chat HTTP/1.1');
          expect(setup.origin.exchanges[0]!.headerLines).toEqual([
            ['Host', 'x'],
            ...WANTED.slice(2),
            ['Forwarded', 'for=127.0.0.1;host=x;proto=http'],
            ['X-Forwarded-For', '127.0.0.1'],
            ['X-Forwarded-Host', 'x'],
            ['X-Forwarded-Proto', 'http'],
            ['Via', '1.1 rufh-proxy'],
            ['Connection', 'Upgrade'],
            ['Upgrade', 'websocket'],
          ]);
        },
        { script: echo },
      );
    });

    test("gets the origin's answer with its fields as they were, and no way around us", async () => {
      await play(
        'ours',
        async (setup) => {
          const client = await openTunnel(setup.front.url);
          const head = await client.readHead();
          expect(head!.statusLine).toBe('HTTP/1.1 101 Web Socket Protocol Handshake');
          expect(head!.headerLines).toEqual([
            ['X-B', '1'],
            ['Sec-WebSocket-Accept', 's3p'],
            ['x-b', '2'],
            ['Connection', 'Upgrade'],
            ['Upgrade', 'websocket'],
          ]);
          client.destroy();
        },
        { script: echo },
      );
    });

    test('carries bytes both ways, also those that came before the switch', async () => {
      await play(
        'ours',
        async (setup) => {
          const client = await switched(setup, 'early, ');
          await client.send('later');
          expect((await client.readRaw(12)).toString()).toBe('early, later');
          client.destroy();
        },
        { script: echo },
      );
    });

    test('may bring bytes while the origin still decides', async () => {
      await play(
        'ours',
        async (setup) => {
          const client = await openTunnel(setup.front.url, 'one ');
          const exchange = await setup.origin.exchange(0);
          await client.send('two ');
          await exchange.write(SWITCHED);
          expect((await client.readHead())!.status).toBe(101);
          await client.send('three');
          expect((await exchange.readRaw(13)).toString()).toBe('one two three');
          client.destroy();
        },
        { script: () => undefined },
      );
    });
  });

  describe('a switched connection', () => {
    test('can be ended on one side and still be used on the other', async () => {
      await play(
        'ours',
        async (setup) => {
          const client = await switched(setup);
          const [exchange] = setup.origin.exchanges;
          client.end();
          await until(() => exchange!.socket.readableEnded, "the client's end at the origin");
          await exchange!.write('after your end');
          expect((await client.readRaw(14)).toString()).toBe('after your end');
          exchange!.end();
          await client.ended();
        },
        {
          script: async (exchange) => {
            exchange.socket.allowHalfOpen = true;
            await exchange.write(`${SWITCHED}welcome`);
            await exchange.closed;
          },
        },
      );
    });

    test('can be ended by the origin and still carry what the client says', async () => {
      await play(
        'ours',
        async (setup) => {
          const client = await connect(setup.front.url);
          client.socket.allowHalfOpen = true;
          await client.sendHead('GET', '/', WANTED);
          expect((await client.readHead())!.status).toBe(101);
          const [exchange] = setup.origin.exchanges;
          await until(() => client.socket.readableEnded, "the origin's end at the client");
          await client.send('still here');
          expect((await exchange!.readRaw(10)).toString()).toBe('still here');
          client.end();
          await client.ended();
        },
        {
          script: async (exchange) => {
            exchange.socket.allowHalfOpen = true;
            await exchange.write(SWITCHED);
            exchange.end();
          },
        },
      );
    });

    test.each(LEAVING)('ends at the origin when the client leaves (%s)', async (_, leave) => {
      await play(
        'ours',
        async (setup) => {
          const client = await switched(setup);
          leave(client);
          await setup.origin.exchanges[0]!.closed;
        },
        { script: echo },
      );
    });

    test.each<[string, (exchange: RawExchange) => void]>([
      ['FIN', (exchange) => exchange.socket.destroy()],
      ['RST', (exchange) => exchange.reset()],
    ])('ends at the client when the origin leaves (%s)', async (_, leave) => {
      await play(
        'ours',
        async (setup) => {
          const client = await switched(setup);
          leave(setup.origin.exchanges[0]!);
          await client.ended();
        },
        { script: echo },
      );
    });

    test('does not hold up the end of the proxy', async () => {
      await play(
        'ours',
        async (setup) => {
          const client = await switched(setup);
          expect(setup.front.originConnections()).toBe(1);
          await setup.front.close();
          await client.ended();
          await until(() => setup.front.originConnections() === 0, 'the end of the connection to the origin');
        },
        { script: echo },
      );
    });
  });

  /** Twenty tunnels, each reset by its client while the origin is silent. */
  async function resetMany(setup: Stage): Promise<number> {
    for (let round = 0; round < 20; round++) {
      const client = await switched(setup);
      client.reset();
    }
    await until(() => setup.front.clientConnections() === 0, 'the end of the client connections');
    await new Promise(setImmediate);
    return setup.origin.openConnections;
  }

  test('a client that resets leaves no connection behind', async () => {
    await play(
      'ours',
      async (setup) => {
        await resetMany(setup);
        await until(
          () => setup.origin.openConnections === 0 && setup.front.originConnections() === 0,
          'the end of the origin connections',
        );
      },
      { script: echo },
    );
  });
});

describe('refused', () => {
  describe('a refusal to switch', () => {
    const refusal =
      (status: number, headers: HeaderLine[] = []) =>
      (exchange: RawExchange): Promise<void> =>
        exchange.respond({ status, headers, body: 'first sign in' });

    const refused = async (setup: Stage) => {
      const client = await openTunnel(setup.front.url, 'bytes that nobody wants');
      const answer = await client.readFinal();
      await client.ended();
      return answer;
    };

    test('has a broken body with http-proxy alone', async () => {
      const script = refusal(401, [['Transfer-Encoding', 'chunked']]);
      await expect(play('bare', refused, { script })).rejects.toThrow('it ended with "first sign in"');
    });

    test.each([401, 426, 500])('of %i reaches the client whole', async (status) => {
      const fields: HeaderLine[] = [
        ['WWW-Authenticate', 'Basic'],
        ['www-authenticate', 'Bearer'],
      ];
      for (const framing of [[], [['Transfer-Encoding', 'chunked'] as const]]) {
        const answer = await play('ours', refused, { script: refusal(status, [...fields, ...framing]) });
        expect(answer.status).toBe(status);
        expect(answer.body.toString()).toBe('first sign in');
        expect(answer.headerLines.slice(0, 2)).toEqual(fields);
        expect(answer.header('connection')).toBe('close');
      }
    });

    test('comes from us when the origin cannot be reached', async () => {
      await play('ours', async (setup) => {
        await setup.origin.close();
        const answer = await refused(setup);
        expect(answer.status).toBe(502);
        expect(answer.header('content-type')).toBe('application/problem+json');
      });
    });

    test('comes from us when the origin is silent', async () => {
      const answer = await play('ours', refused, { script: () => undefined, timeoutMs: 100 });
      expect(answer.status).toBe(504);
    });

    test('is waited for with http-proxy alone, though the client has left', async () => {
      await play(
        'bare',
        async (setup) => {
          const client = await openTunnel(setup.front.url);
          const exchange = await setup.origin.exchange(0);
          client.destroy();
          await client.closed;
          setup.origin.setScript(answerOk);
          for (let round = 0; round < 20; round++) await requestOnce(setup.front.url, { method: 'GET', target: '/' });
          expect(exchange.socket.readableEnded || exchange.socket.destroyed).toBe(false);
        },
        { script: () => undefined },
      );
    });

    test.each(LEAVING)('is not waited for when the client has left (%s)', async (_, leave) => {
      await play(
        'ours',
        async (setup) => {
          const client = await openTunnel(setup.front.url);
          const exchange = await setup.origin.exchange(0);
          leave(client);
          await exchange.closed;
        },
        { script: () => undefined },
      );
    });
  });
});
