import { appendFile, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { silentLog } from '../../src/observe/log.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { seededRandom, temporaryDirectory } from '../support/temporary.js';
import { describeLeases } from './leases-contract.js';
import { describeStore, type StoreUnderTest } from './store-contract.js';
import { describeLastRoom } from './store-room-contract.js';
import { describeStoreModel } from './store-model-contract.js';

type Crash = (directory: string) => Promise<void>;

async function makeStore(
  sync: 'always' | 'group' | 'none',
  { crash, maxCachedBytes }: { readonly crash?: Crash; readonly maxCachedBytes?: number } = {},
): Promise<StoreUnderTest & { store: EmbeddedStore }> {
  const directory = await temporaryDirectory();
  const open = (): Promise<EmbeddedStore> =>
    EmbeddedStore.open({ directory: directory.path, sync, log: silentLog(), maxCachedBytes });
  let store = await open();
  return {
    store,
    claimsAreShared: false,
    reopen: async () => {
      await store.close();
      await crash?.(join(directory.path, 'uploads'));
      store = await open();
      return store;
    },
    dispose: async () => {
      await store.close();
      await directory.remove();
    },
  };
}

/** Leaves behind what a process leaves that is killed in the middle of a write: part of one more line. */
function tearLastLines(): Crash {
  const random = seededRandom(7);
  return async (directory) => {
    for (const name of await readdir(directory)) {
      if (!name.endsWith('.log')) continue;
      const lines = (await readFile(join(directory, name), 'utf8')).split('\n');
      const torn = lines.at(-2)!;
      await appendFile(join(directory, name), torn.slice(0, Math.floor(random() * torn.length)));
    }
  };
}

describeStore('embedded, sync: group', () => makeStore('group'));
describeStore('embedded, sync: none', () => makeStore('none'));
describeLastRoom('embedded', () => makeStore('none'));
describeStore('embedded, records are always read again', () => makeStore('none', { maxCachedBytes: 0 }));
describeStoreModel('embedded, last lines torn', () => makeStore('none', { crash: tearLastLines() }));
describeStoreModel('embedded, records are always read again', () => makeStore('group', { maxCachedBytes: 0 }));
describeLeases('embedded', async (graceMs) => {
  const { store, dispose } = await makeStore('none');
  return { store, leases: new EmbeddedLeases(store, { graceMs }), dispose };
});
