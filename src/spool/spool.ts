import type { Readable } from 'node:stream';
import type { Chunk } from '../model/upload.js';

/** How much of a chunk there is, and its checksum, as a commit says it. */
export type Extent = Pick<Chunk, 'size' | 'crc'>;

/** One new chunk of the spool. */
export interface ChunkWriter {
  /** Bytes written so far; `write` has put them where a killed process does not lose them. */
  readonly size: number;
  readonly extent: Extent;
  /** As `extent` was before the last byte; only when there is one. */
  readonly extentWithoutLastByte: Extent;
  /** Adds all buffers in order, in one go where the machine can. Not to be called again before it is fulfilled. */
  write(buffers: readonly Uint8Array[]): Promise<void>;
  /** Fulfilled when every byte written before the call survives a power cut (nothing to do under `sync: none`). */
  sync(): Promise<void>;
  close(): Promise<void>;
  /** Closes it and removes its file; one that was made since then under the same name is not its file. */
  discard(): Promise<void>;
}

/** A file found in the spool, counted or not. */
export interface SpooledChunk {
  readonly id: string;
  readonly name: string;
  readonly size: number;
  readonly modifiedAt: number;
}

/** The file in which a spool keeps what was promised of an upload: listed beside its chunks, but none. */
export const ACKNOWLEDGED = 'promised';

/** The bytes. Knows no offsets, leases or protocols. Fails with a `Fault`: STORAGE_FULL, STORAGE_UNAVAILABLE, CHUNK_EXISTS, BYTES_LOST. */
export interface Spool {
  /** Opens a chunk that did not exist: two writers can never share one. */
  create(id: string, name: string): Promise<ChunkWriter>;
  /** The committed bytes of these chunks as one stream; `start` and `end` (exclusive) count from the first chunk's start. */
  read(id: string, chunks: readonly Chunk[], range?: { readonly start: number; readonly end?: number }): Readable;
  /** One committed file for another node: each block of it is followed by its checksum, as `ArrivingBlocks` takes them. */
  readWithSums(id: string, chunk: Chunk): Readable;
  /** Size of a chunk, committed or not, all of which is durable by now; undefined when there is none. */
  size(id: string, name: string): Promise<number | undefined>;
  removeChunk(id: string, name: string): Promise<void>;
  /**
   * Notes, durably, that clients may know of so many bytes; for a store that may forget it. The largest counts. One more
   * than there are says that they were the whole.
   */
  noteAcknowledged(id: string, offset: number): Promise<void>;
  /** The largest that was noted; 0 when none was. */
  acknowledgedOffset(id: string): Promise<number>;
  /** Removes everything of one upload. */
  remove(id: string): Promise<void>;
  /**
   * Everything there is; the files of one upload follow each other. `unlisted` is told of an upload whose files the machine
   * does not tell, and nothing of that is given; where it is missing, the listing fails instead.
   */
  list(unlisted?: (id: string, fault: Error) => void): AsyncIterable<SpooledChunk>;
  /** All files of one upload. */
  filesOf(id: string): Promise<readonly SpooledChunk[]>;
}
