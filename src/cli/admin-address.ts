import { loadAdmin } from '../config/load.js';
import { formatAddress, readAddress, type Address } from '../config/scalars.js';
import { describeMistake } from '../config/mistake.js';
import { readSecret } from '../config/secret.js';

type Place = { readonly url: string } | { readonly socketPath: string };

/** Where the admin listener of a running proxy is, and the token that it may ask for. */
export type AdminTarget = Place & { readonly token?: string };

export interface AdminSources {
  /** From the command line: a URL or an address. */
  readonly admin?: string;
  readonly adminTokenFile?: string;
  readonly config?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** What the command line says, else the variable, the configuration, the default; or why none of them helps. */
export function adminTarget({ admin, adminTokenFile, config, env }: AdminSources): AdminTarget | { problem: string } {
  const file = config ?? (env['RUFH_PROXY_CONFIG'] || undefined);
  // It may be a URL here, which the settings refuse because no proxy can listen on it; `false` is theirs alone.
  const { RUFH_PROXY_ADMIN: variable = '', ...others } = env;
  const given = admin ?? (variable === '' || variable === 'false' ? undefined : variable);
  const sources = { ...(file === undefined ? {} : { file }), env: given === undefined ? env : others };
  const loaded = loadAdmin({ ...sources, flags: {} });
  const place =
    given === undefined ? placeOf(loaded) : fromText(admin === undefined ? 'RUFH_PROXY_ADMIN' : '--admin', given);
  if ('problem' in place) return place;
  const tokenFile = adminTokenFile ?? (env['RUFH_PROXY_ADMIN_TOKEN_FILE'] || tokenFileOf(loaded));
  if (tokenFile === undefined) return place;
  const read = readSecret(tokenFile);
  if ('problem' in read) return { problem: `the token of the admin listener: ${read.problem}` };
  return { ...place, token: read.secret };
}

type Loaded = ReturnType<typeof loadAdmin>;

function placeOf(loaded: Loaded): Place | { problem: string } {
  if ('mistakes' in loaded) return { problem: loaded.mistakes.map(describeMistake).join('\n  ') };
  if (!loaded.admin) return { problem: 'this configuration has no admin listener; give one an address with "admin:"' };
  return fromAddress(loaded.admin.address);
}

function tokenFileOf(loaded: Loaded): string | undefined {
  return 'mistakes' in loaded ? undefined : loaded.admin?.tokenFile;
}

function isUrl(text: string): boolean {
  return /^https?:\/\//i.test(text);
}

function fromText(source: string, text: string): Place | { problem: string } {
  const url = isUrl(text) && URL.canParse(text) ? new URL(text) : undefined;
  // Other programs write a socket as http://unix:/path: no host has that name.
  if (url && url.hostname !== 'unix') return { url: url.origin };
  const address = url ? undefined : readAddress(text);
  if (address) return fromAddress(address);
  return { problem: `${source}: found "${text}", allowed is ${ALLOWED}` };
}

const ALLOWED = 'a URL such as http://127.0.0.1:9090, HOST:PORT, or unix:/path for a Unix socket';

function fromAddress(address: Address): Place | { problem: string } {
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
