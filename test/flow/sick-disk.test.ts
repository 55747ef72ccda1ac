import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { Gate } from '../../src/model/route.js';
import type { ChunkWriter, Spool } from '../../src/spool/spool.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { TRANSPORTS } from '../support/client.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions } from '../support/delivery-harness.js';
import { smallDisk, type SmallDisk, untilSpooled } from '../support/disk.js';
import { comparable, FlowClient } from '../support/flow-client.js';
import { type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { creationLines, progressOf, type ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { framed, startTestApp, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';
import { storedIdOf } from '../support/stored-id.js';

describe('deliveries', () => {
  type Verb = 'endAttempt' | 'postpone' | 'giveUp' | 'recordAnswer';

  const FIELDS = { code: 'STORAGE_UNAVAILABLE', retryable: true };
  let origin: RawOrigin;
  let harness: DeliveryHarness;
  let left: Record<Verb, number>;

  beforeEach(async () => {
    origin = await startRawOrigin();
    left = { endAttempt: 0, postpone: 0, giveUp: 0, recordAnswer: 0 };
  });

  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  function isVerb(name: string | symbol): name is Verb {
    return name in left;
  }

  /** A store whose disk refuses a verb as often as `left` says. */
  function sick(store: UploadStore): UploadStore {
    return new Proxy(store, {
      get: (target, name) => {
        const value = Reflect.get(target, name) as unknown;
        if (typeof value !== 'function') return value;
        return (...given: unknown[]): unknown => {
          if (!isVerb(name) || left[name] === 0) return Reflect.apply(value, target, given) as unknown;
          left[name]--;
          return Promise.reject(new Fault('STORAGE_UNAVAILABLE', 'EIO', true));
        };
      },
    });
  }

  async function open(options: DeliveryHarnessOptions = {}): Promise<void> {
    harness = await DeliveryHarness.open(origin.url, { storeSeenAs: sick, ...options });
  }

  const cases = (['endAttempt', 'postpone'] as const).flatMap((verb) => [1, 3].map((times) => ({ verb, times })));

  test.each(cases)('an origin that refused is asked again when $verb fails $times times', async ({ verb, times }) => {
    let requests = 0;
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond(++requests === 1 ? { status: 503 } : { status: 201, body: 'made' });
    });
    await open({ retry: { firstDelayMs: 1, longestDelayMs: 2 } });
    left[verb] = times;
    const { id } = await harness.whole();
    const told = await harness.answer(id).catch((fault: unknown) => fault);
    // An error that comes once is heard by nobody; of one that stays clients are told at once.
    if (times > 1) expect(told).toMatchObject(FIELDS);
    await harness.store.waitUntilSettled(id, AbortSignal.timeout(10_000));
    const answer = await harness.answer(id);
    expect((await bodyOf(answer)).toString()).toBe('made');
    expect(answer.upload.attempts).toMatchObject([{ reached: 'answered', status: 503 }, { reached: 'answered' }]);
    expect(requests).toBe(2);
  });

  test.each([1, 3])('what was never sent is never unknown, when giving up fails %i times', async (times) => {
    await open({ retry: { maxAttempts: 1, whileWaitingMs: 0, inBackgroundMs: 0, firstDelayMs: 1 } });
    await origin.close();
    left.endAttempt = left.giveUp = times;
    const { id } = await harness.whole();
    const told = await harness.result(id).catch((fault: unknown) => fault);
    if (times > 1) expect(told).toMatchObject(FIELDS);
    await harness.store.waitUntilSettled(id, AbortSignal.timeout(10_000));
    expect(await harness.upload(id)).toMatchObject({
      phase: 'undelivered',
      undelivered: { reason: 'unreachable' },
      attempts: [{ reached: 'never-sent' }],
    });
    origin = await startRawOrigin();
  });

  test('who was told of a fault of the disk was not told that the outcome is unknown', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      exchange.reset();
    });
    await open();
    left.giveUp = 3;
    const { id } = await harness.whole();
    await expect(harness.result(id)).rejects.toMatchObject(FIELDS);
    await harness.store.waitUntilSettled(id, AbortSignal.timeout(10_000));
    const { undelivered } = await harness.upload(id);
    expect(undelivered).toMatchObject({ reason: 'outcome-unknown' });
    expect(undelivered).not.toHaveProperty('clientKnows');
  });

  test.each([1, 3])("a gate's refusal is recorded, although that fails %i times", async (times) => {
    const command = ['/bin/sh', '-c', 'cat >/dev/null; echo no; exit 1'];
    const gate: Gate = { kind: 'command', command, timeoutMs: 10_000 };
    await open({ rules: { gate } });
    left.recordAnswer = times;
    const { id } = await harness.whole();
    const answer = await harness.answer(id);
    expect([answer.status, (await bodyOf(answer)).toString()]).toEqual([422, 'no\n']);
    expect(origin.exchanges).toHaveLength(0);
  });

  test.each([
    ['create', 'nowhere'],
    ['write', 'nowhere'],
    ['sync', 'nowhere'],
    ['close', 'spool'],
  ])('a long answer whose %s fails once is kept in %s, and its status in any case', async (verb, where) => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond({ status: 201, headers: [['X-Kind', 'good']], body: 'a'.repeat(5000) });
    });
    const fail = (): Promise<never> => Promise.reject(new Fault('STORAGE_UNAVAILABLE', 'EIO', true));
    const sickWriter = (writer: ChunkWriter): ChunkWriter =>
      new Proxy(writer, {
        get: (target, name) => {
          const value = Reflect.get(target, name) as unknown;
          if (typeof value !== 'function') return value;
          return name === verb
            ? fail
            : (...given: unknown[]): unknown => Reflect.apply(value, target, given) as unknown;
        },
      });
    const spool = {
      create: async (id: string, name: string) =>
        verb === 'create' ? fail() : sickWriter(await harness.spool.create(id, name)),
      read: (...given: Parameters<Spool['read']>) => harness.spool.read(...given),
      removeChunk: (id: string, name: string) => harness.spool.removeChunk(id, name),
    } as unknown as Spool;
    await open({ rules: { keepAnswerSize: 100 }, delivery: { spool } });
    const { id } = await harness.whole();
    for (let time = 0; time < 2; time++) {
      const answer = await harness.answer(id);
      expect(answer).toMatchObject({ status: 201, headers: expect.arrayContaining([['X-Kind', 'good']]) });
      const body = (await bodyOf(answer)).toString();
      if (where === 'spool') expect(body).toBe('a'.repeat(5000));
      else expect(JSON.parse(body)).toMatchObject({ status: 201 });
    }
    expect(await harness.upload(id)).toMatchObject({ phase: 'answered', answer: { body: { in: where } } });
    expect(await harness.files()).toEqual(where === 'spool' ? ['answer-1-0'] : []);
    expect(origin.exchanges).toHaveLength(1);
  });
});

describe('uploads', () => {
  let disk: SmallDisk;
  let proxy: TestProxy;

  beforeEach(async () => {
    disk = await smallDisk(16 * 1024);
    proxy = await TestProxy.open({}, (options) => startTestApp({ ...options, data: join(disk.path, 'data') }));
  });

  afterEach(async () => {
    await proxy.close();
    await disk.remove();
  });

  const BYTES = randomBytes(400_000);
  const { length } = BYTES;
  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

  function expectUnavailable(response: WireResponse): void {
    expect(response.status).toBe(503);
    expect(response.header('Content-Type')).toBe('application/problem+json');
    expect(response.header('Retry-After')).toBe('5');
    expect(response.header('Upload-Complete')).toBe('?0');
    expect(JSON.parse(response.body.toString())).toEqual({
      type: 'about:blank',
      title: 'Service Unavailable',
      status: 503,
      detail: 'The upload cannot be stored right now. What was acknowledged is kept. Try again later.',
    });
  }

  function expectWhole(target: string): void {
    const requests = proxy.requestsFor(target).map(({ size, sha256: sum }) => ({ size, sum }));
    expect(requests).toEqual([{ size: length, sum: sha256(BYTES) }]);
  }

  /** As `rm -rf` of one upload's bytes does. */
  function removeBytes(upload: ResumableUpload): Promise<void> {
    return rm(join(proxy.app.data, 'spool', idOf(upload)), { recursive: true });
  }

  function idOf({ target }: ResumableUpload): string {
    return storedIdOf(target);
  }

  describe.each(TRANSPORTS)('over %s', (transport) => {
    const open = (): FlowClient => new FlowClient(proxy, transport, '10');

    test('a directory that turns read-only is told to whoever writes, reading goes on, and so does everything afterwards', async () => {
      const target = '/trouble/read-only';
      const client = open();
      const { expected } = client;
      const upload = await client.place({ target, length });
      const first = await upload.append(BYTES.subarray(0, 100_000), { offset: 0, complete: false });
      expect(comparable(first)).toEqual(expected.appended(100_000));
      await disk.setReadOnly(true);
      expectUnavailable(await upload.append(BYTES.subarray(100_000), { offset: 100_000, complete: true }));
      expectUnavailable(await upload.cancel());
      const headers = creationLines(client.dialect, { complete: true });
      expectUnavailable(await client.send({ method: 'POST', target, headers, body: BYTES }));
      expect(comparable(await upload.retrieve())).toEqual(expected.retrieved(100_000, { complete: false, length }));
      expect((await client.send({ method: 'GET', target: '/elsewhere' })).status).toBe(200);
      await disk.setReadOnly(false);
      expect(comparable(await upload.retrieve())).toEqual(expected.retrieved(100_000, { complete: false, length }));
      const rest = await upload.append(BYTES.subarray(100_000), { offset: 100_000, complete: true });
      expect(comparable(rest)).toEqual(expected.answered(OK, length));
      expectWhole(target);
      // Its record may be written anew just now, beside the old one.
      const left = ['.store', `${idOf(upload)}.log`].sort().join();
      const files = async () => (await readdir(join(proxy.app.data, 'uploads'))).sort().join();
      let seen = '';
      await until(
        async () => (seen = await files()) === left,
        () => `only ${left} to be left, not ${seen}`,
      );
    });

    test('an upload whose acknowledged bytes vanish while more come in is given up, and the next one works', async () => {
      const target = '/trouble/vanished';
      const client = open();
      const upload = await client.place({ target, length });
      await upload.append(BYTES.subarray(0, 100_000), { offset: 0, complete: false });
      const request = await client.append(upload, { offset: 100_000, complete: true, bytes: 300_000 });
      await request.send(BYTES.subarray(100_000, 250_000));
      await untilSpooled(proxy.app.data, upload.url, 250_000);
      await removeBytes(upload);
      await request.send(BYTES.subarray(250_000));
      await request.end();
      const refused = await request.readFinal();
      expect(refused.status).toBe(410);
      expect(refused.body.toString()).toContain(
        'Stored bytes of this upload were lost or damaged, and it was given up. Begin a new one.',
      );
      expect((await upload.retrieve()).status).toBe(410);
      expect(proxy.requestsFor(target)).toEqual([]);
      const next = await client.place({ target, length });
      const answer = await next.append(BYTES, { offset: 0, complete: true });
      expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
      expectWhole(target);
    });

    test('an upload whose bytes vanish before any was acknowledged begins again from there', async () => {
      const target = '/trouble/nothing-lost';
      const client = open();
      const upload = await client.place({ target, length });
      const request = await client.append(upload, { offset: 0, complete: true, bytes: length });
      await request.send(BYTES.subarray(0, 50_000));
      await untilSpooled(proxy.app.data, upload.url, 50_000);
      await removeBytes(upload);
      await request.send(BYTES.subarray(50_000));
      await request.end();
      expectUnavailable(await request.readFinal());
      expect(progressOf(client.dialect, await upload.retrieve())).toMatchObject({ offset: 0, complete: false });
      expect(comparable(await upload.finish(BYTES))).toEqual(client.expected.answered(OK, length));
      expectWhole(target);
    });

    test('a HEAD that ends a request whose bytes have vanished is told that the upload is gone', async () => {
      const client = open();
      const upload = await client.place({ target: '/trouble/head', length });
      await upload.append(BYTES.subarray(0, 100_000), { offset: 0, complete: false });
      const request = await client.append(upload, { offset: 100_000, complete: true, bytes: 300_000 });
      await request.send(BYTES.subarray(100_000, 250_000));
      await untilSpooled(proxy.app.data, upload.url, 250_000);
      await removeBytes(upload);
      expect((await upload.retrieve()).status).toBe(410);
      expect((await request.readFinal()).status).toBe(410);
    });

    test('an upload whose bytes have vanished when it is whole never reaches the origin, and is given up', async () => {
      const target = '/trouble/before-delivery';
      const client = open();
      const upload = await client.place({ target, length });
      await upload.append(BYTES.subarray(0, length - 10), { offset: 0, complete: false });
      await removeBytes(upload);
      const refused = await upload.append(BYTES.subarray(-10), { offset: length - 10, complete: true });
      expect(refused.status).toBe(410);
      expect(progressOf(client.dialect, refused)).toMatchObject({ offset: undefined, complete: false });
      expect((await upload.retrieve()).status).toBe(410);
      expect(proxy.requestsFor(target).filter(({ ended }) => ended !== 'cut')).toEqual([]);
      expect((await client.send({ method: 'GET', target: '/elsewhere' })).status).toBe(200);
    });
  });
});
