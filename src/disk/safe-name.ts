import { Fault } from '../model/fault.js';

const ID = /^[A-Za-z0-9_-]{20,64}$/;
/** 24 random bytes in base64url, as every version has made them. */
const GIVEN_ID = /^[A-Za-z0-9_-]{32}$/;
const CHUNK_NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$/;

export function isUploadId(id: string): boolean {
  return ID.test(id);
}

/** Whether this program gives such ids; any other name in its directories is somebody's. */
export function isGivenId(id: string): boolean {
  return GIVEN_ID.test(id);
}

/** The last line of defence: whatever happened before, nothing else than an id ever becomes part of a path. */
export function assertUploadId(id: string): void {
  if (!ID.test(id)) throw new Fault('CONTRACT_BROKEN', 'this is no id of an upload', false);
}

export function isChunkName(name: string): boolean {
  return CHUNK_NAME.test(name);
}

/** As above, for the names of files within one upload: no separators, nothing that begins with a dot. */
export function assertChunkName(name: string): void {
  if (!CHUNK_NAME.test(name)) throw new Fault('CONTRACT_BROKEN', 'this is no name of a chunk', false);
}
