import { lstat, readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256 } from './temporary.js';

/** Those that running processes touch by themselves. */
const SIGNS_OF_LIFE = new Set(['lock', 'spool/.in-use']);

/** Every name below a directory with its kind, rights, owner, times and content: equal pictures, unchanged directory. */
export async function pictureOf(path: string): Promise<Record<string, string>> {
  const lines: Record<string, string> = {};
  await note(path, '.', lines);
  return lines;
}

async function note(path: string, name: string, lines: Record<string, string>): Promise<void> {
  const found = await lstat(path);
  const changedAt = SIGNS_OF_LIFE.has(name) ? 0 : found.mtimeMs;
  const about = [found.mode.toString(8), found.uid, found.ino, changedAt].join(' ');
  if (found.isSymbolicLink()) lines[name] = `${about} -> ${await readlink(path)}`;
  else if (found.isFile()) lines[name] = `${about} ${sha256(await readFile(path))}`;
  else lines[name] = about;
  if (!found.isDirectory()) return;
  for (const entry of await readdir(path)) await note(join(path, entry), join(name, entry), lines);
}
