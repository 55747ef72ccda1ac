import { getEventListeners } from 'node:events';
import { describe, expect, test } from '@jest/globals';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-store.js';
import { newRecord, SettlementWaiters } from '../../src/store/embedded/transitions.js';
import { newUpload } from '../contract/sample-upload.js';

const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;

/** What is kept of uploads. */
function linesOf(leases: EmbeddedLeases): unknown {
  return Reflect.get(Reflect.get(leases, 'lines') as object, 'last');
}

describe('leases', () => {
  test('leave neither timers nor entries behind when nobody holds or waits', async () => {
    let token = 0;
    const leases = new EmbeddedLeases({ nextToken: () => Promise.resolve(++token) }, { graceMs: 600_000 });
    const before = timers();
    const first = await leases.take('a');
    const others = ['a', 'a', 'b', 'a'].map(async (id) => (await leases.take(id)).release());
    await first.release();
    await Promise.all(others);
    expect(timers()).toBe(before);
    expect(linesOf(leases)).toEqual(new Map());
  });

  test('pass on to the next when the store cannot give a token', async () => {
    let calls = 0;
    const nextToken = (): Promise<number> =>
      ++calls === 2 ? Promise.reject(new Error('no token')) : Promise.resolve(calls);
    const leases = new EmbeddedLeases({ nextToken }, { graceMs: 600_000 });
    const first = await leases.take('a');
    const failing = leases.take('a');
    const third = leases.take('a');
    await first.release();
    await expect(failing).rejects.toThrow('no token');
    const lease = await third;
    expect(lease.token).toBe(3);
    await lease.release();
    expect(linesOf(leases)).toEqual(new Map());
  });
});

describe('those who wait for a delivery', () => {
  const upload = newRecord(newUpload()).upload;

  test('leave nothing behind, neither when they are woken, nor when they leave, nor when all is over', async () => {
    const settlement = new SettlementWaiters();
    const leaving = new AbortController();
    const staying = new AbortController();
    const outcomes = [leaving, leaving, staying, staying].map(({ signal }) => settlement.wait(upload.id, signal));
    const other = settlement.wait('another', staying.signal);
    leaving.abort(new Error('left'));
    settlement.notify(upload.id, { ...upload, phase: 'delivering' });
    settlement.notify(upload.id, { ...upload, phase: 'answered' });
    settlement.notify(upload.id, { ...upload, phase: 'cancelled' });
    const ended = await Promise.allSettled(outcomes);
    expect(ended.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled', 'fulfilled']);
    expect(await outcomes[2]).toMatchObject({ phase: 'answered' });
    settlement.failAll(new Error('over'));
    await expect(other).rejects.toThrow('over');
    for (const { signal } of [leaving, staying]) expect(getEventListeners(signal, 'abort')).toEqual([]);
    expect(Reflect.get(settlement, 'waiters')).toEqual(new Map());
  });

  test('who had left before begins no waiting', async () => {
    const settlement = new SettlementWaiters();
    await expect(settlement.wait(upload.id, AbortSignal.abort(new Error('left')))).rejects.toThrow('left');
    expect(Reflect.get(settlement, 'waiters')).toEqual(new Map());
  });
});
