import { readFileSync, statSync } from 'node:fs';
import { withoutEnd } from '../model/without-end.js';
import type { Contradiction, SettingPath } from './mistake.js';

/** A shorter one can be guessed. */
export const SHORTEST_SECRET = 16;

/** The secret as it is written, or in its file; undefined when neither is given, or the file is of no use. */
export function secretOf(written: string | null, file: string | null): string | undefined {
  if (written !== null) return written;
  const read = file === null ? undefined : readSecret(file);
  return read && 'secret' in read ? read.secret : undefined;
}

/** What stands in the way of using a secret. `name`: the setting; its file is the one of that name with `_file`. */
export function unusableSecret(
  name: string,
  written: string | null,
  file: string | null,
  { least = 1 } = {},
): Contradiction[] {
  if (file === null) return [];
  const path = [`${name}_file`];
  if (written !== null) return [{ path, problem: `cannot be used together with \`${name}\`; leave one of them out` }];
  const read = readSecret(file);
  if ('problem' in read) return [{ path, problem: read.problem }];
  const isShort = read.secret.length < least;
  return isShort ? [{ path, problem: `${file} holds fewer than ${least} letters; make the secret longer` }] : [];
}

/** Says when every user of the machine could read a secret. A file that cannot be looked at is told elsewhere. */
export function exposedSecret(path: SettingPath, file: string | null): Contradiction[] {
  const mode = file === null ? 0 : (statSync(file, { throwIfNoEntry: false })?.mode ?? 0);
  const problem = `${file} can be read by every user of this machine; take that right away with chmod o-r`;
  return (mode & 0o004) === 0 ? [] : [{ path, problem }];
}

/** What a file holds without the line break at its end, or why that is nothing. */
export function readSecret(file: string): { secret: string } | { problem: string } {
  try {
    const secret = withoutEnd(readFileSync(file, 'utf8'), '\r\n');
    return secret === '' ? { problem: `${file} is empty` } : { secret };
  } catch (error) {
    return { problem: `cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}` };
  }
}
