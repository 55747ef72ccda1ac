import type { HeaderLine } from '../model/headers.js';
import type { Refusal } from '../model/messages.js';
import { shownOffset } from '../model/upload.js';
import { type Problem, problemReply, type ProblemType } from './problem.js';
import type { Reply, ReplyContext } from './protocol.js';
import { completenessLine, limitLine, lines, offsetLine, retryAfterLine, versionLine } from './upload-headers.js';
import type { Dialect } from './versions.js';

/**
 * Renders a refusal: always "not complete", because the response is not the origin's (RUFH §4.1.2), and with all limits
 * (RUFH §4.1.4), so that the client can correct its request.
 */
export function renderRefusal(dialect: Dialect, refusal: Refusal, context: ReplyContext): Reply {
  const problem = problemOf(refusal, dialect);
  const upload = 'upload' in refusal ? refusal.upload : undefined;
  return problemReply(
    problem,
    lines(
      versionLine(dialect),
      upload && offsetLine(upload),
      completenessLine(dialect, false),
      hasLimits(refusal, problem) ? limitLine(dialect, upload, context) : undefined,
      adviceLine(refusal),
    ),
  );
}

/** The problem for a refusal, with its status and type in this dialect. */
export function problemOf(refusal: Refusal, dialect: Dialect): Problem {
  const type = typeOf(refusal, dialect);
  return {
    status: statusOf(refusal, dialect),
    type: dialect.problemTypes.includes(type) ? type : 'about:blank',
    // The cast is safe: each entry of DETAILS is called only with the refusal of its own reason.
    detail: (DETAILS[refusal.reason] as (refusal: Refusal) => string)(refusal),
    members:
      refusal.reason === 'mismatching-offset'
        ? { 'expected-offset': shownOffset(refusal.upload), 'provided-offset': refusal.provided }
        : undefined,
  };
}

function statusOf(refusal: Refusal, dialect: Dialect): number {
  switch (refusal.reason) {
    case 'malformed':
    case 'inconsistent-length':
    case 'exceeds-length':
    case 'append-too-small':
    case 'digest-mismatch':
    case 'protocol-not-offered':
      return 400;
    case 'unknown-upload':
      return 404;
    case 'unsupported-tus-version':
      return 412;
    case 'joined-upload':
      return 403;
    case 'method-not-allowed':
      return 405;
    case 'mismatching-offset':
      return 409;
    case 'gone':
      return dialect.goneStatus;
    case 'already-complete':
      return dialect.alreadyComplete.status;
    case 'too-large':
    case 'append-too-large':
      return 413;
    case 'upload-required':
      return 428; // RFC 6585 §3
    case 'nested-form':
      return 415;
    case 'unsupported-media-type':
      return dialect.wrongAppendTypeStatus;
    case 'unavailable':
      return 503;
    case 'key-reused':
      return 422; // draft-ietf-httpapi-idempotency-key-header §2.7
    case 'incremental-refused':
      return refusal.isBusy ? 429 : 501; // RFC 10036
    case 'client-limit':
      return 429; // RFC 6585 §4
    case 'storage-full':
      return 507;
  }
}

function typeOf({ reason }: Refusal, dialect: Dialect): ProblemType {
  if (reason === 'mismatching-offset') return 'mismatching-upload-offset';
  if (reason === 'already-complete') return dialect.alreadyComplete.type;
  if (reason === 'inconsistent-length' || reason === 'exceeds-length') return 'inconsistent-upload-length';
  return 'about:blank';
}

/** Limits are sent if there is an upload or the request could have created one. */
function hasLimits({ reason }: Refusal, { status }: Problem): boolean {
  const concernsNoUpload = reason === 'unknown-upload' || reason === 'gone' || reason === 'method-not-allowed';
  return status < 500 && !concernsNoUpload;
}

/** Seconds for `Retry-After` (RFC 9110 §10.2.3) when storage is full; the real time is unknown. */
const STORAGE_RETRY_SECONDS = 60;

/** Seconds for `Retry-After` when the origin takes no more concurrent uploads. */
const BUSY_RETRY_SECONDS = 5;

/** The header field that helps the client with this particular refusal. */
export function adviceLine(refusal: Refusal): HeaderLine | undefined {
  const { reason } = refusal;
  if (reason === 'method-not-allowed') return ['Allow', refusal.allowed.join(', ')]; // RFC 9110 §15.5.6
  if (reason === 'unsupported-media-type') return ['Accept-Patch', refusal.expected]; // RFC 5789 §2.2
  if (reason === 'storage-full') return retryAfterLine(STORAGE_RETRY_SECONDS);
  if (reason === 'incremental-refused')
    return refusal.isBusy
      ? retryAfterLine(BUSY_RETRY_SECONDS)
      : ['Proxy-Status', 'rufh-proxy; error=incremental_refused'];
  if (reason === 'unavailable' || reason === 'client-limit') return retryAfterLine(refusal.retryAfterSeconds);
  return undefined;
}

type Details = { readonly [R in Refusal['reason']]: (refusal: Extract<Refusal, { readonly reason: R }>) => string };

const DETAILS: Details = {
  malformed: ({ detail }) => detail,
  'unknown-upload': () =>
    'There is no upload at this address: it never existed, was cancelled, or has expired. Begin a new one.',
  'unsupported-tus-version': () => 'The version of tus that is spoken here is 1.0.0: send it as Tus-Resumable.',
  'joined-upload': () => 'This upload was made of parts: nothing can be appended to it.',
  'protocol-not-offered': ({ protocol }) =>
    protocol === 'tus'
      ? 'Uploads with tus are not accepted at this address (the setting "protocols"). Nothing was stored or passed on.'
      : 'Resumable uploads of this kind are not accepted at this address (the setting "protocols"); tus 1.0.0 is. ' +
        'Nothing was stored or passed on.',
  gone: ({ detail }) => `${detail} Begin a new one.`,
  'mismatching-offset': ({ upload, provided }) =>
    `This upload stands at offset ${shownOffset(upload)}, not at ${provided}. Go on from ${shownOffset(upload)}.`,
  'already-complete': ({ upload }) =>
    `Every byte of this upload is here, and this request does not repeat its end. ` +
    `To get its answer, append what follows offset ${shownOffset(upload)} again, as the end.`,
  'incremental-refused': ({ isBusy }) =>
    isBusy
      ? 'No more content can be passed on as it comes right now. Try again later, or send it without Incremental.'
      : 'Content is not passed on here as it comes, but when it is whole. Send it without Incremental.',
  'key-reused': ({ differsIn }) =>
    `Another upload was begun with this Idempotency-Key: its ${differsIn} is not the same. Send a new upload with a new key.`,
  'inconsistent-length': ({ detail }) => `${detail} Repeat the request with lengths that agree.`,
  'exceeds-length': ({ length }) =>
    `The content went beyond the length of ${length} bytes that was announced, so the upload was given up. ` +
    'Begin a new one with the right length.',
  'too-large': ({ maxSize }) => `An upload may have at most ${maxSize} bytes here.`,
  'upload-required': ({ field }) =>
    `A body is taken here only as a resumable upload. Send the request again with "${field}: ?1" and the whole body, or ` +
    `begin the upload with "${field}: ?0", an empty body and its Upload-Length.`,
  'nested-form': () =>
    'A form is not taken here, because the file is put into one with fields of its own. Send the file alone, with its own type.',
  'append-too-large': ({ maxAppendSize }) =>
    `One request may bring at most ${maxAppendSize} bytes. Send the rest in smaller parts.`,
  'append-too-small': ({ minAppendSize }) =>
    `A part that is not the last one has to bring at least ${minAppendSize} bytes. Send a larger one.`,
  'unsupported-media-type': ({ expected }) =>
    `What is appended has to have the media type ${expected}: send it as the Content-Type.`,
  'digest-mismatch': ({ field }) => MISMATCHED[field],
  'client-limit': ({ limit }) => CLIENT_LIMITS[limit],
  'storage-full': () => 'There is no room for more bytes now. What was acknowledged is kept: try again later.',
  unavailable: ({ detail }) => `${detail} Try again later.`,
  'method-not-allowed': ({ allowed }) => `An upload resource understands ${allowed.join(', ')} and nothing else.`,
};

const CLIENT_LIMITS = {
  rate: 'You begin uploads faster than is accepted here. Nothing was stored: try again later.',
  uploads: 'You have as many unfinished uploads here as are accepted. Finish or cancel some, or try again later.',
  bytes: 'Your unfinished uploads take as much room here as is accepted. Finish or cancel some, or try again later.',
};

const MISMATCHED = {
  'Content-Digest': 'The content does not match its Content-Digest, so none of it was kept. Send it again.',
  'Repr-Digest': 'The bytes do not match their Repr-Digest, so they were not passed on. Begin a new upload.',
};
