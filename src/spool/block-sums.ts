import { crc32 } from '../fs/crc32.js';

/** So many bytes of an upload, then their checksum. Smaller files are the plain bytes, which any tool can read. */
export const BLOCK_BYTES = 512 * 1024;
export const SUM_BYTES = 4;

const BLOCK_WITH_SUM = BLOCK_BYTES + SUM_BYTES;

/** How long the file is that has so many bytes. The sum of an unfinished last block is not in it: the record keeps it. */
export function fileSize(bytes: number): number {
  return bytes + SUM_BYTES * Math.floor(bytes / BLOCK_BYTES);
}

/** How many bytes a file of this length certainly has: a block whose sum was torn off lacks its last byte. */
export function bytesIn(fileSize: number): number {
  const blocks = Math.floor(fileSize / BLOCK_WITH_SUM);
  return blocks * BLOCK_BYTES + Math.min(fileSize % BLOCK_WITH_SUM, BLOCK_BYTES - 1);
}

/** How many bytes so many make on their way to another node, where each block is followed by its sum, an unfinished one too. */
export function sizeWithSums(bytes: number): number {
  return bytes + SUM_BYTES * Math.ceil(bytes / BLOCK_BYTES);
}

/** Where a block's checksum begins: with the file it belongs to and its place there, so that a right block in a wrong place is wrong. */
export function seedOf(file: string, block: number): number {
  return crc32(`${file}/${block}`);
}

/** As it stands behind its block. */
export function sumBytes(sum: number): Buffer {
  const bytes = Buffer.allocUnsafe(SUM_BYTES);
  bytes.writeUInt32LE(sum);
  return bytes;
}

/** The checksums of one file while it grows. */
export class RunningSums {
  private size = 0;
  private sum: number;
  /** What came last into the unfinished block, and the sum before it. */
  private newest: Uint8Array = new Uint8Array();
  private before: number;

  constructor(private readonly file: string) {
    this.sum = this.before = seedOf(file, 0);
  }

  /** That of the unfinished block. */
  get unfinished(): number {
    return this.sum;
  }

  /** As `unfinished` was before the last byte; only when there is one. */
  get withoutLastByte(): number {
    return crc32(this.newest.subarray(0, -1), this.before);
  }

  /** Takes the next bytes and gives what to write of them: the same bytes, each finished block followed by its sum. */
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
    this.before = this.sum;
    this.newest = piece;
    this.sum = crc32(piece, this.before);
    this.size += piece.length;
  }

  private endBlock(): Buffer {
    const sum = sumBytes(this.sum);
    this.sum = seedOf(this.file, this.size / BLOCK_BYTES);
    return sum;
  }
}

/**
 * The bytes of one file as they come from another node, each block followed by the sum that it had there: a byte that has
 * changed between the disk of that node and this memory is found, and does not get a right sum here.
 */
export class ArrivingBlocks {
  private block = 0;
  private filled = 0;
  private computed: number;
  private sum: number[] = [];
  private left: number;

  /** `size` counts the sums as well. */
  constructor(
    private readonly file: string,
    size: number,
  ) {
    this.left = size;
    this.computed = seedOf(file, 0);
  }

  /** Everything came, and ended with a sum. */
  get isComplete(): boolean {
    return this.left === 0 && this.filled === 0 && this.sum.length === 0;
  }

  /** Takes what came next and gives the bytes of the file in it; `damaged` when a block is not the one that was sent. */
  take(buffers: readonly Uint8Array[]): Uint8Array[] | 'damaged' {
    const pieces: Uint8Array[] = [];
    for (const buffer of buffers)
      for (let at = 0; at < buffer.length;) {
        const wanted = this.bytesBeforeSum;
        const piece = buffer.subarray(at, at + (wanted > 0 ? wanted : SUM_BYTES - this.sum.length));
        at += piece.length;
        this.left -= piece.length;
        if (wanted > 0) {
          pieces.push(piece);
          this.computed = crc32(piece, this.computed);
          this.filled += piece.length;
        } else if (!this.takeSum(piece)) return 'damaged';
      }
    return pieces;
  }

  /** Of the block that comes now. */
  private get bytesBeforeSum(): number {
    if (this.sum.length > 0) return 0;
    return Math.min(BLOCK_BYTES - this.filled, this.left - SUM_BYTES);
  }

  private takeSum(piece: Uint8Array): boolean {
    this.sum.push(...piece);
    if (this.sum.length < SUM_BYTES) return true;
    const isRight = Buffer.from(this.sum).readUInt32LE() === this.computed;
    this.block += 1;
    this.filled = 0;
    this.sum = [];
    this.computed = seedOf(this.file, this.block);
    return isRight;
  }
}
