import { assertUploadId, isUploadId } from '../../fs/files.js';
import { Fault } from '../../model/fault.js';
import {
  type Answer,
  markAskedAgain,
  type Attempt,
  type Chunk,
  type Phase,
  markClientKnows,
  type Undelivered,
  type Upload,
} from '../../model/upload.js';
import type {
  Commit,
  KeptAnswer,
  KeyedUpload,
  NewUpload,
  ExpectedState,
  SealedFields,
  SetAsideRecord,
  Totals,
  UploadStore,
} from '../upload-store.js';
import { type Capacity, type Excess, isNoRoom, type NoRoom, noRoomFault } from '../usage.js';
import type { RedisConnection, ScriptArgument } from './connection.js';
import type { ServerClock } from './health.js';
import type { UploadKeys } from './keys.js';
import { RedisQueries, RedisSettlementWaiters } from './queries.js';
import { RedisUsage } from './usage.js';

export interface RedisStoreOptions {
  /** Stays open when the store is closed, since other stores may use it. */
  readonly connection: RedisConnection;
  /** The node whose deliveries and expired uploads are listed; '' where every node reaches all bytes. */
  readonly node: string;
  /** Time for which the usage of a cluster's other buckets is remembered; a second by default. */
  readonly usageLookupIntervalMs?: number;
}

/**
 * A client key is removed with its upload. If the process dies in between, the key outlasts any upload that clients
 * could resume.
 */
const CLIENT_KEY_LIFETIMES = 10;
const CLIENT_KEY_MIN_MS = 30 * 24 * 3600 * 1000;

/**
 * The store that many processes share: each method is one script, which Redis runs atomically. Opening a store costs
 * nothing, so the uploads of a lost node can be handled by a store opened with its name.
 */
export class RedisStore implements UploadStore {
  readonly canLoseConfirmedSteps = true;
  private readonly connection: RedisConnection;
  private readonly node: string;
  private readonly settlement: RedisSettlementWaiters;
  private readonly queries: RedisQueries;
  private readonly usage: RedisUsage;

  constructor({ connection, node, usageLookupIntervalMs }: RedisStoreOptions) {
    this.connection = connection;
    this.node = node;
    const get = (id: string): Promise<Upload | undefined> => this.get(id);
    this.settlement = new RedisSettlementWaiters(connection.bus, get);
    this.queries = new RedisQueries(connection, node, get);
    this.usage = new RedisUsage(connection, usageLookupIntervalMs);
  }

  create(upload: NewUpload): Promise<Upload>;
  create(upload: NewUpload, capacity: Capacity): Promise<Upload | NoRoom>;
  async create(upload: NewUpload, capacity?: Capacity): Promise<Upload | NoRoom> {
    const { id, node = '', length = '', reprDigests, expiresAt, route, client = '' } = upload;
    assertUploadId(id);
    const fields = [aboutText(upload), length, digestsText(reprDigests), ...this.expiryArguments(expiresAt)];
    const args = [...fields, route, client, ...(await this.usage.limitArguments(upload, capacity))];
    const step = { script: 'create', id, node, args, keys: ({ ids }: { ids: string }) => [ids] };
    const result = await runStep<'created' | 'exists' | NoRoom>(this.connection, step);
    if (result === 'exists') throw new Fault('CONTRACT_BROKEN', 'an upload with this id exists', false);
    if (isNoRoom(result)) return result;
    return { ...upload, phase: 'receiving', offset: 0, attempts: [], attemptCount: 0 };
  }

  /** The upload is created before it gets the key, so that the key never names a missing upload. */
  createUnlessKeyUsed(upload: KeyedUpload, replacedId?: string): Promise<Upload | string>;
  createUnlessKeyUsed(
    upload: KeyedUpload,
    replacedId: string | undefined,
    capacity: Capacity,
  ): Promise<Upload | string | NoRoom>;
  async createUnlessKeyUsed(
    upload: KeyedUpload,
    replacedId = '',
    capacity: Capacity = {},
  ): Promise<Upload | string | NoRoom> {
    const { connection } = this;
    const { id, clientKey, limits } = upload;
    const created = await this.create(upload, capacity);
    if (isNoRoom(created)) return created;
    const lifetimeMs = CLIENT_KEY_LIFETIMES * limits.maxAgeSeconds * 1000 + CLIENT_KEY_MIN_MS;
    const knownId = await connection.runDurably(
      'hold-key',
      [connection.keys.clientKey(clientKey)],
      [id, replacedId, Math.round(lifetimeMs)],
    );
    if (knownId === id) return created;
    await this.remove(id);
    return knownId as string;
  }

  async idByClientKey(clientKey: string): Promise<string | undefined> {
    const key = this.connection.keys.clientKey(clientKey);
    return (await this.connection.call(key, (client) => client.get(key))) ?? undefined;
  }

  async get(id: string): Promise<Upload | undefined> {
    if (!isUploadId(id)) return undefined;
    const { record } = this.connection.keys.upload(id);
    // Names and values alternate, as in the scripts' results.
    const fields = await this.connection.call(record, (client) => client.call('HGETALL', record) as Promise<string[]>);
    return fields.length === 0 ? undefined : uploadOf(fields, this.connection.clock);
  }

  async chunks(id: string): Promise<readonly Chunk[]> {
    const { chunks } = this.connection.keys.upload(id);
    const texts = await this.connection.call(chunks, (client) => client.lrange(chunks, 0, -1));
    return texts.map(chunkOf);
  }

  async commit(id: string, commit: Commit): Promise<Upload | 'stale' | 'gone'> {
    const { token, chunk, length = '', reprDigests, complete, expiresAt, capacity } = commit;
    if (chunk && !(Number.isSafeInteger(chunk.size) && chunk.size >= 0))
      throw new Fault('CONTRACT_BROKEN', 'commit refused: the size of a chunk is no number of bytes', false);
    const piece = [chunk?.name ?? '', chunk?.start ?? 0, chunk?.size ?? 0];
    const heldBack = complete?.heldBack ? JSON.stringify(complete.heldBack) : '';
    const ending = [length, digestsText(reprDigests), complete ? 'complete' : '', heldBack];
    const trailers = complete?.trailers ? JSON.stringify(complete.trailers) : '';
    const fields = [token, ...piece, ...ending, ...this.expiryArguments(expiresAt), trailers, chunk?.crc ?? ''];
    const args = [...fields, ...(await this.usage.limitArguments({ id, node: this.node }, capacity))];
    const result = await this.stepWithBytes<'stale' | 'gone' | NoRoom>('stale', {
      script: 'commit',
      id,
      args,
      keys: ({ chunks }) => [chunks],
    });
    if (isNoRoom(result)) throw noRoomFault(result);
    return result;
  }

  invalidate(id: string, token: number, reason?: 'lost'): Promise<Upload | 'stale' | 'gone'> {
    return this.stepWithBytes('stale', { script: 'invalidate', id, args: [token, reason ?? ''] });
  }

  markLost(id: string): Promise<Upload | 'gone'> {
    return this.stepWithBytes('gone', { script: 'lose', id });
  }

  move(id: string, token: number, node: string, expected?: ExpectedState): Promise<Upload | 'stale' | 'gone'> {
    const { keys } = this.connection;
    const bucket = keys.bucketOf(id);
    const indexes = [keys.due(bucket, node), keys.expires(bucket, node)];
    const args = [token, node, expected?.phase ?? '', expected?.attemptCount ?? ''];
    return this.step({ script: 'move', id, args, keys: () => indexes });
  }

  cancel(id: string): Promise<Upload | 'gone'> {
    return this.step({ script: 'cancel', id });
  }

  async beginEagerAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    if (!attempt.inPart) throw new Fault('CONTRACT_BROKEN', 'an eager attempt is in part', false);
    return this.stepWithBytes('stale', { script: 'begin-early', id, args: [attempt.number, attemptText(attempt)] });
  }

  endEagerAttempt(id: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.step({ script: 'end-early', id, args: [attempt.number, attemptText(attempt)] });
  }

  recordEarlyAnswer(id: string, ended: Attempt, kept: KeptAnswer): Promise<Upload | 'stale'> {
    const args = [ended.number, attemptText(ended), ...answerArguments(kept), ...this.expiryArguments(kept.expiresAt)];
    const step: Omit<Step, 'node'> = { script: 'answer-early', id, args, keys: (keys) => [keys.answer] };
    // The eager attempt may outlast a move, after which a body in this node's spool would be on the wrong node.
    return kept.answer.body.in === 'spool' ? this.stepWithBytes('stale', step) : this.step(step);
  }

  async claimDelivery(id: string, worker: string, until: number, eagerAttempt?: Attempt): Promise<Upload | undefined> {
    const attemptArguments = eagerAttempt
      ? [eagerAttempt.number, attemptText({ ...eagerAttempt, inPart: undefined })]
      : ['', ''];
    const args = [worker, this.msUntil(until), ...attemptArguments];
    const result = await this.stepWithBytes<'none'>('none', { script: 'claim-delivery', id, args });
    return result === 'none' ? undefined : result;
  }

  async renewClaim(id: string, worker: string, until: number, attempt?: number): Promise<boolean> {
    const args = [worker, this.msUntil(until), attempt ?? ''];
    return (await this.step<'renewed' | 'stale'>({ script: 'renew-claim', id, args })) === 'renewed';
  }

  beginAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.step({ script: 'begin-attempt', id, args: [worker, attempt.number, attemptText(attempt)] });
  }

  endAttempt(id: string, worker: string, attempt: Attempt): Promise<Upload | 'stale'> {
    return this.step({ script: 'end-attempt', id, args: [worker, attempt.number, attemptText(attempt)] });
  }

  recordAnswer(id: string, worker: string, kept: KeptAnswer, ended?: Attempt): Promise<Upload | 'stale'> {
    const endArguments = ended ? [ended.number, attemptText(ended)] : ['', ''];
    const args = [worker, ...answerArguments(kept), ...this.expiryArguments(kept.expiresAt), ...endArguments];
    const step: Omit<Step, 'node'> = { script: 'record-answer', id, args, keys: (keys) => [keys.answer] };
    // The upload may have moved after its claim was lost, and then a body in this node's spool would be on the wrong
    // node.
    return kept.answer.body.in === 'spool' ? this.stepWithBytes('stale', step) : this.step(step);
  }

  postpone(id: string, worker: string, dueAt: number): Promise<Upload | 'stale'> {
    return this.step({ script: 'postpone', id, args: [worker, ...this.expiryArguments(dueAt)] });
  }

  giveUp(id: string, worker: string, failure: Undelivered): Promise<Upload | 'stale'> {
    return this.step({ script: 'give-up', id, args: [worker, JSON.stringify(failure)] });
  }

  recordClientInformed(id: string, attempt: number, failure: Undelivered): Promise<Upload | 'stale'> {
    return this.updateUndelivered(id, attempt, failure, markClientKnows(failure));
  }

  recordClientAskedAgain(id: string, attempt: number, failure: Undelivered): Promise<Upload | 'stale'> {
    return this.updateUndelivered(id, attempt, failure, markAskedAgain(failure));
  }

  async reseal(
    id: string,
    seal: (upload: Upload) => SealedFields | undefined,
  ): Promise<'resealed' | 'unchanged' | 'gone'> {
    const { record } = this.connection.keys.upload(id);
    const list = await this.connection.call(record, (client) => client.call('HGETALL', record) as Promise<string[]>);
    if (list.length === 0) return 'gone';
    const set = seal(uploadOf(list, this.connection.clock));
    if (!set) return 'unchanged';
    const texts = new Map<string, string>();
    for (let at = 0; at < list.length; at += 2) texts.set(list[at]!, list[at + 1]!);
    const { answer, undelivered, ...immutable } = set;
    const changes = Object.entries({
      about: JSON.stringify({ ...(JSON.parse(texts.get('about')!) as object), ...immutable }),
      ...(answer && { answer: JSON.stringify(answer) }),
      ...(undelivered && { undelivered: JSON.stringify(undelivered) }),
    });
    const args = changes.flatMap(([field, text]) => [field, texts.get(field) ?? '', text]);
    return (await this.connection.runDurably('reseal', [record], [id, ...args])) as 'resealed' | 'unchanged' | 'gone';
  }

  private updateUndelivered(
    id: string,
    attempt: number,
    expected: Undelivered,
    updated: Undelivered,
  ): Promise<Upload | 'stale'> {
    return this.step({
      script: 'note-client-knows',
      id,
      args: [attempt, JSON.stringify(expected), JSON.stringify(updated)],
    });
  }

  async answerBody(id: string): Promise<Uint8Array | undefined> {
    const { answer } = this.connection.keys.upload(id);
    return (await this.connection.call(answer, (client) => client.getBuffer(answer))) ?? undefined;
  }

  dueDeliveries(now: number, implausibleAfter?: number): Promise<readonly string[]> {
    return this.queries.due(now, implausibleAfter);
  }

  waitUntilSettled(id: string, signal: AbortSignal): Promise<Upload | undefined> {
    return this.settlement.wait(id, signal);
  }

  expired(now: number): Promise<readonly string[]> {
    return this.queries.expired(now);
  }

  async remove(id: string, clientKey?: string): Promise<Phase | undefined> {
    const { connection, node } = this;
    const keys: Step['keys'] = ({ ids, chunks, answer, lease }) => [ids, chunks, answer, lease];
    const removed = await runStep<Phase | 'gone'>(connection, { script: 'remove', id, node, keys });
    if (clientKey !== undefined) await connection.runDurably('free-key', [connection.keys.clientKey(clientKey)], [id]);
    return removed === 'gone' ? undefined : (removed as Phase);
  }

  list(after: string | undefined, limit: number): Promise<{ uploads: readonly Upload[]; next?: string }> {
    return this.queries.page(after, limit);
  }

  /** Always empty: a single record never fails to be read, only Redis as a whole. */
  setAsideRecords(): Promise<readonly SetAsideRecord[]> {
    return Promise.resolve([]);
  }

  totals(): Promise<Totals> {
    return this.queries.totals();
  }

  close(): Promise<void> {
    this.settlement.close();
    return Promise.resolve();
  }

  private step<T extends string | NoRoom>(step: Omit<Step, 'node'>): Promise<Upload | T> {
    return runStep<T>(this.connection, { node: this.node, ...step });
  }

  /** A step that needs the bytes: only the node that has them may add to them, miss them or send them. */
  private stepWithBytes<T extends string | NoRoom>(
    resultElsewhere: T & string,
    step: Omit<Step, 'node'>,
  ): Promise<Upload | T> {
    return this.step<T>({ ...step, resultElsewhere: this.node === '' ? undefined : resultElsewhere });
  }

  /** The duration of a claim, which begins when Redis gets the step, whatever the nodes' clocks say. */
  private msUntil(at: number): number {
    return Math.round(at - this.connection.clock.now());
  }

  /** A time on our clock, as it is stored, and on the clock by which Redis judges it. */
  private expiryArguments(at: number): [number, number | string] {
    return [at, this.connection.clock.toServerExpiry(at)];
  }
}

/** An answer as script arguments: its JSON, its time, where its body is, and the body. */
function answerArguments({ answer, body }: KeptAnswer): [string, number, string, Buffer] {
  const isInRecord = answer.body.in === 'record';
  const bytes = isInRecord && body ? Buffer.from(body.buffer, body.byteOffset, body.byteLength) : Buffer.alloc(0);
  return [JSON.stringify(answer), answer.at, isInRecord ? 'record' : '', bytes];
}

/** One step of the store, as a call of its script. */
export interface Step {
  readonly script: string;
  readonly id: string;
  /** The node that is believed to have the bytes. */
  readonly node: string;
  readonly args?: readonly ScriptArgument[];
  /** Keys in addition to those of every step. */
  readonly keys?: (keys: UploadKeys) => readonly string[];
  /** The result when another node has the bytes, for a step that only that node may take. */
  readonly resultElsewhere?: string | undefined;
}

/** Uploads rarely move: one that has moved again at every attempt indicates a defect. */
const MAX_MOVES = 5;

/** Runs one step as one script. If the upload is on another node than expected, it runs again with that node's keys. */
async function runStep<T extends string | NoRoom>(
  connection: RedisConnection,
  { script, id, node, args = [], keys: extraKeys, resultElsewhere }: Step,
): Promise<Upload | T> {
  const uploadKeys = connection.keys.upload(id);
  const bucket = connection.keys.bucketOf(id);
  let expectedNode = node;
  for (let moves = 0; moves <= MAX_MOVES; moves++) {
    const indexes = [connection.keys.due(bucket, expectedNode), connection.keys.expires(bucket, expectedNode)];
    const keys = [
      uploadKeys.record,
      ...indexes,
      uploadKeys.totals,
      uploadKeys.channel,
      uploadKeys.usage,
      ...(extraKeys?.(uploadKeys) ?? []),
    ];
    const [word, value] = (await connection.runDurably(script, keys, [id, expectedNode, ...args])) as [string, unknown];
    if (word === 'upload') return uploadOf(value as string[], connection.clock);
    if (word === 'exceeds') return { exceeds: value as Excess } as T;
    if (word === 'broken') throw new Fault('CONTRACT_BROKEN', `${script} refused: ${value as string}`, false);
    if (word !== 'moved') return word as T;
    if (resultElsewhere !== undefined) return resultElsewhere as T;
    expectedNode = value as string;
  }
  throw new Fault('STORE_UNAVAILABLE', 'an upload keeps moving between nodes', true);
}

/** The fields of an upload that never change, stored as one JSON field that scripts do not read. */
type ImmutableFields = Omit<NewUpload, 'node' | 'length' | 'reprDigests' | 'expiresAt'>;

const ATTEMPT_PREFIX = 'attempt:';

function aboutText(upload: NewUpload): string {
  const storedSeparately: Record<keyof Omit<NewUpload, keyof ImmutableFields>, undefined> = {
    node: undefined,
    length: undefined,
    reprDigests: undefined,
    expiresAt: undefined,
  };
  return JSON.stringify({ ...upload, ...storedSeparately });
}

/** Empty for an empty list, so that the first list with digests is stored. */
function digestsText(digests: Upload['reprDigests'] | undefined): string {
  return digests && digests.length > 0 ? JSON.stringify(digests) : '';
}

/** The attempt as stored: a flag for the scripts (`i` for open and in part, otherwise `o`), then JSON. */
function attemptText(attempt: Attempt): string {
  const isOpenInPart = attempt.inPart === true && attempt.reached === undefined;
  return `${isOpenInPart ? 'i' : 'o'}${JSON.stringify(attempt)}`;
}

/**
 * The upload in the fields of its record, a list in which names and values alternate. Its expiry is converted to our
 * clock, because the node that set it may have another time.
 */
function uploadOf(list: readonly string[], clock: Pick<ServerClock, 'toLocalExpiry'>): Upload {
  const fields = new Map<string, string>();
  for (let at = 0; at < list.length; at += 2) fields.set(list[at]!, list[at + 1]!);
  const about = fields.get('about');
  if (about === undefined) throw new Fault('RECORD_DAMAGED', 'the record of an upload in Redis is damaged', false);
  return {
    ...(JSON.parse(about) as ImmutableFields),
    ...optional('node', fields.get('node') || undefined),
    phase: fields.get('phase') as Phase,
    offset: Number(fields.get('offset')),
    ...optional('length', numberOf(fields.get('length'))),
    reprDigests: (parseOptional(fields.get('digests')) as Upload['reprDigests'] | undefined) ?? [],
    ...optional('lost', fields.has('lost') ? (true as const) : undefined),
    ...optional('heldBack', parseOptional(fields.get('heldBack')) as Upload['heldBack'] | undefined),
    ...optional('trailers', parseOptional(fields.get('trailers')) as Upload['trailers'] | undefined),
    ...optional('dueAt', numberOf(fields.get('dueAt'))),
    ...optional('undelivered', parseOptional(fields.get('undelivered')) as Undelivered | undefined),
    ...optional('answer', parseOptional(fields.get('answer')) as Answer | undefined),
    attempts: attemptsOf(fields),
    attemptCount: Number(fields.get('attemptCount')),
    expiresAt: clock.toLocalExpiry(fields.get('endsAt') ?? ''),
  };
}

/** A chunk as the scripts store it: start, size, name and, if there is one, the checksum. */
function chunkOf(text: string): Chunk {
  const [start, size, name, crc] = text.split(' ');
  return { name: name!, start: Number(start), size: Number(size), ...optional('crc', numberOf(crc)) };
}

function attemptsOf(fields: ReadonlyMap<string, string>): Attempt[] {
  const attempts: Attempt[] = [];
  for (const [name, text] of fields)
    if (name.startsWith(ATTEMPT_PREFIX)) attempts.push(JSON.parse(text.slice(1)) as Attempt);
  return attempts.sort((one, other) => one.number - other.number);
}

function optional<K extends string, V>(name: K, value: V | undefined): { readonly [name in K]?: V } {
  return value === undefined ? {} : ({ [name]: value } as { [name in K]: V });
}

function numberOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number(text);
}

function parseOptional(text: string | undefined): unknown {
  return text === undefined ? undefined : JSON.parse(text);
}
