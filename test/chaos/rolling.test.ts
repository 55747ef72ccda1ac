import { expect, test } from '@jest/globals';
import { SPOOLS } from '../support/nodes.js';
import { rollingRestart } from '../support/rolling-restart.js';

const MEBIBYTE = 1024 * 1024;

// Issue 4, item 4. The full numbers: npm run bench -- rolling
test.each(SPOOLS)(
  'all nodes are restarted one by one: no slow upload ends or starts again from zero (%s spool)',
  async (bytes) => {
    const uploads = 8;
    const { figures, atOrigin, expected } = await rollingRestart({
      nodes: 3,
      bytes,
      uploads,
      size: 3 * MEBIBYTE,
      bytesPerSecond: 300 * 1024,
    });
    expect(figures.creations).toBe(uploads);
    expect(figures.resumptions).toBeGreaterThan(0);
    expect([...atOrigin].sort()).toEqual([...expected].sort());
    // Only what was under way when a connection ended is sent again.
    expect(figures.sentBytes).toBeLessThan(2 * figures.uploadedBytes);
  },
  180_000,
);
