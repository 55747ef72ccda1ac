import { parseDictionary, ParseError, parseItem } from 'structured-headers';
import { fieldValue, type Headers } from '../model/headers.js';
import type { Refusal } from '../model/messages.js';
import type { Digest, DigestAlgorithm } from '../model/upload.js';

/**
 * The value of a structured field (RFC 9651); `invalid` if it does not parse or has another type. Most callers treat
 * invalid fields as absent, but an append with an invalid completeness field must not count as one without.
 */
export type Read<T> = T | 'absent' | 'invalid';

/** Reads a non-negative Integer: `Upload-Offset`, `Upload-Length` (RUFH §4.1), `Upload-Draft-Interop-Version`. */
export function readInteger(headers: Headers, name: string): Read<number> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const value = bareItem(text);
  // The parser returns the Decimal `5.0` as the number 5, although it is another type, and keeps `-0`.
  if (typeof value !== 'number' || value < 0 || /^ *-?\d+\./.test(text)) return 'invalid';
  return Math.abs(value);
}

/** Reads a Boolean: `Upload-Complete`, `Upload-Incomplete` (RUFH §4.1.2). */
export function readBoolean(headers: Headers, name: string): Read<boolean> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const value = bareItem(text);
  return typeof value === 'boolean' ? value : 'invalid';
}

/** Reads a Dictionary; the parameters of its members are dropped. */
export function readDictionary(headers: Headers, name: string): Read<ReadonlyMap<string, unknown>> {
  const text = fieldValue(headers, name);
  if (text === undefined) return 'absent';
  const dictionary = parsed(() => parseDictionary(withoutUnparsable(text)));
  if (!dictionary) return 'invalid';
  return new Map([...dictionary].map(([key, [value]]) => [key, value]));
}

/** Whether the field has a valid value; invalid fields count as absent (RFC 9651 §4.2). */
export function isValue<T>(read: Read<T>): read is Exclude<T, 'absent' | 'invalid'> {
  return read !== 'absent' && read !== 'invalid';
}

/** The value; undefined if the field is absent or invalid. */
export function valueOf<T>(read: Read<T>): Exclude<T, 'absent' | 'invalid'> | undefined {
  return isValue(read) ? read : undefined;
}

function bareItem(text: string): unknown {
  return parsed(() => parseItem(withoutUnparsable(text)))?.[0];
}

/**
 * Replaces Dates and Decimals after `=` by a Boolean: structured-headers 2 fails on a Date that is not at the end of
 * the field, and returns Decimals like Integers. No such parameter or member has a meaning here.
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

/** Sizes of the decoded digests in bytes, in order of preference if the client has none. */
const DIGEST_BYTES: ReadonlyMap<DigestAlgorithm, number> = new Map([
  ['sha-256', 32],
  ['sha-512', 64],
]);

/**
 * The digests of a request that can be verified (RFC 9530 §2, §3). Unknown algorithms are ignored; a digest that could
 * never match is refused before the bytes are sent.
 */
export function readDigests(headers: Headers, field: 'Content-Digest' | 'Repr-Digest'): readonly Digest[] | Refusal {
  const dictionary = readDictionary(headers, field);
  if (dictionary === 'absent') return [];
  if (dictionary === 'invalid') return malformed(`${field} is not a Dictionary of Byte Sequences.`);
  const digests: Digest[] = [];
  for (const [algorithm, size] of DIGEST_BYTES) {
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

/** The supported algorithm that `Want-Repr-Digest` prefers (RFC 9530 §4): 10 is most wanted, 0 not acceptable. */
export function readWantedDigest(headers: Headers): DigestAlgorithm | undefined {
  const dictionary = readDictionary(headers, 'Want-Repr-Digest');
  if (dictionary === 'absent' || dictionary === 'invalid') return undefined;
  let preferred: DigestAlgorithm | undefined;
  let highest = 0;
  for (const algorithm of DIGEST_BYTES.keys()) {
    const preference = dictionary.get(algorithm);
    if (typeof preference !== 'number' || preference > 10 || preference <= highest) continue;
    preferred = algorithm;
    highest = preference;
  }
  return preferred;
}

/** The value of `Repr-Digest` for a digest. */
export function digestField({ algorithm, value }: Digest): string {
  return `${algorithm}=:${Buffer.from(value, 'hex').toString('base64')}:`;
}

function malformed(problem: string): Refusal {
  const detail = `${problem} Write it as sha-256=:base64: (RFC 9530), or leave it out.`;
  return { reason: 'malformed', detail };
}
