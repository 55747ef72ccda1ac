import type { Headers } from '../model/headers.js';
import type { Refusal } from '../model/outcome.js';
import type { Digest, DigestAlgorithm } from '../model/upload.js';
import { readDictionary } from './fields.js';

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
