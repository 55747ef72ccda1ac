import type { ServerResponse } from 'node:http';
import { constants } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { sendReply } from '../../src/server/response.js';
import { connect, requestOnce } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { makeCertificate, until, within } from '../support/temporary.js';
import { closeListeners, headIn, ok, openListener, respondWithHead } from '../support/test-listener.js';

describe('refusals', () => {
  afterEach(closeListeners);

  const post = 'POST / HTTP/1.1\r\nHost: a\r\n';

  describe('a message that cannot be trusted to end where it seems to', () => {
    test.each([
      [
        'Content-Length and Transfer-Encoding',
        400,
        `${post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      ],
      [
        'Transfer-Encoding and Content-Length',
        400,
        `${post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n`,
      ],
      ['Content-Length twice', 400, `${post}Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde`],
      ['a list as Content-Length', 400, `${post}Content-Length: 5, 5\r\n\r\nabcde`],
      ['a signed Content-Length', 400, `${post}Content-Length: +5\r\n\r\nabcde`],
      ['a Content-Length beyond all numbers', 400, `${post}Content-Length: 99999999999999999999999\r\n\r\n`],
      ['a Content-Length beyond all limits', 400, `${post}Content-Length: 9223372036854775807\r\n\r\n`],
      ['a coding after chunked', 400, `${post}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n`],
      ['a coding before chunked', 501, `${post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`],
      ['chunked in HTTP/1.0', 400, 'POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
      ['a folded line', 400, 'GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n'],
      ['a space before the colon', 400, 'GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n'],
      ['bare line feeds', 400, 'GET / HTTP/1.1\nHost: a\n\n'],
      ['HTTP/2.0 without its preface', 505, 'GET / HTTP/2.0\r\nHost: a\r\n\r\n'],
      ['HTTP/0.9', 505, 'GET /\r\n\r\n'],
      ['an unknown version', 400, 'GET / HTTP/1.2\r\nHost: a\r\n\r\n'],
      ['an unknown method', 400, 'BREW / HTTP/1.1\r\nHost: a\r\n\r\n'],
      ['a relative target', 400, 'GET a HTTP/1.1\r\nHost: a\r\n\r\n'],
      ['a TLS greeting', 400, '\x16\x03\x01\x02\x00\x01\x00\x01'],
      ['a head of 20 KiB', 431, `GET / HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`],
      ['CONNECT', 501, 'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n'],
      ['no host', 400, 'GET / HTTP/1.1\r\n\r\n'],
      ['two hosts', 400, 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n'],
      ['a malformed host', 400, 'GET / HTTP/1.1\r\nHost: a b\r\n\r\n'],
      ['a fragment in the target', 400, 'GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n'],
      ['an unknown expectation', 417, `${post}Expect: miracle\r\nContent-Length: 0\r\n\r\n`],
      ['a mixed expectation', 417, `${post}Expect: 100-continue, miracle\r\nContent-Length: 0\r\n\r\n`],
    ])('%s: %i as problem+json, and the next client is served', async (_what, status, bytes) => {
      const listener = await openListener(respondWithHead());
      const client = await connect(listener.url);
      await client.send(Buffer.from(bytes, 'latin1'));
      const response = await client.readFinal();
      expect(response.status).toBe(status);
      expect(response.header('content-type')).toBe('application/problem+json');
      expect(JSON.parse(response.body.toString())).toMatchObject({ status, type: 'about:blank' });
      client.destroy();
      expect((await requestOnce(listener.url, { method: 'GET', target: '/' })).status).toBe(200);
    });

    test.each([
      ['refused by the parser', `${post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
      ['refused by us', 'POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
      ['with an unknown coding', `${post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`],
      ['that wants a tunnel', 'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n'],
    ])('%s: what follows it on the connection is never acted upon', async (_what, bytes) => {
      const targets: string[] = [];
      const listener = await openListener((exchange) => {
        targets.push(exchange.req.url!);
        ok(exchange);
      });
      const client = await connect(listener.url);
      await client.send(Buffer.from(`${bytes}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n`, 'latin1'));
      const response = await client.readFinal();
      expect(response.header('connection')).toBe('close');
      expect(await client.readHead()).toBeUndefined();
      await client.ended();
      expect(targets).toEqual([]);
    });

    test('is refused in its turn when it is pipelined behind a good one', async () => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange));
      const client = await connect(listener.url);
      await client.send('GET /good HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n');
      await until(() => waiting.length === 1, 'the good request');
      await client.send('more nonsense\r\n\r\n');
      void sendReply(waiting[0]!, { status: 200, headers: [], body: 'good' });
      expect((await client.readFinal()).body.toString()).toBe('good');
      expect((await client.readFinal()).status).toBe(400);
      await client.ended();
    });

    test('that breaks off in its body is told so, and whoever reads the body sees it end', async () => {
      let cut = 0;
      const listener = await openListener(({ req }) => {
        req.resume();
        req.on('error', () => cut++);
      });
      const client = await connect(listener.url);
      await client.send(`${post}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n`);
      expect((await client.readFinal()).status).toBe(400);
      await client.ended();
      await until(() => cut === 1, 'the body to fail');
    });

    test('ends the connection when its answer has begun already', async () => {
      const listener = await openListener((exchange) => {
        exchange.req.on('error', () => undefined);
        (exchange.res as ServerResponse).writeHead(200).write('begun');
      });
      const client = await connect(listener.url);
      await client.send(`${post}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n`);
      const head = await client.readHead();
      await client.send('zz\r\n');
      await expect(client.bodyOf(head!).readAll()).rejects.toThrow();
      await client.ended();
    });

    test('none of thousands of fields is silently left out', async () => {
      const listener = await openListener((exchange) => {
        void sendReply(exchange, { status: 200, headers: [], body: `${exchange.req.rawHeaders.length / 2}` });
      });
      const headers = Array.from({ length: 3000 }, () => ['a', ''] as const);
      const response = await requestOnce(listener.url, { method: 'GET', target: '/', headers });
      expect(response.body.toString()).toBe('3001');
    });

    test.each([100, 124, 125, 500, 1500])(
      'none of %i fields over HTTP/2 is left out, nor its request reset',
      async (count) => {
        const listener = await openListener((exchange) => {
          void sendReply(exchange, { status: 200, headers: [], body: `${exchange.req.rawHeaders.length / 2}` });
        });
        const h2 = await connectH2(listener.url);
        const headers = Array.from({ length: count }, (_, at) => [`x-${at}`, 'y'] as const);
        const response = await h2.request({ method: 'GET', target: '/', headers });
        // With :method, :path, :scheme and :authority.
        expect([response.status, response.body.toString()]).toEqual([200, `${count + 4}`]);
        await h2.close();
      },
    );

    test('CONNECT over HTTP/2 is answered with 501', async () => {
      const listener = await openListener(ok);
      const h2 = await connectH2(listener.url);
      const stream = h2.session.request({ ':method': 'CONNECT', ':authority': 'a:1' });
      const status = await new Promise((resolve) => stream.once('response', (headers) => resolve(headers[':status'])));
      expect(status).toBe(501);
      await h2.close();
    });
  });

  describe('a client that takes its time', () => {
    /** Long enough for who does say something, on a busy machine too. */
    const options = { headersTimeoutMs: 1000 };
    const tls = makeCertificate();

    test.each([
      ['with its head', 'GET / HTTP/1.1\r\nHost'],
      ['with what could be a preface', 'P'],
    ])('%s is told so with 408', async (_what, bytes) => {
      const listener = await openListener(ok, options);
      const client = await connect(listener.url);
      await client.send(Buffer.from(bytes));
      const response = await client.readFinal();
      expect(response.status).toBe(408);
      expect(JSON.parse(response.body.toString())).toMatchObject({ status: 408 });
      await client.ended();
    });

    test('and says nothing at all is left without a word', async () => {
      const listener = await openListener(ok, { headersTimeoutMs: 200 });
      const client = await connect(listener.url);
      expect(await client.readHead()).toBeUndefined();
      await client.ended();
    });

    test('with TLS loses its connection, before the handshake and after it', async () => {
      const listener = await openListener(ok, { headersTimeoutMs: 2000, tls });
      const port = Number(new URL(listener.url).port);
      const mute = connectTcp(port, '127.0.0.1');
      const slow = connectTls({ port, rejectUnauthorized: false });
      slow.write('GET / HTTP/1.1\r\n');
      const said = await Promise.all([bytesOf(mute), bytesOf(slow)]);
      expect(said[0].length).toBe(0);
      expect(said[1].toString()).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n/);
    });

    test.each([
      ['HTTP/1.1', undefined],
      ['HTTP/1.1 with TLS', tls],
    ])('between two requests loses its connection: %s', async (_what, secure) => {
      const listener = await openListener(ok, { keepAliveTimeoutMs: 200, tls: secure });
      const client = await connect(listener.url);
      expect((await client.request({ method: 'GET', target: '/' })).status).toBe(200);
      await client.ended();
    });

    test.each([
      ['HTTP/2', undefined],
      ['HTTP/2 with TLS', tls],
    ])('between two requests loses its connection, but not during one: %s', async (_what, secure) => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange), {
        keepAliveTimeoutMs: 1000,
        tls: secure,
      });
      const idle = await connectH2(listener.url);
      let goneAway = NaN;
      idle.session.once('goaway', (code: number) => (goneAway = code));
      const busy = await connectH2(listener.url);
      const asked = busy.start({ method: 'GET', target: '/' }, { endStream: true });
      await until(() => waiting.length === 1, 'the request');
      await until(() => idle.session.closed && idle.session.destroyed, 'the idle connection to end');
      expect(goneAway).toBe(constants.NGHTTP2_NO_ERROR);
      expect(busy.session.destroyed).toBe(false);
      void sendReply(waiting[0]!, { status: 200, headers: [], body: 'late' });
      expect((await asked.readFinal()).body.toString()).toBe('late');
      await until(() => busy.session.destroyed, 'the connection to end once it is idle');
    });

    test('with its body is not hurried by the time a head may take', async () => {
      const listener = await openListener((exchange) => {
        exchange.req.resume();
        exchange.req.on('end', () => void sendReply(exchange, { status: 200, headers: [], body: 'taken' }));
      }, options);
      const slow = await connect(listener.url);
      await slow.sendHead('POST', '/', [['Content-Length', '4']]);
      // Others come and go until three times the limit has passed for sure.
      for (let round = 0; round < 3; round++) {
        const other = await connect(listener.url);
        await other.send('GET / HTTP/1.1\r\n');
        expect((await other.readFinal()).status).toBe(408);
        await slow.send('x');
      }
      await slow.send('x');
      expect((await slow.readFinal()).body.toString()).toBe('taken');
      slow.destroy();
    });
  });

  function bytesOf(socket: NodeJS.ReadableStream): Promise<Buffer> {
    const all = new Promise<Buffer>((resolve) => {
      const parts: Buffer[] = [];
      socket.on('error', () => undefined);
      socket.on('data', (bytes: Buffer) => void parts.push(bytes));
      socket.on('close', () => resolve(Buffer.concat(parts)));
    });
    return within(all, 'the end of the connection');
  }
});

describe('request heads', () => {
  afterEach(closeListeners);

  describe('the head of an HTTP/1.1 request', () => {
    const ask = async (text: string) => {
      const listener = await openListener(respondWithHead([{ cidr: '127.0.0.1', relaysInterim: false }]));
      const client = await connect(listener.url);
      await client.send(Buffer.from(text, 'latin1'));
      const response = await client.readFinal();
      client.destroy();
      expect(response.status).toBe(200);
      return { ...headIn(response), door: new URL(listener.url).host };
    };

    test('keeps its lines in order and case, repeated ones apart', async () => {
      const head = await ask(
        'GET /a/../b?c HTTP/1.1\r\nhOST: a.example\r\nX-b: 1\r\nCookie: a=1\r\nX-B: 2\r\nCookie: b=2\r\n\r\n',
      );
      expect(head).toMatchObject({ method: 'GET', target: '/a/../b?c', path: '/b', httpVersion: '1.1' });
      expect(head.headers).toEqual([
        ['hOST', 'a.example'],
        ['X-b', '1'],
        ['Cookie', 'a=1'],
        ['X-B', '2'],
        ['Cookie', 'b=2'],
      ]);
      expect(head).toMatchObject({ scheme: 'http', authority: 'a.example', hasBody: false, expectsContinue: false });
      expect(head.connection).toMatchObject({ peerAddress: '127.0.0.1', peerIsTrusted: true, encrypted: false });
    });

    test('with an absolute target has that target’s host', async () => {
      const head = await ask('GET http://b.example/c HTTP/1.1\r\nHost: a.example\r\n\r\n');
      expect(head).toMatchObject({ target: '/c', authority: 'b.example', headers: [['Host', 'b.example']] });
    });

    test('of HTTP/1.0 needs no host and has no expectations', async () => {
      const head = await ask('POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx');
      expect(head).toMatchObject({ httpVersion: '1.0', authority: head.door, expectsContinue: false, hasBody: true });
    });

    test('with an empty host means the address it was sent to', async () => {
      expect(await ask('GET / HTTP/1.1\r\nHost:\r\n\r\n').then(({ authority, door }) => authority === door)).toBe(true);
    });

    test('believes a trusted proxy', async () => {
      const fields = 'X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: api.example\r\n';
      const head = await ask(`GET / HTTP/1.1\r\nHost: a\r\n${fields}\r\n`);
      expect(head).toMatchObject({ scheme: 'https', authority: 'api.example' });
      expect(head.connection).toMatchObject({ clientAddress: '198.51.100.1', relaysInterim: false });
    });

    test.each([
      ['Content-Length: 3\r\n', 'abc', { contentLength: 3, hasBody: true }],
      ['Content-Length: 0\r\n', '', { contentLength: 0, hasBody: false }],
      ['Transfer-Encoding: chunked\r\n', '0\r\n\r\n', { hasBody: true }],
      ['', '', { hasBody: false }],
      ['Expect: 100-Continue\r\nContent-Length: 3\r\n', 'abc', { expectsContinue: true, hasBody: true }],
    ])('with %j tells whether there is a body', async (line, body, expected) => {
      const head = await ask(`POST / HTTP/1.1\r\nHost: a\r\n${line}\r\n${body}`);
      expect(head).toMatchObject(expected);
      if (!('contentLength' in expected) && body !== 'abc') expect(head.contentLength).toBeUndefined();
    });
  });

  describe('the head of an HTTP/2 request', () => {
    test('has its pseudo-header fields taken apart and its cookie put together', async () => {
      const listener = await openListener(respondWithHead());
      const h2 = await connectH2(listener.url);
      const headers = [
        ['Host', 'a.example:8443'],
        ['x-b', '1'],
        ['cookie', 'a=1'],
        ['x-c', '2'],
        ['cookie', 'b=2'],
      ] as const;
      const head = headIn(await h2.request({ method: 'PUT', target: '/a/../b?c', headers, body: 'abc' }));
      expect(head).toMatchObject({ method: 'PUT', target: '/a/../b?c', path: '/b', httpVersion: '2.0' });
      expect(head).toMatchObject({ scheme: 'http', authority: 'a.example:8443', hasBody: true });
      expect(head.headers).toEqual([
        ['host', 'a.example:8443'],
        ['x-b', '1'],
        ['cookie', 'a=1; b=2'],
        ['x-c', '2'],
      ]);
      await h2.close();
    });

    test('tells whether there is a body', async () => {
      const listener = await openListener(respondWithHead(), { tls: makeCertificate() });
      const h2 = await connectH2(listener.url);
      const none = headIn(await h2.request({ method: 'POST', target: '/' }));
      expect([none.hasBody, none.contentLength, none.scheme]).toEqual([false, undefined, 'https']);
      const asked = h2.start({ method: 'POST', target: '/', headers: [['content-length', '3']] });
      await asked.send('abc');
      asked.end();
      expect(headIn(await asked.readFinal())).toMatchObject({ hasBody: true, contentLength: 3 });
      const empty = h2.start({ method: 'POST', target: '/', headers: [['content-length', '0']] });
      empty.end();
      expect(headIn(await empty.readFinal())).toMatchObject({ hasBody: false, contentLength: 0 });
      await h2.close();
    });

    test.each([
      ['a host that contradicts the authority', { ':authority': 'a', host: 'b' }, 400],
      ['a malformed authority', { ':authority': 'a(b' }, 400],
      ['an unknown expectation', { expect: 'miracle' }, 417],
    ])('is refused for %s', async (_what, fields, status) => {
      const listener = await openListener(respondWithHead());
      const h2 = await connectH2(listener.url);
      const stream = h2.session.request({ ':path': '/', ...fields });
      expect(await new Promise((resolve) => stream.once('response', (headers) => resolve(headers[':status'])))).toBe(
        status,
      );
      await h2.close();
    });

    test.each(['post', 'Post', 'gET', 'purge'])(
      'is refused for the method %s, which is not its capitals',
      async (method) => {
        const listener = await openListener(respondWithHead());
        const h2 = await connectH2(listener.url);
        const response = await h2.request({ method, target: '/' });
        expect(response.status).toBe(501);
        expect(response.body.toString()).toContain('capitals');
        await h2.close();
      },
    );

    test('may name the same host twice', async () => {
      const listener = await openListener(respondWithHead());
      const h2 = await connectH2(listener.url);
      const stream = h2.session.request({ ':path': '/', ':authority': 'a.example', host: 'a.example' });
      const status = await new Promise((resolve) => stream.once('response', (headers) => resolve(headers[':status'])));
      expect(status).toBe(200);
      await h2.close();
    });
  });

  test('a dual-stack listener knows IPv4 proxies by their IPv4 address', async () => {
    const trusted = [{ cidr: '127.0.0.0/8', relaysInterim: true }];
    const listener = await openListener(respondWithHead(trusted), { address: { kind: 'tcp', host: '::', port: 0 } });
    const url = `http://127.0.0.1:${new URL(listener.url).port}`;
    const head = headIn(await requestOnce(url, { method: 'GET', target: '/' }));
    expect(head.connection).toMatchObject({ peerAddress: '::ffff:127.0.0.1', peerIsTrusted: true });
  });
});
