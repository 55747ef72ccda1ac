import { uploadTag } from '../observe/log.js';

/** The words by which an operator looks for an upload, as the admin listener is asked for it. */
export interface Sought {
  /** Only this one is meant. */
  readonly tag?: string;
  /** A path, an `Idempotency-Key` or the address of a client, where there is no upload of that tag. */
  readonly find: string;
}

/** Ids of uploads are 192 random bits. */
const ID = /^[A-Za-z0-9_-]{32}$/;
const TAG = /^[0-9a-f]{10}$/;

/**
 * Reads what was given in place of a tag. The id in the URL of an upload is the right to write to it: it is asked for by its
 * tag, and goes further only where there is no such upload.
 */
export function soughtBy(what: string): Sought {
  const path = /^https?:\/\//i.test(what) && URL.canParse(what) ? new URL(what).pathname : what.split('?', 1)[0]!;
  if (!path.includes('/')) return TAG.test(what) || ID.test(what) ? { tag: tagOf(what), find: what } : { find: what };
  const id = path
    .replace(/\/(?:status|answer)$/, '')
    .split('/')
    .at(-1)!;
  return ID.test(id) ? { tag: uploadTag(id), find: path } : { find: path };
}

function tagOf(what: string): string {
  return TAG.test(what) ? what : uploadTag(what);
}
