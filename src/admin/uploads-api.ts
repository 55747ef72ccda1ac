import { Fault } from '../model/fault.js';
import { fieldValue, type Headers } from '../model/headers.js';
import type { Outcome } from '../model/messages.js';
import {
  type Answer,
  type Attempt,
  identifiersOf,
  idempotencyKeyOf,
  type Phase,
  PHASES,
  type Undelivered,
  type Upload,
} from '../model/upload.js';
import { type Log, uploadFields, uploadTag, withoutQueryValues } from '../observe/log.js';
import type { Nodes } from '../store/nodes.js';
import { everyUpload, type SetAsideRecord, type UploadStore } from '../store/upload-store.js';
import type { UnknownUploads } from '../uploads/unknown-bytes.js';
import { type AdminResponse, type AdminRequest, json, methodNotAllowed, problem } from './admin-http.js';

/** What operators may do with uploads. */
export interface UploadsApi {
  readonly store: Listing;
  readonly uploads: { cancel(intent: { readonly kind: 'cancel'; readonly id: string }): Promise<Outcome> };
  readonly delivery: {
    /** `begun`: an attempt follows as soon as the origin can be asked. The others say why there is none. */
    redeliver(
      id: string,
      options: { readonly skipGate: boolean },
    ): Promise<'begun' | 'unknown' | 'incomplete' | 'answered' | 'stopping'>;
  };
  /** Uploads in the spool without a record: a store was lost, or records are missing. */
  readonly unknownUploads?: () => UnknownUploads | undefined;
  /** Whose bytes are here; missing where every node reaches all of them. */
  readonly node?: string;
  /** Where the others are. */
  readonly nodes?: Pick<Nodes, 'find'>;
  readonly log: Log;
}

/** `/uploads`, `/uploads/{tag}` and `/uploads/{tag}/redeliver`; undefined for other paths. */
export async function answerUploads(uploadsApi: UploadsApi, request: AdminRequest): Promise<AdminResponse | undefined> {
  try {
    return await answer(uploadsApi, request);
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    uploadsApi.log.warn({ err: fault }, 'an operator could not be answered');
    return problem(503, `Uploads cannot be reached right now: ${fault.message}. Ask again.`, { 'Retry-After': '5' });
  }
}

async function answer(uploadsApi: UploadsApi, request: AdminRequest): Promise<AdminResponse | undefined> {
  const [, root, tag, verb, ...more] = request.path.split('/');
  if (root !== 'uploads' || more.length > 0 || (verb !== undefined && verb !== 'redeliver')) return undefined;
  if (tag === undefined) return isRead(request) ? list(uploadsApi, request.query) : methodNotAllowed(['GET', 'HEAD']);
  if (verb !== undefined && request.method !== 'POST') return methodNotAllowed(['POST']);
  if (verb === undefined && !isRead(request) && request.method !== 'DELETE')
    return methodNotAllowed(['GET', 'HEAD', 'DELETE']);
  const asked = isRead(request) ? { skipGate: false } : readAct(request.query, verb);
  if (typeof asked === 'string') return problem(400, asked);
  const aside = (await uploadsApi.store.setAsideRecords()).find(({ id }) => uploadTag(id) === tag);
  if (aside) return isRead(request) ? json(200, setAsideView(aside)) : cannotBeRead(aside);
  const found = await uploadsTagged(uploadsApi.store, tag);
  const upload = found[0];
  if (!upload)
    return problem(
      404,
      `There is no upload with the tag ${JSON.stringify(tag)}; it may have ended and been removed; then its lines are in the log.`,
    );
  if (found.length > 1) return problem(409, 'More than one upload has this tag; wait until one of them has ended.');
  if (verb === undefined && isRead(request)) return json(200, detailOf(upload));
  if (upload.node !== uploadsApi.node) return notHere(uploadsApi, upload);
  return verb === undefined ? cancel(uploadsApi, upload, asked) : redeliver(uploadsApi, upload, asked);
}

/** An operator’s order, with the name that the operator gives. */
interface Act {
  readonly operator?: string;
  readonly skipGate: boolean;
}

const OPERATOR = /^[^\p{C}]{1,100}$/u;

/** Reads an order from its question; a text says what is wrong with it. */
function readAct(query: URLSearchParams, verb: string | undefined): Act | string {
  const known = verb === undefined ? ['operator'] : ['operator', 'past_gate'];
  const unknown = [...query.keys()].find((key) => !known.includes(key));
  if (unknown !== undefined) return `There is no parameter ${JSON.stringify(unknown)}; known: ${known.join(', ')}.`;
  const operator = query.get('operator') ?? undefined;
  if (operator !== undefined && !OPERATOR.test(operator)) return 'operator is a name of up to 100 letters.';
  const skipGate = query.get('past_gate') ?? 'false';
  if (skipGate !== 'true' && skipGate !== 'false') return 'past_gate is true or false.';
  if (skipGate === 'true' && operator === undefined)
    return 'past_gate=true needs operator=NAME: the log tells who it was.';
  return { skipGate: skipGate === 'true', ...(operator === undefined ? {} : { operator }) };
}

function cannotBeRead({ state, reason }: SetAsideRecord): AdminResponse {
  if (state === 'damaged') return problem(409, `There is nothing to act on: ${reason}.`);
  return problem(503, `Nothing can be done to this upload now: ${reason}. It is tried again.`, { 'Retry-After': '5' });
}

function isRead({ method }: AdminRequest): boolean {
  return method === 'GET' || method === 'HEAD';
}

async function list(uploadsApi: UploadsApi, query: URLSearchParams): Promise<AdminResponse> {
  const wanted = readQuery(query);
  if (typeof wanted === 'string') return problem(400, wanted);
  const { uploads, next } = await newestUploads(uploadsApi.store, wanted);
  const isOverview = !wanted.phase && !wanted.find && !wanted.after;
  const aside = isOverview ? await uploadsApi.store.setAsideRecords() : [];
  const unknown = isOverview ? uploadsApi.unknownUploads?.() : undefined;
  return json(200, {
    uploads: uploads.map(summaryOf),
    ...(unknown ? { unknownUploads: unknownView(unknown) } : {}),
    ...(aside.length > 0 ? { setAside: aside.map(setAsideView) } : {}),
    ...(next ? { next: `${next.createdAt}.${next.tag}` } : {}),
  });
}

/** What is asked for, or what is wrong with the question. */
function readQuery(query: URLSearchParams): Wanted | string {
  const unknown = [...query.keys()].find((key) => !['phase', 'find', 'limit', 'after'].includes(key));
  if (unknown !== undefined)
    return `There is no parameter ${JSON.stringify(unknown)}; known are phase, find, limit and after.`;
  const phase = PHASES.find((one) => one === query.get('phase'));
  if (query.has('phase') && !phase) return `phase is one of ${PHASES.join(', ')}.`;
  const limit = Number(query.get('limit') ?? 100);
  if (!Number.isInteger(limit) || limit < 1 || limit > 1000) return 'limit is a whole number from 1 to 1000.';
  const after = readPlace(query.get('after'));
  if (after === 'malformed') return 'after is the "next" of the page before.';
  const find = query.get('find') ?? undefined;
  if (find === '') return 'find is a tag, a path, an Idempotency-Key or the address of a client.';
  return { limit, ...(find === undefined ? {} : { find }), ...(phase ? { phase } : {}), ...(after ? { after } : {}) };
}

function readPlace(text: string | null): ListPosition | undefined | 'malformed' {
  if (text === null) return undefined;
  const [, createdAt, tag] = /^(\d{1,16})\.([0-9a-f]{10})$/.exec(text) ?? [];
  return tag === undefined ? 'malformed' : { createdAt: Number(createdAt), tag };
}

/** What is done to an upload is done where its bytes are. */
async function notHere({ nodes }: UploadsApi, { node }: Upload): Promise<AdminResponse> {
  if (node === undefined) return problem(409, SHARED_BEFORE);
  const owner = await nodes?.find(node);
  const where = owner ? `, which the others reach at ${owner.url}` : '';
  return problem(409, `The bytes of this upload are with node ${node}${where}. Ask the admin listener of that node.`);
}

const SHARED_BEFORE =
  'The bytes of this upload are in a spool that nodes share, and this node has one of its own. Ask a node with ' +
  'spool.shared set to true.';

async function cancel({ uploads, log }: UploadsApi, upload: Upload, { operator }: Act): Promise<AdminResponse> {
  const outcome = await uploads.cancel({ kind: 'cancel', id: upload.id });
  if (outcome.kind === 'cancelled') {
    log.info({ ...uploadFields(identifiersOf(upload)), operator }, 'an operator cancelled an upload');
    return { status: 204 };
  }
  const isGone = outcome.kind === 'refused' && outcome.refusal.reason === 'gone';
  return isGone
    ? problem(410, 'The upload has ended already and is about to be removed.')
    : problem(404, 'The upload ended in this moment.');
}

const ANSWERED =
  'The upload was answered already, by its origin or by its gate; the answer is kept for the client and the bytes are gone.';

async function redeliver({ delivery, log }: UploadsApi, upload: Upload, act: Act): Promise<AdminResponse> {
  const { operator, skipGate } = act;
  const fields = { ...uploadFields(identifiersOf(upload)), operator };
  switch (await delivery.redeliver(upload.id, { skipGate })) {
    case 'begun':
      if (skipGate) log.warn(fields, 'an operator had an upload delivered past its gate');
      else log.info(fields, 'an operator had an upload delivered again');
      return json(202, { tag: fields.upload });
    case 'unknown':
      return problem(404, 'The upload has ended and is about to be removed.');
    case 'incomplete':
      return problem(409, 'The upload is not whole yet: there is nothing to deliver.');
    case 'answered':
      return problem(409, ANSWERED);
    case 'stopping':
      return problem(503, 'The proxy is being stopped.', { 'Retry-After': '10' });
  }
}

type Listing = Pick<UploadStore, 'list' | 'setAsideRecords'>;

interface Wanted {
  readonly phase?: Phase;
  /** A tag, the path of a creation, the `Idempotency-Key` that the origin gets, or the address of a client. */
  readonly find?: string;
  readonly limit: number;
  /** The place of the last upload of the page before. */
  readonly after?: ListPosition;
}

/** Where an upload stands in a list, newest first. Known to whoever asks, so it is made of what it may know. */
interface ListPosition {
  readonly createdAt: number;
  readonly tag: string;
}

/** The newest uploads behind a place; `next` is missing on the last page. Reads all, keeps no more than a page or two. */
async function newestUploads(
  store: Pick<Listing, 'list'>,
  wanted: Wanted,
): Promise<{ uploads: Upload[]; next?: ListPosition }> {
  const { phase, find, limit, after } = wanted;
  let found: Upload[] = [];
  for await (const upload of everyUpload(store)) {
    if (phase !== undefined && upload.phase !== phase) continue;
    if (find !== undefined && !isFoundBy(upload, find)) continue;
    if (after && !isBehind(upload, after)) continue;
    found.push(upload);
    if (found.length > 2 * limit + 100) found = found.sort(newestFirst).slice(0, limit + 1);
  }
  const page = found.sort(newestFirst).slice(0, limit);
  const last = page.at(-1);
  return found.length > limit && last ? { uploads: page, next: placeOf(last) } : { uploads: page };
}

function isFoundBy(upload: Upload, what: string): boolean {
  const { target, clientAddress } = upload.request;
  const names = [uploadTag(upload.id), target.split('?', 1)[0], idempotencyKeyOf(upload), clientAddress];
  return names.includes(what);
}

/** The uploads with this tag: it is short, so that there can be more than one. */
async function uploadsTagged(store: Pick<Listing, 'list'>, tag: string): Promise<Upload[]> {
  const found: Upload[] = [];
  for await (const upload of everyUpload(store)) if (uploadTag(upload.id) === tag) found.push(upload);
  return found;
}

function placeOf({ createdAt, id }: Upload): ListPosition {
  return { createdAt, tag: uploadTag(id) };
}

function isBehind(upload: Upload, after: ListPosition): boolean {
  if (upload.createdAt !== after.createdAt) return upload.createdAt < after.createdAt;
  return uploadTag(upload.id) > after.tag;
}

function newestFirst(a: Upload, b: Upload): number {
  return b.createdAt - a.createdAt || (uploadTag(a.id) < uploadTag(b.id) ? -1 : 1);
}

/** An upload in a list: never its id, which is the right to write to it (RUFH §11), nor a value its client sent. */
function summaryOf(upload: Upload) {
  const { request, attempts, answer, undelivered, dueAt } = upload;
  const newest = attempts.at(-1);
  return {
    tag: uploadTag(upload.id),
    phase: upload.phase,
    route: upload.route,
    dialect: upload.dialect,
    method: request.method,
    target: withoutQueryValues(request.target),
    offset: upload.offset,
    ...(upload.length === undefined ? {} : { length: upload.length }),
    attempts: upload.attemptCount,
    ...(newest ? { newestAttempt: attemptView(newest) } : {}),
    ...(answer ? { status: answer.status } : {}),
    ...(undelivered ? { undelivered: undeliveredView(undelivered) } : {}),
    ...(dueAt === undefined ? {} : { dueAt: iso(dueAt) }),
    createdAt: iso(upload.createdAt),
    expiresAt: iso(upload.expiresAt),
  };
}

/** An upload that cannot be shown, because its record cannot be read. */
function setAsideView({ id, state, reason, since }: SetAsideRecord) {
  return { tag: uploadTag(id), phase: state, problem: reason, since: iso(since) };
}

/** Uploads that a lost store has left in the spool. */
function unknownView(unknown: UnknownUploads) {
  const { uploads, bytes, since } = unknown;
  return { uploads, bytes, since: iso(since), problem: unknownProblem(unknown) };
}

export function unknownProblem({ uploads, bytes, since, lack }: UnknownUploads): string {
  if (lack === 'records')
    return (
      `the spool has ${uploads} uploads (${bytes} bytes) whose records were not in uploads at the start of ${iso(since)}. ` +
      'They are removed when the longest limits.max_age is over. If the data directory is a copy, stop, copy the whole ' +
      'directory and start again'
    );
  return (
    `the spool has ${uploads} uploads (${bytes} bytes) of another Redis, from before ${iso(since)}; this one does not know ` +
    'them. They are removed when the longest limits.max_age is over. If this is the wrong Redis, database or store.prefix, ' +
    'correct it; if it was emptied, restore its backup'
  );
}

/** Everything an operator may know of one upload. Of header fields the names, of credentials nothing more. */
function detailOf(upload: Upload) {
  const { request, answer } = upload;
  return {
    ...summaryOf(upload),
    limits: upload.limits,
    digests: upload.reprDigests,
    bound: upload.principal !== undefined,
    idempotencyKey: idempotencyKeyOf(upload),
    request: {
      scheme: request.scheme,
      authority: request.authority,
      httpVersion: request.httpVersion,
      client: request.clientAddress,
      contentType: fieldValue(request.headers, 'content-type'),
      headerNames: namesOf(request.headers),
    },
    newestAttempts: upload.attempts.map(attemptView),
    ...(answer ? { answer: answerView(answer) } : {}),
  };
}

function attemptView({ number, origin, startedAt, endedAt, reached, status, problem }: Attempt) {
  return {
    number,
    origin,
    startedAt: iso(startedAt),
    ...(endedAt === undefined ? {} : { endedAt: iso(endedAt) }),
    reached,
    status,
    problem,
  };
}

function undeliveredView({ reason, status, problem }: Undelivered) {
  return { reason, status, problem };
}

function answerView({ status, reason, headers, bodySize, at }: Answer) {
  return { status, reason, headerNames: namesOf(headers), bodySize, at: iso(at) };
}

function namesOf(headers: Headers): string[] {
  return [...new Set(headers.map(([name]) => name))];
}

function iso(at: number): string {
  return new Date(at).toISOString();
}
