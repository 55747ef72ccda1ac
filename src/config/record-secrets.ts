import { readFileSync } from 'node:fs';
import type { SettingIssue } from './errors.js';
import type { Settings } from './schema.js';
import { MIN_SECRET_LENGTH } from './secrets.js';

/** How records keep the credentials of uploads. */
export interface SecretsConfig {
  readonly keep: boolean;
  /** Lower-case names of the fields whose values are secrets. */
  readonly headers: readonly string[];
  /** Texts of keys, of which the first seals; empty: the proxy has one of its own. */
  readonly keys: readonly string[];
  /** Absolute path of a file with such texts, one a line. */
  readonly keysFile?: string;
}

/** Always secrets, because every API uses them as such. */
const CREDENTIALS = ['authorization', 'cookie'];

/** Converts the settings; the cross-checks reject a file that cannot be used. */
export function toSecrets({ keep, headers, keys, keys_file: file }: Settings['secrets']): SecretsConfig {
  const names = [...CREDENTIALS, ...headers.map((name) => name.toLowerCase())];
  return { keep, headers: [...new Set(names)], keys, ...(file !== null && { keysFile: file }) };
}

/** Finds settings of `secrets` that cannot be used. */
export function secretsCrossChecks({ secrets: { keys, keys_file: file, headers } }: Settings): SettingIssue[] {
  return [
    ...headers.flatMap((name, index) =>
      CLEAR_FIELD.test(name)
        ? [
            {
              path: ['secrets', 'headers', index],
              problem: `cannot name ${name}, which logs and lists of uploads show`,
            },
          ]
        : [],
    ),
    ...keysFileErrors(keys, file),
  ];
}

/** Fields of an upload that the proxy needs without any key. */
const CLEAR_FIELD = /^(?:idempotency-key|content-type|content-disposition|upload-.*|tus-resumable|host)$/i;

function keysFileErrors(keys: readonly string[], file: string | null): SettingIssue[] {
  const path = ['secrets', 'keys_file'];
  if (file === null) return [];
  if (keys.length > 0) return [{ path, problem: 'cannot be combined with `keys`; remove one of them' }];
  try {
    const lines = keyLines(readFileSync(file, 'utf8'));
    if (lines.length === 0) return [{ path, problem: `${file} contains no key` }];
    const short = lines.findIndex((line) => line.length < MIN_SECRET_LENGTH);
    if (short === -1) return [];
    return [
      { path, problem: `key ${short + 1} in ${file} has fewer than ${MIN_SECRET_LENGTH} characters; use a longer one` },
    ];
  } catch (error) {
    return [{ path, problem: `cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}` }];
  }
}

function keyLines(content: string): string[] {
  return content.split(/\r?\n/).filter((line) => line !== '');
}
