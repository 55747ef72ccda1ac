import { Readable } from 'node:stream';
import { Fault } from '../model/fault.js';
import type { Framing } from '../model/route.js';
import type { Upload } from '../model/upload.js';
import { envelopeOf, framingFor, type OriginBody } from './origin-body.js';

/** The largest upload whose bytes are kept in memory until it is delivered. */
const MAX_CONTENT_BYTES = 64 * 1024;

/** The bytes that all uploads together may keep in memory. */
const MAX_TOTAL_BYTES = 8 * 1024 * 1024;

/**
 * The contents of small uploads, kept in memory until they are delivered so that they need not be read back.
 * Reasons: docs/decisions/0032.
 */
export class SmallContents {
  private usedBytes = 0;

  /** The content of an upload that begins now. Undefined if the upload is too large, or too many others are kept. */
  begin({ offset, length = Infinity }: Pick<Upload, 'offset' | 'length'>): SmallContent | undefined {
    if (offset > 0 || length === 0 || length > Math.min(MAX_CONTENT_BYTES, MAX_TOTAL_BYTES - this.usedBytes))
      return undefined;
    this.usedBytes += length;
    return new SmallContent(length, () => (this.usedBytes -= length));
  }
}

/** The bytes of one upload in memory. They are the same as in the spool, which has them whether they are kept or not. */
export class SmallContent {
  private buffer: Buffer | undefined;
  private filledBytes = 0;

  constructor(
    length: number,
    private readonly onReleased: () => void,
  ) {
    this.buffer = Buffer.allocUnsafeSlow(length);
  }

  /** Copies the next bytes, since the caller may give its buffers back. */
  add(buffers: readonly Uint8Array[]): void {
    for (const bytes of buffers) {
      if (bytes.length > (this.buffer?.length ?? 0) - this.filledBytes) return this.release();
      this.buffer!.set(bytes, this.filledBytes);
      this.filledBytes += bytes.length;
    }
  }

  /**
   * Gives all bytes of the upload to its first attempt, which may give their memory back. Undefined for later attempts,
   * after `release`, and if a byte is missing.
   */
  take(): Buffer | undefined {
    const bytes = this.filledBytes === this.buffer?.length ? this.buffer : undefined;
    this.release();
    return bytes;
  }

  /** Gives the memory back. An attempt that begins later reads the spool. */
  release(): void {
    if (!this.buffer) return;
    this.buffer = undefined;
    this.onReleased();
  }
}

/** The body that a route wants, as `frameBody` makes it from the spool. Throws `BYTES_LOST` if a byte is missing. */
export function frameBytes(upload: Upload, routeFraming: Framing, bytes: Buffer): OriginBody {
  if (bytes.length !== upload.offset)
    throw new Fault('BYTES_LOST', `${bytes.length} of ${upload.offset} bytes are in memory`, false);
  const framing = framingFor(upload, routeFraming);
  if (framing.kind === 'raw') return { size: bytes.length, body: Readable.from(bytes) };
  const { before, after } = envelopeOf(upload, framing);
  const form = Buffer.concat([before, bytes, after]);
  return { size: form.length, body: Readable.from(form) };
}
