import { X509Certificate } from 'node:crypto';
import { accessSync, constants, readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { Contradiction, SettingPath } from './mistake.js';

/** Paths of PEM files, each where the settings have it. */
interface TlsFiles {
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  readonly ca?: string | undefined;
}

/** What stands in the way of using these files. `path`: the group that names them. */
export function unusableTls(path: SettingPath, files: TlsFiles): Contradiction[] {
  const unreadable = (['cert', 'key', 'ca'] as const).flatMap((which) => {
    const problem = files[which] === undefined ? undefined : unreadableFile(files[which]);
    return problem === undefined ? [] : [{ path: [...path, which], problem }];
  });
  return unreadable.length > 0 ? unreadable : [...unusablePair(path, files), ...unusableAuthority(path, files)];
}

function unusablePair(path: SettingPath, { cert, key }: TlsFiles): Contradiction[] {
  if (cert === undefined && key === undefined) return [];
  if (cert === undefined) return [{ path: [...path, 'key'], problem: 'needs its certificate as well: `cert`' }];
  if (key === undefined) return [{ path: [...path, 'cert'], problem: 'needs its private key as well: `key`' }];
  const why = failureOf(() => createSecureContext({ cert: readFileSync(cert), key: readFileSync(key) }));
  return why === undefined ? [] : [{ path, problem: `certificate and key cannot be used together: ${why}` }];
}

function unusableAuthority(path: SettingPath, { ca }: TlsFiles): Contradiction[] {
  const why = ca === undefined ? undefined : failureOf(() => new X509Certificate(readFileSync(ca)));
  return why === undefined ? [] : [{ path: [...path, 'ca'], problem: `holds no certificate: ${why}` }];
}

function unreadableFile(file: string): string | undefined {
  try {
    accessSync(file, constants.R_OK);
    return undefined;
  } catch (error) {
    return `cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}`;
  }
}

function failureOf(step: () => unknown): string | undefined {
  try {
    step();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
