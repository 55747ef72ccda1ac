import { afterEach, describe, expect, test } from '@jest/globals';
import { CONTENT, EagerStage, length, MIB, type EagerStageOptions } from '../support/eager-stage.js';
import { untilSpooled } from '../support/spooled.js';
import { sha256, until } from '../support/temporary.js';

let stage: EagerStage;
afterEach(() => stage.close());

async function open(options?: EagerStageOptions): Promise<EagerStage> {
  stage = await EagerStage.open(options);
  return stage;
}

describe('while the client uploads', () => {
  test('the origin is fed, with the exact length and in one request', async () => {
    const { origin } = await open();
    const client = await stage.client();
    await stage.create(client, [length(CONTENT.length), ['Content-Type', 'image/png']]);
    await client.send(CONTENT.subarray(0, 2 * MIB));
    const exchange = await stage.exchange(0);
    await stage.got(exchange, 2 * MIB);
    expect(exchange.header('content-length')).toBe(`${CONTENT.length}`);
    expect(exchange.header('content-type')).toBe('image/png');
    await client.send(CONTENT.subarray(2 * MIB));
    const response = await client.readFinal();
    expect([response.status, response.body.toString()]).toEqual([200, 'ok']);
    expect(exchange.body.sha256).toBe(sha256(CONTENT));
    expect(origin.exchanges).toHaveLength(1);
  });

  test('the origin never has the last byte before it is the upload’s last', async () => {
    await open();
    const client = await stage.client();
    await stage.create(client, [length(5)]);
    await client.send('hell');
    const exchange = await stage.exchange(0);
    await until(() => exchange.body.size === 4, 'four bytes at the origin');
    await client.send('o');
    expect((await client.readFinal()).status).toBe(200);
    expect(exchange.body.size).toBe(5);
  });

  test('a length that nobody knows makes chunks, which end with the upload', async () => {
    const { origin } = await open();
    const client = await stage.client();
    await stage.create(client, [['Transfer-Encoding', 'chunked']]);
    await client.sendChunk(CONTENT.subarray(0, MIB));
    const exchange = await stage.exchange(0);
    await stage.got(exchange, MIB);
    expect([exchange.header('transfer-encoding'), exchange.header('content-length')]).toEqual(['chunked', undefined]);
    await client.sendChunk(CONTENT.subarray(MIB));
    await client.endChunks();
    expect((await client.readFinal()).status).toBe(200);
    expect(exchange.body.sha256).toBe(sha256(CONTENT));
    expect(origin.exchanges).toHaveLength(1);
  });

  test('an origin that needs a length gets its request once the length is known', async () => {
    const { origin } = await open({ eager: 'unknown_length: wait' });
    const client = await stage.client();
    const target = await stage.create(client, [['Transfer-Encoding', 'chunked']]);
    await client.sendChunk('hello');
    await untilSpooled(stage.app.data, new URL(target, stage.app.url).href, 4);
    expect((await stage.head(target)).header('upload-offset')).toBe('4');
    expect(origin.exchanges).toHaveLength(0);
    const again = await stage.client();
    await stage.append(again, target, 4, 1);
    await again.send('o');
    expect((await again.readFinal()).status).toBe(200);
    expect(origin.exchanges[0]?.header('content-length')).toBe('5');
  });

  test('a form is fed as well', async () => {
    const { origin } = await open({ delivery: 'framing: { type: multipart, field: file }' });
    const client = await stage.client();
    await stage.create(client, [length(CONTENT.length)]);
    await client.send(CONTENT.subarray(0, MIB));
    const exchange = await stage.exchange(0);
    await stage.got(exchange, MIB);
    await client.send(CONTENT.subarray(MIB));
    expect((await client.readFinal()).status).toBe(200);
    const boundary = /boundary=(.*)$/.exec(exchange.header('content-type')!)![1]!;
    expect(exchange.body.size).toBe(Number(exchange.header('content-length')));
    expect(exchange.body.bytes.subarray(-boundary.length - 6).toString()).toBe(`--${boundary}--\r\n`);
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a slow origin does not slow the client down', async () => {
    await open({
      script: async (exchange) => {
        exchange.socket.pause();
        await exchange.closed;
      },
    });
    const client = await stage.client();
    await stage.create(client, [length(64 * MIB)]);
    for (let sent = 0; sent < 48; sent++) await client.send(CONTENT.subarray(0, MIB));
    const { connectionIndex } = await stage.exchange(0);
    expect(stage.origin.connections[connectionIndex]!.receivedSize).toBeLessThan(24 * MIB);
  });
});

describe('when the client is cut', () => {
  test('and comes back in time, the same request of the origin goes on', async () => {
    const { origin } = await open();
    const first = await stage.client();
    const target = await stage.create(first, [length(CONTENT.length)]);
    await first.send(CONTENT.subarray(0, MIB));
    const exchange = await stage.exchange(0);
    await stage.got(exchange, MIB);
    first.reset();
    const offset = Number((await stage.head(target)).header('upload-offset'));
    const second = await stage.client();
    await stage.append(second, target, offset, CONTENT.length - offset);
    await second.send(CONTENT.subarray(offset));
    expect((await second.readFinal()).status).toBe(200);
    expect(exchange.body.sha256).toBe(sha256(CONTENT));
    expect(origin.exchanges).toHaveLength(1);
  });

  test('for too long, the request of the origin is cut, and a fresh one brings the whole', async () => {
    const { origin } = await open({ eager: 'idle: 1500ms' });
    const first = await stage.client();
    const target = await stage.create(first, [length(CONTENT.length)]);
    await first.send(CONTENT.subarray(0, MIB));
    const cut = await stage.exchange(0);
    first.reset();
    await cut.closed;
    const offset = Number((await stage.head(target)).header('upload-offset'));
    const second = await stage.client();
    await stage.append(second, target, offset, CONTENT.length - offset);
    await second.send(CONTENT.subarray(offset));
    expect((await second.readFinal()).status).toBe(200);
    expect(origin.exchanges).toHaveLength(2);
    expect(origin.exchanges[1]?.body.sha256).toBe(sha256(CONTENT));
    expect(origin.exchanges.map((exchange) => exchange.header('idempotency-key'))).toEqual([
      cut.header('idempotency-key'),
      cut.header('idempotency-key'),
    ]);
  });

  test('by a newer request, what was never committed does not reach the origin', async () => {
    const { origin } = await open();
    const first = await stage.client();
    const target = await stage.create(first, [length(CONTENT.length)]);
    await first.send(CONTENT.subarray(0, MIB));
    await stage.got(await stage.exchange(0), MIB);
    const offset = Number((await stage.head(target)).header('upload-offset'));
    first.socket.write(Buffer.alloc(MIB, 'late'));
    const second = await stage.client();
    await stage.append(second, target, offset, CONTENT.length - offset);
    await second.send(CONTENT.subarray(offset));
    expect((await second.readFinal()).status).toBe(200);
    expect(origin.exchanges[0]?.body.sha256).toBe(sha256(CONTENT));
  });

  test('by its own cancellation, the origin’s request is cut too', async () => {
    await open();
    const client = await stage.client();
    const target = await stage.create(client, [length(10)]);
    await client.send('hello');
    const exchange = await stage.exchange(0);
    const other = await stage.client();
    await other.request({ method: 'DELETE', target, headers: [['Upload-Draft-Interop-Version', '10']] });
    await exchange.closed;
    expect(exchange.body.size).toBeLessThan(10);
  });
});
