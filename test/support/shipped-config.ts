import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Config } from '../../src/config/config.js';
import { loadConfig } from '../../src/config/load.js';

/** Where the containers that we describe get their secrets. */
export const SECRETS = '/run/secrets/rufh-proxy';

/** What our own loader makes of a configuration that we ship; fails with its mistakes. */
export function loadShipped(
  text: string,
  { env = {}, secrets = {} }: { env?: Record<string, string>; secrets?: Readonly<Record<string, string>> } = {},
): Config {
  const directory = mkdtempSync(join(tmpdir(), 'rufh-shipped-'));
  try {
    for (const [name, value] of Object.entries(secrets)) writeFileSync(join(directory, name), value);
    const file = join(directory, 'rufh-proxy.yaml');
    writeFileSync(file, text.replaceAll(SECRETS, directory));
    const loaded = loadConfig({ file, env, flags: {} });
    if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors, undefined, 2));
    return loaded.config;
  } finally {
    rmSync(directory, { recursive: true });
  }
}
