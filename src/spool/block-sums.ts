import { crc32 } from '../fs/crc32.js';

/** Number of bytes between two checksums. A file with fewer bytes contains no checksum, and any tool can read it. */
export const BLOCK_BYTES = 512 * 1024;
export const SUM_BYTES = 4;

const BLOCK_WITH_SUM = BLOCK_BYTES + SUM_BYTES;

/**
 * The length of a file with this many bytes of content. The checksum of an unfinished last block is kept in the record
 * instead.
 */
export function fileSizeOf(bytes: number): number {
  return bytes + SUM_BYTES * Math.floor(bytes / BLOCK_BYTES);
}

/**
 * The content in a file of this length, in bytes. A full block without its complete checksum counts without its last
 * byte.
 */
export function contentBytesIn(fileSize: number): number {
  const blocks = Math.floor(fileSize / BLOCK_WITH_SUM);
  return blocks * BLOCK_BYTES + Math.min(fileSize % BLOCK_WITH_SUM, BLOCK_BYTES - 1);
}

/**
 * The size of this content on its way to another node, where every block, also an unfinished one, is followed by its
 * checksum.
 */
export function sizeWithSums(bytes: number): number {
  return bytes + SUM_BYTES * Math.ceil(bytes / BLOCK_BYTES);
}

/**
 * The seed of a block's checksum. It contains the file and the position, so that a block in the wrong place is noticed.
 * Reasons: docs/decisions/0021.
 */
export function seedOf(file: string, block: number): number {
  return crc32(`${file}/${block}`);
}

/** A checksum in the form that follows its block. */
export function sumBytes(sum: number): Buffer {
  const bytes = Buffer.allocUnsafe(SUM_BYTES);
  bytes.writeUInt32LE(sum);
  return bytes;
}

/** Computes the checksums of one file while it grows. */
export class RunningSums {
  private size = 0;
  private sum: number;
  private sumWithoutLastByte: number;

  constructor(private readonly file: string) {
    this.sum = this.sumWithoutLastByte = seedOf(file, 0);
  }

  /** The checksum of the unfinished block. */
  get unfinished(): number {
    return this.sum;
  }

  /** The checksum of the unfinished block without the last byte; valid only when there is one. */
  get withoutLastByte(): number {
    return this.sumWithoutLastByte;
  }

  /** Takes the next bytes of content and returns the bytes to write, with a checksum after each finished block. */
  take(buffers: readonly Uint8Array[]): Uint8Array[] {
    const pieces: Uint8Array[] = [];
    for (const buffer of buffers)
      for (let at = 0; at < buffer.length;) {
        const piece = buffer.subarray(at, at + BLOCK_BYTES - (this.size % BLOCK_BYTES));
        pieces.push(piece);
        this.add(piece);
        at += piece.length;
        if (this.size % BLOCK_BYTES === 0) pieces.push(this.endBlock());
      }
    return pieces;
  }

  private add(piece: Uint8Array): void {
    this.sumWithoutLastByte = crc32(piece.subarray(0, -1), this.sum);
    this.sum = crc32(piece.subarray(-1), this.sumWithoutLastByte);
    this.size += piece.length;
  }

  private endBlock(): Buffer {
    const sum = sumBytes(this.sum);
    this.sum = seedOf(this.file, this.size / BLOCK_BYTES);
    return sum;
  }
}

/**
 * Verifies the bytes of one file from another node, where each block is followed by its stored checksum. So a byte that
 * changed since that node read it from its disk does not get a right checksum here.
 */
export class ArrivingBlocks {
  private block = 0;
  private blockBytes = 0;
  private computedSum: number;
  private receivedSum: number[] = [];
  private remainingBytes: number;

  /** `size` includes the checksums. */
  constructor(
    private readonly file: string,
    size: number,
  ) {
    this.remainingBytes = size;
    this.computedSum = seedOf(file, 0);
  }

  /** Whether all bytes have arrived, and the last block with its checksum. */
  get isComplete(): boolean {
    return this.remainingBytes === 0 && this.blockBytes === 0 && this.receivedSum.length === 0;
  }

  /** Takes the next bytes and returns the content in them; `damaged` when a checksum differs. */
  take(buffers: readonly Uint8Array[]): Uint8Array[] | 'damaged' {
    const pieces: Uint8Array[] = [];
    for (const buffer of buffers)
      for (let at = 0; at < buffer.length;) {
        const bytesBeforeSum = this.bytesBeforeSum;
        const piece = buffer.subarray(
          at,
          at + (bytesBeforeSum > 0 ? bytesBeforeSum : SUM_BYTES - this.receivedSum.length),
        );
        at += piece.length;
        this.remainingBytes -= piece.length;
        if (bytesBeforeSum > 0) {
          pieces.push(piece);
          this.computedSum = crc32(piece, this.computedSum);
          this.blockBytes += piece.length;
        } else if (!this.takeSum(piece)) return 'damaged';
      }
    return pieces;
  }

  /** Bytes of the current block that are still missing before its checksum. */
  private get bytesBeforeSum(): number {
    if (this.receivedSum.length > 0) return 0;
    return Math.min(BLOCK_BYTES - this.blockBytes, this.remainingBytes - SUM_BYTES);
  }

  private takeSum(piece: Uint8Array): boolean {
    this.receivedSum.push(...piece);
    if (this.receivedSum.length < SUM_BYTES) return true;
    const isRight = Buffer.from(this.receivedSum).readUInt32LE() === this.computedSum;
    this.block += 1;
    this.blockBytes = 0;
    this.receivedSum = [];
    this.computedSum = seedOf(this.file, this.block);
    return isRight;
  }
}
