import { expect, test } from '@jest/globals';
import { DeliveryCampaign } from '../support/delivery-campaign.js';
import { rounds, seed } from '../support/thoroughness.js';

const count = rounds(8, 80);

// Issue 3, item 2. Another round: CHAOS_ROUNDS=200 CHAOS_SEED=n
test(
  'a proxy that is killed at every boundary of a delivery sends nothing twice that may not be, and every client gets the one answer',
  async () => {
    const campaign = await DeliveryCampaign.open(seed);
    try {
      process.stdout.write(`delivery campaign, seed ${seed}\n`);
      for (let round = 0; round < count; round++) await campaign.round(round);
      const { kills, answered, broken } = campaign;
      process.stdout.write(`delivery campaign: ${JSON.stringify({ kills, answered })}\n`);
      expect(broken).toEqual([]);
      expect(answered).toBeGreaterThan(count);
    } finally {
      await campaign.close();
    }
  },
  60_000 + count * 6000,
);
