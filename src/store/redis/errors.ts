import { Fault } from '../../model/fault.js';

interface Trouble {
  readonly matches: RegExp;
  readonly says: string | ((settings: RedisSettings) => string);
  /** Waiting cannot help: at the start it is said at once. */
  readonly stays?: true;
}

/** What Redis and the way to it say when they fail, and what to do about it. */
const TROUBLES: readonly Trouble[] = [
  {
    matches: /\bOOM\b/,
    says: 'has no memory left: raise its `maxmemory`, or shorten limits.max_age and delivery.keep_answer',
  },
  {
    matches: /\bREADONLY\b/,
    says: 'is a read-only replica: give the address of the master, or of its sentinels with store.sentinel',
  },
  { matches: /\bLOADING\b/, says: 'is still loading its data' },
  { matches: /\bMISCONF\b/, says: 'takes no writes because it cannot save them: its log says why, mostly a full disk' },
  { matches: /\bMASTERDOWN\b/, says: 'is a replica that has lost its master' },
  {
    matches: /\bNOREPLICAS\b/,
    says: 'takes no writes because too few of its replicas are connected (min-replicas-to-write)',
  },
  { matches: /\b(BUSY|UNKILLABLE)\b/, says: 'is kept busy by a script of somebody else' },
  {
    matches: /\bCLUSTERDOWN\b/,
    says: 'is down: some of its slots are served by nobody (`redis-cli cluster info` tells more)',
  },
  {
    matches: /cluster support disabled/,
    says: 'is no cluster: leave out store.cluster',
    stays: true,
  },
  {
    matches: /\bMOVED\b|is a cluster node/,
    says: 'is part of a Redis Cluster: set store.cluster to true',
    stays: true,
  },
  {
    matches: /\bWRONGPASS\b|invalid password|invalid username-password/,
    says: 'refuses the user name or the password: see store.username and store.password',
    stays: true,
  },
  { matches: /\bNOAUTH\b/, says: 'wants a password: set store.password or store.password_file', stays: true },
  {
    matches: /\bNOPERM\b/,
    says: ({ username = 'default', prefix }) =>
      `does not let this user do what is needed: ACL SETUSER ${username} ${aclRule(prefix)}`,
    stays: true,
  },
  {
    matches: /DB index is out of range/,
    says: 'has no such database: see the number at the end of store.url',
    stays: true,
  },
  {
    matches: /wrong version number|packet length too long|EPROTO/,
    says: 'does not speak TLS at this port: use redis:// in place of rediss:// in store.url',
    stays: true,
  },
  {
    matches: /ALTNAME_INVALID/,
    says: 'shows a certificate for another name: give that name as store.tls.server_name',
    stays: true,
  },
  {
    matches: /self[- ]signed certificate|unable to (verify|get)|certificate has expired|CERT_/i,
    says: 'shows a certificate that cannot be verified: give the authority that signed it as store.tls.ca',
    stays: true,
  },
  {
    matches: /alert (certificate required|unknown ca|bad certificate|handshake failure)/i,
    says: 'refuses our certificate: see store.tls.cert and store.tls.key',
    stays: true,
  },
  {
    // 21 begins what TLS says.
    matches: /Unknown RESP type (?!21\b)/,
    says: 'does not speak the protocol of Redis: is the address in store.url right?',
    stays: true,
  },
  { matches: /No such master|invalid reply/, says: 'is known to none of them: see store.sentinel.master' },
  {
    matches: /ECONNREFUSED/,
    says: 'does not answer (ECONNREFUSED): is it running, and is the address in store.url right?',
  },
  { matches: /ENOTFOUND|EAI_AGAIN/, says: 'cannot be found: its name has no address (ENOTFOUND): see store.url' },
  { matches: /connect ENOENT/, says: 'does not answer: there is no such socket (ENOENT): see store.url' },
  { matches: /connect EACCES/, says: 'cannot be reached: this process may not open its socket (EACCES)' },
  { matches: /EHOSTUNREACH|ENETUNREACH/, says: 'cannot be reached: there is no way to its network' },
  { matches: /sentinels are unreachable/, says: 'cannot be found: no sentinel answers' },
  {
    matches: /ECONNRESET|EPIPE|Unknown RESP type|Protocol error/,
    says: 'breaks off the connection: if it wants TLS, use rediss:// in place of redis:// in store.url',
  },
  {
    matches: /ETIMEDOUT|not answered in time|timed out|Socket timeout/i,
    says: ({ tls }) =>
      `does not answer in time${tls ? ': if it does not speak TLS, use redis:// in place of rediss:// in store.url' : ''}`,
  },
  { matches: /too few replicas/, says: 'could not give the change to enough replicas in time: see store.replicas' },
];

/**
 * Turns what the client library threw into what our callers expect; passes our own faults on. What went wrong with the
 * connection before says more than that there is none.
 */
export function storeFault(error: unknown, settings: RedisSettings, before: readonly unknown[] = []): Fault {
  if (error instanceof Fault) return error;
  const known = [error, ...before].find(troubleOf) ?? error;
  const says = troubleOf(known)?.says ?? 'is not connected';
  const text = typeof says === 'string' ? says : says(settings);
  // Not the error itself: it remembers the command, and with that the password.
  const cause = new Error(withoutSecrets(wordsOf(known), settings));
  return new Fault('STORE_UNAVAILABLE', `${describeAddresses(settings)} ${text}`, true, { cause });
}

/** Some servers repeat what they were told. */
function withoutSecrets(words: string, { password, sentinel }: RedisSettings): string {
  const secrets = [password, sentinel?.password].filter((secret) => secret !== undefined && secret !== '');
  return secrets.reduce<string>((text, secret) => text.replaceAll(secret!, '***'), words);
}

/** Whether the same start could succeed a moment later. */
export function mayPass(error: unknown): boolean {
  if (error instanceof Fault) return error.retryable;
  return troubleOf(error)?.stays !== true;
}

/** Whether the server, not the way to it, refused: other servers of a set may accept. */
export function isReadOnly(error: Error): boolean {
  return /\bREADONLY\b/.test(error.message);
}

/** The library's own words say little; what lies beneath them says more. */
function troubleOf(error: unknown): Trouble | undefined {
  const words = wordsOf(error);
  const known = TROUBLES.find(({ matches }) => matches.test(words));
  if (known || isOfLibrary(words)) return known;
  return { matches: /^/, says: (settings) => `answers: ${withoutSecrets(words, settings).slice(0, 200)}` };
}

function wordsOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code, lastNodeError } = error as { code?: string; lastNodeError?: unknown };
  return [lastNodeError && wordsOf(lastNodeError), code, error.message].filter(Boolean).join(' ');
}

function isOfLibrary(words: string): boolean {
  return /Connection is closed|max retries per request|isn't writeable|isn't ready|Too many Cluster redirections|Cluster is|None of startup|aborted/i.test(
    words,
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
