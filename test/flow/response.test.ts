import { Readable } from 'node:stream';
import { afterEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import type { Reply } from '../../src/protocol/protocol.js';
import { sendReply } from '../../src/server/response.js';
import { connect } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { until } from '../support/temporary.js';
import {
  closeListeners,
  openListener,
  overHttp1,
  overHttp2,
  pieces,
  respondingWith,
} from '../support/test-listener.js';

describe('responses', () => {
  afterEach(closeListeners);

  /** Without what Node adds. */
  function own(lines: readonly HeaderLine[]): HeaderLine[] {
    return lines.filter(([name]) => !['date', 'connection', 'keep-alive'].includes(name.toLowerCase()));
  }

  describe('a reply', () => {
    const headers: HeaderLine[] = [
      ['x-LOWER', '1'],
      ['Set-Cookie', 'a=1'],
      ['X-Other', '2'],
      ['Set-Cookie', 'b=2'],
      ['Connection', 'X-Hop, close'],
      ['X-Hop', '3'],
      ['Transfer-Encoding', 'gzip'],
    ];

    test('over HTTP/1.1 has its lines in order and case, repeated ones apart, and none of another connection’s', async () => {
      const { url, sent } = await respondingWith(() => ({ status: 299, reason: 'Fine by Me', headers, body: 'grün' }));
      await overHttp1(url, async (client) => {
        const response = await client.request({ method: 'GET', target: '/' });
        expect(response.statusLine).toBe('HTTP/1.1 299 Fine by Me');
        expect(own(response.headerLines)).toEqual([
          ['x-LOWER', '1'],
          ['Set-Cookie', 'a=1'],
          ['X-Other', '2'],
          ['Set-Cookie', 'b=2'],
          ['Content-Length', '5'],
        ]);
        expect(response.body.toString()).toBe('grün');
      });
      await until(() => sent.length > 0, 'the end of the reply');
      expect(sent).toEqual(['complete']);
    });

    test('over HTTP/2 has them in lower case', async () => {
      const { url, sent } = await respondingWith(() => ({ status: 299, reason: 'Fine by Me', headers, body: 'grün' }));
      await overHttp2(url, async (client) => {
        const response = await client.request({ method: 'GET', target: '/' });
        expect([response.status, response.body.toString()]).toEqual([299, 'grün']);
        expect(own(response.headerLines)).toEqual([
          ['x-lower', '1'],
          ['set-cookie', 'a=1'],
          ['set-cookie', 'b=2'],
          ['x-other', '2'],
          ['content-length', '5'],
        ]);
      });
      await until(() => sent.length > 0, 'the end of the reply');
      expect(sent).toEqual(['complete']);
    });

    test('over HTTP/2 may repeat what Node would not', async () => {
      const twice: HeaderLine[] = [
        ['ETag', '"a"'],
        ['ETag', '"b"'],
        ['Set-Cookie', 'a=1'],
        ['Set-Cookie', 'b=2'],
      ];
      const { url } = await respondingWith(() => ({ status: 200, headers: twice, body: '' }));
      await overHttp2(url, async (client) => {
        const response = await client.request({ method: 'GET', target: '/' });
        expect([response.header('etag'), response.header('set-cookie')]).toEqual(['"a", "b"', 'a=1, b=2']);
      });
    });

    test.each<[string, Reply, HeaderLine[]]>([
      ['a body of known size', { status: 200, headers: [], bodySize: 3 }, [['Content-Length', '3']]],
      [
        'a length that is known already',
        { status: 200, headers: [['content-length', '3']] },
        [['content-length', '3']],
      ],
      ['a wrong length', { status: 200, headers: [['Content-Length', '9']], bodySize: 3 }, [['Content-Length', '3']]],
      ['a body of unknown size', { status: 200, headers: [] }, [['Transfer-Encoding', 'chunked']]],
    ])('with %s is framed accordingly', async (_what, reply, expected) => {
      const { url } = await respondingWith(() => ({ ...reply, body: pieces('a', '', 'bc').body }));
      await overHttp1(url, async (client) => {
        for (let round = 0; round < 2; round++) {
          const response = await client.request({ method: 'GET', target: '/' });
          expect(own(response.headerLines)).toEqual(expected);
          expect(response.body.toString()).toBe('abc');
        }
      });
      await overHttp2(url, async (client) => {
        const response = await client.request({ method: 'GET', target: '/' });
        expect(response.body.toString()).toBe('abc');
        expect(response.header('transfer-encoding')).toBeUndefined();
      });
    });

    test.each<[string, number, Reply, string | undefined]>([
      ['GET', 204, { status: 204, headers: [['Content-Length', '3']], body: 'abc' }, undefined],
      ['GET', 304, { status: 304, headers: [['Content-Length', '3']] }, '3'],
      ['GET', 304, { status: 304, headers: [] }, undefined],
      ['HEAD', 200, { status: 200, headers: [], body: 'abc' }, '3'],
      ['HEAD', 200, { status: 200, headers: [['Content-Length', '77']], bodySize: 0 }, '77'],
      ['HEAD', 200, { status: 200, headers: [] }, undefined],
      ['HEAD', 204, { status: 204, headers: [] }, undefined],
      ['GET', 200, { status: 200, headers: [] }, '0'],
    ])('to %s with status %i has no body: %j', async (method, status, reply, length) => {
      const source = pieces('abc');
      const withBody = reply.body === undefined && reply.bodySize === 0 ? { ...reply, body: source.body } : reply;
      const { url } = await respondingWith(() => withBody);
      await overHttp1(url, async (client) => {
        const response = await client.request({ method, target: '/' });
        expect([response.status, response.header('content-length'), response.body.length]).toEqual([status, length, 0]);
        expect(response.header('transfer-encoding')).toBeUndefined();
        if (withBody !== reply) expect(source.told.givenUp).toBe(false);
        // Nothing of a body has stayed behind on the connection.
        expect((await client.request({ method, target: '/' })).status).toBe(status);
      });
      await overHttp2(url, async (client) => {
        const response = await client.request({ method, target: '/' });
        expect([response.status, response.header('content-length'), response.body.length]).toEqual([status, length, 0]);
      });
    });

    test('carries trailers where the version has a place for them', async () => {
      const trailers = (): HeaderLine[] => [['X-Sum', '42']];
      const { url } = await respondingWith(() => ({ status: 200, headers: [], body: pieces('abc').body, trailers }));
      const h1 = await overHttp1(url, (client) => client.request({ method: 'GET', target: '/' }));
      const h2 = await overHttp2(url, (client) => client.request({ method: 'GET', target: '/' }));
      expect([h1.trailers, h2.trailers]).toEqual([[['X-Sum', '42']], [['x-sum', '42']]]);
      const { url: framed } = await respondingWith(() => ({
        status: 200,
        headers: [['Trailer', 'X-Sum']],
        body: pieces('abc').body,
        bodySize: 3,
        trailers,
      }));
      const whole = await overHttp1(framed, (client) => client.request({ method: 'GET', target: '/' }));
      expect([whole.body.toString(), whole.trailers]).toEqual(['abc', [['X-Sum', '42']]]);
      expect(whole.header('content-length')).toBeUndefined();
      const old = await overHttp1(framed, async (client) => {
        await client.send('GET / HTTP/1.0\r\n\r\n');
        return client.readFinal();
      });
      expect([old.body.toString(), old.header('content-length'), old.header('trailer')]).toEqual([
        'abc',
        '3',
        undefined,
      ]);
    });

    test('to HTTP/1.0 lasts until the connection ends', async () => {
      const { url } = await respondingWith(() => ({ status: 200, headers: [], body: pieces('a', 'bc').body }));
      await overHttp1(url, async (client) => {
        await client.send('GET / HTTP/1.0\r\n\r\n');
        const response = await client.readFinal();
        expect([response.body.toString(), own(response.headerLines)]).toEqual(['abc', []]);
      });
    });

    test('that cannot be sent fails before anything was sent, and gives its body up', async () => {
      const failures: unknown[] = [];
      const listener = await openListener((exchange) => {
        const source = new Readable({ read: () => void source.push('a') });
        void sendReply(exchange, { status: 200, headers: [['X', 'a\nb']], body: source }).catch((error: unknown) => {
          failures.push((error as NodeJS.ErrnoException).code, source.destroyed);
          void sendReply(exchange, { status: 500, headers: [] });
        });
      });
      expect(await overHttp1(listener.url, (client) => client.request({ method: 'GET', target: '/' }))).toMatchObject({
        status: 500,
      });
      expect(failures).toEqual(['ERR_INVALID_CHAR', true]);
      expect(await overHttp2(listener.url, (client) => client.request({ method: 'GET', target: '/' }))).toMatchObject({
        status: 500,
      });
    });
  });
});

describe('broken responses', () => {
  afterEach(closeListeners);

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
      const { url, sent } = await respondingWith(reply);
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
      const { url, sent } = await respondingWith(() => ({
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
      const { url, sent } = await respondingWith(() => ({ status: 200, headers: [], body }));
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
      const { url, sent } = await respondingWith(() => ({ status: 200, headers: [], body }));
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
      const { url } = await respondingWith(() => ({ status: 200, headers: [], body }));
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
});
