import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from '@jest/globals';
import { temporaryDirectory } from '../support/temporary.js';

test('systemd finds nothing wrong with the unit', async () => {
  const directory = await temporaryDirectory('rufh-systemd-');
  const file = join(directory.path, 'rufh-proxy.service');
  const unit = await readFile('deploy/systemd/rufh-proxy.service', 'utf8');
  await writeFile(file, unit.replaceAll('/usr/local/bin/rufh-proxy', resolve('bin/rufh-proxy.js')));
  const { stdout, stderr } = await promisify(execFile)('systemd-analyze', ['verify', file]);
  expect([stdout, stderr]).toEqual(['', '']);
  await directory.remove();
});
