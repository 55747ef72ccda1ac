import { parseDictionary, ParseError, parseItem } from 'structured-headers';
import { fieldValue, type Headers } from '../model/headers.js';
import type { Refusal } from '../model/messages.js';
import type { Digest, DigestAlgorithm } from '../model/upload.js';

/**
 * What a structured field says (RFC 9651). A field that does not parse, or has a value of another type, counts as absent
 * in most places, but not everywhere: an append whose completeness is garbage must not be taken for one without any.
 */
export type Read<T> = T | 'absent' | 'invalid';

/** A non-negative Integer: `Upload-Offset`, `Upload-Length` (RUFH §4.1), `Upload-Draft-Interop-Version`. */
export function readInteger(headers: Headers, name: string): Read<number> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const value = bareItem(text);
  // The Decimal `5.0` is another type, but the parser gives it as the number 5; and it gives `-0` as it stands.
  if (typeof value !== 'number' || value < 0 || /^ *-?\d+\./.test(text)) return 'invalid';
  return Math.abs(value);
}

/** A Boolean: `Upload-Complete`, `Upload-Incomplete` (RUFH §4.1.2). */
export function readBoolean(headers: Headers, name: string): Read<boolean> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const value = bareItem(text);
  return typeof value === 'boolean' ? value : 'invalid';
}

/** A Dictionary, its members' values without their parameters. */
export function readDictionary(headers: Headers, name: string): Read<ReadonlyMap<string, unknown>> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const dictionary = parsed(() => parseDictionary(withoutUnparsable(text)));
  if (!dictionary) return 'invalid';
  return new Map([...dictionary].map(([key, [value]]) => [key, value]));
}

/** True when a valid value was sent; what is invalid is as if it had not been sent (RFC 9651 §4.2). */
export function isValue<T>(read: Read<T>): read is Exclude<T, 'absent' | 'invalid'> {
  return read !== 'absent' && read !== 'invalid';
}

/** The value, or undefined where the field is absent or to be ignored. */
export function valueOf<T>(read: Read<T>): Exclude<T, 'absent' | 'invalid'> | undefined {
  return isValue(read) ? read : undefined;
}

function bareItem(text: string): unknown {
  return parsed(() => parseItem(withoutUnparsable(text)))?.[0];
}

/**
 * Two things the parser gets wrong behind a `=`: it fails on a Date that is not the very end of the field, and it does
 * not tell a Decimal from an Integer. No parameter and no member of either type means anything here, so each becomes a
 * Boolean: still legal, still ignored.
 */
function withoutUnparsable(text: string): string {
  return text.replace(/=(?:@-?\d{1,15}|-?\d{1,12}\.\d{1,3})(?![\d.])/g, '=?0');
}

function parsed<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (error instanceof ParseError) return undefined;
    throw error;
  }
}

/** Decoded sizes in bytes; in order of preference where a client has none. */
const SIZES: ReadonlyMap<DigestAlgorithm, number> = new Map([
  ['sha-256', 32],
  ['sha-512', 64],
]);

/**
 * The digests of a request that we can verify (RFC 9530 §2, §3). Algorithms we do not know are no error: an app may send
 * any of its own. What could never match is refused before the bytes are sent rather than after.
 */
export function readDigests(headers: Headers, field: 'Content-Digest' | 'Repr-Digest'): readonly Digest[] | Refusal {
  const dictionary = readDictionary(headers, field);
  if (dictionary === 'absent') return [];
  if (dictionary === 'invalid') return malformed(`${field} is not a Dictionary of Byte Sequences.`);
  const digests: Digest[] = [];
  for (const [algorithm, size] of SIZES) {
    const value = dictionary.get(algorithm);
    if (value === undefined) continue;
    if (!(value instanceof ArrayBuffer)) return malformed(`${field} gives no Byte Sequence for ${algorithm}.`);
    if (value.byteLength !== size) {
      return malformed(`${field} gives ${value.byteLength} bytes for ${algorithm}, which has ${size}.`);
    }
    digests.push({ algorithm, value: Buffer.from(value).toString('hex') });
  }
  return digests;
}

/** The algorithm that `Want-Repr-Digest` likes best among ours (RFC 9530 §4): 10 is most wanted, 0 not acceptable. */
export function readWantedDigest(headers: Headers): DigestAlgorithm | undefined {
  const dictionary = readDictionary(headers, 'Want-Repr-Digest');
  if (dictionary === 'absent' || dictionary === 'invalid') return undefined;
  let wanted: DigestAlgorithm | undefined;
  let highest = 0;
  for (const algorithm of SIZES.keys()) {
    const preference = dictionary.get(algorithm);
    if (typeof preference !== 'number' || preference > 10 || preference <= highest) continue;
    wanted = algorithm;
    highest = preference;
  }
  return wanted;
}

/** The value of a digest field of ours. */
export function digestField({ algorithm, value }: Digest): string {
  return `${algorithm}=:${Buffer.from(value, 'hex').toString('base64')}:`;
}

function malformed(what: string): Refusal {
  const detail = `${what} Write it as sha-256=:base64: (RFC 9530), or leave it out.`;
  return { reason: 'malformed', detail };
}
