import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { Gate } from '../../src/model/route.js';
import type { ChunkWriter, Spool } from '../../src/spool/spool.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { bodyOf, DeliveryRoom, type RoomOptions } from '../support/delivery-room.js';
import { startRawOrigin, type RawOrigin } from '../support/raw-origin.js';

type Verb = 'endAttempt' | 'postpone' | 'giveUp' | 'recordAnswer';

const FIELDS = { code: 'STORAGE_UNAVAILABLE', retryable: true };
let origin: RawOrigin;
let room: DeliveryRoom;
let left: Record<Verb, number>;

beforeEach(async () => {
  origin = await startRawOrigin();
  left = { endAttempt: 0, postpone: 0, giveUp: 0, recordAnswer: 0 };
});

afterEach(async () => {
  await room.close();
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

async function open(options: RoomOptions = {}): Promise<void> {
  room = await DeliveryRoom.open(origin.url, { storeSeenAs: sick, ...options });
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
  const { id } = await room.whole();
  const told = await room.answer(id).catch((fault: unknown) => fault);
  // An error that comes once is heard by nobody; of one that stays clients are told at once.
  if (times > 1) expect(told).toMatchObject(FIELDS);
  await room.store.waitUntilSettled(id, AbortSignal.timeout(10_000));
  const answer = await room.answer(id);
  expect((await bodyOf(answer)).toString()).toBe('made');
  expect(answer.upload.attempts).toMatchObject([{ reached: 'answered', status: 503 }, { reached: 'answered' }]);
  expect(requests).toBe(2);
});

test.each([1, 3])('what was never sent is never unknown, when giving up fails %i times', async (times) => {
  await open({ retry: { maxAttempts: 1, whileWaitingMs: 0, inBackgroundMs: 0, firstDelayMs: 1 } });
  await origin.close();
  left.endAttempt = left.giveUp = times;
  const { id } = await room.whole();
  const told = await room.result(id).catch((fault: unknown) => fault);
  if (times > 1) expect(told).toMatchObject(FIELDS);
  await room.store.waitUntilSettled(id, AbortSignal.timeout(10_000));
  expect(await room.upload(id)).toMatchObject({
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
  const { id } = await room.whole();
  await expect(room.result(id)).rejects.toMatchObject(FIELDS);
  await room.store.waitUntilSettled(id, AbortSignal.timeout(10_000));
  const { undelivered } = await room.upload(id);
  expect(undelivered).toMatchObject({ reason: 'outcome-unknown' });
  expect(undelivered).not.toHaveProperty('clientKnows');
});

test.each([1, 3])("a gate's refusal is recorded, although that fails %i times", async (times) => {
  const command = ['/bin/sh', '-c', 'cat >/dev/null; echo no; exit 1'];
  const gate: Gate = { kind: 'command', command, timeoutMs: 10_000 };
  await open({ rules: { gate } });
  left.recordAnswer = times;
  const { id } = await room.whole();
  const answer = await room.answer(id);
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
        return name === verb ? fail : (...given: unknown[]): unknown => Reflect.apply(value, target, given) as unknown;
      },
    });
  const spool = {
    create: async (id: string, name: string) =>
      verb === 'create' ? fail() : sickWriter(await room.spool.create(id, name)),
    read: (...given: Parameters<Spool['read']>) => room.spool.read(...given),
    removeChunk: (id: string, name: string) => room.spool.removeChunk(id, name),
  } as unknown as Spool;
  await open({ rules: { keepAnswerSize: 100 }, delivery: { spool } });
  const { id } = await room.whole();
  for (let time = 0; time < 2; time++) {
    const answer = await room.answer(id);
    expect(answer).toMatchObject({ status: 201, headers: expect.arrayContaining([['X-Kind', 'good']]) });
    const body = (await bodyOf(answer)).toString();
    if (where === 'spool') expect(body).toBe('a'.repeat(5000));
    else expect(JSON.parse(body)).toMatchObject({ status: 201 });
  }
  expect(await room.upload(id)).toMatchObject({ phase: 'answered', answer: { body: { in: where } } });
  expect(await room.files()).toEqual(where === 'spool' ? ['answer-1-0'] : []);
  expect(origin.exchanges).toHaveLength(1);
});
