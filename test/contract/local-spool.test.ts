import { open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { temporaryDirectory } from '../support/temporary.js';
import { describeCheckedChunks } from './checked-chunks-contract.js';
import { describeSpool } from './spool-contract.js';

for (const sync of ['group', 'none'] as const) {
  describeSpool(`local files, sync: ${sync}`, async () => {
    const directory = await temporaryDirectory();
    const spool = new LocalSpool({ directory: directory.path, sync });
    await spool.open();
    return { spool, dispose: () => directory.remove() };
  });
}

describeCheckedChunks('local files', async () => {
  const directory = await temporaryDirectory();
  const spool = new LocalSpool({ directory: directory.path, sync: 'none' });
  await spool.open();
  const pathOf = (id: string, name: string): string => join(directory.path, 'spool', id, name);
  return {
    spool,
    flip: async (id, name, at) => {
      const file = await open(pathOf(id, name), 'r+');
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
      await file.write(Buffer.of(buffer[0]! ^ 1), 0, 1, at);
      await file.close();
    },
    storedSize: async (id, name) => (await stat(pathOf(id, name))).size,
    dispose: () => directory.remove(),
  };
});
