import { type HeaderLine, type Headers, withoutUploadFields } from '../model/headers.js';
import type { InterimUpdate, Outcome } from '../model/messages.js';
import { type Digest, hasGoodAnswer, type Undelivered, type Upload } from '../model/upload.js';
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
  retryAfterLine,
  uploadLimit,
  versionLine,
} from './upload-headers.js';
import { type Dialect, PARTIAL_UPLOAD } from './versions.js';

/** How an outcome looks in a dialect: the whole final response. */
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
      if (outcome.why.reason === 'quarantined') return quarantined(dialect, outcome.upload);
      // RFC 9110 §15.6.3: what came of the origin is no valid response.
      if (outcome.why.invalidAnswer) return undelivered(dialect, outcome, 502, INVALID_ANSWER);
      return undelivered(dialect, outcome, dialect.undeliveredStatus, UNDELIVERED[outcome.why.reason]);
    case 'pending':
      return pending(dialect, outcome);
    case 'cancelled':
      return ours(204, versionLine(dialect), NO_STORE); // RUFH §4.5: exactly 204 until draft-08, and tus-js-client insists
    case 'discovered':
      return discovered(dialect, context);
    case 'refused':
      return renderRefusal(dialect, outcome.refusal, context);
  }
}

/** How news looks in a 104 (RUFH §5); undefined where the dialect has none for it. */
export function renderInterim(dialect: Dialect, news: InterimUpdate, context: ReplyContext): Reply | undefined {
  if (news.kind === 'resumable') {
    return interim(versionLine(dialect), locationLine(news.upload, context), limitLine(dialect, news.upload, context));
  }
  const { during, upload, offset } = news;
  if (during === 'create' ? dialect.creationProgress === 'none' : !dialect.appendProgress) return undefined;
  // RUFH §4.4.2: an append's never has a Location; a creation's only from draft-10 on, and then the very same one.
  const repeatsLocation = during === 'create' && dialect.creationProgress === 'with-location';
  const location = repeatsLocation ? locationLine(upload, context) : undefined;
  return interim(versionLine(dialect), location, ['Upload-Offset', String(offset)]);
}

function interim(...maybe: MaybeLines): Reply {
  return { status: 104, reason: 'Upload Resumption Supported', headers: lines(...maybe) };
}

/** RUFH §4.2.2: the client goes on at `Location`, even when no 104 could tell it before. */
function created(dialect: Dialect, upload: Upload, digest: Digest | undefined, context: ReplyContext): Reply {
  return ours(
    201,
    versionLine(dialect),
    locationLine(upload, context),
    offsetLine(upload),
    // A creation that repeats an earlier one may find everything done.
    completenessLine(dialect, hasGoodAnswer(upload)),
    limitLine(dialect, upload, context),
    reprDigestLine(digest),
    NO_STORE,
  );
}

/** RUFH §4.4.2. The offset is optional from draft-06 on, but tus-js-client and pyrufh go by it. */
function appended(dialect: Dialect, upload: Upload, digest: Digest | undefined): Reply {
  return ours(
    dialect.appendedStatus,
    versionLine(dialect),
    offsetLine(upload),
    completenessLine(dialect, false),
    reprDigestLine(digest),
    NO_STORE,
  );
}

/** RUFH §4.3.2. 204 is what every draft and every client accepts. */
function retrieved(dialect: Dialect, upload: Upload, digest: Digest | undefined, context: ReplyContext): Reply {
  const lengthLine: HeaderLine | undefined =
    dialect.sendsLength && upload.length !== undefined ? ['Upload-Length', String(upload.length)] : undefined;
  return ours(
    204,
    versionLine(dialect),
    offsetLine(upload),
    completenessLine(dialect, hasGoodAnswer(upload)),
    lengthLine,
    limitLine(dialect, upload, context),
    reprDigestLine(digest),
    unknownLine(upload),
    NO_STORE,
  );
}

/** RFC 9209: a client that lost its response before this one has been told even so. */
function unknownLine({ undelivered }: Upload): HeaderLine | undefined {
  return undelivered?.reason === 'outcome-unknown' ? ['Proxy-Status', OUTCOME_UNKNOWN] : undefined;
}

/** RUFH §4.1.4. Told in every dialect, whichever draft the client was written for. Apple's clients want a 200. */
function discovered(dialect: Dialect, { limits }: ReplyContext): Reply {
  const value = uploadLimit(limits, dialect.lifetimeLimit ?? 'max-age', limits.maxAgeSeconds);
  return ours(200, versionLine(dialect), ['Upload-Limit', value], ['Accept-Patch', PARTIAL_UPLOAD]);
}

/**
 * The upload is whole, but the origin has not answered. "Not complete" in every dialect: to say "complete" would make a
 * client give up bytes that we keep and that its next completing append can still have delivered.
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
    ),
  );
}

/**
 * The whole is here and the client need not wait (RFC 9110 §15.3.3, RFC 7240 §4.1). "Complete", because nothing more is
 * to be sent; what the origin says is found at the status URL.
 */
function accepted(dialect: Dialect, upload: Upload, { uploadUrl }: ReplyContext): Reply {
  const status = `${uploadUrl(upload.id)}/status`;
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

/** Final for the client, unlike everything else that is undelivered: coming again changes nothing. */
function quarantined(dialect: Dialect, upload: Upload): Reply {
  return problemReply(
    { status: 403, detail: UNDELIVERED.quarantined },
    lines(versionLine(dialect), offsetLine(upload), completenessLine(dialect, true)),
  );
}

/** The whole was delivered, so that nothing may make the client send it again: only what its target said is lost. */
function answerLost(dialect: Dialect, upload: Upload): Reply {
  return problemReply(
    answerLostProblem(upload),
    lines(versionLine(dialect), offsetLine(upload), completenessLine(dialect, true)),
  );
}

/** Nothing is wrong so far but the time it takes (RFC 9110 §15.6.5), or an attempt failed and more follow. */
function pending(dialect: Dialect, outcome: Extract<Outcome, { readonly kind: 'pending' }>): Reply {
  if (!outcome.why) return undelivered(dialect, outcome, 504, UNANSWERED);
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

/** In general words: what exactly failed behind us is the operator's business. */
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

const OUTCOME_UNKNOWN =
  'rufh-proxy; error=http_response_incomplete; ' +
  'details="the upload was sent to its target, and nobody knows whether it took it; appending its end sends it once more"';

function reprDigestLine(digest: Digest | undefined): HeaderLine | undefined {
  return digest && ['Repr-Digest', digestField(digest)];
}

function ours(status: number, ...maybe: MaybeLines): Reply {
  return { status, headers: lines(...maybe) };
}

type Answered = Extract<Outcome, { readonly kind: 'answered' }>;
type Parked = Extract<Outcome, { readonly kind: 'parked' | 'turned-away' }>;

/**
 * The origin's answer, whatever its status: as it came, with what tells a resuming client whose answer it is (RUFH §4.1.2:
 * complete, so that nobody resumes what the target itself has answered) and how many bytes are acknowledged. With a good
 * answer that is the total, without which tus-js-client does not call it success; but not before the answer is recorded,
 * because a crash would make the offset go down.
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
 * The origin's 401, or what whoever may let the client in said instead, as it came, but "not complete": unlike any other
 * answer it is not the last word, because what is kept can be completed with other credentials.
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
 * The drafts up to 05 want the upload's URL here and tus-js-client fails without any; later ones reserve the field for
 * the origin (RUFH §4.2.2). Where the origin gave one, it is the one that the application needs.
 */
function uploadLocation(
  dialect: Dialect,
  { to, upload, answer }: Answered,
  context: ReplyContext,
): HeaderLine | undefined {
  const wanted = dialect.answerLocation === 'upload-if-none' && to === 'create';
  const successful = answer.status >= 200 && answer.status < 300;
  return wanted && successful && !has(answer.headers, 'location') ? locationLine(upload, context) : undefined;
}

/** RFC 9530 §3 makes it describe the response's own representation, unless that is the uploaded one, or none. */
function answerDigestLine({ answer, reprDigest }: Answered): HeaderLine | undefined {
  const aboutTheUpload = answer.status === 201 || answer.status === 204 || answer.bodySize === 0;
  if (!reprDigest || !aboutTheUpload || has(answer.headers, 'repr-digest')) return undefined;
  return ['Repr-Digest', digestField(reprDigest)];
}

function has(headers: Headers, name: string): boolean {
  return headers.some(([line]) => line.toLowerCase() === name);
}
