import { readFileSync } from 'node:fs';

/** What a file with a password or key to sign with holds, without the line break at its end; or why that is nothing. */
export function readSecret(file: string): { secret: string } | { problem: string } {
  try {
    const secret = readFileSync(file, 'utf8').replace(/[\r\n]+$/, '');
    return secret === '' ? { problem: `${file} is empty` } : { secret };
  } catch (error) {
    return { problem: `cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}` };
  }
}

/** The secret as it is written, or in its file; undefined when neither is given, or the file is of no use. */
export function secretOf(written: string | null, file: string | null): string | undefined {
  if (written !== null) return written;
  const read = file === null ? undefined : readSecret(file);
  return read && 'secret' in read ? read.secret : undefined;
}
