import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe } from '@jest/globals';
import { silentLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/connection.js';
import { RedisStore } from '../../src/store/redis/redis-store.js';
import { CONTRACT_SETUPS, type RedisSetup } from '../support/redis-store.js';
import { describeStore, type StoreUnderTest } from './store-contract.js';
import { describeLastRoom } from './store-room-contract.js';
import { describeStoreModel } from './store-model-contract.js';

/** Each test has a prefix of its own; a store that is opened again has a connection of its own. */
async function makeStore(setup: RedisSetup): Promise<StoreUnderTest> {
  const settings = setup.settings(randomBytes(6).toString('hex'));
  let close = (): Promise<void> => Promise.resolve();
  const open = async (): Promise<RedisStore> => {
    const connection = await RedisConnection.open(settings, silentLog());
    const store = new RedisStore({ connection, node: '', usageLookupIntervalMs: 0 });
    close = async () => {
      await store.close();
      await connection.close();
    };
    return store;
  };
  return {
    store: await open(),
    claimsAreShared: true,
    reopen: async () => {
      await close();
      return open();
    },
    dispose: () => close(),
  };
}

describe.each(CONTRACT_SETUPS)('%s', (name, open) => {
  let setup: RedisSetup;
  beforeAll(async () => {
    setup = await open();
  });
  afterAll(() => setup.stop());

  describeStore(name, () => makeStore(setup));
  describeStoreModel(name, () => makeStore(setup), 15);
  // On a cluster, steps at the same time in different buckets do not know of each other.
  if (!name.includes('masters')) describeLastRoom(name, () => makeStore(setup));
});
