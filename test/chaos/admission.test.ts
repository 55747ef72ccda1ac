import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { AdmissionCampaign, gaugeOf } from '../support/admission-campaign.js';
import { requestOnce } from '../support/client.js';
import { smallDisk } from '../support/disk.js';
import { openNodes } from '../support/nodes.js';
import { startProxy } from '../support/proxy-process.js';
import { until } from '../support/temporary.js';
import { startTestOrigin } from '../support/test-origin.js';
import { rounds, seed } from '../support/thoroughness.js';

const uploads = rounds(30, 200);
const MAX_BYTES = 200_000;
const QUOTA = 600_000;

/** What clients leave behind is gone after this time. */
const AGES = 'max_age: 3s, max_idle_empty: 2s, uploads: { rate: null, per_client: 50 }';

const CONFIG = `
limits: { ${AGES} }
spool: { max_bytes: ${QUOTA}, keep_free: 0B }
delivery: { keep_answer: 1s }
`;

/** Nodes have settings of the spool already. */
const NODES_CONFIG = `
limits: { ${AGES.replace('max_age: 3s', 'max_age: 10s')}, max_spooled: ${QUOTA} }
delivery: { keep_answer: 1s }
`;

const LIMIT_MS = 60_000 + uploads * 1000;

async function lengthIsAdmitted(url: string, length: number): Promise<number> {
  const headers = [['Upload-Complete', '?0'] as const, ['Upload-Length', `${length}`] as const];
  return (await requestOnce(url, { method: 'POST', target: '/last', headers, body: '' })).status;
}

// Issue 12, admission. Another round: CHAOS_ROUNDS=200 CHAOS_SEED=n
test(
  'whatever befalls uploads, their clients and the disk, in the end nothing is reserved',
  async () => {
    process.stdout.write(`admission campaign, seed ${seed}\n`);
    const origin = await startTestOrigin();
    const disk = await smallDisk(4096);
    let proxy = await startProxy({ origin: origin.url, config: CONFIG, data: join(disk.path, 'data') });
    const strike = async (random: () => number): Promise<void> => {
      if (random() < 0.6) {
        await disk.fill(Math.floor(random() * 100_000));
        await new Promise((resolve) => setTimeout(resolve, 100));
        await disk.makeRoom();
      } else proxy = await proxy.restart();
    };
    try {
      const campaign = new AdmissionCampaign(
        { url: () => proxy.url, everyMs: 300, strike },
        { seed, uploads, maxBytes: MAX_BYTES },
      );
      process.stdout.write(`admission campaign: ${JSON.stringify(await campaign.run())}\n`);
      const gauge = (name: string): Promise<number> => gaugeOf(proxy.adminUrl, name);
      await until(async () => (await gauge('rufh_spool_bytes')) === 0, 'the spool to be empty', 30_000);
      await until(async () => (await gauge('rufh_spool_reserved_bytes')) === 0, 'nothing to be reserved');
      expect(await lengthIsAdmitted(proxy.url, QUOTA)).toBe(201);
      expect(await lengthIsAdmitted(proxy.url, 1)).toBe(507);
    } finally {
      await proxy.stop();
      await disk.remove();
      await origin.close();
    }
  },
  LIMIT_MS,
);

test(
  'the same on two nodes that are killed in turn',
  async () => {
    const opened = await openNodes({ nodes: 2, bytes: 'node-local', config: NODES_CONFIG });
    const { nodes, proxy } = opened;
    const strike = async (random: () => number): Promise<void> => nodes.restart(Math.floor(random() * 2));
    try {
      const campaign = new AdmissionCampaign(
        { url: (random) => nodes.urlOf(Math.floor(random() * 2)), everyMs: 5000, strike },
        { seed, uploads, maxBytes: MAX_BYTES },
      );
      process.stdout.write(`admission campaign on two nodes: ${JSON.stringify(await campaign.run())}\n`);
      const usage = (): Promise<string> => nodes.redis.cli('hgetall', '{rufh:0}:usage');
      await until(async () => (await usage()).trim() === '', 'nothing to be counted', 60_000);
      expect(await nodes.redis.cli('hget', '{rufh:0}:totals', 'reserved')).toMatch(/^\s*$/);
      expect(await lengthIsAdmitted(nodes.urlOf(0), QUOTA)).toBe(201);
      expect(await lengthIsAdmitted(nodes.urlOf(1), 1)).toBe(507);
    } finally {
      await proxy.close();
    }
  },
  LIMIT_MS,
);
