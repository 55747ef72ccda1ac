import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSecrets } from '../../src/app/secrets.js';
import type { Config } from '../../src/config/config.js';
import { silentLog } from '../../src/observe/log.js';
import type { Closer } from '../../src/app/storage.js';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
const closers: Closer[] = [];

beforeEach(async () => (directory = await temporaryDirectory()));
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
  await directory.remove();
});

// A key that only one of them has would be unknown to the others.
test.each([
  { name: 'one node, or nodes with one directory: the file changes', isCluster: false },
  { name: 'nodes with a file each: none changes', isCluster: true },
])('a rotation of $name', async ({ isCluster }) => {
  const keysFile = join(directory.path, 'keys');
  writeFileSync(keysFile, 'the-first-of-the-keys\n');
  const config = {
    data: directory.path,
    uploads: { path: '/.uploads/' },
    secrets: { keep: true, headers: ['authorization'], keys: [], keysFile },
    ...(isCluster && { cluster: { secret: 'the-secret-of-the-nodes' } }),
  } as unknown as Config;
  const { keyFile } = await openSecrets(config, { log: silentLog(), closers });
  expect(keyFile?.path).toBe(isCluster ? undefined : keysFile);
});
