import { randomBytes } from 'node:crypto';
import { link, readFile, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Fault } from '../model/fault.js';
import { DirectorySync } from './directory-sync.js';
import { writeWhole } from './files.js';
import { hasCode, storageFault } from './storage-fault.js';

const NAME = /^[0-9a-f]{16}$/;

/** The name of the node that this directory belongs to: made once, the same for all its processes and after every start. */
export async function nodeName(directory: string): Promise<string> {
  const path = join(directory, 'node');
  try {
    await new DirectorySync('group').make(directory);
    const name = (await written(path)) ?? (await make(path));
    if (!NAME.test(name)) throw new Fault('RECORD_DAMAGED', `${path} does not hold the name of a node`, false);
    return name;
  } catch (error) {
    throw storageFault(error, `the name of this node cannot be kept in ${path}`);
  }
}

/** Appears with its content or not at all, and only one of several processes makes it. */
async function make(path: string): Promise<string> {
  const name = randomBytes(8).toString('hex');
  const draft = `${path}.${name}`;
  await writeWhole(draft, Buffer.from(name), true);
  try {
    await link(draft, path);
    await new DirectorySync('group').sync(dirname(path));
    return name;
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
    return (await written(path)) ?? '';
  } finally {
    await unlink(draft);
  }
}

async function written(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'latin1')).trim();
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}
