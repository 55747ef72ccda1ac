import { crc32 } from '../disk/crc32.js';

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

/** Where a block's checksum begins: with the file it belongs to and its place there, so that a right block in a wrong place is wrong. */
export function seedOf(file: string, block: number): number {
  return crc32(`${file}/${block}`);
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
    const sum = Buffer.allocUnsafe(SUM_BYTES);
    sum.writeUInt32LE(this.sum);
    this.sum = seedOf(this.file, this.size / BLOCK_BYTES);
    return sum;
  }
}
