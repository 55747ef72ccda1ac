import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createSecureServer } from 'node:http2';
import { createServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { get, send, sendMany, type Server, startOrigin, startRelay } from '../../bench/programs.js';
import { makeCertificate } from '../support/temporary.js';

// The clients of the bench: figures mean nothing if they do not send what they say.
let origin: Server;

beforeAll(async () => {
  origin = await startOrigin();
});

afterAll(() => origin.stop());

test('the origin answers a body of any size, many at once, and with 1 GiB', async () => {
  const sending = { url: `${origin.url}/x`, method: 'POST', headers: {} } as const;
  for (const size of [0, 1, 3_000_001]) expect((await send({ ...sending, size })).status).toBe(200);
  const crowd = await sendMany({ url: `${origin.url}/x`, headers: {}, size: 1000, connections: 10, requests: 205 });
  expect(crowd.statuses).toEqual({ 200: 205 });
  expect((await get({ url: `${origin.url}/big`, size: 1024 ** 3 })).seconds).toBeGreaterThan(0);
});

test('a client whose response is cut, or that finds nobody, fails', async () => {
  const cut = createTcpServer((socket) => socket.resume().end('HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok'));
  cut.listen(0, '127.0.0.1');
  await once(cut, 'listening');
  const url = `http://127.0.0.1:${(cut.address() as AddressInfo).port}/`;
  await expect(get({ url, size: 3 })).rejects.toThrow('only 2 bytes came');
  await expect(send({ url, method: 'POST', headers: {}, size: 1 })).rejects.toThrow('sending failed');
  cut.close();
  await once(cut, 'close');
  await expect(send({ url, method: 'POST', headers: {}, size: 1 })).rejects.toThrow('ECONNREFUSED');
});

test('a body goes through the relay as through the network', async () => {
  const relay = await startRelay(new URL(origin.url).host, 1);
  const sent = await send({ url: `${relay.url}/x`, method: 'POST', headers: {}, size: 2_000_000 });
  expect(sent.status).toBe(200);
  await relay.stop();
});

test.each([
  ['HTTP/1.1', createServer(makeCertificate())],
  ['HTTP/2', createSecureServer(makeCertificate())],
])('a body over TLS and %s comes whole, with its fields', async (version, server) => {
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    let size = 0;
    request.on('data', (bytes: Buffer) => (size += bytes.length));
    request.on('end', () => {
      received.push([request.httpVersion, request.headers['x-field'], request.headers['content-length'], size]);
      response.end('ok');
    });
  });
  const received: unknown[] = [];
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}/x`;
  const isHttp2 = version === 'HTTP/2';
  for (const size of [16_384, 1_000_001])
    await send({ url, method: 'POST', headers: { 'X-Field': 'here' }, size, isHttp2 });
  server.close();
  const line = (size: number) => [isHttp2 ? '2.0' : '1.1', 'here', `${size}`, size];
  expect(received).toEqual([line(16_384), line(1_000_001)]);
});
