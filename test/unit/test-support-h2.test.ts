import { createServer, type Http2Server, type ServerHttp2Stream } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { connectH2, type H2Client } from '../support/http2-client.js';
import { until } from '../support/temporary.js';

let server: Http2Server;
let client: H2Client;
let played: (stream: ServerHttp2Stream) => void;

beforeEach(async () => {
  server = createServer();
  server.on('stream', (stream) => played(stream));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  client = await connectH2(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
});

afterEach(async () => {
  await client.close();
  await new Promise((resolve) => server.close(resolve));
});

test('interim responses over HTTP/2 are read one by one before the final one', async () => {
  played = (stream) => {
    stream.additionalHeaders({ ':status': 104, location: 'http://x/1' });
    stream.on('data', () => undefined);
    stream.on('end', () => {
      stream.respond({ ':status': 201, 'set-cookie': ['a=1', 'b=2'] });
      stream.end('done');
    });
  };
  const exchange = client.start({ method: 'POST', target: '/up', headers: [['Upload-Complete', '?1']] });
  expect((await exchange.readInterim()).header('Location')).toBe('http://x/1');
  await exchange.send('abc');
  exchange.end();
  const response = await exchange.readFinal();
  expect([response.status, response.body.toString(), response.interims.length]).toEqual([201, 'done', 1]);
  expect(response.headerLines.slice(0, 2)).toEqual([
    ['set-cookie', 'a=1'],
    ['set-cookie', 'b=2'],
  ]);
});

test('a request given up over HTTP/2 does not look whole to the server', async () => {
  let aborted = false;
  let code: number | undefined;
  played = (stream) => {
    stream.on('data', () => undefined);
    stream.on('error', () => undefined);
    stream.on('aborted', () => (aborted = true));
    stream.on('close', () => (code = stream.rstCode));
  };
  const exchange = client.start({ method: 'POST', target: '/up' });
  await exchange.send('abc');
  exchange.reset();
  await until(() => code !== undefined, 'the stream to be closed at the server');
  expect(aborted).toBe(true);
  expect(code).not.toBe(0);
});
