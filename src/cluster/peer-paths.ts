import { createHash } from 'node:crypto';

/** A file that moves with its upload, or all of the upload's when there is no name. */
export interface PeerPath {
  readonly id: string;
  readonly name?: string;
}

/** What has to be there before an upload may change its node. */
export interface FileList {
  readonly files: readonly { readonly name: string; readonly size: number }[];
  /** The offset its clients may have been shown; 0 when none was noted. */
  readonly promised: number;
}

/** The answer to a body that is not what was sent: a byte of it has changed on its way. */
export const DAMAGED = 422;

const PATH = /^\/\.peer\/([A-Za-z0-9_-]{20,64})(?:\/([A-Za-z0-9_-][A-Za-z0-9._-]{0,127}))?$/;

/** Undefined when it names neither. */
export function readPeerPath(target: string): PeerPath | undefined {
  const [, id, name] = PATH.exec(target) ?? [];
  return id === undefined ? undefined : { id, ...(name === undefined ? {} : { name }) };
}

export function writePeerPath({ id, name }: PeerPath): string {
  return name === undefined ? `/.peer/${id}` : `/.peer/${id}/${name}`;
}

/** `Content-Digest` of a short body (RFC 9530); the field is signed, and so the body is. */
export function digestOf(body: Uint8Array): string {
  return `sha-256=:${createHash('sha256').update(body).digest('base64')}:`;
}
