import { LocalSpool } from '../../src/spool/local-spool.js';
import { temporaryDirectory } from '../support/temporary.js';
import { describeSpool } from './spool-contract.js';

for (const sync of ['group', 'none'] as const) {
  describeSpool(`local files, sync: ${sync}`, async () => {
    const directory = await temporaryDirectory();
    const spool = new LocalSpool({ directory: directory.path, sync });
    await spool.open();
    return { spool, dispose: () => directory.remove() };
  });
}
