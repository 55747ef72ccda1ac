import { createHash } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { fieldValue, type HeaderLine } from '../../src/model/headers.js';

/** A response head, interim or final, as it was received over any HTTP version. */
export class ResponseHead {
  constructor(
    readonly status: number,
    /** Empty over HTTP/2. */
    readonly reason: string,
    /** In their order and case on the wire, duplicates kept; lower case over HTTP/2. */
    readonly headerLines: readonly HeaderLine[],
    /** `HTTP/1.1 200 OK`; empty over HTTP/2. */
    readonly statusLine = '',
  ) {}

  /** All lines of a field joined with ", "; undefined when there is none. */
  header(name: string): string | undefined {
    return fieldValue(this.headerLines, name);
  }
}

/** A final response with everything around it. */
export interface WireResponse extends ResponseHead {
  /** The interim responses before it, in order. */
  readonly interims: readonly ResponseHead[];
  readonly body: Buffer;
  readonly trailers: readonly HeaderLine[];
}

/** What a one-step request needs; every client here can send it. */
export interface WireRequest {
  readonly method: string;
  /** Path and query, exactly as sent. */
  readonly target: string;
  readonly headers?: readonly HeaderLine[];
  readonly body?: string | Uint8Array;
}

export function wireResponse(
  head: ResponseHead,
  rest: Pick<WireResponse, 'interims' | 'body' | 'trailers'>,
): WireResponse {
  return Object.assign(new ResponseHead(head.status, head.reason, head.headerLines, head.statusLine), rest);
}

/** The other side is gone and what was asked for can no longer come. */
export class ConnectionClosed extends Error {}

/** A message head exactly as it stood on the wire. */
export interface WireHead {
  readonly startLine: string;
  readonly headerLines: HeaderLine[];
  /** With the empty line at its end. */
  readonly text: string;
}

const READ_AHEAD = 64 * 1024;

/**
 * Reads a socket on demand: what nobody asks for stays in the socket beyond 64 KiB, so not reading is backpressure.
 * Bytes are latin1 text where they are text, so that nothing is lost.
 */
export class WireReader {
  /** Every byte received, up to `recordLimit`. */
  readonly record: Buffer[] = [];
  received = 0;
  ended = false;
  error: Error | undefined;
  private readonly queue: Buffer[] = [];
  private queued = 0;
  private wake: (() => void) | undefined;

  constructor(
    private readonly socket: Duplex,
    private readonly options: { readonly recordLimit?: number; readonly deadlineMs?: number } = {},
  ) {
    socket.on('data', (bytes: Buffer) => this.add(bytes));
    socket.on('end', () => this.finish());
    socket.on('error', (error: Error) => this.finish(error));
    socket.on('close', () => this.finish());
  }

  /** The next bytes, at most `most` of them; undefined at the end. */
  async take(most = Number.POSITIVE_INFINITY): Promise<Buffer | undefined> {
    await this.available(1);
    const first = this.queue[0];
    return first === undefined ? undefined : this.shift(Math.min(first.length, most));
  }

  /** Exactly `size` bytes. */
  async read(size: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let left = size; left > 0;) {
      const part = await this.take(left);
      if (!part) throw this.closed(`${left} of ${size} bytes were still to come`);
      parts.push(part);
      left -= part.length;
    }
    return Buffer.concat(parts);
  }

  /** Everything up to and with `mark`; undefined when the connection ended before its first byte. */
  async readThrough(mark: string): Promise<string | undefined> {
    for (let wanted = 1; ;) {
      await this.available(wanted);
      const all = Buffer.concat(this.queue);
      const at = all.indexOf(mark, 0, 'latin1');
      if (at >= 0) return this.shift(at + mark.length, all).toString('latin1');
      if (this.ended && all.length === 0) return undefined;
      if (this.ended) throw this.closed(`it ended with ${JSON.stringify(all.toString('latin1').slice(0, 300))}`);
      wanted = all.length + 1;
    }
  }

  async readLine(): Promise<string> {
    const line = await this.readThrough('\r\n');
    if (line === undefined) throw this.closed('a line was still to come');
    return line.slice(0, -2);
  }

  /** The next message head; undefined when the connection ended in good order before it. */
  async readHead(): Promise<WireHead | undefined> {
    const text = await this.readThrough('\r\n\r\n');
    if (text === undefined) return undefined;
    const [startLine = '', ...lines] = text.slice(0, -4).split('\r\n');
    return { startLine, headerLines: lines.map(toHeaderLine), text };
  }

  private add(bytes: Buffer): void {
    const room = (this.options.recordLimit ?? 0) - this.received;
    if (room > 0) this.record.push(Buffer.from(bytes.subarray(0, room)));
    this.received += bytes.length;
    this.queue.push(bytes);
    this.queued += bytes.length;
    this.steer();
    this.wake?.();
  }

  private finish(error?: Error): void {
    this.ended = true;
    this.error ??= error;
    this.wake?.();
  }

  private wanted = 0;

  private steer(): void {
    if (this.queued >= Math.max(READ_AHEAD, this.wanted)) this.socket.pause();
    else this.socket.resume();
  }

  private shift(size: number, all?: Buffer): Buffer {
    if (all) this.queue.splice(0, this.queue.length, all);
    const first = this.queue[0]!;
    if (first.length === size) this.queue.shift();
    else this.queue[0] = first.subarray(size);
    this.queued -= size;
    this.steer();
    return first.subarray(0, size);
  }

  /** Waits until `count` bytes are queued or no more can come. */
  private async available(count: number): Promise<void> {
    this.wanted = count;
    this.steer();
    const { deadlineMs } = this.options;
    const patience = { isOver: false };
    const end = (): void => {
      patience.isOver = true;
      this.wake?.();
    };
    const timer = deadlineMs === undefined ? undefined : setTimeout(end, deadlineMs);
    try {
      while (this.queued < count && !this.ended) {
        if (patience.isOver) throw new Error(`nothing more came for ${deadlineMs ?? 0} ms; unread: ${this.unread()}`);
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    } finally {
      clearTimeout(timer);
      this.wanted = 0;
    }
  }

  private unread(): string {
    return JSON.stringify(Buffer.concat(this.queue).toString('latin1').slice(0, 300));
  }

  private closed(detail: string): ConnectionClosed {
    return new ConnectionClosed(`connection closed: ${detail}`, { cause: this.error });
  }
}

function toHeaderLine(line: string): HeaderLine {
  const colon = line.indexOf(':');
  return colon < 0 ? [line, ''] : [line.slice(0, colon), line.slice(colon + 1).replace(/^[\t ]+|[\t ]+$/g, '')];
}

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

/** Whether a request failed because its connection ended, or none was taken: something a client has to live with. */
export function isCut(error: unknown): boolean {
  if (error instanceof ConnectionClosed) return true;
  const { code = '' } = error as NodeJS.ErrnoException;
  return ['ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(code);
}
