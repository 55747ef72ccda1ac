import type { Duplex } from 'node:stream';
import type { HeaderLine } from '../../src/model/headers.js';

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
