import { createHash } from 'node:crypto';
import { fieldValue, type HeaderLine } from '../../src/model/headers.js';
import { ConnectionClosed, type WireReader } from './wire-reader.js';

export type BodyFraming = { readonly length: number } | 'chunked' | 'until-close';

/** How a message's body is delimited (RFC 9112 §6.3); a request without fields has none. */
export function framingOf(headerLines: readonly HeaderLine[], otherwise: BodyFraming): BodyFraming {
  const coding = fieldValue(headerLines, 'transfer-encoding');
  if (coding !== undefined && /chunked\s*$/i.test(coding)) return 'chunked';
  const length = fieldValue(headerLines, 'content-length');
  return length === undefined ? otherwise : { length: Number(length) };
}

/** One message body, decoded piece by piece; keeps its digest and size, and its first `keepLimit` bytes. */
export class WireBody {
  size = 0;
  /** Ended as its framing demands, not by a cut. */
  endedCleanly = false;
  trailers: HeaderLine[] = [];
  private readonly kept: Buffer[] = [];
  private readonly hash = createHash('sha256');
  private left: number;

  constructor(
    private readonly reader: WireReader,
    readonly framing: BodyFraming,
    private readonly keepLimit: number,
  ) {
    this.left = typeof framing === 'object' ? framing.length : 0;
    this.endedCleanly = typeof framing === 'object' && framing.length === 0;
  }

  /** The next bytes, at most `most`; undefined at the end. */
  async take(most = Number.POSITIVE_INFINITY): Promise<Buffer | undefined> {
    if (this.endedCleanly) return undefined;
    if (this.framing === 'chunked' && this.left === 0 && !(await this.nextChunk())) return undefined;
    const limit = this.framing === 'until-close' ? most : Math.min(most, this.left);
    const bytes = await this.reader.take(limit);
    if (!bytes) {
      this.noteEnd();
      return undefined;
    }
    this.count(bytes);
    if (this.framing === 'chunked' && this.left === 0) await this.reader.readLine();
    return bytes;
  }

  /** Exactly `size` bytes of the body, or a failure. */
  async read(size: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let left = size; left > 0;) {
      const part = await this.take(left);
      if (!part) throw new ConnectionClosed(`the body ended ${left} bytes before the ${size} that were asked for`);
      parts.push(part);
      left -= part.length;
    }
    return Buffer.concat(parts);
  }

  /** Reads to the end; gives what is kept. */
  async readAll(): Promise<Buffer> {
    while (await this.take());
    return this.bytes;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.kept);
  }

  get sha256(): string {
    return this.hash.copy().digest('hex');
  }

  private count(bytes: Buffer): void {
    const room = this.keepLimit - this.size;
    if (room > 0) this.kept.push(bytes.subarray(0, room));
    this.size += bytes.length;
    this.hash.update(bytes);
    if (this.framing !== 'until-close') this.left -= bytes.length;
    if (typeof this.framing === 'object' && this.left === 0) this.endedCleanly = true;
  }

  private async nextChunk(): Promise<boolean> {
    const line = await this.reader.readLine();
    this.left = Number.parseInt(line, 16);
    if (Number.isNaN(this.left)) throw new Error(`no chunk size: ${JSON.stringify(line)}`);
    if (this.left > 0) return true;
    for (let trailer = await this.reader.readLine(); trailer !== ''; trailer = await this.reader.readLine()) {
      const colon = trailer.indexOf(':');
      this.trailers.push([trailer.slice(0, colon), trailer.slice(colon + 1).replace(/^[\t ]+|[\t ]+$/g, '')]);
    }
    this.endedCleanly = true;
    return false;
  }

  private noteEnd(): void {
    if (this.framing !== 'until-close')
      throw new ConnectionClosed(`connection closed within a body, after ${this.size} bytes`);
    this.endedCleanly = this.reader.error === undefined;
  }
}
