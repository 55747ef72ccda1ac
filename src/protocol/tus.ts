import { fieldValue, type HeaderLine, type Headers, withoutUploadFields } from '../model/headers.js';
import type { AppendIntent, Intent, Outcome, Refusal, TrailingDigests } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import type { Limits } from '../model/route.js';
import {
  concatenationRole,
  hasGoodAnswer,
  isFull,
  looksDone,
  type ContentDigest,
  shownOffset,
  TUS_DIALECT,
  type Undelivered,
  type Upload,
} from '../model/upload.js';
import { knownContentLength, mediaType } from './parse.js';
import { answerLostProblem, NO_STORE, problemReply } from './problem.js';
import type { Protocol, Reply, ReplyContext } from './protocol.js';
import { adviceLine, problemOf } from './refusals.js';
import { lines, locationLine, type MaybeLines, outcomeUnknownLine, retryAfterLine } from './upload-headers.js';
import { final } from './versions.js';

/** The media type of every body with bytes of an upload (tus 1.0.0, Core: PATCH). */
export const OFFSET_STREAM = 'application/offset+octet-stream';

const VERSION = '1.0.0';

const EXTENSIONS =
  'creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,termination';

/** Names of checksum algorithms in tus, with those of this program; the first is required of every server. */
const CHECKSUMS: ReadonlyMap<string, { readonly algorithm: ContentDigest['algorithm']; readonly bytes: number }> =
  new Map([
    ['sha1', { algorithm: 'sha-1', bytes: 20 }],
    ['md5', { algorithm: 'md5', bytes: 16 }],
    ['sha256', { algorithm: 'sha-256', bytes: 32 }],
    ['sha512', { algorithm: 'sha-512', bytes: 64 }],
  ]);

/**
 * tus 1.0.0 with the extensions above. An upload is complete when its offset reaches its length, so the last request
 * gets the origin's answer, and its last byte is not acknowledged before a good one. There are no interim responses.
 * Reasons: docs/decisions/0033.
 */
export function tus(settings: TusSettings, during: 'creation' | 'upload'): Protocol {
  return {
    name: TUS_DIALECT,
    parseCreation: (head) => parseCreation(head, settings),
    parseUploadRequest,
    interim: () => undefined,
    render: (outcome, context) => {
      if (outcome.kind === 'discovered') return { status: 204, headers: tusAnnouncement(context.limits, settings) };
      return (
        (during === 'creation' && renderCreation(outcome, context)) ||
        lockedUnlessReachable(outcome, during, context) ||
        render(outcome, context)
      );
    },
  };
}

export interface TusSettings {
  /** The extension concatenation: every node can read the bytes of every part. */
  readonly joinsParts: boolean;
}

/** Header fields that announce tus in the response to OPTIONS (Core: OPTIONS). */
export function tusAnnouncement({ maxSize }: Limits, { joinsParts }: TusSettings): HeaderLine[] {
  return lines(
    ['Tus-Resumable', VERSION],
    ['Tus-Version', VERSION],
    ['Tus-Extension', joinsParts ? `${EXTENSIONS},concatenation` : EXTENSIONS],
    ['Tus-Checksum-Algorithm', [...CHECKSUMS.keys()].join(',')],
    maxSize === undefined ? undefined : ['Tus-Max-Size', String(maxSize)],
  );
}

/** Whether the request is one of tus, whatever its version. Each of them has the field, except OPTIONS (Core: headers). */
export function isTusRequest({ headers }: RequestHead): boolean {
  return fieldValue(headers, 'Tus-Resumable') !== undefined;
}

/**
 * The method, or the one that overrides it where an environment knows only some (Core: X-HTTP-Method-Override). OPTIONS
 * is none of tus alone: browsers and clients of the draft send it too.
 */
export function tusMethod({ method, headers }: RequestHead): string {
  return method === 'OPTIONS' ? method : (fieldValue(headers, 'X-HTTP-Method-Override') ?? method);
}

function parseCreation(head: RequestHead, { joinsParts }: TusSettings): Intent | Refusal {
  if (fieldValue(head.headers, 'Tus-Resumable') !== VERSION) return { reason: 'unsupported-tus-version' };
  const concat = fieldValue(head.headers, 'Upload-Concat');
  if (concat !== undefined && !joinsParts)
    return malformed(
      'Uploads are not joined here, because each server keeps the bytes that it got: leave Upload-Concat out, and send the file as one upload.',
    );
  if (concat !== undefined && concat !== 'partial') return parseConcatenation(head, concat);
  const length = readInteger(head, 'Upload-Length');
  const deferred = fieldValue(head.headers, 'Upload-Defer-Length');
  if (
    length === 'invalid' ||
    (deferred !== undefined && deferred !== '1') ||
    (length === undefined) !== (deferred === '1')
  )
    return malformed('A new upload needs either its Upload-Length in bytes, or Upload-Defer-Length: 1.');
  const contentLength = knownContentLength(head);
  // Over HTTP/2 and in chunks only the end of the body shows that it is empty.
  const mayBeEmpty = contentLength === undefined && mediaType(head) === undefined;
  if (contentLength !== 0 && !mayBeEmpty && mediaType(head) !== OFFSET_STREAM)
    return { reason: 'unsupported-media-type', expected: OFFSET_STREAM };
  const checksum = readChecksum(head);
  if ('reason' in checksum) return checksum;
  return {
    kind: 'create',
    dialect: TUS_DIALECT,
    complete: false,
    completesAtLength: true,
    declaredLength: length,
    contentLength,
    appendLimitsApply: true,
    ...checksum,
    reprDigests: [],
  };
}

/** The extension concatenation: the length is the sum of all parts, and not stated. */
function parseConcatenation(head: RequestHead, concat: string): Intent | Refusal {
  const [kind, ...lists] = concat.split(';');
  const parts = lists
    .join(';')
    .split(' ')
    .filter((part) => part !== '');
  if (kind !== 'final' || parts.length === 0)
    return malformed('Upload-Concat has to be "partial", or "final;" and the URLs of the parts, separated by spaces.');
  const isStated = ['Upload-Length', 'Upload-Defer-Length'].some(
    (name) => fieldValue(head.headers, name) !== undefined,
  );
  if (isStated || knownContentLength(head) !== 0)
    return malformed('An upload that is made of parts has their bytes: it has no content and no length of its own.');
  return {
    kind: 'create',
    dialect: TUS_DIALECT,
    complete: true,
    contentLength: 0,
    appendLimitsApply: false,
    contentDigests: [],
    reprDigests: [],
    partUrls: parts,
  };
}

function parseUploadRequest(head: RequestHead, id: string): Intent | Refusal {
  const method = tusMethod(head);
  // Reading is harmless without the field, and operators do it by hand.
  const mayOmitVersion = method === 'HEAD' || method === 'GET' || method === 'OPTIONS';
  const version = fieldValue(head.headers, 'Tus-Resumable');
  if (version !== VERSION && !(mayOmitVersion && (version === undefined || method === 'OPTIONS')))
    return { reason: 'unsupported-tus-version' };
  switch (method) {
    case 'HEAD':
    case 'GET':
      return { kind: 'retrieve', id };
    case 'PATCH':
      return parseAppend(head, id);
    case 'DELETE':
      return { kind: 'cancel', id };
    case 'OPTIONS':
      return { kind: 'discover', id };
    default:
      return { reason: 'method-not-allowed', allowed: ['HEAD', 'GET', 'PATCH', 'DELETE', 'OPTIONS'] };
  }
}

/** Core: PATCH; Upload-Length is that of the extension creation-defer-length. */
function parseAppend(head: RequestHead, id: string): AppendIntent | Refusal {
  if (mediaType(head) !== OFFSET_STREAM) return { reason: 'unsupported-media-type', expected: OFFSET_STREAM };
  const offset = readInteger(head, 'Upload-Offset');
  if (typeof offset !== 'number') return malformed('Upload-Offset has to say in digits where the content belongs.');
  const declaredLength = readInteger(head, 'Upload-Length');
  if (declaredLength === 'invalid') return malformed('Upload-Length has to be the length of the file in digits.');
  const checksum = readChecksum(head);
  if ('reason' in checksum) return checksum;
  return {
    kind: 'append',
    id,
    offset,
    complete: false,
    completesAtLength: true,
    declaredLength,
    contentLength: knownContentLength(head),
    ...checksum,
    reprDigests: [],
  };
}

/** Reads a non-negative integer: digits and nothing else (Core: Upload-Offset, Upload-Length). */
function readInteger({ headers }: RequestHead, name: string): number | 'invalid' | undefined {
  const text = fieldValue(headers, name);
  if (text === undefined) return undefined;
  return /^\d{1,15}$/.test(text) ? Number(text) : 'invalid';
}

/** Reads `Upload-Checksum`, or its announcement as a trailer (extensions checksum and checksum-trailer). */
function readChecksum({ headers }: RequestHead): Pick<AppendIntent, 'contentDigests' | 'trailingDigests'> | Malformed {
  const text = fieldValue(headers, 'Upload-Checksum');
  const announced = fieldValue(headers, 'Trailer') ?? '';
  if (/(?:^|[\s,])upload-checksum(?:[\s,]|$)/i.test(announced))
    return text === undefined ? { contentDigests: [], trailingDigests: TRAILING_CHECKSUM } : malformed(TWO_CHECKSUMS);
  if (text === undefined) return { contentDigests: [] };
  const digest = parseChecksum(text);
  return 'reason' in digest ? digest : { contentDigests: [digest] };
}

/** Parses an algorithm and a checksum in Base64. */
function parseChecksum(text: string): ContentDigest | Malformed {
  const [, name = '', encoded = ''] = /^([a-z0-9]+) ([A-Za-z0-9+/]+={0,2})$/.exec(text) ?? [];
  const known = CHECKSUMS.get(name);
  const value = Buffer.from(encoded, 'base64');
  if (known && value.length === known.bytes) return { algorithm: known.algorithm, value: value.toString('hex') };
  const names = [...CHECKSUMS.keys()].join(', ');
  return malformed(`Upload-Checksum has to be an algorithm (${names}), a space, and the checksum in Base64.`);
}

/** The algorithm is not known before the content has ended, so all of them are computed. */
const TRAILING_CHECKSUM: TrailingDigests = {
  algorithms: [...CHECKSUMS.values()].map(({ algorithm }) => algorithm),
  read: (trailers: Headers) => {
    const text = fieldValue(trailers, 'Upload-Checksum');
    if (text === undefined) return malformed(NO_TRAILER);
    const digest = parseChecksum(text);
    return 'reason' in digest ? digest : [digest];
  },
};

const TWO_CHECKSUMS = 'Upload-Checksum comes either before the content or after it as a trailer, but not both.';

const NO_TRAILER =
  'Upload-Checksum was announced as a trailer, but did not follow the content, so none of it was kept. Send it again.';

type Malformed = Extract<Refusal, { readonly reason: 'malformed' }>;

function malformed(detail: string): Malformed {
  return { reason: 'malformed', detail };
}

/**
 * The response to a creation that brought all bytes, unless there is a good answer: its client needs the URL, or it would
 * create the upload again and the origin would get it twice. It continues with the last byte, and then gets what is to be
 * said. Undefined for every other outcome.
 */
function renderCreation(outcome: Outcome, context: ReplyContext): Reply | undefined {
  const { kind } = outcome;
  if (kind === 'accepted') return created(outcome.upload, context);
  const isBadAnswer = kind === 'answered' && outcome.answer.status >= 400;
  const isUnanswered = kind === 'parked' || kind === 'undelivered' || kind === 'pending';
  return isBadAnswer || isUnanswered ? createdIncomplete(outcome.upload, context) : undefined;
}

/** Undefined where no byte is held back, or nothing can be appended. */
function createdIncomplete(upload: Upload, context: ReplyContext): Reply | undefined {
  return upload.heldBack && concatenationRole(upload) !== 'joined' ? created(upload, context) : undefined;
}

/**
 * The response about an upload that is there, but that nobody can read or write now. tus-js-client takes every other error
 * on HEAD, 503 too, for the end of the upload and begins a new one; clients try again after 423, as with servers that lock
 * uploads.
 */
function lockedUnlessReachable(
  outcome: Outcome,
  during: 'creation' | 'upload',
  context: ReplyContext,
): Reply | undefined {
  const isUnreachable = outcome.kind === 'refused' && outcome.refusal.reason === 'unavailable' && during === 'upload';
  return isUnreachable ? refused(outcome.refusal, context, 423) : undefined;
}

function created(upload: Upload, context: ReplyContext): Reply {
  return reply(201, locationLine(upload, context), tusOffsetLine(upload), expiresLine(upload));
}

function render(outcome: Exclude<Outcome, { readonly kind: 'discovered' }>, context: ReplyContext): Reply {
  switch (outcome.kind) {
    case 'created':
      return created(outcome.upload, context);
    case 'appended':
      return reply(204, tusOffsetLine(outcome.upload), expiresLine(outcome.upload));
    case 'retrieved':
      return retrieved(outcome.upload);
    case 'answered':
      return answered(outcome, context);
    case 'parked':
      return relayed(outcome.answer, tusOffsetLine(outcome.upload), expiresLine(outcome.upload));
    case 'turned-away':
      return relayed(outcome.answer);
    case 'answer-lost':
      return problem(outcome.upload, answerLostProblem(outcome.upload));
    case 'accepted':
      return reply(204, tusOffsetLine(outcome.upload));
    case 'undelivered':
      return undelivered(outcome.upload, outcome.failure, outcome.retryAfterSeconds);
    case 'pending':
      if (outcome.failure) return undelivered(outcome.upload, outcome.failure, outcome.retryAfterSeconds);
      return problem(outcome.upload, { status: 504, detail: PENDING }, retryAfterLine(outcome.retryAfterSeconds));
    case 'cancelled':
      return reply(204);
    case 'refused':
      return refused(outcome.refusal, context);
  }
}

function reply(status: number, ...maybe: MaybeLines): Reply {
  return { status, headers: [...lines(['Tus-Resumable', VERSION], ...maybe), NO_STORE] };
}

/**
 * The offset for a client that takes "offset = length" for success. An upload that has all its bytes and is not complete,
 * as a client of the draft or a crash may leave it, becomes complete when its last byte comes again.
 */
function tusOffsetLine(upload: Upload): HeaderLine {
  return ['Upload-Offset', String(isFull(upload) ? upload.offset - 1 : shownOffset(upload))];
}

/** Core: HEAD; the extensions creation, creation-defer-length and expiration add their fields. */
function retrieved(upload: Upload): Reply {
  const [metadata, concat] = ['Upload-Metadata', 'Upload-Concat'].map((name) =>
    fieldValue(upload.request.headers, name),
  );
  // The extension concatenation: only then all parts are in it, and their sum is its offset.
  const hasOffset = concatenationRole(upload) !== 'joined' || shownOffset(upload) === upload.length;
  return reply(
    200,
    hasOffset ? tusOffsetLine(upload) : undefined,
    upload.length === undefined || looksDone(upload) ? DEFERRED : ['Upload-Length', String(upload.length)],
    metadata === undefined ? undefined : ['Upload-Metadata', metadata],
    concat === undefined ? undefined : ['Upload-Concat', concat],
    expiresLine(upload),
    outcomeUnknownLine(upload),
  );
}

/** Creation-Defer-Length: the length is not known yet. */
const DEFERRED: HeaderLine = ['Upload-Defer-Length', '1'];

/** The extension expiration: an upload is unfinished for its client until the offset that it sees is the length. */
function expiresLine(upload: Upload): HeaderLine | undefined {
  const isUnfinished = upload.phase === 'receiving' || (upload.heldBack && !hasGoodAnswer(upload));
  return isUnfinished ? ['Upload-Expires', new Date(upload.expiresAt).toUTCString()] : undefined;
}

type Answered = Extract<Outcome, { readonly kind: 'answered' }>;

/**
 * The origin's answer. Clients take every 2xx for success, and some only the statuses of the protocol: 201 for a
 * creation, 204 for an append, so an answer without content gets these. A redirection would be followed by browsers
 * before the client sees it.
 */
function answered({ to, upload, answer }: Answered, context: ReplyContext): Reply {
  const isRedirection = answer.status >= 300 && answer.status < 400;
  const isGood = answer.status < 400;
  const { headers, ...rest } = relayed(answer, tusOffsetLine(upload), expiresLine(upload));
  // The Location of a creation is the upload's: a client that ends its upload must not delete the origin's resource.
  const drops = isRedirection || (isGood && to === 'create') ? 'location' : undefined;
  const kept = headers.filter(([name]) => name.toLowerCase() !== drops);
  if (!isGood) return { ...rest, headers: kept };
  if (to === 'create') return { ...rest, ...statusOf(201), headers: [...kept, locationLine(upload, context)] };
  const isEmpty = answer.bodySize === 0 || fieldValue(answer.headers, 'Content-Length') === '0';
  if (isEmpty) return { ...rest, ...statusOf(204), headers: withoutContentFields(kept) };
  return { ...rest, ...(isRedirection ? statusOf(200) : {}), headers: kept };
}

function statusOf(status: number): Pick<Reply, 'status' | 'reason'> {
  return { status, reason: undefined };
}

/** A 204 has no content, so no field may describe it (RFC 9110 §8.6). */
function withoutContentFields(headers: readonly HeaderLine[]): HeaderLine[] {
  return headers.filter(([name]) => !/^(?:content-length|content-type)$/i.test(name));
}

function relayed(answer: Answered['answer'], ...maybe: MaybeLines): Reply {
  return {
    status: answer.status,
    reason: answer.reason,
    headers: [...withoutUploadFields(answer.headers), ...lines(['Tus-Resumable', VERSION], ...maybe)],
    body: answer.body,
    bodySize: answer.bodySize,
    trailers: () => withoutUploadFields(answer.trailers()),
  };
}

/** The upload has all its bytes, but there is no good answer: its offset stays one below its length. */
function problem(upload: Upload, what: Parameters<typeof problemReply>[0], ...maybe: MaybeLines): Reply {
  return problemReply(what, lines(['Tus-Resumable', VERSION], tusOffsetLine(upload), expiresLine(upload), ...maybe));
}

const PENDING =
  'The upload is complete and kept, but its target has not answered yet. Continue it later to get the answer.';

/** The details are general, because clients must not learn what exactly failed behind the proxy. */
const UNDELIVERED: Readonly<Record<Undelivered['reason'], string>> = {
  unreachable:
    'The upload is complete and kept, but its target could not be reached. Continue it later to have it sent.',
  refused: 'The upload is complete and kept, but its target cannot take it now. Continue it later to have it sent.',
  'outcome-unknown':
    'The upload is complete and kept. It was sent to its target, which may have taken it but did not answer. ' +
    'Continuing it sends it once more.',
  unauthorized: 'The upload is complete and kept, but its target wants other credentials. Continue it with them.',
  quarantined: 'The upload is complete, but it is kept back and will not be given to its target.',
};

function undelivered(upload: Upload, { reason, invalidAnswer }: Undelivered, retryAfterSeconds: number): Reply {
  const detail = UNDELIVERED[reason];
  if (reason === 'quarantined') return problem(upload, { status: 403, detail });
  return problem(upload, { status: invalidAnswer ? 502 : 503, detail }, retryAfterLine(retryAfterSeconds));
}

/** Statuses that differ from those of the drafts. */
const STATUS: Readonly<Partial<Record<Refusal['reason'], number>>> = {
  gone: 410,
  // tus-js-client takes 429 for final, and tries again after 503.
  'client-limit': 503,
  // The client asks for the offset and continues, or finds that nothing is left to do.
  'already-complete': 409,
  'exceeds-length': 413,
  'unsupported-media-type': 415,
  'digest-mismatch': 460,
};

const DETAIL: Readonly<Partial<Record<Refusal['reason'], string>>> = {
  'exceeds-length': 'The content goes beyond the length of this upload. Continue it with what is missing, and no more.',
  'digest-mismatch': 'The content does not match its Upload-Checksum, so none of it was kept. Send it again.',
};

/** Core: HEAD: the offset is only sent with an upload that exists. */
function refused(refusal: Refusal, context: ReplyContext, status?: number): Reply {
  const base = problemOf(refusal, final);
  const { reason } = refusal;
  const upload = 'upload' in refusal ? refusal.upload : undefined;
  const expiring = upload ?? (reason === 'unknown-upload' || reason === 'gone' ? undefined : context.upload);
  const reply = problemReply(
    { status: status ?? STATUS[reason] ?? base.status, detail: DETAIL[reason] ?? base.detail },
    lines(
      ['Tus-Resumable', VERSION],
      reason === 'unsupported-tus-version' ? ['Tus-Version', VERSION] : undefined,
      upload && tusOffsetLine(upload),
      expiring && expiresLine(expiring),
      adviceLine(refusal),
    ),
  );
  return reason === 'digest-mismatch' ? { ...reply, reason: 'Checksum Mismatch' } : reply;
}
