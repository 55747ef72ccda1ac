import type { Chunk } from '../model/upload.js';

/**
 * What the name of a file says of its bytes. Names made before files said where they begin, and those of other files, say
 * nothing: `undefined`.
 */
export interface ChunkOrigin {
  readonly kind: 'chunk' | 'answer';
  /** The token of the lease it was written under; of an answer, the number of the attempt that brought it. */
  readonly number: number;
  /** Where in the upload, or in the answer, its first byte belongs. */
  readonly start: number;
}

const NAME = /^(chunk|answer)-(\d{1,16})-(\d{1,16})$/;

/** The file of one lease's bytes: no two leases share a token, so no two writers ever share a file. */
export function chunkName(token: number, start: number): string {
  return `chunk-${token}-${start}`;
}

/** The file of one attempt's answer. */
export function answerName(attempt: number): string {
  return `answer-${attempt}-0`;
}

export function originOf(name: string): ChunkOrigin | undefined {
  const [, kind, number, start] = NAME.exec(name) ?? [];
  return kind === undefined
    ? undefined
    : { kind: kind as ChunkOrigin['kind'], number: Number(number), start: Number(start) };
}

/** Those of earlier versions too. */
const GIVEN = /^((chunk|answer)-\d{1,16}(-\d{1,16})?|whole-\d{1,16})$/;

/** Whether this program gives such names to bytes; a file of any other name in the spool is somebody's. */
export function isGivenName(name: string): boolean {
  return GIVEN.test(name);
}

/**
 * Whether the chunks are one run of bytes, each where its own name says that it begins and under a later lease than the one
 * before it. A record that says otherwise has lost something: no byte is given on its word.
 */
export function areJoined(chunks: readonly Chunk[]): boolean {
  let end = chunks[0]?.start ?? 0;
  let newest = -1;
  for (const { name, start, size } of chunks) {
    const said = originOf(name);
    if (start !== end || (said && (said.start !== start || said.number <= newest))) return false;
    newest = said?.number ?? newest;
    end += size;
  }
  return true;
}
