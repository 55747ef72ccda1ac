import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { RedisSettings } from '../../src/store/redis/errors.js';
import { CuttingProxy } from '../support/network.js';
import { type RedisServer, startRedis, startSentinels } from '../support/redis-server.js';
import { type LeaseProcess, LeaseProcesses } from '../support/redis-store.js';
import { until, within } from '../support/temporary.js';
import { commitOf, told } from './lease-holder.js';
import { newUpload } from './sample-upload.js';

const UNAVAILABLE = { code: 'STORE_UNAVAILABLE' };
/** A lease that the machine may stand still under for seconds, before it runs out. */
const OUTLASTS_STALLS_MS = 6000;
const CHILD = fileURLToPath(new URL('../support/lease-child.ts', import.meta.url));

const settingsFor = (port: number, prefix: string): RedisSettings => ({
  kind: 'single',
  nodes: [{ host: '127.0.0.1', port }],
  prefix,
});

/** Fulfilled when the process hears from Redis again. */
async function reachable({ store }: LeaseProcess, id: string): Promise<void> {
  await until(() => store.get(id).then(Boolean, () => false), 'Redis to be reached again');
}

async function unreachable({ store }: LeaseProcess, id: string): Promise<void> {
  await expect(store.get(id)).rejects.toMatchObject(UNAVAILABLE);
}

describe('leases while Redis is in trouble', () => {
  let server: RedisServer;
  let network: CuttingProxy;
  let processes: LeaseProcesses;
  /** What they are connected through may be cut; the others stay connected. */
  let cuttable: LeaseProcesses;
  let settings: RedisSettings;

  beforeEach(async () => {
    server = await startRedis({ settings: ['appendonly yes', 'appendfsync always'] });
    network = await CuttingProxy.start(server.port);
    settings = settingsFor(server.port, 'rufh');
    processes = new LeaseProcesses(() => settings);
    cuttable = new LeaseProcesses(() => settingsFor(network.port, 'rufh'));
  });

  afterEach(async () => {
    await processes.dispose();
    await cuttable.dispose();
    await network.stop();
    await server.stop();
  });

  async function held(member: LeaseProcess) {
    const { id } = await member.store.create(newUpload());
    return { id, lease: await member.leases.take(id) };
  }

  test('nothing can be taken while Redis is cut off, hangs or is gone; afterwards it can', async () => {
    const member = await cuttable.join();
    const { id } = await member.store.create(newUpload());
    const troubles: [() => unknown, () => unknown][] = [
      [() => network.cut(), () => network.restore()],
      [() => network.hang(), () => network.restore()],
      [() => server.pause(), () => server.resume()],
      [() => server.kill(), () => server.restart()],
    ];
    let last = 0;
    for (const [begin, end] of troubles) {
      await begin();
      const both = [member.leases.take(id), member.leases.take(id)];
      // Either may be the first to fail: nobody may be late to hear of it.
      await Promise.all(
        both.map((taking) => expect(within(taking, 'the failure', 10_000)).rejects.toMatchObject(UNAVAILABLE)),
      );
      await end();
      await reachable(member, id);
      const lease = await within(member.leases.take(id), 'the lease');
      expect(lease.token).toBeGreaterThan(last);
      last = lease.token;
      await lease.release();
    }
  });

  test('who waits for a holder hears it when Redis goes away', async () => {
    const [holder, waiter] = [await processes.join(), await cuttable.join({ graceMs: 600_000 })];
    const { id, lease } = await held(holder);
    const taking = waiter.leases.take(id);
    await within(told(lease), 'being asked');
    const failed = expect(within(taking, 'the failure')).rejects.toMatchObject(UNAVAILABLE);
    await network.cut();
    await failed;
    await lease.release();
  });

  test('a lease outlives a cut that is shorter than its time', async () => {
    const times = { graceMs: 600_000, leaseMs: OUTLASTS_STALLS_MS };
    const [holder, other] = [await cuttable.join(times), await processes.join()];
    const { id, lease } = await held(holder);
    const takenAt = Date.now();
    await network.cut();
    await unreachable(holder, id);
    await network.restore();
    await reachable(holder, id);
    await until(() => Date.now() - takenAt > times.leaseMs + 500, 'more than its time');
    expect(lease.signal.aborted).toBe(false);
    expect(await holder.store.commit(id, commitOf(lease, 5))).toMatchObject({ offset: 5 });
    const taking = other.leases.take(id);
    expect(await within(told(lease), 'being asked')).toBe('taken-over');
    await lease.release();
    await (await within(taking, 'the next')).release();
  });

  test('a holder is told that its lease is lost when Redis is away for longer, and others can have it', async () => {
    const graceMs = 600_000;
    const [holder, other] = [await cuttable.join({ graceMs, leaseMs: 600 }), await processes.join({ graceMs })];
    const { id, lease } = await held(holder);
    await network.cut();
    expect(await within(told(lease), 'being told')).toBe('lost');
    const next = await within(other.leases.take(id), 'the takeover');
    await network.restore();
    await reachable(holder, id);
    expect(await holder.store.commit(id, commitOf(lease, 5))).toBe('stale');
    await lease.release();
    expect(next.signal.aborted).toBe(false);
    await next.release();
  });

  test('a lease that is given back while Redis is away ends by itself', async () => {
    const times = { graceMs: 600_000, leaseMs: 600 };
    const [holder, other] = [await cuttable.join(times), await processes.join(times)];
    const { id, lease } = await held(holder);
    network.hang();
    await within(lease.release(), 'the release');
    await network.cut();
    await (await within(other.leases.take(id), 'the takeover')).release();
  });

  test('a holder goes on when Redis was restarted with what it had written', async () => {
    const [holder, other] = [await processes.join(), await processes.join()];
    const { id, lease } = await held(holder);
    await server.restart();
    await reachable(holder, id);
    await reachable(other, id);
    expect(await holder.store.commit(id, commitOf(lease, 5))).toMatchObject({ offset: 5 });
    const taking = other.leases.take(id);
    expect(await within(told(lease), 'being asked')).toBe('taken-over');
    await lease.release();
    const next = await within(taking, 'the next');
    expect(next.token).toBeGreaterThan(lease.token);
    await next.release();
  });

  test('a holder of a lease that Redis has forgotten, but not its upload, goes on', async () => {
    const [holder, other] = [await processes.join({ leaseMs: OUTLASTS_STALLS_MS }), await processes.join()];
    const { id, lease } = await held(holder);
    const [key] = (await server.cli('keys', '*:l:*')).split('\n') as [string];
    await server.cli('del', key);
    await until(async () => (await server.cli('hget', key, 'granted')) === `${lease.token}`, 'the lease to be known');
    const taking = other.leases.take(id);
    expect(await within(told(lease), 'being asked')).toBe('taken-over');
    await lease.release();
    const next = await within(taking, 'the next');
    expect(next.token).toBeGreaterThan(lease.token);
    await next.release();
  });

  test("a token that Redis has forgotten is nobody else's, so that no two write to the same file", async () => {
    const [holder, other] = [await processes.join(), await processes.join()];
    const { id, lease } = await held(holder);
    const [key, record] = (await server.cli('keys', `*:[lu]:${id}`)).split('\n').sort() as [string, string];
    await server.cli('del', key);
    await server.cli('hset', record, 'token', '0');
    const next = await within(other.leases.take(id), 'the next');
    expect(next.token).toBeGreaterThan(lease.token);
    await next.release();
    await lease.release();
  });

  test('what Redis keeps of leases goes by itself, also of those that nobody gave back', async () => {
    const [member, other] = [await processes.join(), await processes.join()];
    const { id, lease } = await held(member);
    const [key] = (await server.cli('keys', '*:l:*')).split('\n') as [string];
    const keptMs = async (): Promise<number> => Number(await server.cli('pttl', key));
    expect(await keptMs()).toBeGreaterThan(15_000);
    expect(await keptMs()).toBeLessThanOrEqual(60_000);
    await lease.release();
    expect(await keptMs()).toBeGreaterThan(0);
    expect(await keptMs()).toBeLessThanOrEqual(5000);
    await (await other.leases.take(id)).release();
    expect(await keptMs()).toBeLessThanOrEqual(5000);
  });

  test('a clock of Redis that goes back lets nobody wait for longer', async () => {
    const [dead, other] = [await processes.join(), await processes.join({ graceMs: 50 })];
    const { id } = await held(dead);
    await dead.die();
    const [key] = (await server.cli('keys', '*:l:*')).split('\n') as [string];
    const tomorrow = `${Date.now() + 86_400_000}`;
    await server.cli('hset', key, 'until', tomorrow, 'pass', tomorrow);
    await (await within(other.leases.take(id), 'the takeover')).release();
  });

  test('a holder of an upload that Redis has lost is told, and commits nothing', async () => {
    const holder = await processes.join({ leaseMs: 300 });
    const { id, lease } = await held(holder);
    await server.cli('flushall');
    expect(await holder.store.commit(id, commitOf(lease, 5))).toBe('gone');
    expect(await within(told(lease), 'being told')).toBe('lost');
    await lease.release();
    expect(await holder.store.get(id)).toBeUndefined();
  });

  test('a process that was stopped for longer than its lease changes nothing and knows it when it goes on', async () => {
    const other = await processes.join();
    const { id } = await other.store.create(newUpload());
    const args = ['--import', 'tsx', CHILD, JSON.stringify(settings), id, `${OUTLASTS_STALLS_MS}`];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], env: cleanEnvironment() });
    const said: Record<string, unknown>[] = [];
    createInterface({ input: child.stdout }).on('line', (line) => said.push(JSON.parse(line) as (typeof said)[0]));
    try {
      await until(() => said.length > 0, 'its lease', 60_000);
      child.kill('SIGSTOP');
      const lease = await within(other.leases.take(id), 'the takeover');
      expect(lease.token).toBeGreaterThan(said[0]!['token'] as number);
      expect(await other.store.commit(id, commitOf(lease, 7))).toMatchObject({ offset: 7 });
      child.kill('SIGCONT');
      await until(
        () => said.length === 3,
        () => `what it says: ${JSON.stringify(said)}`,
      );
      expect(['lost', 'taken-over']).toContain(said[1]!['told']);
      expect(said[2]).toEqual({ committed: 'stale' });
      expect(await other.store.get(id)).toMatchObject({ offset: 7 });
      expect(lease.signal.aborted).toBe(false);
      await lease.release();
    } finally {
      child.kill('SIGKILL');
    }
  });
});

test('a lease and its tokens outlive the failover of a sentinel master', async () => {
  const set = await startSentinels();
  const nodes = set.sentinels.map(({ port }) => ({ host: '127.0.0.1', port }));
  const processes = new LeaseProcesses((prefix) => ({ kind: 'sentinel', nodes, masterName: set.name, prefix }));
  try {
    // Sentinels that cannot agree try again after 6 s.
    const [holder, other] = [await processes.join({ leaseMs: 30_000 }), await processes.join()];
    const { id } = await holder.store.create(newUpload());
    await (await other.leases.take(id)).release();
    const lease = await holder.leases.take(id);
    await until(async () => (await set.servers[1]!.cli('keys', '*:l:*')) !== '', 'the replica to have it');
    await set.servers[0]!.kill();
    await until(() => holder.store.get(id).then(Boolean, () => false), 'the new master', 30_000);
    await until(() => other.store.get(id).then(Boolean, () => false), 'the new master', 30_000);
    expect(lease.signal.aborted).toBe(false);
    expect(await holder.store.commit(id, commitOf(lease, 5))).toMatchObject({ offset: 5 });
    const taking = other.leases.take(id);
    expect(await within(told(lease), 'being asked')).toBe('taken-over');
    await lease.release();
    const next = await within(taking, 'the next');
    expect(next.token).toBeGreaterThan(lease.token);
    await next.release();
  } finally {
    await processes.dispose();
    await set.stop();
  }
});

/** Without what jest needs of Node. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, NODE_OPTIONS: '' };
}
