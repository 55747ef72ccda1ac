import { loadAdmin } from '../config/load.js';
import { formatAddress, readAddress, type Address } from '../config/scalars.js';
import { describeMistake } from '../config/mistake.js';

/** Where the admin listener of a running proxy is. */
export type AdminTarget = { readonly url: string } | { readonly socketPath: string };

export interface AdminSources {
  /** From the command line: a URL or an address. */
  readonly admin?: string;
  readonly config?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** What the command line says, else the variable, the configuration, the default; or why none of them helps. */
export function adminTarget({ admin, config, env }: AdminSources): AdminTarget | { problem: string } {
  if (admin !== undefined) return fromText('--admin', admin);
  // A URL helps who asks, but is nothing that a proxy could listen on: the settings would refuse it.
  const variable = env['RUFH_PROXY_ADMIN'] ?? '';
  if (isUrl(variable)) return fromText('RUFH_PROXY_ADMIN', variable);
  const file = config ?? (env['RUFH_PROXY_CONFIG'] || undefined);
  const loaded = loadAdmin({ ...(file === undefined ? {} : { file }), env, flags: {} });
  if ('mistakes' in loaded) return { problem: loaded.mistakes.map(describeMistake).join('\n  ') };
  if (!loaded.admin) return { problem: 'this configuration has no admin listener; give one an address with "admin:"' };
  return fromAddress(loaded.admin.address);
}

function isUrl(text: string): boolean {
  return /^https?:\/\//i.test(text);
}

function fromText(source: string, text: string): AdminTarget | { problem: string } {
  if (isUrl(text) && URL.canParse(text)) return { url: new URL(text).origin };
  const address = readAddress(text);
  if (address) return fromAddress(address);
  return { problem: `${source}: found "${text}", allowed is a URL, HOST:PORT or unix:/path` };
}

function fromAddress(address: Address): AdminTarget | { problem: string } {
  if (address.kind === 'unix') return { socketPath: address.path };
  if (address.port === 0) {
    return {
      problem: 'the admin listener has whatever port was free: its line "listening" tells, give it with --admin',
    };
  }
  return { url: `http://${formatAddress({ ...address, host: REACHED_AT[address.host] ?? address.host })}` };
}

/** Listening on every address includes these. */
const REACHED_AT: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };
