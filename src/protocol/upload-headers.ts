import type { HeaderLine } from '../model/headers.js';
import type { Limits } from '../model/route.js';
import { shownOffset, type Upload } from '../model/upload.js';
import type { ReplyContext } from './protocol.js';
import type { Dialect } from './versions.js';

/** Header lines that are only there when they have something to say. */
export type MaybeLines = readonly (HeaderLine | undefined)[];

/** The lines that are there, in the order given. */
export function lines(...maybe: MaybeLines): HeaderLine[] {
  return maybe.filter((line) => line !== undefined);
}

/** RUFH (every draft but the last form): a client takes note of our answer only under its own version. */
export function versionLine({ version }: Dialect): HeaderLine | undefined {
  return version === undefined ? undefined : ['Upload-Draft-Interop-Version', version];
}

/** RUFH §4.1.2, under the dialect's name and polarity. */
export function completenessLine({ completeness }: Dialect, complete: boolean): HeaderLine {
  return [completeness.field, complete === completeness.whenComplete ? '?1' : '?0'];
}

/** RUFH §4.1.1: no offset is ever told that could not be kept to. */
export function offsetLine(upload: Upload): HeaderLine {
  return ['Upload-Offset', String(shownOffset(upload))];
}

/** RUFH §4.1.4: the upload's own limits, or the route's while there is none; undefined where the dialect has no limits. */
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
  return ['Location', context.uploadUrl(upload.id)];
}

/** RFC 9110 §10.2.3: whole seconds, and never too early. */
export function retryAfterLine(seconds: number): HeaderLine {
  return ['Retry-After', String(Math.max(0, Math.ceil(seconds)))];
}

/**
 * The value of `Upload-Limit` (RUFH §4.1.4): Integers only, without parameters, always in the same order. `min-size` is
 * always among them, so that the field is never empty; 0 is how "no limits" is said.
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
