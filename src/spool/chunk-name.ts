import type { Chunk } from '../model/upload.js';

/** The meaning of a chunk's name. Names of earlier versions, without a start, and names of other files have none. */
export interface ParsedChunkName {
  readonly kind: 'chunk' | 'answer';
  /** For a chunk the token of the lease that wrote it, for an answer the number of the attempt that brought it. */
  readonly number: number;
  /** The offset of its first byte in the upload, or in the answer. */
  readonly start: number;
}

const NAME = /^(chunk|answer)-(\d{1,16})-(\d{1,16})$/;

/**
 * The name of the file for the bytes of one lease: leases never share a token, so writers never share a file.
 * Reasons: docs/decisions/0003.
 */
export function chunkName(token: number, start: number): string {
  return `chunk-${token}-${start}`;
}

/** The name of the file for the answer of one attempt. */
export function answerName(attempt: number): string {
  return `answer-${attempt}-0`;
}

/** Parses the name of a chunk or answer; undefined if it has no meaning. */
export function parseChunkName(name: string): ParsedChunkName | undefined {
  const [, kind, number, start] = NAME.exec(name) ?? [];
  return kind === undefined
    ? undefined
    : { kind: kind as ParsedChunkName['kind'], number: Number(number), start: Number(start) };
}

/** Includes the names of earlier versions. */
const GIVEN_NAME = /^((chunk|answer)-\d{1,16}(-\d{1,16})?|whole-\d{1,16})$/;

/** Whether this program gives such names; files with other names in the spool belong to other programs. */
export function isGivenName(name: string): boolean {
  return GIVEN_NAME.test(name);
}

/**
 * Whether the chunks join without gaps, each at the start in its name and under a later lease than the one before it.
 * Otherwise the record is damaged, and no byte may be served from it.
 */
export function areContiguous(chunks: readonly Chunk[]): boolean {
  let end = chunks[0]?.start ?? 0;
  let newest = -1;
  for (const { name, start, size } of chunks) {
    const parsed = parseChunkName(name);
    if (start !== end || (parsed && (parsed.start !== start || parsed.number <= newest))) return false;
    newest = parsed?.number ?? newest;
    end += size;
  }
  return true;
}
