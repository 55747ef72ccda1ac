import { expect, test } from '@jest/globals';
import { SPOOLS } from '../support/nodes.js';
import { NodesCampaign } from '../support/nodes-campaign.js';
import { rounds, seed } from '../support/thoroughness.js';

const count = rounds(4, 30);

// Issue 4, item 3. Another round: CHAOS_ROUNDS=200 CHAOS_SEED=n
test.each(SPOOLS)(
  'nodes, Redis and networks that break again and again lose no acknowledged byte, no answer, and deliver nothing wrong (%s spool)',
  async (spool) => {
    const campaign = await NodesCampaign.open({ seed, spool, hasLongOnes: count > 50 });
    try {
      process.stdout.write(`nodes campaign, ${spool} spool, seed ${seed}\n`);
      const summary = await campaign.run(count);
      process.stdout.write(`nodes campaign, ${spool} spool: ${JSON.stringify(summary)}\n`);
      expect(summary.uploads).toBeGreaterThan(20);
    } finally {
      await campaign.close();
    }
  },
  240_000 + count * 20_000,
);
