import { expect, test } from '@jest/globals';
import { CrashCampaign } from '../support/crash-campaign.js';

const rounds = Number(process.env['CHAOS_ROUNDS'] ?? 15);
const seed = Number(process.env['CHAOS_SEED'] ?? 1);

// Issue 2, item 5. The full campaign: CHAOS_ROUNDS=100 CHAOS_SEED=n
test(
  'a proxy that is killed again and again loses no acknowledged byte, no answer, and delivers nothing wrong',
  async () => {
    const campaign = await CrashCampaign.open(seed);
    try {
      const summary = await campaign.run(rounds);
      process.stdout.write(`crash campaign, seed ${seed}: ${JSON.stringify(summary)}\n`);
      expect(summary.kills).toBeGreaterThanOrEqual(rounds);
    } finally {
      await campaign.close();
    }
  },
  60_000 + rounds * 6000,
);
