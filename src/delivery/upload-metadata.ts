import { fieldValue, type Headers } from '../model/headers.js';

/** What a client's own `Upload-Metadata` says of the file. */
export interface UploadMetadata {
  readonly filename?: string;
  readonly mediaType?: string;
}

/** The names that clients give it, the best known first. */
const NAMES = ['filename', 'name'];
const TYPES = ['filetype', 'type', 'contenttype'];

/** RFC 9110 §8.3.1. */
const MEDIA_TYPE =
  /^[!#$%&'*+.^_`|~\w-]+\/[!#$%&'*+.^_`|~\w-]+(?:\s*;\s*[!#$%&'*+.^_`|~\w-]+=(?:[!#$%&'*+.^_`|~\w-]+|"[ !#-[\]-~]*"))*$/;

/**
 * tus 1.0.0, Creation: pairs of a key and its value in Base64, separated by commas. tus-js-client and Uppy send it in the
 * draft's versions too. A pair that cannot be read counts for nothing; of a repeated key the first counts.
 */
export function uploadMetadata(headers: Headers): UploadMetadata {
  const pairs = new Map<string, string>();
  for (const pair of (fieldValue(headers, 'upload-metadata') ?? '').split(',')) {
    const [key = '', encoded = '', ...rest] = pair.trim().split(/ +/);
    const value = rest.length === 0 ? decoded(encoded) : undefined;
    if (value !== undefined && !pairs.has(key.toLowerCase())) pairs.set(key.toLowerCase(), value);
  }
  const first = (keys: readonly string[], isUsable: (value: string) => boolean): string | undefined =>
    keys.map((key) => pairs.get(key)).find((value) => value !== undefined && isUsable(value));
  return {
    filename: first(NAMES, (value) => value !== ''),
    mediaType: first(TYPES, (value) => MEDIA_TYPE.test(value)),
  };
}

/** Base64 of UTF-8; undefined when it is not. */
function decoded(encoded: string): string | undefined {
  const [, digits] = /^([A-Za-z0-9+/]+)={0,2}$/.exec(encoded) ?? [];
  if (digits === undefined || digits.length % 4 === 1) return undefined;
  return utf8(Buffer.from(encoded, 'base64'));
}

/** Undefined when these bytes are no UTF-8. */
export function utf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    // TypeError is all that it throws, and it says just this.
    return undefined;
  }
}
