import { afterEach, describe, expect, test } from '@jest/globals';
import { makeCertificate } from '../support/certificate.js';
import { closeDoors, openDoor, tellHead, toldHead } from '../support/front-door.js';
import { connectH2 } from '../support/h2-client.js';
import { connect, requestOnce } from '../support/raw-client.js';

afterEach(closeDoors);

describe('the head of an HTTP/1.1 request', () => {
  const ask = async (text: string) => {
    const door = await openDoor(tellHead([{ cidr: '127.0.0.1', relaysInterim: false }]));
    const client = await connect(door.url);
    await client.send(Buffer.from(text, 'latin1'));
    const response = await client.readFinal();
    client.destroy();
    expect(response.status).toBe(200);
    return { ...toldHead(response), door: new URL(door.url).host };
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
    const door = await openDoor(tellHead());
    const h2 = await connectH2(door.url);
    const headers = [
      ['Host', 'a.example:8443'],
      ['x-b', '1'],
      ['cookie', 'a=1'],
      ['x-c', '2'],
      ['cookie', 'b=2'],
    ] as const;
    const head = toldHead(await h2.request({ method: 'PUT', target: '/a/../b?c', headers, body: 'abc' }));
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
    const door = await openDoor(tellHead(), { tls: makeCertificate() });
    const h2 = await connectH2(door.url);
    const none = toldHead(await h2.request({ method: 'POST', target: '/' }));
    expect([none.hasBody, none.contentLength, none.scheme]).toEqual([false, undefined, 'https']);
    const asked = h2.start({ method: 'POST', target: '/', headers: [['content-length', '3']] });
    await asked.send('abc');
    asked.end();
    expect(toldHead(await asked.readFinal())).toMatchObject({ hasBody: true, contentLength: 3 });
    const empty = h2.start({ method: 'POST', target: '/', headers: [['content-length', '0']] });
    empty.end();
    expect(toldHead(await empty.readFinal())).toMatchObject({ hasBody: false, contentLength: 0 });
    await h2.close();
  });

  test.each([
    ['a host that contradicts the authority', { ':authority': 'a', host: 'b' }, 400],
    ['a malformed authority', { ':authority': 'a(b' }, 400],
    ['an unknown expectation', { expect: 'miracle' }, 417],
  ])('is refused for %s', async (_what, fields, status) => {
    const door = await openDoor(tellHead());
    const h2 = await connectH2(door.url);
    const stream = h2.session.request({ ':path': '/', ...fields });
    expect(await new Promise((resolve) => stream.once('response', (headers) => resolve(headers[':status'])))).toBe(
      status,
    );
    await h2.close();
  });

  test.each(['post', 'Post', 'gET', 'purge'])(
    'is refused for the method %s, which is not its capitals',
    async (method) => {
      const door = await openDoor(tellHead());
      const h2 = await connectH2(door.url);
      const response = await h2.request({ method, target: '/' });
      expect(response.status).toBe(501);
      expect(response.body.toString()).toContain('capitals');
      await h2.close();
    },
  );

  test('may name the same host twice', async () => {
    const door = await openDoor(tellHead());
    const h2 = await connectH2(door.url);
    const stream = h2.session.request({ ':path': '/', ':authority': 'a.example', host: 'a.example' });
    const status = await new Promise((resolve) => stream.once('response', (headers) => resolve(headers[':status'])));
    expect(status).toBe(200);
    await h2.close();
  });
});

test('a dual-stack listener knows IPv4 proxies by their IPv4 address', async () => {
  const trusted = [{ cidr: '127.0.0.0/8', relaysInterim: true }];
  const door = await openDoor(tellHead(trusted), { address: { kind: 'tcp', host: '::', port: 0 } });
  const url = `http://127.0.0.1:${new URL(door.url).port}`;
  const head = toldHead(await requestOnce(url, { method: 'GET', target: '/' }));
  expect(head.connection).toMatchObject({ peerAddress: '::ffff:127.0.0.1', peerIsTrusted: true });
});
