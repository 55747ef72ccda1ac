import { createHash } from 'node:crypto';

/** 24 random bytes in base64url: the last segment of an upload's URL, and the right to write to it (RUFH §11). */
const TOKEN = /^[A-Za-z0-9_-]{32}$/;

/** A SHA-256 in base64url, which no token is long enough to be. */
const HASHED_ID = /^[A-Za-z0-9_-]{43}$/;

/** Whether a text has the form of a token: anything else is no upload and reaches neither store nor disk. */
export function isUploadToken(text: string): boolean {
  return TOKEN.test(text);
}

/**
 * The id under which the upload with this token is stored. It opens nothing, because a request's token is always hashed.
 * Reasons: docs/decisions/0038.
 */
export function uploadIdOf(token: string): string {
  return createHash('sha256').update(token).digest('base64url');
}

/** An upload's token and its id. */
export interface UploadIdentity {
  readonly token: string;
  readonly id: string;
}

/** Whether the id is the hash of its upload's token. Uploads of earlier versions have the token itself for their id. */
function isHashedId(id: string): boolean {
  return HASHED_ID.test(id);
}

/** Whether this program gives uploads such ids; any other name in its directories belongs to the operator. */
export function isGeneratedId(id: string): boolean {
  return isHashedId(id) || TOKEN.test(id);
}

/** The token of an upload of an earlier version. */
export function tokenInId(id: string): string | undefined {
  return TOKEN.test(id) ? id : undefined;
}
