import { Readable } from 'node:stream';
import { afterEach, describe, expect, test } from '@jest/globals';
import type { Reply } from '../../src/protocol/protocol.js';
import { closeDoors } from '../support/front-door.js';
import { connectH2 } from '../support/h2-client.js';
import { connect } from '../support/raw-client.js';
import { answering, overHttp1, overHttp2, pieces } from '../support/replies.js';
import { until } from '../support/temporary.js';

afterEach(closeDoors);

describe('a body that is not what was announced never looks whole', () => {
  test.each<[string, () => Reply]>([
    ['it fails, chunked', () => ({ status: 200, headers: [], body: pieces('abc', new Error('lost')).body })],
    [
      'it fails, with its length',
      () => ({ status: 200, headers: [], body: pieces('a', new Error('lost')).body, bodySize: 9 }),
    ],
    ['it is too short', () => ({ status: 200, headers: [], body: pieces('abc').body, bodySize: 9 })],
    ['it is too long', () => ({ status: 200, headers: [], body: pieces('abc', 'de').body, bodySize: 4 })],
  ])('%s', async (_what, reply) => {
    const { url, sent } = await answering(reply);
    await overHttp1(url, async (client) => {
      await expect(client.request({ method: 'GET', target: '/' })).rejects.toThrow();
    });
    await overHttp2(url, async (client) => {
      const asked = client.start({ method: 'GET', target: '/' }, { endStream: true });
      await expect(asked.readFinal()).rejects.toThrow();
      expect(await asked.ended()).not.toBe(0);
      expect(client.session.destroyed).toBe(false);
    });
    await until(() => sent.length === 2, 'the end of both replies');
    expect(sent).toEqual(['cut', 'cut']);
  });

  test('even where the end of the connection is the end of the body', async () => {
    const { url, sent } = await answering(() => ({
      status: 200,
      headers: [],
      body: pieces('abc', new Error('lost')).body,
    }));
    const client = await connect(url);
    const errors: unknown[] = [];
    client.socket.on('error', (error: NodeJS.ErrnoException) => errors.push(error.code));
    await client.send('GET / HTTP/1.0\r\n\r\n');
    await client.ended();
    await until(() => sent.length > 0, 'the end of the reply');
    expect([sent, errors]).toEqual([['cut'], ['ECONNRESET']]);
  });
});

describe('a client that leaves', () => {
  test.each(['HTTP/1.1', 'HTTP/2'])('ends the body it was given, %s', async (version) => {
    let read = 0;
    const body = new Readable({
      read() {
        read++;
        this.push(Buffer.alloc(64 * 1024));
      },
    });
    const { url, sent } = await answering(() => ({ status: 200, headers: [], body }));
    if (version === 'HTTP/2') {
      const client = await connectH2(url);
      const asked = client.start({ method: 'GET', target: '/' }, { endStream: true });
      await asked.readHead();
      asked.reset();
      await until(() => body.destroyed, 'the body to be given up');
      await client.close();
    } else {
      const client = await connect(url);
      await client.sendHead('GET', '/');
      await client.readHead();
      client.reset();
      await until(() => body.destroyed, 'the body to be given up');
    }
    await until(() => sent.length === 1, 'the end of the reply');
    expect(sent).toEqual(['client-left']);
    expect(read).toBeGreaterThan(0);
  });

  test('is not waited for by a body that has nothing to say yet', async () => {
    const body = new Readable({ read: () => undefined });
    const { url, sent } = await answering(() => ({ status: 200, headers: [], body }));
    const client = await connect(url);
    await client.sendHead('GET', '/');
    client.reset();
    await until(() => sent.length === 1, 'the end of the reply');
    expect([sent, body.destroyed]).toEqual([['client-left'], true]);
  });

  test('and one that does not read stops the body from being read', async () => {
    let pushed = 0;
    const body = new Readable({
      highWaterMark: 1,
      read() {
        pushed += 1 << 20;
        this.push(Buffer.alloc(1 << 20));
      },
    });
    const { url } = await answering(() => ({ status: 200, headers: [], body }));
    const client = await connect(url);
    client.socket.pause();
    await client.sendHead('GET', '/');
    let before = -1;
    await until(async () => {
      const isStill = pushed === before && pushed > 0;
      before = pushed;
      await new Promise((resolve) => setTimeout(resolve, 100));
      return isStill && pushed === before;
    }, 'the body to stop');
    expect(pushed).toBeLessThan(64 << 20);
    client.reset();
    await until(() => body.destroyed, 'the body to be given up');
  });
});
