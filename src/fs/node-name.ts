import { randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import { Fault } from '../model/fault.js';
import { DirectorySync } from './directory-sync.js';
import {
  hasCode,
  isOutOfSpace,
  link,
  readText,
  removeDrafts,
  rename,
  storageFault,
  withDraft,
  writeFully,
} from './files.js';

const NAME = /^[0-9a-f]{16}$/;

/** Matches a draft of the name file that a killed process left behind. */
export const NODE_DRAFT = /^node\.[0-9a-f]{16}$/;

export function isNodeName(text: string): boolean {
  return NAME.test(text);
}

/**
 * The name of the node that this directory belongs to, created on first use. It is the same for all processes and
 * after every start.
 */
export async function nodeName(directory: string): Promise<string> {
  const path = join(directory, 'node');
  try {
    await new DirectorySync('group').makeDirectory(directory);
    const existing = await readName(path);
    const name = existing ?? (await createName(path));
    if (!isNodeName(name)) throw new Fault('RECORD_DAMAGED', `${path} does not hold the name of a node`, false);
    if (existing !== undefined) await rewriteDurably(path, existing);
    await removeDrafts(directory, NODE_DRAFT);
    return name;
  } catch (error) {
    throw storageFault(error, `the name of this node cannot be kept in ${path}`);
  }
}

/** The directory's existing name; undefined if there is none or it is not valid. */
export async function existingNodeName(directory: string): Promise<string | undefined> {
  const path = join(directory, 'node');
  try {
    const name = await readName(path);
    return name !== undefined && isNodeName(name) ? name : undefined;
  } catch (error) {
    throw storageFault(error, `the name of this node cannot be read in ${path}`);
  }
}

/** The file appears with its content or not at all, and only one of several processes creates it. */
async function createName(path: string): Promise<string> {
  const name = randomBytes(8).toString('hex');
  const draft = draftPath(path);
  try {
    return await withDraft(draft, async () => {
      await writeFully(draft, Buffer.from(name), true);
      await link(draft, path);
      await new DirectorySync('group').sync(dirname(path));
      return name;
    });
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
    return (await readName(path)) ?? '';
  }
}

/**
 * The process that made the file may have been killed before the sync, or the sync may have failed. Only a rewritten
 * file certainly survives a power cut, and under another name all uploads of this node would be lost.
 */
async function rewriteDurably(path: string, name: string): Promise<void> {
  const draft = draftPath(path);
  try {
    await withDraft(draft, async () => {
      await writeFully(draft, Buffer.from(name), true);
      await rename(draft, path);
      await new DirectorySync('group').sync(dirname(path));
    });
  } catch (error) {
    if (!isOutOfSpace(error)) throw error;
    // A full disk accepts no new file, but the old one stays.
  }
}

function draftPath(path: string): string {
  return `${path}.${randomBytes(8).toString('hex')}`;
}

async function readName(path: string): Promise<string | undefined> {
  try {
    return (await readText(path)).trim();
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}
