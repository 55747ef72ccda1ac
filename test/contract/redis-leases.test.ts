import { afterAll, beforeAll, describe } from '@jest/globals';
import { LeaseProcesses } from '../support/lease-processes.js';
import { CONTRACT_PLACES, type RedisPlace } from '../support/redis-places.js';
import { describeLeases } from './leases-contract.js';
import { describeSharedLeases } from './shared-leases-contract.js';

describe.each(CONTRACT_PLACES)('%s', (name, open) => {
  let place: RedisPlace;

  beforeAll(async () => {
    place = await open();
  });

  afterAll(() => place.stop());

  const makeProcesses = (): LeaseProcesses => new LeaseProcesses((prefix) => place.settings(prefix));

  describeLeases(name, async (graceMs) => {
    const processes = makeProcesses();
    const { leases, store } = await processes.join({ graceMs });
    return { leases, store, dispose: () => processes.dispose() };
  });

  describeSharedLeases(name, makeProcesses);
});
