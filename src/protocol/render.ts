import { type HeaderLine, type Headers, withoutUploadFields } from '../model/headers.js';
import type { InterimUpdate, Outcome } from '../model/messages.js';
import { type Digest, hasGoodAnswer, looksDone, type Undelivered, type Upload } from '../model/upload.js';
import { answerLostProblem, NO_STORE, problemReply } from './problem.js';
import type { Reply, ReplyContext } from './protocol.js';
import { renderRefusal } from './refusals.js';
import { digestField } from './structured-fields.js';
import {
  completenessLine,
  limitLine,
  lines,
  locationLine,
  type MaybeLines,
  offsetLine,
  outcomeUnknownLine,
  retryAfterLine,
  uploadLimit,
  versionLine,
} from './upload-headers.js';
import { type Dialect, PARTIAL_UPLOAD } from './versions.js';

/** Renders an outcome as the final response in a dialect. */
export function renderOutcome(dialect: Dialect, outcome: Outcome, context: ReplyContext): Reply {
  switch (outcome.kind) {
    case 'created':
      return created(dialect, outcome.upload, outcome.reprDigest, context);
    case 'appended':
      return appended(dialect, outcome.upload, outcome.reprDigest);
    case 'retrieved':
      return retrieved(dialect, outcome.upload, outcome.reprDigest, context);
    case 'answered':
      return renderAnswer(dialect, outcome, context);
    case 'parked':
    case 'turned-away':
      return renderParked(dialect, outcome);
    case 'answer-lost':
      return answerLost(dialect, outcome.upload);
    case 'accepted':
      return accepted(dialect, outcome.upload, context);
    case 'undelivered':
      if (outcome.failure.reason === 'quarantined') return quarantined(dialect, outcome.upload);
      // RFC 9110 §15.6.3: the origin's response was invalid.
      if (outcome.failure.invalidAnswer) return undelivered(dialect, outcome, 502, INVALID_ANSWER);
      return undelivered(dialect, outcome, dialect.undeliveredStatus, UNDELIVERED[outcome.failure.reason]);
    case 'pending':
      return pending(dialect, outcome);
    case 'cancelled':
      return response(204, versionLine(dialect), NO_STORE); // RUFH §4.5: 204 until draft-08; tus-js-client requires it
    case 'discovered':
      return discovered(dialect, context);
    case 'refused':
      return renderRefusal(dialect, outcome.refusal, context);
  }
}

/** Renders an update as a 104 (RUFH §5); undefined if the dialect has none for it. */
export function renderInterim(dialect: Dialect, update: InterimUpdate, context: ReplyContext): Reply | undefined {
  if (update.kind === 'resumable') {
    const { upload } = update;
    return interim(versionLine(dialect), locationLine(upload, context), limitLine(dialect, upload, context));
  }
  const { during, upload, offset } = update;
  if (during === 'create' ? dialect.creationProgress === 'none' : !dialect.appendProgress) return undefined;
  // RUFH §4.4.2: the 104 of an append never has a Location, that of a creation repeats it since draft-10.
  const repeatsLocation = during === 'create' && dialect.creationProgress === 'with-location';
  const location = repeatsLocation ? locationLine(upload, context) : undefined;
  return interim(versionLine(dialect), location, ['Upload-Offset', String(offset)]);
}

function interim(...maybe: MaybeLines): Reply {
  return { status: 104, reason: 'Upload Resumption Supported', headers: lines(...maybe) };
}

/** RUFH §4.2.2: `Location` lets the client continue even without a 104. */
function created(dialect: Dialect, upload: Upload, digest: Digest | undefined, context: ReplyContext): Reply {
  return response(
    201,
    versionLine(dialect),
    locationLine(upload, context),
    offsetLine(upload),
    // A creation that repeats an earlier one may find the upload already answered.
    completenessLine(dialect, hasGoodAnswer(upload)),
    limitLine(dialect, upload, context),
    reprDigestLine(digest),
    NO_STORE,
  );
}

/** RUFH §4.4.2. The offset is optional since draft-06, but tus-js-client and pyrufh rely on it. */
function appended(dialect: Dialect, upload: Upload, digest: Digest | undefined): Reply {
  return response(
    dialect.appendedStatus,
    versionLine(dialect),
    offsetLine(upload),
    completenessLine(dialect, false),
    reprDigestLine(digest),
    NO_STORE,
  );
}

/** RUFH §4.3.2. Every draft and every client accepts 204. */
function retrieved(dialect: Dialect, upload: Upload, digest: Digest | undefined, context: ReplyContext): Reply {
  const { length } = upload;
  const isLengthShown =
    dialect.sendsLength === 'always' || (dialect.sendsLength === 'unless-it-looks-done' && !looksDone(upload));
  const lengthLine: HeaderLine | undefined =
    isLengthShown && length !== undefined ? ['Upload-Length', String(length)] : undefined;
  return response(
    204,
    versionLine(dialect),
    offsetLine(upload),
    completenessLine(dialect, hasGoodAnswer(upload)),
    lengthLine,
    limitLine(dialect, upload, context),
    reprDigestLine(digest),
    outcomeUnknownLine(upload),
    NO_STORE,
  );
}

/** RUFH §4.1.4. Limits are sent even in dialects that do not define them. Apple's clients require a 200. */
function discovered(dialect: Dialect, { limits }: ReplyContext): Reply {
  const value = uploadLimit(limits, dialect.lifetimeLimit ?? 'max-age', limits.maxAgeSeconds);
  return response(200, versionLine(dialect), ['Upload-Limit', value], ['Accept-Patch', PARTIAL_UPLOAD]);
}

/**
 * The upload is complete, but the origin has not answered. The response says "not complete" in every dialect: otherwise
 * the client would give up, although the bytes are kept and its next completing append can still get them delivered.
 */
function undelivered(
  dialect: Dialect,
  { upload, retryAfterSeconds }: { readonly upload: Upload; readonly retryAfterSeconds: number },
  status: number,
  detail: string,
): Reply {
  return problemReply(
    { status, detail },
    lines(
      versionLine(dialect),
      offsetLine(upload),
      completenessLine(dialect, false),
      retryAfterLine(retryAfterSeconds),
      // The client's program cannot read the text.
      outcomeUnknownLine(upload),
    ),
  );
}

/**
 * The upload is complete and the client does not wait (RFC 9110 §15.3.3, RFC 7240 §4.1). The response says "complete",
 * because there is nothing more to send; the status URL will have the origin's answer.
 */
function accepted(dialect: Dialect, upload: Upload, { uploadUrl }: ReplyContext): Reply {
  const status = `${uploadUrl(upload)}/status`;
  return {
    status: 202,
    headers: [
      ...lines(versionLine(dialect), offsetLine(upload), completenessLine(dialect, true)),
      ['Location', status],
      ['Preference-Applied', 'respond-async'],
      NO_STORE,
      ['Content-Type', 'application/json'],
    ],
    body: JSON.stringify({ status }),
  };
}

/** Final for the client, unlike all other undelivered uploads: repeating the request changes nothing. */
function quarantined(dialect: Dialect, upload: Upload): Reply {
  return problemReply(
    { status: 403, detail: UNDELIVERED.quarantined },
    lines(versionLine(dialect), offsetLine(upload), completenessLine(dialect, true)),
  );
}

/** The upload was delivered and only its answer is lost, so nothing may make the client send it again. */
function answerLost(dialect: Dialect, upload: Upload): Reply {
  return problemReply(
    answerLostProblem(upload),
    lines(versionLine(dialect), offsetLine(upload), completenessLine(dialect, true)),
  );
}

/** The first attempt takes too long (RFC 9110 §15.6.5), or an attempt failed and more follow. */
function pending(dialect: Dialect, outcome: Extract<Outcome, { readonly kind: 'pending' }>): Reply {
  if (!outcome.failure) return undelivered(dialect, outcome, 504, UNANSWERED);
  return undelivered(dialect, outcome, dialect.undeliveredStatus, FAILING);
}

const UNANSWERED =
  'The upload is whole and kept, and its target works on it, but has not answered yet. ' +
  'Append its end again later to get the answer.';

const FAILING =
  'The upload is whole and kept, but its target could not take it so far. It is tried again. ' +
  'Append its end again later to get the answer.';

const INVALID_ANSWER =
  'The upload is whole and kept. It was sent to its target, whose answer was too large, too slow or without end. ' +
  'Appending its end again sends it once more.';

/** The details are general, because clients must not learn what exactly failed behind the proxy. */
const UNDELIVERED: Readonly<Record<Undelivered['reason'], string>> = {
  unreachable:
    'The upload is whole and kept, but its target could not be reached. Append its end again later to have it sent.',
  refused:
    'The upload is whole and kept, but its target cannot take it now. Append its end again later to have it sent.',
  'outcome-unknown':
    'The upload is whole and kept. It was sent to its target, which may have taken it but did not answer. ' +
    'Appending its end again sends it once more.',
  unauthorized: 'The upload is whole and kept, but its target wants other credentials. Append its end again with them.',
  quarantined: 'The upload is whole, but it is kept back and will not be given to its target.',
};

function reprDigestLine(digest: Digest | undefined): HeaderLine | undefined {
  return digest && ['Repr-Digest', digestField(digest)];
}

function response(status: number, ...maybe: MaybeLines): Reply {
  return { status, headers: lines(...maybe) };
}

type Answered = Extract<Outcome, { readonly kind: 'answered' }>;
type Parked = Extract<Outcome, { readonly kind: 'parked' | 'turned-away' }>;

/**
 * The origin's answer, whatever its status, with "complete" (RUFH §4.1.2), so that no client resumes an answered
 * upload, and the acknowledged offset. After a good answer the offset is the length, or tus-js-client would not report
 * success; but only once the answer is recorded, because a crash must not make the offset go down.
 */
function renderAnswer(dialect: Dialect, outcome: Answered, context: ReplyContext): Reply {
  const { upload, answer } = outcome;
  return {
    status: answer.status,
    reason: answer.reason,
    headers: [
      ...withoutUploadFields(answer.headers),
      ...lines(
        versionLine(dialect),
        uploadLocation(dialect, outcome, context),
        offsetLine(upload),
        completenessLine(dialect, true),
        answerDigestLine(outcome),
      ),
    ],
    body: answer.body,
    bodySize: answer.bodySize,
    trailers: () => withoutUploadFields(answer.trailers()),
  };
}

/**
 * A refusal by the origin or the authorization service, with "not complete": unlike other answers it is not final,
 * because the upload can still be completed with other credentials.
 */
function renderParked(dialect: Dialect, outcome: Parked): Reply {
  const { answer } = outcome;
  const offset = outcome.kind === 'parked' ? offsetLine(outcome.upload) : undefined;
  return {
    status: answer.status,
    reason: answer.reason,
    headers: [
      ...withoutUploadFields(answer.headers),
      ...lines(versionLine(dialect), offset, completenessLine(dialect, false)),
    ],
    body: answer.body,
    bodySize: answer.bodySize,
    trailers: () => withoutUploadFields(answer.trailers()),
  };
}

/**
 * Drafts up to 05 put the upload's URL here, and tus-js-client fails without a `Location`; later drafts reserve the
 * field for the origin (RUFH §4.2.2). The origin's own `Location` always stays, because the application needs it.
 */
function uploadLocation(
  dialect: Dialect,
  { to, upload, answer }: Answered,
  context: ReplyContext,
): HeaderLine | undefined {
  const isExpected = dialect.answerLocation === 'upload-if-none' && to === 'create';
  const isSuccess = answer.status >= 200 && answer.status < 300;
  return isExpected && isSuccess && !has(answer.headers, 'location') ? locationLine(upload, context) : undefined;
}

/**
 * RFC 9530 §3: `Repr-Digest` describes the response's own content, unless that is empty or about the uploaded
 * representation.
 */
function answerDigestLine({ answer, reprDigest }: Answered): HeaderLine | undefined {
  const describesUpload = answer.status === 201 || answer.status === 204 || answer.bodySize === 0;
  if (!reprDigest || !describesUpload || has(answer.headers, 'repr-digest')) return undefined;
  return ['Repr-Digest', digestField(reprDigest)];
}

function has(headers: Headers, name: string): boolean {
  return headers.some(([line]) => line.toLowerCase() === name);
}
