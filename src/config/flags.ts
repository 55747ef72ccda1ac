import { DEFAULT_LISTEN } from './schema.js';
import { isObject, listOf } from './values.js';

/** A setting that has a flag and an environment variable. The flag overrides the variable, and both override the file. */
export interface Override {
  /** Key of `flags`, as the command line's parser names it. */
  readonly key: string;
  readonly flag: string;
  /**
   * Never RUFH_PROXY_PORT or RUFH_PROXY_SERVICE_…: Kubernetes sets these for a service of that name,
   * which is also why unknown RUFH_PROXY_… variables are not errors.
   */
  readonly variable: string;
  /** Path of the setting; `*` stands for every listener. */
  readonly setting: readonly string[];
  readonly help: string;
  /** A list, separated by commas in a variable; the flag may be repeated. */
  readonly isList?: boolean;
  /** Separates the list in a variable; default: a comma. */
  readonly separator?: RegExp;
  /** Another setting that this one also sets, overriding the file. */
  readonly implies?: { readonly setting: readonly string[]; readonly value: unknown };
}

/** All settings with a flag and a variable, in the order of `--help`. */
export const OVERRIDES: readonly Override[] = [
  defineOverride('origin', '--origin <url>', 'origin', 'the API behind the proxy'),
  {
    ...defineOverride('listen', '--listen <address...>', 'listen', 'HOST:PORT or unix:/path; port 0 picks a free port'),
    isList: true,
  },
  defineOverride('tlsCert', '--tls-cert <file>', 'listen.*.tls.cert', 'certificate chain for every listener (PEM)'),
  defineOverride('tlsKey', '--tls-key <file>', 'listen.*.tls.key', 'private key for every listener (PEM)'),
  defineOverride('http2', '--no-http2', 'listen.*.http2', 'HTTP/1.1 only'),
  defineOverride(
    'admin',
    '--admin <address>',
    'admin.address',
    'address for health checks and metrics, or "false" for none',
  ),
  defineOverride(
    'adminTokenFile',
    '--admin-token-file <file>',
    'admin.token_file',
    'file with the token that the admin listener requires',
  ),
  defineOverride('data', '--data <dir>', 'data', 'directory for the store and the spool'),
  {
    ...defineOverride('storeUrl', '--store-url <url...>', 'store.url', 'Redis server that holds the state of uploads'),
    isList: true,
    // A comma may be part of a password; splitting there would report half of the password as an invalid URL.
    separator: /,(?=\s*[a-z+]+:\/\/)/i,
    implies: { setting: ['store', 'type'], value: 'redis' },
  },
  defineOverride('spoolShared', '--spool-shared', 'spool.shared', 'all nodes share the spool directory'),
  defineOverride('workers', '--workers <number>', 'workers', 'number of worker processes, or auto; requires Redis'),
  defineOverride('sync', '--sync <when>', 'spool.sync', 'when data is forced to disk: always, group or none'),
  defineOverride('publicUrl', '--public-url <url>', 'uploads.public_url', 'URL at which clients reach this proxy'),
  defineOverride(
    'interimResponses',
    '--interim-responses <when>',
    'interim_responses',
    'send 104 responses: auto, always or never',
  ),
  {
    ...defineOverride(
      'trustedProxies',
      '--trusted-proxies <cidr...>',
      'trusted_proxies',
      'proxies in front of this one whose headers are trusted',
    ),
    isList: true,
  },
  defineOverride('maxSize', '--max-size <size>', 'limits.max_size', 'maximum size of an upload, such as 10GiB'),
  defineOverride('maxAge', '--max-age <time>', 'limits.max_age', 'how long an unfinished upload is kept, such as 24h'),
  defineOverride('stopGrace', '--stop-grace <time>', 'stop.grace', 'how long a graceful stop may take, such as 30s'),
  defineOverride('logLevel', '--log-level <level>', 'log.level', 'trace, debug, info, warn, error, fatal or silent'),
  defineOverride('logFormat', '--log-format <format>', 'log.format', 'auto, json or pretty'),
];

/** A setting that was given by a flag or a variable. */
export interface GivenSetting {
  readonly value: unknown;
  /** The flag or variable, for error messages. */
  readonly source: string;
  readonly setting: readonly string[];
  readonly implies?: Override['implies'];
}

/** The overrides that were given, flags before variables. */
export function collectOverrides(
  env: Readonly<Record<string, string | undefined>>,
  flags: Readonly<Record<string, unknown>>,
): GivenSetting[] {
  return OVERRIDES.flatMap(({ key, flag, variable, setting, isList, separator = ',', implies }): GivenSetting[] => {
    const rest = { setting, ...(implies ? { implies } : {}) };
    if (flags[key] !== undefined) return [{ value: flags[key], source: flag.split(' ')[0]!, ...rest }];
    const text = env[variable];
    if (text === undefined || text === '') return [];
    return [{ value: isList ? text.split(separator).map((part) => part.trim()) : text, source: variable, ...rest }];
  });
}

/** Applies one override. Settings of an unexpected shape stay unchanged; the schema reports them. */
export function applyOverride(settings: Record<string, unknown>, { setting, value, implies }: GivenSetting): void {
  if (implies) setAt(settings, implies.setting, implies.value);
  const [section, step, ...rest] = setting;
  if (section === 'listen' && step === '*') {
    const listen = settings['listen'] ?? DEFAULT_LISTEN;
    const listeners: unknown = Array.isArray(listen) ? listen.map(asObject) : asObject(listen);
    settings['listen'] = listeners;
    for (const listener of listOf(listeners)) if (isObject(listener)) setAt(listener, rest, value);
  } else {
    const admin = settings['admin'];
    if (section === 'admin') settings['admin'] = admin === false ? { address: false } : asObject(admin);
    setAt(settings, setting, value);
  }
}

/** Converts a group that is written as an address only to an object. */
function asObject(group: unknown): unknown {
  return typeof group === 'string' ? { address: group } : group;
}

function setAt(target: Record<string, unknown>, [step, ...rest]: readonly string[], value: unknown): void {
  if (step === undefined) return;
  if (rest.length === 0) {
    target[step] = value;
    return;
  }
  const inner = target[step] ?? {};
  target[step] = inner;
  if (isObject(inner)) setAt(inner, rest, value);
}

function defineOverride(key: string, flag: string, setting: string, help: string): Override {
  const variable = `RUFH_PROXY_${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
  return { key, flag, variable, setting: setting.split('.'), help };
}
