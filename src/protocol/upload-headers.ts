import type { HeaderLine } from '../model/headers.js';
import type { Limits } from '../model/route.js';
import { shownOffset, type Upload } from '../model/upload.js';
import type { ReplyContext } from './protocol.js';
import type { Dialect } from './versions.js';

/** Header lines, of which those that do not apply are undefined. */
export type MaybeLines = readonly (HeaderLine | undefined)[];

/** The lines that are defined, in the given order. */
export function lines(...maybe: MaybeLines): HeaderLine[] {
  return maybe.filter((line) => line !== undefined);
}

/** RUFH, all drafts: a client ignores upload fields in a response that does not repeat its version. */
export function versionLine({ version }: Dialect): HeaderLine | undefined {
  return version === undefined ? undefined : ['Upload-Draft-Interop-Version', version];
}

/** The completeness field (RUFH §4.1.2) in the dialect's name and polarity. */
export function completenessLine({ completeness }: Dialect, complete: boolean): HeaderLine {
  return [completeness.field, complete === completeness.whenComplete ? '?1' : '?0'];
}

/** The acknowledged offset (RUFH §4.1.1), which must never go down later. */
export function offsetLine(upload: Upload): HeaderLine {
  return ['Upload-Offset', String(shownOffset(upload))];
}

/** The limits (RUFH §4.1.4) of the upload, or of the route if there is none; undefined if the dialect has no limits. */
export function limitLine(
  { lifetimeLimit }: Dialect,
  upload: Upload | undefined,
  context: ReplyContext,
): HeaderLine | undefined {
  if (!lifetimeLimit) return undefined;
  const limits = upload?.limits ?? context.limits;
  const secondsLeft = upload ? (upload.expiresAt - context.nowMs) / 1000 : limits.maxAgeSeconds;
  return ['Upload-Limit', uploadLimit(limits, lifetimeLimit, secondsLeft)];
}

export function locationLine(upload: Upload, context: ReplyContext): HeaderLine {
  return ['Location', context.uploadUrl(upload)];
}

/** RFC 9110 §10.2.3: full seconds, rounded up. */
export function retryAfterLine(seconds: number): HeaderLine {
  return ['Retry-After', String(Math.max(0, Math.ceil(seconds)))];
}

/**
 * The value of `Upload-Limit` (RUFH §4.1.4): Integers without parameters in a fixed order. `min-size` is always
 * present, as 0 without limits, so that the field is never empty.
 */
export function uploadLimit(limits: Limits, lifetimeName: 'expires' | 'max-age', secondsLeft: number): string {
  const members: [string, number | undefined][] = [
    ['max-size', limits.maxSize],
    ['min-size', limits.minSize],
    ['max-append-size', limits.maxAppendSize],
    ['min-append-size', limits.minAppendSize],
    [lifetimeName, Math.max(0, Math.floor(secondsLeft))],
  ];
  return members
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}=${value}`)
    .join(', ');
}

const OUTCOME_UNKNOWN =
  'rufh-proxy; error=http_response_incomplete; ' +
  'details="the upload was sent to its target, and nobody knows whether it took it; appending its end sends it once more"';

/** RFC 9209: informs a client of an unknown outcome even if it lost the response that said so. */
export function outcomeUnknownLine({ undelivered }: Upload): HeaderLine | undefined {
  return undelivered?.reason === 'outcome-unknown' ? ['Proxy-Status', OUTCOME_UNKNOWN] : undefined;
}
