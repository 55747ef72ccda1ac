import { withoutUploadFields, type HeaderLine, type Headers } from '../model/headers.js';
import type { Outcome } from '../model/outcome.js';
import type { Dialect } from './dialects.js';
import { digestField } from './digest.js';
import { completenessLine, lines, locationLine, offsetLine, versionLine } from './ietf-lines.js';
import type { Reply, ReplyContext } from './protocol.js';

type Answered = Extract<Outcome, { readonly kind: 'answered' }>;
type Parked = Extract<Outcome, { readonly kind: 'parked' | 'turned-away' }>;

/**
 * The origin's answer, whatever its status: as it came, with what tells a resuming client whose answer it is (RUFH §4.1.2:
 * complete, so that nobody resumes what the target itself has answered) and how many bytes are acknowledged. With a good
 * answer that is the total, without which tus-js-client does not call it success; but not before the answer is recorded,
 * because a crash would make the offset go down.
 */
export function renderAnswer(dialect: Dialect, outcome: Answered, context: ReplyContext): Reply {
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
export function renderParked(dialect: Dialect, outcome: Parked): Reply {
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
