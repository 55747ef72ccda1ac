import { Fault } from '../../model/fault.js';

interface KnownError {
  readonly matches: RegExp;
  readonly advice: string | ((settings: RedisSettings) => string);
  /** Waiting cannot help: at startup it is reported immediately. */
  readonly isPermanent?: true;
}

/** The errors of Redis and of the connection to it, with advice for the operator. */
const KNOWN_ERRORS: readonly KnownError[] = [
  {
    matches: /\bOOM\b/,
    advice: 'has no memory left: raise its `maxmemory`, or shorten limits.max_age and delivery.keep_answer',
  },
  {
    matches: /\bREADONLY\b/,
    advice: 'is a read-only replica: give the address of the master, or of its sentinels with store.sentinel',
  },
  { matches: /\bLOADING\b/, advice: 'is still loading its data' },
  {
    matches: /\bMISCONF\b/,
    advice: 'takes no writes because it cannot save them: its log says why, mostly a full disk',
  },
  { matches: /\bMASTERDOWN\b/, advice: 'is a replica that has lost its master' },
  {
    matches: /\bNOREPLICAS\b/,
    advice: 'takes no writes because too few of its replicas are connected (min-replicas-to-write)',
  },
  { matches: /\b(BUSY|UNKILLABLE)\b/, advice: 'is kept busy by a script of another client' },
  {
    matches: /\bCLUSTERDOWN\b/,
    advice: 'is down: some of its slots have no server (see `redis-cli cluster info`)',
  },
  {
    matches: /cluster support disabled/,
    advice: 'is not a cluster: remove store.cluster',
    isPermanent: true,
  },
  {
    matches: /\bMOVED\b|is a cluster node/,
    advice: 'is part of a Redis Cluster: set store.cluster to true',
    isPermanent: true,
  },
  {
    matches: /\bWRONGPASS\b|invalid password|invalid username-password/,
    advice: 'refuses the user name or the password: see store.username and store.password',
    isPermanent: true,
  },
  {
    matches: /\bNOAUTH\b/,
    advice: 'requires a password: set store.password or store.password_file',
    isPermanent: true,
  },
  {
    matches: /\bNOPERM\b/,
    advice: ({ username = 'default', prefix }) =>
      `denies this user a permission that is needed: ACL SETUSER ${username} ${aclRule(prefix)}`,
    isPermanent: true,
  },
  {
    matches: /DB index is out of range/,
    advice: 'has no such database: see the number at the end of store.url',
    isPermanent: true,
  },
  {
    matches: /wrong version number|packet length too long|EPROTO/,
    advice: 'does not speak TLS at this port: use redis:// instead of rediss:// in store.url',
    isPermanent: true,
  },
  {
    matches: /ALTNAME_INVALID/,
    advice: 'presents a certificate for another name: set that name as store.tls.server_name',
    isPermanent: true,
  },
  {
    matches: /self[- ]signed certificate|unable to (verify|get)|certificate has expired|CERT_/i,
    advice: 'presents a certificate that cannot be verified: set the authority that signed it as store.tls.ca',
    isPermanent: true,
  },
  {
    matches: /alert (certificate required|unknown ca|bad certificate|handshake failure)/i,
    advice: 'refuses our certificate: see store.tls.cert and store.tls.key',
    isPermanent: true,
  },
  {
    // 21 is the first byte of a TLS alert.
    matches: /Unknown RESP type (?!21\b)/,
    advice: 'does not speak the protocol of Redis: is the address in store.url right?',
    isPermanent: true,
  },
  { matches: /No such master|invalid reply/, advice: 'is unknown to all of them: see store.sentinel.master' },
  {
    matches: /ECONNREFUSED/,
    advice: 'does not answer (ECONNREFUSED): is it running, and is the address in store.url right?',
  },
  { matches: /ENOTFOUND|EAI_AGAIN/, advice: 'cannot be found: its name has no address (ENOTFOUND): see store.url' },
  { matches: /connect ENOENT/, advice: 'does not answer: there is no such socket (ENOENT): see store.url' },
  { matches: /connect EACCES/, advice: 'cannot be reached: this process may not open its socket (EACCES)' },
  { matches: /EHOSTUNREACH|ENETUNREACH/, advice: 'cannot be reached: there is no route to its network' },
  { matches: /sentinels are unreachable/, advice: 'cannot be found: no sentinel answers' },
  {
    matches: /ECONNRESET|EPIPE|Unknown RESP type|Protocol error/,
    advice: 'closes the connection: if it requires TLS, use rediss:// instead of redis:// in store.url',
  },
  {
    matches: /ETIMEDOUT|not answered in time|timed out|Socket timeout/i,
    advice: ({ tls }) =>
      `does not answer in time${tls ? ': if it does not speak TLS, use redis:// instead of rediss:// in store.url' : ''}`,
  },
  {
    matches: /too few replicas/,
    advice: 'could not replicate the change to enough replicas in time: see store.replicas',
  },
];

/**
 * Turns an error of the client library into a STORE_UNAVAILABLE fault with advice; returns a `Fault` unchanged. An
 * earlier connection error says more than the fact that there is no connection.
 */
export function storeFault(error: unknown, settings: RedisSettings, connectionErrors: readonly unknown[] = []): Fault {
  if (error instanceof Fault) return error;
  const reported = [error, ...connectionErrors].find(knownErrorOf) ?? error;
  const advice = knownErrorOf(reported)?.advice ?? 'is not connected';
  const text = typeof advice === 'string' ? advice : advice(settings);
  // Not the error itself, which contains the command and with it the password.
  const cause = new Error(withoutSecrets(errorText(reported), settings));
  return new Fault('STORE_UNAVAILABLE', `${describeAddresses(settings)} ${text}`, true, { cause });
}

/** Removes passwords, which some servers repeat in their errors. */
function withoutSecrets(text: string, { password, sentinel }: RedisSettings): string {
  const secrets = [password, sentinel?.password].filter((secret) => secret !== undefined && secret !== '');
  return secrets.reduce<string>((redacted, secret) => redacted.replaceAll(secret!, '***'), text);
}

/** Whether the same attempt may succeed a moment later. */
export function isTransient(error: unknown): boolean {
  if (error instanceof Fault) return error.retryable;
  return knownErrorOf(error)?.isPermanent !== true;
}

/** Whether the server is a read-only replica: another server of the set may accept the command. */
export function isReadOnly(error: Error): boolean {
  return /\bREADONLY\b/.test(error.message);
}

/**
 * The known error that matches. The library's own messages say little, so the error beneath them is preferred; an
 * unknown server error is quoted.
 */
function knownErrorOf(error: unknown): KnownError | undefined {
  const text = errorText(error);
  const known = KNOWN_ERRORS.find(({ matches }) => matches.test(text));
  if (known || isLibraryError(text)) return known;
  return { matches: /^/, advice: (settings) => `answers: ${withoutSecrets(text, settings).slice(0, 200)}` };
}

function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code, lastNodeError } = error as { code?: string; lastNodeError?: unknown };
  return [lastNodeError && errorText(lastNodeError), code, error.message].filter(Boolean).join(' ');
}

function isLibraryError(text: string): boolean {
  return /Connection is closed|max retries per request|isn't writeable|isn't ready|Too many Cluster redirections|Cluster is|None of startup|aborted/i.test(
    text,
  );
}

/**
 * The permissions we need, as arguments of `ACL SETUSER`. `config|get` only serves the warnings about risky settings.
 */
export function aclRule(prefix: string): string {
  const commands =
    '+@read +@write +@scripting +@pubsub +@connection -@dangerous +time +wait +cluster|slots +cluster|info +config|get';
  return `~{${prefix}* resetchannels &{${prefix}* ${commands}`;
}

/** A server by host name and port, or by the path of its socket. */
type RedisAddress = { readonly host: string; readonly port: number } | { readonly path: string };

/** TLS settings; the values are file contents, not file names. */
export interface RedisTls {
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** The name that the server's certificate must have, when it differs from the host. */
  readonly serverName?: string;
}

interface RedisCredentials {
  readonly username?: string;
  readonly password?: string;
}

/** All that is needed to connect to Redis. */
export interface RedisSettings extends RedisCredentials {
  readonly kind: 'single' | 'sentinel' | 'cluster';
  /** The server, the seeds of the cluster, or the sentinels. Never empty; a socket path only for `single`. */
  readonly nodes: readonly RedisAddress[];
  /** For `sentinel`: the name of the master set. */
  readonly masterName?: string;
  /** For `sentinel`: the credentials of the sentinels themselves. */
  readonly sentinel?: RedisCredentials;
  /** Always 0 in a cluster. */
  readonly database?: number;
  readonly tls?: RedisTls;
  /** Starts every key and channel; installations with different prefixes do not see each other. */
  readonly prefix: string;
  /** Number of replicas that must have a change before it counts as done. */
  readonly replicas?: number;
  /** Time that the start may wait for Redis, in milliseconds; 0 for a single attempt. */
  readonly waitMs?: number;
}

/** The configured address of Redis, for humans; never contains a password. */
export function describeAddresses({ kind, nodes, masterName }: RedisSettings): string {
  const where = nodes.map((node) => ('path' in node ? node.path : `${node.host}:${node.port}`)).join(', ');
  if (kind === 'single') return `Redis at ${where}`;
  return kind === 'cluster'
    ? `the Redis Cluster at ${where}`
    : `the Redis master '${masterName}' of the sentinels at ${where}`;
}
