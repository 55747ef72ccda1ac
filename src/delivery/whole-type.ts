import { fieldValue } from '../model/headers.js';
import type { StoredRequest } from '../model/upload.js';
import { uploadMetadata } from './upload-metadata.js';

const UNKNOWN_TYPE = 'application/octet-stream';

/** They say "a piece follows" or "some bytes", which is nothing of the whole. */
const NO_TYPES = new Set(['', 'application/partial-upload', 'application/offset+octet-stream', UNKNOWN_TYPE]);

/** The media type of the whole representation: the creation's `Content-Type`, or where that says nothing, its `Upload-Metadata`. */
export function wholeType({ headers }: Pick<StoredRequest, 'headers'>): string {
  return knownType({ headers }) ?? UNKNOWN_TYPE;
}

/** The same; undefined when the creation does not say. */
export function knownType({ headers }: Pick<StoredRequest, 'headers'>): string | undefined {
  const type = fieldValue(headers, 'content-type');
  const told = saysNoType(type) ? undefined : type;
  return told ?? uploadMetadata(headers).mediaType;
}

/** Nothing can be told from this `Content-Type` about the whole. */
export function saysNoType(contentType: string | undefined): boolean {
  return NO_TYPES.has(mediaType(contentType));
}

/** Whether it is a form already. */
export function isForm({ headers }: Pick<StoredRequest, 'headers'>): boolean {
  return mediaType(fieldValue(headers, 'content-type')) === 'multipart/form-data';
}

/** Without its parameters, in lower case. */
function mediaType(contentType = ''): string {
  return contentType.split(';', 1)[0]!.trim().toLowerCase();
}
