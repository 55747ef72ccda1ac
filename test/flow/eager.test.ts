import { afterEach, describe, expect, test } from '@jest/globals';
import type { Attempt, Upload } from '../../src/model/upload.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { bodyOf, DeliveryHarness, newUpload } from '../support/delivery-harness.js';
import { untilSpooled } from '../support/disk.js';
import { CONTENT, EagerProxy, type EagerProxyOptions, length, MIB } from '../support/eager-proxy.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { sha256, until } from '../support/temporary.js';

describe('eager delivery', () => {
  let proxy: EagerProxy;
  afterEach(() => proxy.close());

  async function open(options?: EagerProxyOptions): Promise<EagerProxy> {
    proxy = await EagerProxy.open(options);
    return proxy;
  }

  describe('while the client uploads', () => {
    test('the origin is fed, with the exact length and in one request', async () => {
      const { origin } = await open();
      const client = await proxy.client();
      await proxy.create(client, [length(CONTENT.length), ['Content-Type', 'image/png']]);
      await client.send(CONTENT.subarray(0, 2 * MIB));
      const exchange = await proxy.exchange(0);
      await proxy.got(exchange, 2 * MIB);
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
      const client = await proxy.client();
      await proxy.create(client, [length(5)]);
      await client.send('hell');
      const exchange = await proxy.exchange(0);
      await until(() => exchange.body.size === 4, 'four bytes at the origin');
      await client.send('o');
      expect((await client.readFinal()).status).toBe(200);
      expect(exchange.body.size).toBe(5);
    });

    test('a length that nobody knows makes chunks, which end with the upload', async () => {
      const { origin } = await open();
      const client = await proxy.client();
      await proxy.create(client, [['Transfer-Encoding', 'chunked']]);
      await client.sendChunk(CONTENT.subarray(0, MIB));
      const exchange = await proxy.exchange(0);
      await proxy.got(exchange, MIB);
      expect([exchange.header('transfer-encoding'), exchange.header('content-length')]).toEqual(['chunked', undefined]);
      await client.sendChunk(CONTENT.subarray(MIB));
      await client.endChunks();
      expect((await client.readFinal()).status).toBe(200);
      expect(exchange.body.sha256).toBe(sha256(CONTENT));
      expect(origin.exchanges).toHaveLength(1);
    });

    test('an origin that needs a length gets its request once the length is known', async () => {
      const { origin } = await open({ eager: 'unknown_length: wait' });
      const client = await proxy.client();
      const target = await proxy.create(client, [['Transfer-Encoding', 'chunked']]);
      await client.sendChunk('hello');
      await untilSpooled(proxy.app.data, new URL(target, proxy.app.url).href, 4);
      expect((await proxy.head(target)).header('upload-offset')).toBe('4');
      expect(origin.exchanges).toHaveLength(0);
      const again = await proxy.client();
      await proxy.append(again, target, 4, 1);
      await again.send('o');
      expect((await again.readFinal()).status).toBe(200);
      expect(origin.exchanges[0]?.header('content-length')).toBe('5');
    });

    test('a form is fed as well', async () => {
      const { origin } = await open({ delivery: 'framing: { type: multipart, field: file }' });
      const client = await proxy.client();
      await proxy.create(client, [length(CONTENT.length)]);
      await client.send(CONTENT.subarray(0, MIB));
      const exchange = await proxy.exchange(0);
      await proxy.got(exchange, MIB);
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
      const client = await proxy.client();
      await proxy.create(client, [length(64 * MIB)]);
      for (let sent = 0; sent < 48; sent++) await client.send(CONTENT.subarray(0, MIB));
      const { connectionIndex } = await proxy.exchange(0);
      expect(proxy.origin.connections[connectionIndex]!.receivedSize).toBeLessThan(24 * MIB);
    });
  });

  describe('when the client is cut', () => {
    test('and comes back in time, the same request of the origin goes on', async () => {
      const { origin } = await open();
      const first = await proxy.client();
      const target = await proxy.create(first, [length(CONTENT.length)]);
      await first.send(CONTENT.subarray(0, MIB));
      const exchange = await proxy.exchange(0);
      await proxy.got(exchange, MIB);
      first.reset();
      const offset = Number((await proxy.head(target)).header('upload-offset'));
      const second = await proxy.client();
      await proxy.append(second, target, offset, CONTENT.length - offset);
      await second.send(CONTENT.subarray(offset));
      expect((await second.readFinal()).status).toBe(200);
      expect(exchange.body.sha256).toBe(sha256(CONTENT));
      expect(origin.exchanges).toHaveLength(1);
    });

    test('for too long, the request of the origin is cut, and a fresh one brings the whole', async () => {
      const { origin } = await open({ eager: 'idle: 1500ms' });
      const first = await proxy.client();
      const target = await proxy.create(first, [length(CONTENT.length)]);
      await first.send(CONTENT.subarray(0, MIB));
      const cut = await proxy.exchange(0);
      first.reset();
      await cut.closed;
      const offset = Number((await proxy.head(target)).header('upload-offset'));
      const second = await proxy.client();
      await proxy.append(second, target, offset, CONTENT.length - offset);
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
      const first = await proxy.client();
      const target = await proxy.create(first, [length(CONTENT.length)]);
      await first.send(CONTENT.subarray(0, MIB));
      await proxy.got(await proxy.exchange(0), MIB);
      const offset = Number((await proxy.head(target)).header('upload-offset'));
      first.socket.write(Buffer.alloc(MIB, 'late'));
      const second = await proxy.client();
      await proxy.append(second, target, offset, CONTENT.length - offset);
      await second.send(CONTENT.subarray(offset));
      expect((await second.readFinal()).status).toBe(200);
      expect(origin.exchanges[0]?.body.sha256).toBe(sha256(CONTENT));
    });

    test('by its own cancellation, the origin’s request is cut too', async () => {
      await open();
      const client = await proxy.client();
      const target = await proxy.create(client, [length(10)]);
      await client.send('hello');
      const exchange = await proxy.exchange(0);
      const other = await proxy.client();
      await other.request({ method: 'DELETE', target, headers: [['Upload-Draft-Interop-Version', '10']] });
      await exchange.closed;
      expect(exchange.body.size).toBeLessThan(10);
    });
  });
});

describe('restarts', () => {
  const HOUR = 3_600_000;

  let origin: RawOrigin;
  let harness: DeliveryHarness;

  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  async function open(script?: (exchange: RawExchange) => Promise<void>): Promise<void> {
    origin = await startRawOrigin(script);
    harness = await DeliveryHarness.open(origin.url, { rules: { mode: 'eager' } });
  }

  /** An upload of ten bytes whose first five are here, and its origin has four or more of them. */
  async function half(): Promise<Upload> {
    const id = 'upload-that-is-fed-eagerly-00000';
    const upload = await harness.store.create({ ...newUpload(id), length: 10 });
    const feed = harness.delivery.startEager(upload)!;
    const writer = await harness.spool.create(id, 'chunk-1');
    await writer.write([Buffer.from('01234')]);
    await writer.close();
    const chunk = { name: 'chunk-1', start: 0, size: 5 };
    feed.onCommitted((await harness.store.commit(id, { token: 1, chunk, expiresAt: Date.now() + HOUR })) as Upload);
    const exchange = await origin.exchange(0);
    await until(() => exchange.body.size === 5, 'five bytes at the origin');
    return (await harness.store.get(id))!;
  }

  async function rest(id: string): Promise<Upload> {
    const writer = await harness.spool.create(id, 'chunk-2');
    await writer.write([Buffer.from('56789')]);
    await writer.close();
    const complete = { heldBack: { lastByte: '9'.charCodeAt(0) } };
    const chunk = { name: 'chunk-2', start: 5, size: 5 };
    return (await harness.store.commit(id, { token: 2, chunk, complete, expiresAt: Date.now() + HOUR })) as Upload;
  }

  /** How many requests the origin has got to their end. */
  function whole(): number {
    return origin.exchanges.filter(({ body }) => body.size === 10).length;
  }

  describe('killed while an upload was fed to its origin', () => {
    test('the client goes on, and a fresh request brings the whole: that of before cannot have been whole', async () => {
      await open();
      const { id, attempts } = await half();
      expect(attempts).toMatchObject([{ number: 1, inPart: true }]);
      await harness.restart();
      const upload = await rest(id);
      expect(harness.delivery.startEager(upload)).toBeUndefined();
      expect((await harness.answer(id)).status).toBe(200);
      expect((await harness.upload(id)).attempts.map(({ reached }) => reached)).toEqual(['sent-in-part', 'answered']);
      expect([origin.exchanges.length, whole()]).toEqual([2, 1]);
    });

    test('also when it was complete, but its end not yet let go', async () => {
      await open();
      const { id } = await half();
      await rest(id);
      await harness.restart();
      expect((await harness.answer(id)).status).toBe(200);
      expect(whole()).toBe(1);
    });

    test('with its end let go nobody knows: a POST is not sent again', async () => {
      await open();
      const { id, attempts } = await half();
      await rest(id);
      const early: Attempt = attempts[0]!;
      await harness.store.claimDelivery(id, 'the process that dies', Date.now() + HOUR, early);
      await harness.restart();
      expect(await harness.result(id)).toMatchObject({ kind: 'undelivered', failure: { reason: 'outcome-unknown' } });
      expect(origin.exchanges).toHaveLength(1);
    });
  });

  test('an upload that another worker delivers is not sent twice: the request that was fed is cut', async () => {
    await open();
    const { id } = await half();
    await rest(id);
    const other = harness.anotherWorker();
    expect(await other.result(id, { signal: new AbortController().signal })).toMatchObject({ kind: 'answered' });
    expect(await harness.result(id)).toMatchObject({ kind: 'answered' });
    harness.delivery.stopEager(id);
    await origin.exchanges[0]!.closed;
    expect([origin.exchanges.length, whole()]).toEqual([2, 1]);
    await other.stop();
  });

  test('an early answer that comes while the upload becomes complete is the answer to the whole', async () => {
    origin = await startRawOrigin(async (exchange) => {
      await exchange.readBytes(5);
      await asked;
      await exchange.respond({ status: 200, body: 'enough' });
    });
    let ask = (): void => undefined;
    const asked = new Promise<void>((resolve) => (ask = resolve));
    let look = (): void => undefined;
    const looked = new Promise<void>((resolve) => (look = resolve));
    let answer: ReturnType<DeliveryHarness['answer']> | undefined;
    harness = await DeliveryHarness.open(origin.url, {
      rules: { mode: 'eager' },
      storeSeenAs: (store) => {
        const seen = Object.create(store) as UploadStore;
        // The early answer comes too late to be one: a client already asks for that of the whole, and its run begins.
        seen.recordEarlyAnswer = async (...given) => {
          const recorded = await store.recordEarlyAnswer(...given);
          answer = harness.answer(given[0]);
          await until(async () => (await store.get(given[0]))?.phase === 'delivering', 'the run');
          seen.get = async (id) => {
            const upload = await store.get(id);
            setImmediate(look);
            return upload;
          };
          return recorded;
        };
        seen.recordAnswer = async (...given) => {
          await looked;
          return store.recordAnswer(...given);
        };
        return seen;
      },
    });
    const { id } = await half();
    await rest(id);
    ask();
    await until(() => answer, 'the early answer');
    expect((await bodyOf(await answer!)).toString()).toBe('enough');
    expect(await harness.upload(id)).toMatchObject({ phase: 'answered', attempts: [{ reached: 'answered' }] });
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a proxy that stops cuts what it has begun, and says so in the record', async () => {
    await open();
    const { id } = await half();
    await harness.delivery.stop();
    expect((await harness.upload(id)).attempts).toMatchObject([
      { reached: 'sent-in-part', problem: expect.stringMatching(/stopped/) },
    ]);
    expect(whole()).toBe(0);
  });
});
