import { fileURLToPath } from 'node:url';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce } from './client.js';
import { clientDialect, creationLines, type DialectName, ResumableUpload, versionLines } from './resumable-client.js';
import { randomBytes, sha256, until } from './temporary.js';
import type { WireRequest, WireResponse } from './wire.js';

/** Where the data of an earlier version were kept, and how its process ended; each is a fixture of its own. */
export const SETUPS = {
  embedded: { redis: false, shared: false, clustered: false, killed: false },
  'embedded-killed': { redis: false, shared: false, clustered: false, killed: true },
  redis: { redis: true, shared: false, clustered: true, killed: false },
  'redis-killed': { redis: true, shared: false, clustered: false, killed: true },
  'redis-shared': { redis: true, shared: true, clustered: false, killed: false },
} as const satisfies Record<string, OldSetup>;

export type SetupName = keyof typeof SETUPS;

export interface OldSetup {
  readonly redis: boolean;
  readonly shared: boolean;
  /** It is one of several nodes with disks of their own. */
  readonly clustered: boolean;
  /** By SIGKILL in the middle of requests and deliveries, not in good order. */
  readonly killed: boolean;
}

export const SETUP_NAMES = Object.keys(SETUPS) as SetupName[];

/** The directory, `redis.json` and `expected.json` of a place. */
export function fixtureOf(setup: SetupName): string {
  return fileURLToPath(new URL(`../fixtures/old-data/${setup}`, import.meta.url));
}

export const OLD = { directory: 'directory', redis: 'redis.json', expected: 'expected.json' } as const;

/** Its members are addresses, which are others with each start. */
export interface Surroundings {
  readonly origin: string;
  /** Of the routes whose origin cannot be reached while the fixture is made. */
  readonly away: string;
  /** Of the route whose origin answers before it has read the body. */
  readonly early: string;
  /** Says who a client is, and what becomes of whole uploads. */
  readonly service: string;
  readonly redis: string;
  readonly prefix?: string;
  /** Where a node of a cluster listens for the others. */
  readonly peers: string;
}

export const PREFIX = 'rufh';

/** What nodes are called by each other: the one that is asked for is away. */
export const NOBODY = 'http://127.0.0.1:9';

/** The configuration of every place. Nothing in it expires within a hundred years. */
export function configFor({ redis, shared, clustered }: OldSetup, at: Surroundings): string {
  const store = `
store: { type: redis, url: '${at.redis}', prefix: ${at.prefix ?? PREFIX} }
spool: { shared: ${shared} }
`;
  const cluster = `
cluster: { listen: '${at.peers}', advertise: '${NOBODY}', secret: the secret of old nodes, owner_timeout: 24d }
`;
  return `${redis ? store : ''}${clustered ? cluster : ''}
trusted_proxies: [{ cidr: 127.0.0.1/32, relays_interim: true }]
limits: { max_age: 36500d, max_size: 1GiB, max_append_size: 1MiB, min_append_size: 1 }
delivery:
  keep_answer: 36500d
  keep_answer_size: 1KiB
  client_keys: true
  retry: { attempts: 1, first_delay: 40s, longest_delay: 40s, in_background: 36500d }
routes:
  - { name: away, match: { path: /away/** }, origin: '${at.away}' }
  - { name: spent, match: { path: /spent/** }, delivery: { retry: { in_background: 0s } } }
  - { name: spent-away, match: { path: /spent-away/** }, origin: '${at.away}', delivery: { retry: { in_background: 0s } } }
  - { name: short, match: { path: /short/** }, delivery: { max_answer_size: 10 } }
  - { name: eager, match: { path: /eager/** }, delivery: { mode: eager } }
  - { name: early, match: { path: /early/** }, origin: '${at.early}', delivery: { mode: eager } }
  - { name: plain, match: { path: /plain/** }, plain_bodies: spool }
  - { name: quarantined, match: { path: /quarantined/** }, delivery: { gate: { http: '${at.service}/quarantine' } } }
  - { name: refused, match: { path: /refused/** }, delivery: { gate: { http: '${at.service}/refuse' } } }
  - name: bound
    match: { path: /bound/** }
    authorize: { forward_auth: { url: '${at.service}/who', copy_headers: [X-Plan] } }
    bind_to: principal
  - { name: files, match: { path: /** } }
`;
}

/** How far an upload came with the earlier version. */
type Kind =
  /** Bytes are missing; its client goes on. */
  | 'receiving'
  /** A start delivers it by itself. */
  | 'due'
  | 'answered'
  /** Whole and without an answer, until its client or an operator asks for one. */
  | 'undelivered'
  /** Its bytes are on the disk of another node, which is away. */
  | 'elsewhere'
  /** There is nothing of it any more. */
  | 'ended';

/** One upload of the fixture. Its whole is made from its name, and so is its target. */
export interface OldUpload {
  readonly name: string;
  readonly route: string;
  readonly kind: Kind;
  /** `plain`: an ordinary request whose body is spooled, of which only its key finds the upload. */
  readonly dialect: DialectName | 'plain';
  readonly method?: 'PUT';
  /** Fields of its creation that the origin gets. */
  readonly lines?: readonly HeaderLine[];
  /** Fields that every request of its client has. */
  readonly identity?: readonly HeaderLine[];
  /** Its client does not say beforehand how long it is. */
  readonly isOfUnknownLength?: true;
  /** Bytes of the whole; `LENGTH` when it is missing. */
  readonly size?: number;
  /** Its creation came through a trusted proxy, which says for whom. */
  readonly isForwarded?: true;
  /** Sent with the end, and given to the origin behind it. */
  readonly trailers?: readonly HeaderLine[];
}

/** Bytes of an upload that has no other size. Its first part has `FIRST` bytes, the next one ends at `SECOND`. */
const LENGTH = 700;
export const FIRST = 250;
export const SECOND = 400;

const FORWARDED: readonly HeaderLine[] = [
  ['X-Forwarded-For', '192.0.2.7'],
  ['X-Forwarded-Proto', 'https'],
];
const TEXT: HeaderLine = ['Content-Type', 'text/plain; charset=utf-8'];
const KEY: HeaderLine = ['Idempotency-Key', '"key of the client"'];
const ADA: HeaderLine = ['Authorization', 'Bearer ada'];

const ANY: readonly OldUpload[] = [
  { name: 'empty', route: 'files', kind: 'receiving', dialect: '3', isOfUnknownLength: true },
  {
    name: 'two-chunks',
    route: 'files',
    kind: 'receiving',
    dialect: '8',
    lines: [
      TEXT,
      ['Content-Disposition', 'attachment; filename="\u00e9t\u00e9 \\"1\\".txt"'],
      ['X-Twice', 'one'],
      ['x-twice', ''],
      ['Repr-Digest', digestOf('two-chunks')],
    ],
  },
  {
    name: 'unknown-length',
    route: 'files',
    kind: 'receiving',
    dialect: '6',
    method: 'PUT',
    isOfUnknownLength: true,
    lines: [['Want-Repr-Digest', 'sha-256=5']],
  },
  // Its chunk has a block that is full, and so a checksum in the file.
  { name: 'full-block', route: 'files', kind: 'receiving', dialect: '9', size: 600_000 },
  { name: 'without-version', route: 'files', kind: 'receiving', dialect: 'final', lines: [TEXT], isForwarded: true },
  { name: 'bound', route: 'bound', kind: 'receiving', dialect: '10', identity: [ADA] },
  { name: 'keyed', route: 'files', kind: 'receiving', dialect: '5', lines: [KEY], identity: [ADA] },
  { name: 'eager', route: 'eager', kind: 'receiving', dialect: '7', lines: [TEXT] },
  { name: 'answered-small', route: 'files', kind: 'answered', dialect: '4', lines: [TEXT] },
  { name: 'answered-large', route: 'files', kind: 'answered', dialect: '10' },
  { name: 'answered-keyed', route: 'files', kind: 'answered', dialect: '6', lines: [KEY] },
  { name: 'answered-plain', route: 'plain', kind: 'answered', dialect: 'plain', lines: [KEY] },
  { name: 'answered-early', route: 'early', kind: 'answered', dialect: '8' },
  { name: 'answered-by-gate', route: 'refused', kind: 'answered', dialect: '9' },
  { name: 'quarantined', route: 'quarantined', kind: 'undelivered', dialect: '9' },
  { name: 'unauthorized', route: 'files', kind: 'undelivered', dialect: '10' },
  { name: 'refused', route: 'spent', kind: 'undelivered', dialect: '9' },
  { name: 'unreachable', route: 'spent-away', kind: 'undelivered', dialect: '10' },
  { name: 'unknown-told', route: 'files', kind: 'undelivered', dialect: '9' },
  { name: 'unknown-untold', route: 'files', kind: 'undelivered', dialect: '10' },
  { name: 'unknown-asked', route: 'files', kind: 'undelivered', dialect: '8' },
  { name: 'answer-too-large', route: 'short', kind: 'undelivered', dialect: '10' },
  { name: 'invalid', route: 'files', kind: 'ended', dialect: '9', lines: [['Repr-Digest', digestOf('another')]] },
  { name: 'cancelled', route: 'files', kind: 'ended', dialect: '8' },
  // Comes last: while the fixture is made, its next attempt is not to come due.
  {
    name: 'waiting',
    route: 'away',
    kind: 'due',
    dialect: '9',
    trailers: [['X-Checked', 'by the client']],
  },
];

/** In the middle of what the process did. */
const KILLED: readonly OldUpload[] = [
  { name: 'cut', route: 'files', kind: 'receiving', dialect: '8' },
  { name: 'fed', route: 'eager', kind: 'receiving', dialect: '7' },
  { name: 'sent-put', route: 'files', kind: 'due', dialect: '10', method: 'PUT' },
  { name: 'sent-post', route: 'files', kind: 'undelivered', dialect: '9' },
];

const CLUSTERED: readonly OldUpload[] = [
  { name: 'elsewhere', route: 'files', kind: 'elsewhere', dialect: '9' },
  // Redis has lost its last step, and the spool knows which offset its client was told.
  { name: 'forgotten', route: 'files', kind: 'ended', dialect: '8' },
];

/** What does not depend on whose the bytes are is not repeated. */
const SHARED = new Set(['two-chunks', 'answered-large', 'unknown-told', 'waiting']);

export function uploadsOf({ killed, shared, clustered }: OldSetup): readonly OldUpload[] {
  if (killed) return KILLED;
  if (clustered) return [...CLUSTERED, ...ANY];
  return shared ? ANY.filter(({ name }) => SHARED.has(name)) : ANY;
}

export function targetOf({ route, name }: OldUpload): string {
  return `/${route}/${name}`;
}

/** The whole of an upload. A large one repeats itself, so that the repository has room for it. */
export function wholeOf({ name, size = LENGTH }: Pick<OldUpload, 'name' | 'size'>): Buffer {
  return Buffer.alloc(size, randomBytes(LENGTH, Number.parseInt(sha256(name).slice(0, 8), 16)));
}

function digestOf(name: string): string {
  return `sha-256=:${Buffer.from(sha256(wholeOf({ name })), 'hex').toString('base64')}:`;
}

/** A proxy of any version, from outside. */
export interface ProxyAccess {
  readonly url: string;
  /** What its admin API says. */
  operate(method: string, path: string, query?: string): Promise<{ readonly status: number; readonly body: unknown }>;
}

/** The client of one upload. Every request names the same host, which the URLs of uploads have. */
export class OldClient {
  readonly whole: Buffer;

  constructor(
    private readonly access: ProxyAccess,
    readonly upload: OldUpload,
  ) {
    this.whole = wholeOf(upload);
  }

  readonly send = (request: WireRequest): Promise<WireResponse> =>
    requestOnce(this.access.url, { ...request, headers: this.headers(request.headers ?? []) });

  headers(lines: readonly HeaderLine[]): HeaderLine[] {
    return [['Host', 'files.example'], ...(this.upload.identity ?? []), ...lines];
  }

  /** The head of a creation, for a body that is the whole or only its beginning. */
  creation({ complete }: { readonly complete: boolean }): Required<Omit<WireRequest, 'body'>> {
    const { dialect, method = 'POST', lines = [], isOfUnknownLength, isForwarded } = this.upload;
    const length = isOfUnknownLength ? undefined : this.whole.length;
    const headers = dialect === 'plain' ? [] : creationLines(clientDialect(dialect), { complete, length });
    return {
      method,
      target: targetOf(this.upload),
      headers: [...headers, ...lines, ...(isForwarded ? FORWARDED : [])],
    };
  }

  create(body: Uint8Array | string, step: { readonly complete: boolean }): Promise<WireResponse> {
    return this.send({ ...this.creation(step), body });
  }

  at(path: string): ResumableUpload {
    const { dialect } = this.upload;
    if (dialect === 'plain') throw new Error('an ordinary request has no upload resource');
    return new ResumableUpload(clientDialect(dialect), this.send, new URL(path, 'http://files.example').href);
  }

  /** Asks for the answer of a whole upload: the last byte once more, as the end. An ordinary request comes as a whole. */
  complete(path: string | undefined, headers: readonly HeaderLine[] = []): Promise<WireResponse> {
    if (path === undefined) return this.create(this.whole, { complete: true });
    const offset = this.whole.length - 1;
    return this.at(path).append(this.whole.subarray(offset), { offset, complete: true }, headers);
  }
}

/** What is seen of one upload, without what changes with the time of looking. */
export interface Seen {
  /** HEAD in the client's own version. Not of an unknown outcome, because a client that asks changes what follows. */
  readonly head?: SeenResponse;
  /** What the admin API says, which `rufh-proxy uploads show --json` prints. */
  readonly shown?: Readonly<Record<string, unknown>>;
  /** The kept answer at `…/answer`, and to a repeated completion. */
  readonly page?: SeenResponse;
  readonly repeated?: SeenResponse;
}

interface SeenResponse {
  readonly status: number;
  readonly lines: readonly string[];
  readonly trailers?: readonly string[];
  readonly body?: { readonly size: number; readonly sha256: string };
}

/** An upload as the fixture knows it. */
export interface Expected extends Seen {
  /** Of its URL; missing where its client was never told one. */
  readonly path?: string;
  readonly whole: { readonly size: number; readonly sha256: string };
  /** Of the bytes that count so far. */
  readonly sent: { readonly size: number; readonly sha256: string };
}

/** What is known of a place: `expected.json`. */
export interface ExpectedSetup {
  /** When the process ended. */
  readonly endedAt: number;
  readonly empty: readonly string[];
  readonly uploads: Readonly<Record<string, Expected>>;
  /** What the list of all uploads says beside them, as of records that cannot be read. */
  readonly beside: Readonly<Record<string, unknown>>;
}

/** Whether a time, or words that tell of a problem, are of what was kept, and not of this look at it. */
export type IsOld = (text: string) => boolean;

/** Looks at one upload in every way that changes nothing. */
export async function look(
  access: ProxyAccess,
  upload: OldUpload,
  path: string | undefined,
  isOld: IsOld,
): Promise<Seen> {
  const client = new OldClient(access, upload);
  if (upload.kind === 'undelivered') await untilPhase(access, upload, 'undelivered');
  const shown = await shownOf(access, upload);
  const versions = upload.dialect === 'plain' ? [] : versionLines(clientDialect(upload.dialect));
  const { reason } = (shown?.['undelivered'] ?? {}) as { reason?: string };
  const isAsked = path !== undefined && reason !== 'outcome-unknown';
  const head = isAsked ? await client.send({ method: 'HEAD', target: path, headers: versions }) : undefined;
  const isAnswered = upload.kind === 'answered';
  const page = path && isAnswered ? await client.send({ method: 'GET', target: `${path}/answer` }) : undefined;
  const repeated = isAnswered ? await client.complete(path) : undefined;
  return {
    ...(shown && { shown: timeless(shown, upload, isOld) }),
    ...(head && { head: seenResponse(head, isOld) }),
    ...(page && { page: seenResponse(page, isOld) }),
    ...(repeated && { repeated: seenResponse(repeated, isOld) }),
  };
}

interface Listed {
  readonly uploads: readonly Readonly<Record<string, unknown>>[];
  readonly [beside: string]: unknown;
}

/** All that the admin API lists, which `rufh-proxy uploads list --json` prints. */
export async function listed(access: ProxyAccess): Promise<Listed> {
  return (await access.operate('GET', '/uploads', '?limit=1000')).body as Listed;
}

/** What that list says of uploads that cannot be shown, as soon as it says so many things. A start tells of some later. */
export async function besideUploads(
  access: ProxyAccess,
  count: number,
  isOld: IsOld,
): Promise<ExpectedSetup['beside']> {
  const told = async (): Promise<object | false> => {
    const beside = { ...(await listed(access)) };
    Reflect.deleteProperty(beside, 'uploads');
    return Object.keys(beside).length >= count && beside;
  };
  return timeless({ ...(await until(told, 'all of the list')) }, { kind: 'ended' }, isOld);
}

/** Undefined where it is not known any more. */
async function shownOf(access: ProxyAccess, upload: OldUpload): Promise<Readonly<Record<string, unknown>> | undefined> {
  const found = (await listed(access)).uploads.find(({ target }) => target === targetOf(upload));
  if (!found) return undefined;
  return (await access.operate('GET', `/uploads/${String(found['tag'])}`)).body as Readonly<Record<string, unknown>>;
}

/** Waits until a delivery that ran has come so far. */
export async function untilPhase(access: ProxyAccess, upload: OldUpload, phase: string): Promise<void> {
  await until(async () => (await shownOf(access, upload))?.['phase'] === phase, `${upload.name} to be ${phase}`);
}

const OF_LOOKS = new Set(['startedAt', 'endedAt', 'at', 'since', 'problem']);

/** Leaves out the times and words of this look, and one of two newest attempts. What is due is delivered while we look. */
function timeless<T extends object>(value: T, { kind }: Pick<OldUpload, 'kind'>, isOld: IsOld): T {
  const isNew = (name: string, text: unknown): boolean => OF_LOOKS.has(name) && !isOld(text as string);
  const text = JSON.stringify(value, (name, one: unknown) => (isNew(name, one) ? '<now>' : one));
  const copy = JSON.parse(text) as Record<string, unknown>;
  Reflect.deleteProperty(copy, 'newestAttempt');
  // Those versions kept no histories.
  Reflect.deleteProperty(copy, 'story');
  if (kind === 'due') {
    const [first] = copy['newestAttempts'] as { number: number; origin: string; startedAt: string; endedAt?: string }[];
    const { number, origin, startedAt, endedAt = '<now>' } = first!;
    for (const name of ['phase', 'dueAt', 'attempts']) Reflect.deleteProperty(copy, name);
    copy['newestAttempts'] = [endedAt === '<now>' ? { number, origin, startedAt } : first];
  }
  return copy as T;
}

function seenResponse(response: WireResponse, isOld: IsOld): SeenResponse {
  const { status, headerLines, trailers, body } = response;
  const isProblem = response.header('Content-Type') === 'application/problem+json';
  const ofUpload = headerLines.filter(([name]) => !/^(?:connection|keep-alive)$/i.test(name));
  const lines = ofUpload.map(([name, value]) => {
    if (/^upload-limit$/i.test(name)) return `${name}: ${value.replace(/(?<=(?:expires|max-age)=)\d+/, '<left>')}`;
    if (/^retry-after$/i.test(name)) return `${name}: <seconds>`;
    if (isProblem && /^content-length$/i.test(name)) return `${name}: <words>`;
    if (/^date$/i.test(name) && !isOld(value)) return `${name}: <now>`;
    return `${name}: ${value}`;
  });
  return {
    status,
    lines,
    ...(trailers.length > 0 && { trailers: trailers.map(([name, value]) => `${name}: ${value}`) }),
    ...(body.length > 0 && { body: facts(body) }),
  };
}

/** What the hash of bytes is taken of, and the hash. */
export function facts(bytes: Uint8Array): { readonly size: number; readonly sha256: string } {
  return { size: bytes.length, sha256: sha256(bytes) };
}

/** The file that is kept of a place: one line for each upload. */
export function textOf({ uploads, ...rest }: ExpectedSetup): string {
  const lines = Object.entries(uploads).map(([name, one]) => `    ${JSON.stringify(name)}: ${JSON.stringify(one)}`);
  const about = JSON.stringify(rest, undefined, 2).slice(0, -2);
  return `${about},\n  "uploads": {\n${lines.join(',\n')}\n  }\n}\n`;
}
