import type { AppendIntent, CreateIntent, Outcome, Refusal } from '../model/messages.js';
import type { Limits } from '../model/route.js';
import { concatenationRole, type Upload } from '../model/upload.js';

/** Refuses a creation that its header fields already rule out (RUFH §4.1.3, §4.1.4); nothing is stored before. */
export function refuseCreation(intent: CreateIntent, limits: Limits): Refusal | undefined {
  const { complete, declaredLength, contentLength } = intent;
  if (intent.appendLimitsApply) {
    const refusal = refuseAppendSize(intent, limits, undefined, contentLength === 0);
    if (refusal) return refusal;
  }
  if (declaredLength !== undefined && contentLength !== undefined) {
    if (complete && declaredLength !== contentLength)
      return inconsistent(`Upload-Length says ${declaredLength} but the content has ${contentLength} bytes.`);
    if (contentLength > declaredLength)
      return inconsistent(`The content has ${contentLength} bytes, more than the Upload-Length of ${declaredLength}.`);
  }
  const minSize = Math.max(declaredLength ?? 0, contentLength ?? 0);
  if (limits.maxSize !== undefined && minSize > limits.maxSize) return { reason: 'too-large', maxSize: limits.maxSize };
  return undefined;
}

export type AppendVerdict = { readonly refusal: Refusal; readonly invalidates?: true };

/**
 * Refuses an append that its header fields already rule out. The order is the one that clients are tested against: size
 * of the append, offset, contradicting lengths, then a body that would exceed the length (RUFH §4.4.2, §4.1.3).
 */
export function refuseAppend(intent: AppendIntent, upload: Upload): AppendVerdict | undefined {
  const { limits, offset } = upload;
  // tus 1.0.0, Core: Upload-Offset: another offset is a conflict whatever else the request says.
  const mismatch = { refusal: { reason: 'mismatching-offset', upload, provided: intent.offset } } as const;
  if (intent.completesAtLength && intent.offset !== offset) return mismatch;
  if (intent.complete && concatenationRole(upload) === 'part')
    return {
      refusal: {
        reason: 'malformed',
        detail: 'This upload is a part: it is delivered only with the upload that joins it.',
        upload,
      },
    };
  const sizeRefusal = refuseAppendSize(intent, limits, upload, false);
  if (sizeRefusal) return { refusal: sizeRefusal };
  if (intent.offset !== offset) return mismatch;
  const contradiction = contradictingLengths(intent, upload);
  if (contradiction) return { refusal: inconsistent(contradiction, upload) };
  const length = upload.length ?? intent.declaredLength;
  const reaches = offset + (intent.contentLength ?? 0);
  if (length !== undefined && reaches > length)
    return intent.completesAtLength
      ? { refusal: { reason: 'exceeds-length', length, upload } }
      : { refusal: { reason: 'exceeds-length', length }, invalidates: true };
  if (limits.maxSize !== undefined && Math.max(reaches, length ?? 0) > limits.maxSize)
    return { refusal: { reason: 'too-large', maxSize: limits.maxSize, upload } };
  return undefined;
}

/**
 * The intent with `complete` as the length decides it, for a protocol that counts bytes. Without Content-Length, only
 * the end of the body shows whether it reaches the length.
 */
export function withCompleteness<T extends CreateIntent | AppendIntent>(
  intent: T,
  upload: Pick<Upload, 'dialect' | 'request' | 'length'>,
): T {
  if (!intent.completesAtLength) return intent;
  if (concatenationRole(upload) === 'part') return { ...intent, complete: false };
  const length = upload.length ?? intent.declaredLength;
  const offset = intent.kind === 'append' ? intent.offset : 0;
  const { contentLength } = intent;
  const complete = length !== undefined && (contentLength === undefined || offset + contentLength === length);
  return { ...intent, complete };
}

/** The intent as an append of nothing that completes the upload, whose bytes are all there. */
export function emptyEnd(intent: AppendIntent, { offset }: Pick<Upload, 'offset'>): AppendIntent {
  return { ...intent, offset, complete: true, contentLength: 0, contentDigests: [], trailingDigests: undefined };
}

/** Facts about a complete upload that its requests state at some time. */
export type Announcements = Pick<Upload, 'length' | 'reprDigests'>;

/**
 * The facts about an upload that an append is the first to state. RUFH §4.1.3: a length is recorded as soon as it is
 * known; digests count only when the creation brought none.
 */
export function announcements(intent: AppendIntent, upload: Upload): Announcements | undefined {
  const total =
    intent.complete && intent.contentLength !== undefined ? intent.offset + intent.contentLength : undefined;
  const length = upload.length ?? intent.declaredLength ?? total;
  const reprDigests = upload.reprDigests.length === 0 ? intent.reprDigests : upload.reprDigests;
  const isKnown = length === upload.length && reprDigests.length === upload.reprDigests.length;
  return isKnown ? undefined : { length, reprDigests };
}

/** The number of bytes that a body may bring, and the reason to refuse more. */
export interface Allowance {
  readonly bytes: number;
  readonly beyond: 'exceeds-length' | 'too-large' | 'append-too-large';
}

/** The tightest bound on a body without a declared length, or with one that may be wrong. */
export function allowance(upload: Upload, appendLimitsApply: boolean): Allowance | undefined {
  const { limits, offset, length } = upload;
  const bounds: Allowance[] = [];
  if (length !== undefined) bounds.push({ bytes: length - offset, beyond: 'exceeds-length' });
  if (limits.maxSize !== undefined) bounds.push({ bytes: limits.maxSize - offset, beyond: 'too-large' });
  if (appendLimitsApply && limits.maxAppendSize !== undefined)
    bounds.push({ bytes: limits.maxAppendSize, beyond: 'append-too-large' });
  return bounds.sort((a, b) => a.bytes - b.bytes)[0];
}

export const BYTES_LOST = 'Stored bytes of this upload were lost or damaged, and it was given up.';

/** A refusal as the outcome of a request. */
export function refused(refusal: Refusal): Outcome {
  return { kind: 'refused', refusal };
}

/** The reason why an upload cannot continue, as text for its client. */
export function goneReason(upload: Upload | undefined): string {
  if (upload?.lost) return BYTES_LOST;
  return upload?.phase === 'invalid'
    ? 'The upload was given up because its bytes did not match what was announced.'
    : 'The upload was cancelled.';
}

function refuseAppendSize(
  body: { readonly complete: boolean; readonly contentLength?: number },
  limits: Limits,
  upload: Upload | undefined,
  mayBeEmpty: boolean,
): Refusal | undefined {
  const { maxAppendSize, minAppendSize } = limits;
  if (body.contentLength === undefined) return undefined;
  if (maxAppendSize !== undefined && body.contentLength > maxAppendSize)
    return { reason: 'append-too-large', maxAppendSize, upload };
  // The last piece of a part is not the end of an upload.
  const mayBeSmall = body.complete || mayBeEmpty || (upload && concatenationRole(upload) === 'part');
  if (minAppendSize !== undefined && !mayBeSmall && body.contentLength < minAppendSize)
    return { reason: 'append-too-small', minAppendSize, upload };
  return undefined;
}

function contradictingLengths(intent: AppendIntent, upload: Upload): string | undefined {
  const { declaredLength, contentLength } = intent;
  const { length, offset } = upload;
  if (declaredLength !== undefined && length !== undefined && declaredLength !== length)
    return `Upload-Length says ${declaredLength}, but the length of this upload is ${length}.`;
  if (declaredLength !== undefined && declaredLength < offset)
    return `Upload-Length says ${declaredLength}, but ${offset} bytes are here already.`;
  const total = length ?? declaredLength;
  if (intent.complete && contentLength !== undefined && total !== undefined && offset + contentLength !== total)
    return `The content would end the upload at ${offset + contentLength} bytes, but its length is ${total}.`;
  return undefined;
}

function inconsistent(detail: string, upload?: Upload): Refusal {
  return { reason: 'inconsistent-length', detail, upload };
}
