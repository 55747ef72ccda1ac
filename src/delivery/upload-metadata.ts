import { fieldValue } from '../model/headers.js';
import type { StoredRequest } from '../model/upload.js';

/**
 * The pairs of a creation's `Upload-Metadata` (tus 1.0.0, Creation), which tus-js-client and Uppy send with the draft's
 * versions too. Keys are found in any case. Pairs that are not valid are ignored, and the first of repeated keys counts.
 */
export class UploadMetadata {
  private readonly pairs = new Map<string, Buffer>();

  constructor({ headers }: Pick<StoredRequest, 'headers'>) {
    for (const pair of (fieldValue(headers, 'upload-metadata') ?? '').split(',')) {
      const [key = '', encoded = '', ...rest] = pair.trim().split(/ +/);
      const value = rest.length === 0 ? decodeBase64(encoded) : undefined;
      if (key !== '' && value && !this.pairs.has(key.toLowerCase())) this.pairs.set(key.toLowerCase(), value);
    }
  }

  /** The text of a pair; undefined without such a pair, or if its value is not UTF-8. */
  text(key: string): string | undefined {
    const value = this.pairs.get(key.toLowerCase());
    return value && decodeUtf8(value);
  }

  /** The first of these pairs whose text can be used. */
  first(keys: readonly string[], isUsable: (value: string) => boolean): string | undefined {
    return keys.map((key) => this.text(key)).find((value) => value !== undefined && isUsable(value));
  }
}

/** Decodes Base64, with or without padding; undefined if the value is something else. A pair may have no value. */
function decodeBase64(encoded: string): Buffer | undefined {
  const [, digits] = /^([A-Za-z0-9+/]*)={0,2}$/.exec(encoded) ?? [];
  if (digits === undefined || digits.length % 4 === 1) return undefined;
  return Buffer.from(digits, 'base64');
}

/** Decodes UTF-8; undefined if the bytes are not valid. */
export function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    // decode() throws only for invalid bytes.
    return undefined;
  }
}
