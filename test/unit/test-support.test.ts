import { afterEach, expect, test } from '@jest/globals';
import { connect, requestOnce } from '../support/client.js';
import { type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

let opened: (RawOrigin | TestOrigin)[] = [];

afterEach(async () => {
  await Promise.all(opened.map((origin) => origin.close()));
  opened = [];
});

function keep<T extends RawOrigin | TestOrigin>(origin: T): T {
  opened.push(origin);
  return origin;
}

test('the raw origin sees header lines in their order and case, and several requests on one connection', async () => {
  const origin = keep(await startRawOrigin());
  const client = await connect(origin.url);
  await client.request({
    method: 'POST',
    target: '/a?b=%2F',
    headers: [
      ['X-Tést'.normalize(), 'é'],
      ['x-tést', '2'],
    ],
    body: 'one',
  });
  await client.request({ method: 'GET', target: '/second' });
  client.destroy();
  expect(origin.exchanges.map((exchange) => exchange.requestLine)).toEqual([
    'POST /a?b=%2F HTTP/1.1',
    'GET /second HTTP/1.1',
  ]);
  expect(origin.exchanges[0]!.headerLines.slice(1)).toEqual([
    ['X-Tést', 'é'],
    ['x-tést', '2'],
    ['Content-Length', '3'],
  ]);
  expect(origin.exchanges[0]!.body.bytes.toString()).toBe('one');
  expect(origin.connections).toHaveLength(1);
});

test('the raw origin decodes chunked bodies with their trailers', async () => {
  const origin = keep(await startRawOrigin());
  const client = await connect(origin.url);
  await client.sendHead('PUT', '/', [['Transfer-Encoding', 'chunked']]);
  await client.sendChunk('hello ');
  await client.sendChunk('world');
  await client.endChunks([['X-Sum', '11']]);
  await client.readFinal();
  client.destroy();
  const { body } = origin.exchanges[0]!;
  expect([body.bytes.toString(), body.trailers, body.endedCleanly]).toEqual(['hello world', [['X-Sum', '11']], true]);
  expect(origin.connections[0]!.received.toString()).toMatch(/0\r\nX-Sum: 11\r\n\r\n$/);
});

test('interim responses are read one by one before the final one', async () => {
  const origin = keep(
    await startRawOrigin(async (exchange) => {
      await exchange.interim(103, [['Link', '</a>']]);
      await exchange.readBytes(3);
      await exchange.interim(104, [['Location', 'http://x/1']]);
      await exchange.readBody();
      await exchange.respond({
        status: 201,
        reason: 'Made',
        headers: [['Transfer-Encoding', 'chunked']],
        body: 'done',
        trailers: [['T', '1']],
      });
    }),
  );
  const client = await connect(origin.url);
  await client.sendHead('POST', '/', [['Content-Length', '6']]);
  expect((await client.readInterim()).status).toBe(103);
  await client.send('abc');
  expect((await client.readInterim()).header('location')).toBe('http://x/1');
  await client.send('def');
  const response = await client.readFinal();
  expect([response.status, response.reason, response.body.toString()]).toEqual([201, 'Made', 'done']);
  expect(response.trailers).toEqual([['T', '1']]);
  client.destroy();
});

test('what the script does not read stays with the client until it is asked for', async () => {
  const size = 64 * 1024 * 1024;
  let goOn: () => void = () => undefined;
  const told = new Promise<void>((resolve) => (goOn = resolve));
  const origin = keep(
    await startRawOrigin(async (exchange) => {
      await told;
      await exchange.readBody();
      await exchange.respond({ status: 204 });
    }),
  );
  const client = await connect(origin.url);
  await client.sendHead('POST', '/', [['Content-Length', `${size}`]]);
  const sending = client.send(Buffer.alloc(size));
  const exchange = await origin.exchange(0);
  await until(() => origin.connections[0]!.receivedSize >= 64 * 1024, 'the read-ahead to be full');
  expect(origin.connections[0]!.receivedSize).toBeLessThan(1024 * 1024);
  expect(client.socket.writableLength).toBeGreaterThan(0);
  goOn();
  await sending;
  expect((await client.readFinal()).status).toBe(204);
  expect(exchange.body.size).toBe(size);
  client.destroy();
});

test('a cut body is told from a whole one', async () => {
  const origin = keep(await startTestOrigin({ status: 204 }));
  const client = await connect(origin.url);
  await client.sendHead('POST', '/', [['Content-Length', '10']]);
  await client.send('12345');
  client.end();
  const content = randomBytes(300_000, 7);
  const response = await requestOnce(origin.url, { method: 'PUT', target: '/whole', body: content });
  expect(response.status).toBe(204);
  const [whole] = await origin.waitForRequests(1);
  expect([whole!.target, whole!.size, whole!.sha256]).toEqual(['/whole', 300_000, sha256(content)]);
  const cut = origin.requests.find((request) => request.target === '/')!;
  await until(() => cut.ended, 'the end of the other body');
  expect(cut.ended).toBe('cut');
});
