import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { bodyOf, DeliveryRoom, type RoomOptions } from '../support/delivery-room.js';
import { startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { until } from '../support/temporary.js';

const DAY = 86_400_000;
const steps = [-DAY, -20_000, 20_000, DAY];

let origin: RawOrigin;
let room: DeliveryRoom;

beforeEach(async () => {
  origin = await startRawOrigin();
});

afterEach(async () => {
  await room.close();
  await origin.close();
});

async function open(options: RoomOptions = {}): Promise<void> {
  room = await DeliveryRoom.open(origin.url, options);
}

/** The origin refuses so many requests, then takes them; none before it is let go. */
function refuseFirst(
  count: number,
  headers: readonly (readonly [string, string])[] = [],
  letGo: Promise<void> = Promise.resolve(),
): void {
  let left = count;
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    await letGo;
    await exchange.respond(left-- > 0 ? { status: 503, headers } : { status: 200, body: 'ok' });
  });
}

async function expectSoundAttempts(id: string): Promise<void> {
  const { attempts } = await room.upload(id);
  for (const { startedAt, endedAt = NaN } of attempts) {
    expect(endedAt - startedAt).toBeGreaterThanOrEqual(0);
    expect(endedAt - startedAt).toBeLessThan(10_000);
  }
}

describe.each(steps)('the clock is set by %d ms', (ms) => {
  test('while a delivery waits for its next attempt: it goes on when that is due', async () => {
    refuseFirst(2);
    await open({ retry: { firstDelayMs: 100, longestDelayMs: 200, inBackgroundMs: 5000 } });
    const { id } = await room.whole();
    const waiting = room.answer(id);
    await until(async () => (await room.upload(id)).dueAt !== undefined, 'the first pause');
    room.aheadMs = ms;
    expect((await bodyOf(await waiting)).toString()).toBe('ok');
    expect(origin.exchanges).toHaveLength(3);
    await expectSoundAttempts(id);
  });

  test('while the origin works: what it refuses is tried again as if nothing had been', async () => {
    let release = (): void => undefined;
    refuseFirst(1, [], new Promise((resolve) => (release = resolve)));
    await open();
    const { id } = await room.whole();
    const waiting = room.answer(id);
    await origin.exchange(0);
    room.aheadMs = ms;
    release();
    expect((await bodyOf(await waiting)).toString()).toBe('ok');
    await expectSoundAttempts(id);
  });

  test('while an origin is left alone: the pause is over when it is', async () => {
    refuseFirst(1);
    await open({ rules: { breaker: { failures: 1, pauseMs: 200 } } });
    const first = await room.whole();
    const waiting = room.answer(first.id);
    await until(() => room.lines.some(({ msg }) => String(msg).includes('failed repeatedly')), 'the breaker to open');
    room.aheadMs = ms;
    const second = await room.whole();
    expect((await bodyOf(await room.answer(second.id))).toString()).toBe('ok');
    expect((await bodyOf(await waiting)).toString()).toBe('ok');
  });

  test('while a client waits: it is told to come again after the time that is left', async () => {
    refuseFirst(1, [['Retry-After', '100']]);
    await open({ retry: { inBackgroundMs: 200_000 } });
    const { id } = await room.whole();
    expect(await room.result(id)).toMatchObject({ kind: 'pending' });
    room.aheadMs = ms;
    const again = await room.result(id);
    if (again.kind !== 'pending') throw new Error(again.kind);
    expect(again.retryAfterSeconds).toBeGreaterThan(50);
    expect(again.retryAfterSeconds).toBeLessThanOrEqual(100);
  });
});

test.each([20_000, DAY])(
  'a clock is set back by %d ms: what is due late by it is taken up after a restart',
  async (ms) => {
    refuseFirst(1);
    await open({ retry: { firstDelayMs: 12_000, longestDelayMs: 12_000, inBackgroundMs: 600_000 } });
    const { id } = await room.whole();
    room.aheadMs = ms;
    const leaving = new AbortController();
    room.result(id, { to: leaving.signal }).catch(() => undefined);
    await until(async () => (await room.upload(id)).dueAt !== undefined, 'the pause');
    leaving.abort(new Error('the client left'));
    room.aheadMs = 0;
    await room.restart();
    room.delivery.start();
    await until(async () => (await room.upload(id)).phase === 'answered', 'the delivery to be taken up');
  },
);

test('one that is due late because its origin said so is left alone by a restart', async () => {
  refuseFirst(1, [['Retry-After', '100']]);
  await open({ retry: { inBackgroundMs: 200_000 } });
  const { id } = await room.whole();
  expect(await room.result(id)).toMatchObject({ kind: 'pending' });
  await room.restart();
  room.delivery.start();
  const other = await room.whole();
  await until(async () => (await room.upload(other.id)).phase === 'answered', 'another one to be taken up');
  expect((await room.upload(id)).attemptCount).toBe(1);
});
