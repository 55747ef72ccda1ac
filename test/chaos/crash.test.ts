import { expect, test } from '@jest/globals';
import { CrashCampaign } from '../support/crash-campaign.js';
import { rounds, seed } from '../support/thoroughness.js';

const kills = rounds(5, 60);

// Issue 2, item 5. Another round: CHAOS_ROUNDS=100 CHAOS_SEED=n
test(
  'a proxy that is killed again and again loses no acknowledged byte, no answer, and delivers nothing wrong',
  async () => {
    const campaign = await CrashCampaign.open(seed);
    try {
      process.stdout.write(`crash campaign, seed ${seed}\n`);
      const summary = await campaign.run(kills);
      process.stdout.write(`crash campaign: ${JSON.stringify(summary)}\n`);
      expect(summary.kills).toBeGreaterThanOrEqual(kills);
    } finally {
      await campaign.close();
    }
  },
  60_000 + kills * 6000,
);
