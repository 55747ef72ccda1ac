import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { Lease } from '../../src/store/leases.js';
import { CuttingProxy } from '../support/network.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import { type LeaseProcess, LeaseProcesses } from '../support/redis-store.js';
import { seededRandom, until, within } from '../support/temporary.js';
import { commitOf } from './lease-holder.js';
import { newUpload } from './sample-upload.js';

const TIMES = { graceMs: 200, leaseMs: 600 };
const WRITERS = 6;
const TURNS = 30;

interface Site {
  readonly network: CuttingProxy;
  readonly processes: LeaseProcesses;
  readonly member: LeaseProcess;
}

let server: RedisServer;
let sites: Site[];

beforeEach(async () => {
  server = await startRedis();
  sites = [];
  for (let count = 0; count < 3; count++) sites.push(await makeSite(server.port));
});

afterEach(async () => {
  for (const { processes, network } of sites) {
    await processes.dispose();
    await network.stop();
  }
  await server.stop();
});

async function makeSite(port: number): Promise<Site> {
  const network = await CuttingProxy.start(port);
  const nodes = [{ host: '127.0.0.1', port: network.port }];
  const processes = new LeaseProcesses(() => ({ kind: 'single', nodes, prefix: 'rufh' }));
  return { network, processes, member: await processes.join(TIMES) };
}

/** What became of the bytes that were sent, one a commit. */
class Tally {
  committed = 0;
  /** Asked again, because the first answer was lost, and overtaken meanwhile. */
  unsure = 0;
}

/** Nothing, where Redis cannot be reached; everything else that fails is a fault of ours. */
async function reached<T>(step: Promise<T>): Promise<T | undefined> {
  try {
    return await step;
  } catch (fault) {
    if (fault instanceof Fault && fault.code === 'STORE_UNAVAILABLE') return undefined;
    throw fault;
  }
}

async function commitOne({ store }: LeaseProcess, id: string, lease: Lease, tally: Tally): Promise<void> {
  const upload = await reached(store.get(id));
  if (!upload) return;
  for (let tries = 1; tries <= 4; tries++) {
    const result = await reached(store.commit(id, commitOf(lease, 1, upload.offset)));
    if (result === 'stale' && tries > 1) tally.unsure += 1;
    if (typeof result === 'object') tally.committed += 1;
    if (result !== undefined) return;
  }
  tally.unsure += 1;
}

test.each([1, 2, 3])(
  'whatever is cut off and when, no byte is counted twice and no lease is stuck (seed %i)',
  async (seed) => {
    const random = seededRandom(seed);
    const among = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
    const ids = await Promise.all([1, 2, 3].map(async () => (await sites[0]!.member.store.create(newUpload())).id));
    const tallies = new Map(ids.map((id) => [id, new Tally()]));

    async function trouble(): Promise<void> {
      const { network } = among(sites);
      const kind = random();
      if (kind < 0.25) await network.cut();
      else if (kind < 0.5) network.hang();
      else await network.restore();
    }

    async function writer(): Promise<void> {
      for (let turn = 0; turn < TURNS; turn++) {
        const [{ member }, id] = [among(sites), among(ids)];
        const lease = await within(reached(member.leases.take(id)), 'a lease or the news that Redis is away', 20_000);
        if (lease) await commitOne(member, id, lease, tallies.get(id)!);
        if (random() < 0.9) await lease?.release();
        if (random() < 0.15) await trouble();
      }
    }

    await Promise.all(Array.from({ length: WRITERS }, writer));
    await Promise.all(sites.map(({ network }) => network.restore()));
    for (const { member } of sites) await until(() => reached(member.store.get(ids[0]!)), 'Redis to be reached');
    for (const id of ids) {
      const { committed, unsure } = tallies.get(id)!;
      for (const { member } of sites) await (await within(member.leases.take(id), 'the lease')).release();
      const { offset } = (await sites[0]!.member.store.get(id))!;
      const sizes = (await sites[0]!.member.store.chunks(id)).map(({ size }) => size);
      expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(offset);
      expect(offset).toBeGreaterThanOrEqual(committed);
      expect(offset).toBeLessThanOrEqual(committed + unsure);
      const last = await within(sites[0]!.member.leases.take(id), 'the lease');
      expect(await sites[0]!.member.store.commit(id, commitOf(last, 1, offset))).toMatchObject({ offset: offset + 1 });
      await last.release();
    }
  },
);
