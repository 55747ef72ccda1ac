import { X509Certificate } from 'node:crypto';
import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { createSecureContext } from 'node:tls';
import { withoutTrailing } from '../model/uri.js';
import type { SettingIssue, SettingPath } from './errors.js';
import { isNull, valueType, type TextPattern } from './values.js';

/** Text that matches a pattern, or `null`. */
export function textOrNull({ pattern, allowed }: TextPattern) {
  return valueType({
    read: (found) => (isNull(found) ? null : typeof found === 'string' && pattern.test(found) ? found : undefined),
    allowed: `${allowed}, or null`,
    json: { type: ['string', 'null'], pattern: pattern.source },
    unit: 'text',
  });
}

/** A password, or `null`. Numbers are rejected, because YAML reads 007 as 7. */
export function secretOrNull({ min = 1 } = {}) {
  const length = min > 1 ? ` of at least ${min} characters` : '';
  return valueType({
    read: (found) => (isNull(found) ? null : typeof found === 'string' && found.length >= min ? found : undefined),
    allowed: `a string${length} (in quotes if it looks like a number), or null`,
    json: { type: ['string', 'null'], minLength: min },
    unit: 'secret text',
  });
}

/** A file as an absolute path, or `null`. */
export function pathOrNull() {
  return valueType({
    read: (found) => (isNull(found) ? null : typeof found === 'string' ? resolve(found) : undefined),
    allowed: 'the path of a file, or null',
    json: { type: ['string', 'null'] },
    unit: 'path',
  });
}

/** Minimum length in characters; shorter secrets can be guessed. */
export const MIN_SECRET_LENGTH = 16;

/** The secret from the setting or its file; undefined if neither is given, or the file cannot be used. */
export function resolveSecret(inline: string | null, file: string | null): string | undefined {
  if (inline !== null) return inline;
  const read = file === null ? undefined : readSecret(file);
  return read && 'secret' in read ? read.secret : undefined;
}

/** Finds errors of a secret file. `name`: the setting for the inline secret; `NAME_file` names the file. */
export function secretFileErrors(
  name: string,
  inline: string | null,
  file: string | null,
  { min = 1 } = {},
): SettingIssue[] {
  if (file === null) return [];
  const path = [`${name}_file`];
  if (inline !== null) return [{ path, problem: `cannot be combined with \`${name}\`; remove one of them` }];
  const read = readSecret(file);
  if ('problem' in read) return [{ path, problem: read.problem }];
  const isShort = read.secret.length < min;
  return isShort ? [{ path, problem: `${file} contains fewer than ${min} characters; use a longer secret` }] : [];
}

/** Warns if every user of the machine can read a secret. Unreadable files are reported elsewhere. */
export function exposedSecretWarnings(path: SettingPath, file: string | null): SettingIssue[] {
  const mode = file === null ? 0 : (statSync(file, { throwIfNoEntry: false })?.mode ?? 0);
  const problem = `${file} can be read by every user of this machine; remove that permission with chmod o-r`;
  return (mode & 0o004) === 0 ? [] : [{ path, problem }];
}

/** Reads a secret without the line break at its end, or returns why it cannot be used. */
export function readSecret(file: string): { secret: string } | { problem: string } {
  try {
    const secret = withoutTrailing(readFileSync(file, 'utf8'), '\r\n');
    return secret === '' ? { problem: `${file} is empty` } : { secret };
  } catch (error) {
    return { problem: `cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}` };
  }
}

/** Paths of PEM files, as far as they are set. */
interface TlsFiles {
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  readonly ca?: string | undefined;
}

/** Finds errors of TLS files. `path`: the group that names them. */
export function tlsFileErrors(path: SettingPath, files: TlsFiles): SettingIssue[] {
  const unreadable = (['cert', 'key', 'ca'] as const).flatMap((which) => {
    const problem = files[which] === undefined ? undefined : unreadableFile(files[which]);
    return problem === undefined ? [] : [{ path: [...path, which], problem }];
  });
  return unreadable.length > 0 ? unreadable : [...keyPairErrors(path, files), ...authorityErrors(path, files)];
}

function keyPairErrors(path: SettingPath, { cert, key }: TlsFiles): SettingIssue[] {
  if (cert === undefined && key === undefined) return [];
  if (cert === undefined) return [{ path: [...path, 'key'], problem: 'also needs a certificate: set `cert`' }];
  if (key === undefined) return [{ path: [...path, 'cert'], problem: 'also needs a private key: set `key`' }];
  const problem = errorMessageOf(() => createSecureContext({ cert: readFileSync(cert), key: readFileSync(key) }));
  return problem === undefined
    ? []
    : [{ path, problem: `the certificate and the key do not work together: ${problem}` }];
}

function authorityErrors(path: SettingPath, { ca }: TlsFiles): SettingIssue[] {
  const problem = ca === undefined ? undefined : errorMessageOf(() => new X509Certificate(readFileSync(ca)));
  return problem === undefined
    ? []
    : [{ path: [...path, 'ca'], problem: `does not contain a certificate: ${problem}` }];
}

function unreadableFile(file: string): string | undefined {
  try {
    accessSync(file, constants.R_OK);
    return undefined;
  } catch (error) {
    return `cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}`;
  }
}

function errorMessageOf(step: () => unknown): string | undefined {
  try {
    step();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
