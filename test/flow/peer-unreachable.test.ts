import { createServer, type AddressInfo, type Socket } from 'node:net';
import { describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import { TRANSPORTS, exchangeOver } from '../support/open-request.js';
import { onPeerFront } from '../support/peer-front.js';
import { requestOnce } from '../support/raw-client.js';
import type { RawExchange } from '../support/raw-exchange.js';
import { serverPort } from '../support/server-port.js';
import { until } from '../support/temporary.js';

const TARGET = `/.uploads/${'a'.repeat(32)}`;
const PATCH = { method: 'PATCH', target: TARGET, body: Buffer.alloc(200_000) };

const at = (url: string, silentMs = 0) => ({ find: () => Promise.resolve({ url, silentMs }) });

async function nobody(): Promise<string> {
  return `http://127.0.0.1:${await serverPort()}`;
}

describe('an owner that cannot be reached', () => {
  test.each(TRANSPORTS)('is told of as unavailable over %s, also to who sends a body', async (by) => {
    await onPeerFront({ owners: at(await nobody(), 59_999) }, async ({ url, refused }) => {
      expect((await exchangeOver(by, url, PATCH)).status).toBe(503);
      expect((await exchangeOver(by, url, { method: 'HEAD', target: TARGET })).status).toBe(503);
      expect(refused).toEqual(['unavailable', 'unavailable']);
    });
  });

  test('any more, although a connection to it was open, is told of as well', async () => {
    let end = (): Promise<void> => Promise.resolve();
    const script = (exchange: RawExchange): Promise<void> =>
      exchange.index === 0 ? exchange.respond({ status: 204 }) : end();
    await onPeerFront({ script }, async ({ url, owner, refused }) => {
      end = () => owner.close();
      expect((await requestOnce(url, { method: 'HEAD', target: TARGET })).status).toBe(204);
      expect((await requestOnce(url, { method: 'HEAD', target: TARGET })).status).toBe(503);
      expect(refused).toEqual(['unavailable']);
    });
  });

  test('and has been silent for too long has lost its uploads', async () => {
    await onPeerFront({ owners: at(await nobody(), 60_000) }, async ({ url, refused }) => {
      expect((await requestOnce(url, PATCH)).status).toBe(404);
      expect(refused).toEqual(['unknown-upload']);
    });
  });

  test('and that nobody remembers has lost them too', async () => {
    await onPeerFront({ owners: { find: () => Promise.resolve(undefined) } }, async ({ url, refused }) => {
      expect((await requestOnce(url, PATCH)).status).toBe(404);
      expect(refused).toEqual(['unknown-upload']);
    });
  });

  test('but was silent only for the store is asked all the same', async () => {
    await onPeerFront({}, async (front) => {
      await onPeerFront({ owners: at(front.owner.url, 10 * 60_000) }, async ({ url, refused }) => {
        expect((await requestOnce(url, PATCH)).status).toBe(200);
        expect(refused).toEqual([]);
      });
    });
  });

  test.each(TRANSPORTS)('because it stands still, connected as it is, is not waited for over %s', async (by) => {
    const silent = (): Promise<void> => new Promise(() => undefined);
    await onPeerFront({ script: silent }, async ({ owner }) => {
      await onPeerFront({ owners: at(owner.url, 20_000), checkIntervalMs: 10 }, async ({ url, refused }) => {
        expect((await exchangeOver(by, url, PATCH)).status).toBe(503);
        expect((await exchangeOver(by, url, { method: 'HEAD', target: TARGET })).status).toBe(503);
        expect(refused).toEqual(['unavailable', 'unavailable']);
      });
      await onPeerFront({ owners: at(owner.url, 60_000), checkIntervalMs: 10 }, async ({ url, refused }) => {
        expect((await exchangeOver(by, url, { method: 'HEAD', target: TARGET })).status).toBe(404);
        expect(refused).toEqual(['unknown-upload']);
      });
    });
  });

  test('because it stands still, and was given up meanwhile, has lost its uploads', async () => {
    const looks: number[] = [];
    const forgotten = (url: string) => ({
      find: () => Promise.resolve(looks.push(looks.length) === 1 ? { url, silentMs: 0 } : undefined),
    });
    await onPeerFront({ script: () => new Promise(() => undefined) }, async ({ owner }) => {
      await onPeerFront({ owners: forgotten(owner.url), checkIntervalMs: 10 }, async ({ url, refused }) => {
        expect((await requestOnce(url, PATCH)).status).toBe(404);
        expect(refused).toEqual(['unknown-upload']);
      });
    });
  });

  test('is waited for as long as it is heard of, or nobody is', async () => {
    const looks: number[] = [];
    const heard = (url: string) => ({
      find: () => {
        looks.push(looks.length);
        if (looks.length % 2 === 0) return Promise.reject(new Fault('STORE_UNAVAILABLE', 'away', true));
        return Promise.resolve({ url, silentMs: looks.length === 1 ? 0 : 30_000 });
      },
    });
    const afterLooks = async (exchange: RawExchange): Promise<void> => {
      await until(() => looks.length > 8, 'looks at whether the owner is heard of');
      await exchange.respond({ status: 200, body: 'late' });
    };
    await onPeerFront({ script: afterLooks }, async ({ owner }) => {
      await onPeerFront({ owners: heard(owner.url), checkIntervalMs: 10 }, async ({ url }) => {
        expect((await requestOnce(url, PATCH)).status).toBe(200);
      });
    });
  });

  test('because its machine says nothing is not waited for', async () => {
    // Nobody speaks TLS there: the connection never comes to be, as with a machine that is gone.
    const sockets: Socket[] = [];
    const server = createServer((socket) => void sockets.push(socket));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    try {
      const owners = at(`https://127.0.0.1:${port}`);
      await onPeerFront({ owners, connectTimeoutMs: 100 }, async ({ url, refused }) => {
        expect((await requestOnce(url, PATCH)).status).toBe(503);
        expect(refused).toEqual(['unavailable']);
      });
    } finally {
      for (const socket of sockets) socket.destroy();
      server.close();
    }
  });
});

describe('what answers in place of the owner', () => {
  test.each(['forged', 'old', 'misdirected'])('and calls our signature %s says nothing to the client', async (why) => {
    const script = (exchange: RawExchange) => exchange.respond({ status: 403, headers: [['RUFH-Peer', why]] });
    await onPeerFront({ script }, async ({ url, refused }) => {
      expect((await requestOnce(url, { method: 'HEAD', target: TARGET })).status).toBe(503);
      expect(refused).toEqual(['unavailable']);
    });
  });

  test('is the owner, when its 403 is for the client', async () => {
    await onPeerFront({ script: (exchange) => exchange.respond({ status: 403, body: 'no' }) }, async ({ url }) => {
      const answer = await requestOnce(url, { method: 'GET', target: TARGET });
      expect([answer.status, answer.body.toString()]).toEqual([403, 'no']);
    });
  });
});
