import { Fault } from '../model/fault.js';
import { fieldValue, type Headers } from '../model/headers.js';
import type { Outcome } from '../model/messages.js';
import type { Stories, StoryEntry } from '../model/story.js';
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
import { type AdminResponse, type AdminRequest, json, problem } from './admin-http.js';

/** The parts of the proxy with which operators inspect, cancel and redeliver uploads. */
export interface UploadsApi {
  readonly store: UploadList;
  readonly uploads: { cancel(intent: { readonly kind: 'cancel'; readonly id: string }): Promise<Outcome> };
  readonly delivery: {
    /** `begun`: an attempt follows as soon as the origin accepts one. Other results are reasons why there is none. */
    redeliver(
      id: string,
      options: { readonly skipGate: boolean },
    ): Promise<'begun' | 'unknown' | 'incomplete' | 'answered' | 'stopping'>;
  };
  /** Uploads in the spool without a record: a store was lost, or records are missing. */
  readonly unknownUploads?: () => UnknownUploads | undefined;
  /** The name of this node; missing if all nodes share a spool. */
  readonly node?: string;
  /** Finds the other nodes; missing if all nodes share a spool. */
  readonly nodes?: Pick<Nodes, 'find'>;
  /** The stories of uploads; missing if none are kept. */
  readonly story?: Stories;
  readonly log: Log;
}

/** Responds to the operations on `/uploads`, `/uploads/{tag}` and `/uploads/{tag}/redeliver`. Reasons: docs/decisions/0008. */
export async function respondToUploads(uploadsApi: UploadsApi, request: AdminRequest): Promise<AdminResponse> {
  try {
    return await respond(uploadsApi, request);
  } catch (fault) {
    if (!(fault instanceof Fault)) throw fault;
    uploadsApi.log.warn({ err: fault }, 'admin request failed: uploads are unavailable');
    return problem(503, `The uploads cannot be read now: ${fault.message}. Try again.`, { 'Retry-After': '5' });
  }
}

async function respond(uploadsApi: UploadsApi, request: AdminRequest): Promise<AdminResponse> {
  const [, , tag, action] = request.path.split('/');
  if (tag === undefined) return list(uploadsApi, request.query);
  const options = isRead(request) ? { skipGate: false } : readActionOptions(request.query);
  if (typeof options === 'string') return problem(400, options);
  const setAside = (await uploadsApi.store.setAsideRecords()).find(({ id }) => uploadTag(id) === tag);
  if (setAside) return isRead(request) ? json(200, setAsideView(setAside)) : setAsideProblem(setAside);
  const tagged = await uploadsTagged(uploadsApi.store, tag);
  const upload = tagged[0];
  if (!upload) return isRead(request) ? showRemoved(uploadsApi, tag) : problem(404, unknownTag(tag));
  if (tagged.length > 1) return problem(409, 'More than one upload has this tag; wait until one of them has ended.');
  if (action === undefined && isRead(request)) return show(uploadsApi, upload);
  if (upload.node !== uploadsApi.node) return wrongNode(uploadsApi, upload);
  const asked: AskedAction = { upload, action: action === undefined ? 'cancel' : 'redeliver', ...options };
  return noted(uploadsApi, asked, () => ACTIONS[asked.action](uploadsApi, upload, options));
}

const ACTIONS = { cancel, redeliver };

/** A cancellation or redelivery that an operator asks for. */
interface AskedAction extends ActionOptions {
  readonly upload: Upload;
  readonly action: keyof typeof ACTIONS;
}

/** Notes who asked for what, and the response, in the upload's story. */
async function noted(
  { story }: UploadsApi,
  { upload, action, operator, skipGate }: AskedAction,
  act: () => Promise<AdminResponse>,
): Promise<AdminResponse> {
  const askedAt = performance.now();
  const response = await act();
  const { status } = response;
  const asked = { kind: 'admin', action, ...(operator !== undefined && { operator }) } as const;
  const event = { ...asked, ...(skipGate && { pastGate: true as const }), status };
  story?.note(upload.id, event, performance.now() - askedAt);
  return response;
}

interface ActionOptions {
  /** The name that the operator gave, for the log. */
  readonly operator?: string;
  readonly skipGate: boolean;
}

const OPERATOR = /^[^\p{C}]{1,100}$/u;

/** Parses the options of a cancellation or redelivery; a string describes an error in them. */
function readActionOptions(query: URLSearchParams): ActionOptions | string {
  const operator = query.get('operator') ?? undefined;
  if (operator !== undefined && !OPERATOR.test(operator)) return 'operator is a name of up to 100 characters.';
  const skipGate = query.get('past_gate') ?? 'false';
  if (skipGate !== 'true' && skipGate !== 'false') return 'past_gate is true or false.';
  if (skipGate === 'true' && operator === undefined)
    return 'past_gate=true needs operator=NAME, because the log names who skipped a gate.';
  return { skipGate: skipGate === 'true', ...(operator === undefined ? {} : { operator }) };
}

function setAsideProblem({ state, reason }: SetAsideRecord): AdminResponse {
  if (state === 'damaged') return problem(409, `This upload cannot be cancelled or redelivered: ${reason}.`);
  return problem(
    503,
    `This upload cannot be cancelled or redelivered now: ${reason}. The proxy tries to read it again.`,
    { 'Retry-After': '5' },
  );
}

function isRead({ method }: AdminRequest): boolean {
  return method === 'GET' || method === 'HEAD';
}

async function list(uploadsApi: UploadsApi, query: URLSearchParams): Promise<AdminResponse> {
  const listQuery = readListQuery(query);
  if (typeof listQuery === 'string') return problem(400, listQuery);
  const { uploads, next } = await newestUploads(uploadsApi.store, listQuery);
  const isOverview = !listQuery.phase && !listQuery.find && !listQuery.after;
  const setAside = isOverview ? await uploadsApi.store.setAsideRecords() : [];
  const unknownUploads = isOverview ? uploadsApi.unknownUploads?.() : undefined;
  return json(200, {
    uploads: uploads.map(summaryOf),
    ...(unknownUploads ? { unknownUploads: unknownUploadsView(unknownUploads) } : {}),
    ...(setAside.length > 0 ? { setAside: setAside.map(setAsideView) } : {}),
    ...(next ? { next: `${next.createdAt}.${next.tag}` } : {}),
  });
}

async function show({ story, log }: UploadsApi, upload: Upload): Promise<AdminResponse> {
  const entries = await storyOf(uploadTag(upload.id), { story, log });
  return json(200, { ...detailOf(upload), ...(entries && { story: entries.map(entryView) }) });
}

/** An upload without a record may still have a story. */
async function showRemoved({ story, log }: UploadsApi, tag: string): Promise<AdminResponse> {
  const entries = (TAG.test(tag) && (await storyOf(tag, { story, log }))) || [];
  if (entries.length === 0) return problem(404, unknownTag(tag));
  return json(200, { tag, phase: 'removed', story: entries.map(entryView) });
}

const TAG = /^[0-9a-f]{10}$/;

function unknownTag(tag: string): string {
  return `No upload has the tag ${JSON.stringify(tag)}. If it has ended and was removed, only the log shows it.`;
}

/** Undefined if stories are not kept, or if this one cannot be read now. */
async function storyOf(
  tag: string,
  { story, log }: Pick<UploadsApi, 'story' | 'log'>,
): Promise<readonly StoryEntry[] | undefined> {
  try {
    return await story?.read(tag);
  } catch (error) {
    log.warn({ upload: tag, err: error }, 'the history of an upload cannot be read');
    return undefined;
  }
}

function entryView({ at, ...event }: StoryEntry) {
  return { at: iso(at), ...event };
}

/** Parses the query of a list; a string describes an error in it. */
function readListQuery(query: URLSearchParams): ListQuery | string {
  const phase = PHASES.find((known) => known === query.get('phase'));
  if (query.has('phase') && !phase) return `phase is one of ${PHASES.join(', ')}.`;
  const limit = readCount(query.get('limit') ?? '100');
  if (limit < 1 || limit > 1000) return 'limit is a whole number from 1 to 1000.';
  const after = readPosition(query.get('after'));
  if (after === 'malformed') return 'after is the "next" of the previous page.';
  const find = query.get('find') ?? undefined;
  if (find === '') return 'find is a tag, a path, an Idempotency-Key or the address of a client.';
  return { limit, ...(find === undefined ? {} : { find }), ...(phase ? { phase } : {}), ...(after ? { after } : {}) };
}

/** NaN would pass a comparison, so anything but digits counts as 0. */
function readCount(text: string): number {
  return /^\d{1,9}$/.test(text) ? Number(text) : 0;
}

function readPosition(text: string | null): ListPosition | undefined | 'malformed' {
  if (text === null) return undefined;
  const [, createdAt, tag] = /^(\d{1,16})\.([0-9a-f]{10})$/.exec(text) ?? [];
  return tag === undefined ? 'malformed' : { createdAt: Number(createdAt), tag };
}

/** Only a node that has the upload's bytes can cancel or redeliver it. */
async function wrongNode({ nodes }: UploadsApi, { node }: Upload): Promise<AdminResponse> {
  if (node === undefined) return problem(409, IN_SHARED_SPOOL);
  const owner = await nodes?.find(node);
  const address = owner ? `, which the others reach at ${owner.url}` : '';
  return problem(409, `The bytes of this upload are with node ${node}${address}. Ask the admin listener of that node.`);
}

const IN_SHARED_SPOOL =
  'The bytes of this upload are in a spool that nodes share, and this node has one of its own. Ask a node with ' +
  'spool.shared set to true.';

async function cancel(
  { uploads, log }: UploadsApi,
  upload: Upload,
  { operator }: ActionOptions,
): Promise<AdminResponse> {
  const outcome = await uploads.cancel({ kind: 'cancel', id: upload.id });
  if (outcome.kind === 'cancelled') {
    log.info({ ...uploadFields(identifiersOf(upload)), operator }, 'an operator cancelled an upload');
    return { status: 204 };
  }
  const hasEnded = outcome.kind === 'refused' && outcome.refusal.reason === 'gone';
  return hasEnded
    ? problem(410, 'The upload has ended already and is about to be removed.')
    : problem(404, 'The upload has just ended.');
}

const ANSWERED =
  'The upload was answered already, by its origin or by its gate; the answer is kept for the client and the bytes are gone.';

async function redeliver(
  { delivery, log }: UploadsApi,
  upload: Upload,
  { operator, skipGate }: ActionOptions,
): Promise<AdminResponse> {
  const fields = { ...uploadFields(identifiersOf(upload)), operator };
  switch (await delivery.redeliver(upload.id, { skipGate })) {
    case 'begun':
      if (skipGate) log.warn(fields, 'an operator redelivered an upload, bypassing its gate');
      else log.info(fields, 'an operator redelivered an upload');
      return json(202, { tag: fields.upload });
    case 'unknown':
      return problem(404, 'The upload has ended and is about to be removed.');
    case 'incomplete':
      return problem(409, 'The upload is not complete yet, so it cannot be delivered.');
    case 'answered':
      return problem(409, ANSWERED);
    case 'stopping':
      return problem(503, 'The proxy is being stopped.', { 'Retry-After': '10' });
  }
}

type UploadList = Pick<UploadStore, 'list' | 'index' | 'setAsideRecords'>;

interface ListQuery {
  readonly phase?: Phase;
  /** A tag, the path of a creation, the `Idempotency-Key` that the origin gets, or the address of a client. */
  readonly find?: string;
  readonly limit: number;
  /** The position of the last upload on the previous page. */
  readonly after?: ListPosition;
}

/** The position of an upload in a list, newest first. Operators see it, so it does not contain the id. */
interface ListPosition {
  readonly createdAt: number;
  readonly tag: string;
}

/**
 * The page of newest uploads after a position; `next` is missing on the last page. Keeps only a few pages in memory, and
 * stops reading behind the page where the store has the uploads in order.
 */
async function newestUploads(
  store: Pick<UploadList, 'list' | 'index'>,
  { phase, find, limit, after }: ListQuery,
): Promise<{ uploads: Upload[]; next?: ListPosition }> {
  const { index } = store;
  let matches: Upload[] = [];
  for await (const upload of index?.newestFirst({ phase, createdUpTo: after?.createdAt }) ?? everyUpload(store)) {
    if (index && matches.length > limit && upload.createdAt < matches[limit]!.createdAt) break;
    if (phase !== undefined && upload.phase !== phase) continue;
    if (find !== undefined && !matchesText(upload, find)) continue;
    if (after && !isAfter(upload, after)) continue;
    matches.push(upload);
    if (matches.length > 2 * limit + 100) matches = matches.sort(newestFirst).slice(0, limit + 1);
  }
  const page = matches.sort(newestFirst).slice(0, limit);
  const last = page.at(-1);
  return matches.length > limit && last ? { uploads: page, next: positionOf(last) } : { uploads: page };
}

function matchesText(upload: Upload, text: string): boolean {
  const { target, clientAddress } = upload.request;
  const identifiers = [uploadTag(upload.id), target.split('?', 1)[0], idempotencyKeyOf(upload), clientAddress];
  return identifiers.includes(text);
}

/** All uploads with this tag; tags are short, so there can be more than one. */
async function uploadsTagged(store: Pick<UploadList, 'list' | 'index'>, tag: string): Promise<Upload[]> {
  const tagged: Upload[] = [];
  if (!store.index) {
    for await (const upload of everyUpload(store)) if (uploadTag(upload.id) === tag) tagged.push(upload);
    return tagged;
  }
  for await (const id of store.index.ids()) {
    const upload = uploadTag(id) === tag ? await store.index.read(id) : undefined;
    if (upload) tagged.push(upload);
  }
  return tagged;
}

function positionOf({ createdAt, id }: Upload): ListPosition {
  return { createdAt, tag: uploadTag(id) };
}

function isAfter(upload: Upload, after: ListPosition): boolean {
  if (upload.createdAt !== after.createdAt) return upload.createdAt < after.createdAt;
  return uploadTag(upload.id) > after.tag;
}

function newestFirst(a: Upload, b: Upload): number {
  return b.createdAt - a.createdAt || (uploadTag(a.id) < uploadTag(b.id) ? -1 : 1);
}

/**
 * An upload in a list: without its id, which grants write access (RUFH §11), and without values of its client's fields.
 */
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

/** An upload whose record or bytes cannot be read. */
function setAsideView({ id, state, reason, since }: SetAsideRecord) {
  return { tag: uploadTag(id), phase: state, problem: reason, since: iso(since) };
}

/** Uploads in the spool that the store does not know. */
function unknownUploadsView(unknown: UnknownUploads) {
  const { uploads, bytes, since } = unknown;
  return { uploads, bytes, since: iso(since), problem: unknownUploadsProblem(unknown) };
}

/** The description of unknown uploads for operators, with a way to recover them. */
export function unknownUploadsProblem({ uploads, bytes, since, missing }: UnknownUploads): string {
  if (missing === 'records')
    return (
      `the spool has ${uploads} uploads (${bytes} bytes) whose records were missing from uploads/ when the proxy started at ${iso(since)}. ` +
      'They are removed when the longest limits.max_age is over. If the data directory is a copy, stop the proxy, copy the ' +
      'whole directory and start again'
    );
  return (
    `the spool has ${uploads} uploads (${bytes} bytes) of another Redis, from before ${iso(since)}; this one does not know ` +
    'them. They are removed when the longest limits.max_age is over. If this is the wrong Redis, database or store.prefix, ' +
    'correct it; if it was emptied, restore its backup'
  );
}

/** All details of an upload that operators may see: header fields, such as credentials, only by name. */
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
