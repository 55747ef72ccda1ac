import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { assertUsable } from '../../src/spool/data-directory.js';
import { newId } from '../contract/sample-upload.js';
import { temporaryDirectory } from '../support/temporary.js';

test.each([
  ['picture.jpg', false],
  ['0b5dcb1e-5f0c-4a0f-9b0e-9df0c3c0aa11.jpg', false],
  [`${newId()}.jpg`, false],
  [`${newId()}.log`, true],
  [`${newId()}.answer`, true],
])('a directory of an application with uploads/%s and spool/ is taken for ours: %s', async (name, isOurs) => {
  const directory = await temporaryDirectory();
  for (const half of ['uploads', 'spool']) await mkdir(join(directory.path, half), { mode: 0o700 });
  await writeFile(join(directory.path, 'uploads', name), '');
  const use = assertUsable({ directory: directory.path, store: 'embedded', shared: false });
  if (isOurs) await expect(use).resolves.toMatchObject({ records: 'filled' });
  else await expect(use).rejects.toMatchObject({ message: expect.stringContaining('is not empty') });
  await directory.remove();
});
