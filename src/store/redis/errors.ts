import { Fault } from '../../model/fault.js';

interface KnownError {
  readonly matches: RegExp;
  readonly advice: string | ((settings: RedisSettings) => string);
  /** Waiting cannot help: at the start it is said at once. */
  readonly isPermanent?: true;
}

/** What Redis and the way to it say when they fail, and what to do about it. */
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
  { matches: /\b(BUSY|UNKILLABLE)\b/, advice: 'is kept busy by a script of somebody else' },
  {
    matches: /\bCLUSTERDOWN\b/,
    advice: 'is down: some of its slots are served by nobody (`redis-cli cluster info` tells more)',
  },
  {
    matches: /cluster support disabled/,
    advice: 'is no cluster: leave out store.cluster',
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
  { matches: /\bNOAUTH\b/, advice: 'wants a password: set store.password or store.password_file', isPermanent: true },
  {
    matches: /\bNOPERM\b/,
    advice: ({ username = 'default', prefix }) =>
      `does not let this user do what is needed: ACL SETUSER ${username} ${aclRule(prefix)}`,
    isPermanent: true,
  },
  {
    matches: /DB index is out of range/,
    advice: 'has no such database: see the number at the end of store.url',
    isPermanent: true,
  },
  {
    matches: /wrong version number|packet length too long|EPROTO/,
    advice: 'does not speak TLS at this port: use redis:// in place of rediss:// in store.url',
    isPermanent: true,
  },
  {
    matches: /ALTNAME_INVALID/,
    advice: 'shows a certificate for another name: give that name as store.tls.server_name',
    isPermanent: true,
  },
  {
    matches: /self[- ]signed certificate|unable to (verify|get)|certificate has expired|CERT_/i,
    advice: 'shows a certificate that cannot be verified: give the authority that signed it as store.tls.ca',
    isPermanent: true,
  },
  {
    matches: /alert (certificate required|unknown ca|bad certificate|handshake failure)/i,
    advice: 'refuses our certificate: see store.tls.cert and store.tls.key',
    isPermanent: true,
  },
  {
    // 21 begins what TLS says.
    matches: /Unknown RESP type (?!21\b)/,
    advice: 'does not speak the protocol of Redis: is the address in store.url right?',
    isPermanent: true,
  },
  { matches: /No such master|invalid reply/, advice: 'is known to none of them: see store.sentinel.master' },
  {
    matches: /ECONNREFUSED/,
    advice: 'does not answer (ECONNREFUSED): is it running, and is the address in store.url right?',
  },
  { matches: /ENOTFOUND|EAI_AGAIN/, advice: 'cannot be found: its name has no address (ENOTFOUND): see store.url' },
  { matches: /connect ENOENT/, advice: 'does not answer: there is no such socket (ENOENT): see store.url' },
  { matches: /connect EACCES/, advice: 'cannot be reached: this process may not open its socket (EACCES)' },
  { matches: /EHOSTUNREACH|ENETUNREACH/, advice: 'cannot be reached: there is no way to its network' },
  { matches: /sentinels are unreachable/, advice: 'cannot be found: no sentinel answers' },
  {
    matches: /ECONNRESET|EPIPE|Unknown RESP type|Protocol error/,
    advice: 'breaks off the connection: if it wants TLS, use rediss:// in place of redis:// in store.url',
  },
  {
    matches: /ETIMEDOUT|not answered in time|timed out|Socket timeout/i,
    advice: ({ tls }) =>
      `does not answer in time${tls ? ': if it does not speak TLS, use redis:// in place of rediss:// in store.url' : ''}`,
  },
  { matches: /too few replicas/, advice: 'could not give the change to enough replicas in time: see store.replicas' },
];

/**
 * Turns what the client library threw into what our callers expect; passes our own faults on. What went wrong with the
 * connection before says more than that there is none.
 */
export function storeFault(error: unknown, settings: RedisSettings, connectionErrors: readonly unknown[] = []): Fault {
  if (error instanceof Fault) return error;
  const known = [error, ...connectionErrors].find(knownErrorOf) ?? error;
  const says = knownErrorOf(known)?.advice ?? 'is not connected';
  const text = typeof says === 'string' ? says : says(settings);
  // Not the error itself: it remembers the command, and with that the password.
  const cause = new Error(withoutSecrets(errorText(known), settings));
  return new Fault('STORE_UNAVAILABLE', `${describeAddresses(settings)} ${text}`, true, { cause });
}

/** Some servers repeat what they were told. */
function withoutSecrets(text: string, { password, sentinel }: RedisSettings): string {
  const secrets = [password, sentinel?.password].filter((secret) => secret !== undefined && secret !== '');
  return secrets.reduce<string>((redacted, secret) => redacted.replaceAll(secret!, '***'), text);
}

/** Whether the same start could succeed a moment later. */
export function isTransient(error: unknown): boolean {
  if (error instanceof Fault) return error.retryable;
  return knownErrorOf(error)?.isPermanent !== true;
}

/** Whether the server, not the way to it, refused: other servers of a set may accept. */
export function isReadOnly(error: Error): boolean {
  return /\bREADONLY\b/.test(error.message);
}

/** The library's own words say little; what lies beneath them says more. */
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

/** The rights we need, as `ACL SETUSER` takes them; the last one to warn of what the configuration puts at risk. */
export function aclRule(prefix: string): string {
  const commands =
    '+@read +@write +@scripting +@pubsub +@connection -@dangerous +time +wait +cluster|slots +cluster|info +config|get';
  return `~{${prefix}* resetchannels &{${prefix}* ${commands}`;
}

/** A server, by name and port or by the path of its socket. */
type RedisAddress = { readonly host: string; readonly port: number } | { readonly path: string };

/** Contents of files, not their names. */
export interface RedisTls {
  readonly ca?: string | Buffer;
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** What the server's certificate must name, when it is not the host we connect to. */
  readonly serverName?: string;
}

interface RedisCredentials {
  readonly username?: string;
  readonly password?: string;
}

/** All that is needed to find and enter Redis. */
export interface RedisSettings extends RedisCredentials {
  readonly kind: 'single' | 'sentinel' | 'cluster';
  /** The server; or seeds of the cluster; or the sentinels. Never empty; a socket path only for `single`. */
  readonly nodes: readonly RedisAddress[];
  /** For `sentinel`: what the sentinels call the set of servers. */
  readonly masterName?: string;
  /** For `sentinel`: how the sentinels themselves are entered. */
  readonly sentinel?: RedisCredentials;
  /** Always 0 in a cluster. */
  readonly database?: number;
  readonly tls?: RedisTls;
  /** Begins every key and channel; two installations with different ones do not see each other. */
  readonly prefix: string;
  /** How many replicas must have a change before it counts. */
  readonly replicas?: number;
  /** How long the start may wait for Redis; 0: one try. */
  readonly waitMs?: number;
}

/** For people: where Redis should be. Never says a password. */
export function describeAddresses({ kind, nodes, masterName }: RedisSettings): string {
  const where = nodes.map((node) => ('path' in node ? node.path : `${node.host}:${node.port}`)).join(', ');
  if (kind === 'single') return `Redis at ${where}`;
  return kind === 'cluster'
    ? `the Redis Cluster at ${where}`
    : `the Redis master '${masterName}' of the sentinels at ${where}`;
}
