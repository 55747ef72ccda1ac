import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { EarlyAnswer } from '../../src/delivery/eager.js';
import type { Upload } from '../../src/model/upload.js';
import { newUpload } from '../contract/sample-upload.js';
import { type OpenRequest, TRANSPORTS } from '../support/client.js';
import { DeliveryHarness } from '../support/delivery-harness.js';
import { untilSpooled } from '../support/disk.js';
import { comparable, FlowClient } from '../support/flow-client.js';
import { connectH2 } from '../support/http2-client.js';
import { type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { appendLines, progressOf, type ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, sha256, until, within } from '../support/temporary.js';
import { framed, TestProxy } from '../support/test-proxy.js';
import { storedIdOf } from '../support/stored-id.js';

describe('takeovers', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  const BYTES = randomBytes(60_000);
  const { length } = BYTES;
  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
  /** What a dead writer sends when it wakes up: bytes that are in no file. */
  const LATE = Buffer.alloc(5000, 0xff);

  const PAIRS = TRANSPORTS.flatMap((dead, at) =>
    TRANSPORTS.map((alive, number) => ({ dead, alive, target: `/takeover/${at}${number}` })),
  );

  /** An append that has brought `arrived` bytes from `offset` on and then says nothing. */
  async function stall(
    client: FlowClient,
    upload: ResumableUpload,
    { offset = 0, arrived }: { offset?: number; arrived: number },
  ): Promise<OpenRequest> {
    const request = await client.append(upload, { offset, complete: true, bytes: length - offset });
    if (arrived > 0) await request.send(BYTES.subarray(offset, offset + arrived));
    await untilSpooled(proxy.app.data, upload.url, offset + arrived);
    return request;
  }

  function expectWhole(target: string): void {
    const requests = proxy.requestsFor(target).map(({ size, sha256: sum }) => ({ size, sum }));
    expect(requests).toEqual([{ size: length, sum: sha256(BYTES) }]);
  }

  /** How the exchange ended for its client: with a status, or without an answer. */
  function endOf(request: OpenRequest): Promise<number | 'given up'> {
    return request.readFinal().then(
      ({ status }) => status,
      () => 'given up',
    );
  }

  describe.each(PAIRS)(
    'an append that stalls over $dead, and its client back over $alive',
    ({ dead, alive, target }) => {
      const before = (): FlowClient => new FlowClient(proxy, dead, '10');
      const after = (): FlowClient => new FlowClient(proxy, alive, '10');

      test('HEAD ends it without an answer, its offset is taken by the next append, and what comes late does not count', async () => {
        const own = `${target}/head`;
        const upload = await before().place({ target: own, length });
        const stalled = await stall(before(), upload, { arrived: 21_000 });
        const client = after();
        const retrieved = await client.at(upload.url).retrieve();
        await stalled.send(LATE);
        expect(comparable(retrieved)).toEqual(client.expected.retrieved(21_000, { complete: false, length }));
        await stalled.givenUp();
        const answer = await client.at(upload.url).append(BYTES.subarray(21_000), { offset: 21_000, complete: true });
        expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
        expectWhole(own);
      });

      test('an append at the same offset ends it, and exactly one of them counts', async () => {
        const own = `${target}/append`;
        const upload = await before().place({ target: own, length });
        const stalled = await stall(before(), upload, { arrived: 0 });
        const client = after();
        const part = { offset: 0, complete: false } as const;
        expect(comparable(await client.at(upload.url).append(BYTES.subarray(0, 9000), part))).toEqual(
          client.expected.appended(9000),
        );
        await stalled.send(LATE);
        await stalled.givenUp();
        const again = await client.at(upload.url).append(BYTES.subarray(9000), { offset: 9000, complete: true });
        expect(comparable(again)).toEqual(client.expected.answered(OK, length));
        expectWhole(own);
      });

      test('an append that guesses where the stalled one began is told where it stands now', async () => {
        const own = `${target}/guess`;
        const upload = await before().place({ target: own, length });
        const stalled = await stall(before(), upload, { arrived: 8000 });
        const client = after();
        const refused = await client.at(upload.url).append(BYTES, { offset: 0, complete: true });
        expect(refused.status).toBe(409);
        expect(progressOf(client.dialect, refused)).toMatchObject({ offset: 8000, complete: false });
        await stalled.givenUp();
        const answer = await client.at(upload.url).append(BYTES.subarray(8000), { offset: 8000, complete: true });
        expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
        expectWhole(own);
      });

      test('DELETE ends it, and nothing is left of the upload', async () => {
        const own = `${target}/delete`;
        const upload = await before().place({ target: own, length });
        const stalled = await stall(before(), upload, { arrived: 30_000 });
        const client = after();
        expect(comparable(await client.at(upload.url).cancel())).toEqual(client.expected.cancelled());
        await stalled.send(LATE);
        await stalled.givenUp();
        expect((await client.at(upload.url).retrieve()).status).toBe(404);
        const id = storedIdOf(upload.target);
        expect(await readdir(join(proxy.app.data, 'spool'))).not.toContain(id);
        expect(await readdir(join(proxy.app.data, 'uploads'))).not.toContain(`${id}.log`);
        expect(proxy.requestsFor(own)).toEqual([]);
      });

      test('a creation that stalls is ended by HEAD as well', async () => {
        const own = `${target}/creation`;
        const { request, upload } = await before().begin({ target: own, length });
        await request.send(BYTES.subarray(0, 17_000));
        await untilSpooled(proxy.app.data, upload.url, 17_000);
        const client = after();
        const retrieved = await client.at(upload.url).retrieve();
        expect(comparable(retrieved)).toEqual(client.expected.retrieved(17_000, { complete: false, length }));
        await request.givenUp();
        const answer = await client.at(upload.url).append(BYTES.subarray(17_000), { offset: 17_000, complete: true });
        expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
        expectWhole(own);
      });

      test('of two appends that race for the same offset at most one is taken, and no byte of the other', async () => {
        const own = `${target}/race`;
        const upload = await before().place({ target: own, length });
        for (let offset = 0; offset < length; offset = await upload.offset()) {
          const part = BYTES.subarray(offset, offset + 6000);
          const step = { offset, complete: offset + part.length === length, bytes: part.length };
          const racers = await Promise.all([before().append(upload, step), after().append(upload, step)]);
          await Promise.all(racers.map((racer) => racer.send(part)));
          await Promise.all(racers.map((racer) => racer.end()));
          const ends = await Promise.all(racers.map(endOf));
          // Whoever comes second to the end repeats it, and may be given the same answer.
          const allowed = step.complete ? [200, 409, 'given up'] : [204, 409, 'given up'];
          expect(ends.filter((end) => !allowed.includes(end))).toEqual([]);
          expect(ends.filter((end) => end === 204).length).toBeLessThan(2);
        }
        expectWhole(own);
      });
    },
  );

  describe.each(TRANSPORTS)('over %s', (transport) => {
    const open = (): FlowClient => new FlowClient(proxy, transport, '10');

    test('a request that only waits for the origin is not ended by HEAD, GET or another append', async () => {
      const target = `/takeover/waiting/${transport}`;
      const client = open();
      let answer!: () => void;
      const after = new Promise<void>((resolve) => (answer = resolve));
      proxy.answer(target, { status: 201, headers: [], body: 'made', after });
      const made = { status: 201, lines: framed([], 'made'), body: 'made' };
      const upload = await client.place({ target, length });
      const waiting = await client.append(upload, { offset: 0, complete: true, bytes: length });
      await waiting.send(BYTES);
      await waiting.end();
      await proxy.requestFor(target);
      const heldBack = client.expected.retrieved(length - 1, { complete: false, length });
      expect(comparable(await upload.retrieve())).toEqual(heldBack);
      expect((await client.send({ method: 'GET', target: upload.target })).status).toBe(204);
      const repeated = upload.append(BYTES.subarray(-1), { offset: length - 1, complete: true });
      expect(comparable(await upload.retrieve())).toEqual(heldBack);
      answer();
      expect(comparable(await waiting.readFinal())).toEqual(client.expected.answered(made, length));
      expect(comparable(await repeated)).toEqual(client.expected.answered(made, length));
      expectWhole(target);
    });

    test('twenty HEADs in the middle of an upload are all answered, and it goes on every time', async () => {
      const target = `/takeover/twenty/${transport}`;
      const client = open();
      const upload = await client.place({ target, length });
      let offset = 0;
      for (let count = 0; count < 20; count++) {
        const stalled = await stall(client, upload, { offset, arrived: 1000 + count });
        const next = await upload.offset();
        await stalled.send(LATE);
        expect(next).toBe(offset + 1000 + count);
        await stalled.givenUp();
        offset = next;
      }
      const last = await stall(client, upload, { offset, arrived: 100 });
      const offsets = await Promise.all(Array.from({ length: 20 }, () => upload.offset()));
      expect(offsets).toEqual(Array.from({ length: 20 }, () => offset + 100));
      await last.givenUp();
      const answer = await upload.append(BYTES.subarray(offset + 100), { offset: offset + 100, complete: true });
      expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
      expectWhole(target);
    });
  });

  test('of two requests on one HTTP/2 connection only the one that stalls is ended', async () => {
    const target = '/takeover/one-connection';
    const client = new FlowClient(proxy, 'HTTP/2', '10');
    const upload = await client.place({ target, length });
    const connection = await connectH2(proxy.app.url);
    const stalled = connection.start({
      method: 'PATCH',
      target: upload.target,
      headers: appendLines(client.dialect, { offset: 0, complete: true }),
    });
    await stalled.send(BYTES.subarray(0, 3000));
    await untilSpooled(proxy.app.data, upload.url, 3000);
    const retrieved = await connection.request({ method: 'HEAD', target: upload.target });
    expect(progressOf(client.dialect, retrieved)).toMatchObject({ offset: 3000, complete: false });
    expect(await stalled.ended()).not.toBe(0);
    const headers = appendLines(client.dialect, { offset: 3000, complete: true });
    const rest = { method: 'PATCH', target: upload.target, headers, body: BYTES.subarray(3000) };
    expect((await connection.request(rest)).status).toBe(200);
    expectWhole(target);
    await connection.close();
  });
});

describe('eager deliveries', () => {
  /** What an origin says long before it has all, longer than what is shown only when it is recorded. */
  const REFUSAL = Buffer.alloc(300_000, 'no');
  const BEGUN = 200_000;

  let origin: RawOrigin;
  let harness: DeliveryHarness;
  let goOn: () => void;

  beforeEach(async () => {
    const gone = new Promise<void>((resolve) => (goOn = resolve));
    origin = await startRawOrigin(async (exchange) => {
      await exchange.write(`HTTP/1.1 413 Too Large\r\nContent-Length: ${REFUSAL.length}\r\n\r\n`);
      await exchange.write(REFUSAL.subarray(0, BEGUN));
      await gone;
      await exchange.write(REFUSAL.subarray(BEGUN));
    });
    harness = await DeliveryHarness.open(origin.url, {
      rules: { mode: 'eager', eager: { unknownLength: 'chunked', idleMs: 20_000 } },
    });
  });
  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  /** An upload of which the first bytes are there. */
  async function begun(): Promise<Upload> {
    const { id, expiresAt } = await harness.store.create(newUpload({ length: 1_000_000 }));
    const writer = await harness.spool.create(id, 'first');
    await writer.write([Buffer.from('hello')]);
    await writer.close();
    const chunk = { name: 'first', start: 0, size: 5 };
    return (await harness.store.commit(id, { token: await harness.store.nextToken(id), chunk, expiresAt })) as Upload;
  }

  /** The beginning of a refusal that is shown while it comes in. */
  async function shown(upload: Upload): Promise<EarlyAnswer> {
    const feed = harness.delivery.startEager(upload)!;
    feed.onCommitted(upload);
    await until(() => feed.answeredEarly.aborted, 'the beginning of the refusal');
    return feed.takeEarlyAnswer()!;
  }

  function bodyOf({ answer }: EarlyAnswer): Promise<Buffer> {
    return buffer(Readable.from(answer.body));
  }

  test('a refusal that is shown comes to its end although another process has cancelled the upload', async () => {
    const upload = await begun();
    const reading = bodyOf(await shown(upload));
    await harness.store.cancel(upload.id);
    goOn();
    expect((await within(reading, 'the end of the refusal')).equals(REFUSAL)).toBe(true);
  });

  test('a refusal that is shown is cut when it cannot be kept, the upload having ended otherwise', async () => {
    const upload = await begun();
    const reading = bodyOf(await shown(upload));
    await harness.store.invalidate(upload.id, await harness.store.nextToken(upload.id));
    goOn();
    await expect(within(reading, 'the end of the refusal')).rejects.toThrow(
      'the upload has continued without this answer',
    );
  });
});
