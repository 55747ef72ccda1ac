import type { Readable } from 'node:stream';
import type { Chunk } from '../model/upload.js';

/** The size of a chunk in bytes, and the checksum of its unfinished last block, as a commit records them. */
export type Extent = Pick<Chunk, 'size' | 'crc'>;

/** Writes one new chunk. */
export interface ChunkWriter {
  /** Bytes written so far. They survive the end of the process, but need `sync` to survive a power cut. */
  readonly size: number;
  readonly extent: Extent;
  /** `extent` without the last byte; valid only when there is one. */
  readonly extentWithoutLastByte: Extent;
  /** Appends all buffers in order. Must not be called again before it has settled; from then on the buffers are unused. */
  write(buffers: readonly Uint8Array[]): Promise<void>;
  /** Resolves when every byte written before the call survives a power cut. Does nothing under `sync: none`. */
  sync(): Promise<void>;
  close(): Promise<void>;
  /** Closes the chunk and removes its file, but not a newer file of the same name. */
  discard(): Promise<void>;
}

/** A file in the spool, whether a record counts it or not. */
export interface SpooledChunk {
  readonly id: string;
  readonly name: string;
  readonly size: number;
  readonly modifiedAt: number;
}

/** The name of the file that keeps the acknowledged offset of an upload. It is listed with the chunks, but is none. */
export const ACKNOWLEDGED = 'promised';

/**
 * Stores the bytes of uploads, without any idea of offsets, leases or protocols. Rejects with a `Fault`: STORAGE_FULL,
 * STORAGE_UNAVAILABLE, CHUNK_EXISTS or BYTES_LOST.
 */
export interface Spool {
  /** Creates a chunk; rejects when it exists, so that two writers never share one. */
  create(id: string, name: string): Promise<ChunkWriter>;
  /**
   * The committed bytes of these chunks as one stream; `start` and `end` (exclusive) count from the start of the first
   * chunk. The buffers belong to the reader.
   */
  read(id: string, chunks: readonly Chunk[], range?: { readonly start: number; readonly end?: number }): Readable;
  /** One committed file for another node: each block is followed by its checksum, as `ArrivingBlocks` expects it. */
  readWithSums(id: string, chunk: Chunk): Readable;
  /** Makes a chunk durable and returns its size in bytes, committed or not; undefined if it does not exist. */
  size(id: string, name: string): Promise<number | undefined>;
  removeChunk(id: string, name: string): Promise<void>;
  /**
   * Durably notes the offset that clients may know, for a store that may forget it; the largest number counts. A
   * complete upload is noted with its length plus one.
   */
  noteAcknowledged(id: string, offset: number): Promise<void>;
  /** The largest number noted; 0 when there is none. */
  acknowledgedOffset(id: string): Promise<number>;
  /** Removes all files of one upload. */
  remove(id: string): Promise<void>;
  /** The ids of all uploads that have a directory, also an empty one. */
  ids(): AsyncIterable<string>;
  /**
   * All files in the spool, grouped by upload. An upload whose files cannot be listed is passed to `onUnlisted` and
   * left out; without that callback the listing fails.
   */
  list(onUnlisted?: (id: string, fault: Error) => void): AsyncIterable<SpooledChunk>;
  /** All files of one upload. */
  filesOf(id: string): Promise<readonly SpooledChunk[]>;
}
