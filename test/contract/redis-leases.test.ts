import { afterAll, beforeAll, describe } from '@jest/globals';
import { CONTRACT_SETUPS, LeaseProcesses, type RedisSetup } from '../support/redis-store.js';
import { describeLeases } from './leases-contract.js';
import { describeSharedLeases } from './shared-leases-contract.js';

describe.each(CONTRACT_SETUPS)('%s', (name, open) => {
  let setup: RedisSetup;

  beforeAll(async () => {
    setup = await open();
  });

  afterAll(() => setup.stop());

  const makeProcesses = (): LeaseProcesses => new LeaseProcesses((prefix) => setup.settings(prefix));

  describeLeases(name, async (graceMs) => {
    const processes = makeProcesses();
    const { leases, store } = await processes.join({ graceMs });
    return { leases, store, dispose: () => processes.dispose() };
  });

  describeSharedLeases(name, makeProcesses);
});
