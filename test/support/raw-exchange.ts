import { once } from 'node:events';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { fieldValue, type HeaderLine } from '../../src/model/headers.js';
import { framingOf, WireBody } from './wire-body.js';
import type { WireHead, WireReader } from './wire-reader.js';

export interface RawAnswer {
  readonly status: number;
  readonly reason?: string;
  /** As they go on the wire. `Content-Length` is added unless they frame the body themselves. */
  readonly headers?: readonly HeaderLine[];
  readonly body?: string | Uint8Array;
  /** Sent after a body that `headers` declare as chunked. */
  readonly trailers?: readonly HeaderLine[];
}

/** Bodies up to this size are kept whole; of larger ones only size and digest. */
const KEEP_LIMIT = 4 * 1024 * 1024;

/** One request as a bare origin got it, and the means to answer it step by step. */
export class RawExchange {
  readonly requestLine: string;
  readonly method: string;
  readonly target: string;
  readonly version: string;
  /** In their order and case on the wire, duplicates kept. */
  readonly headerLines: HeaderLine[];
  readonly headText: string;
  readonly body: WireBody;
  /** Something was written as an answer. */
  answered = false;

  constructor(
    /** Counts all requests of this origin from 0. */
    readonly index: number,
    /** Counts the origin's connections from 0. */
    readonly connectionIndex: number,
    readonly socket: Socket,
    /** Fulfilled when the connection is gone, however. */
    readonly closed: Promise<void>,
    private readonly reader: WireReader,
    head: WireHead,
  ) {
    this.requestLine = head.startLine;
    [this.method = '', this.target = '', this.version = ''] = head.startLine.split(' ');
    this.headerLines = head.headerLines;
    this.headText = head.text;
    this.body = new WireBody(reader, framingOf(head.headerLines, { length: 0 }), KEEP_LIMIT);
  }

  /** All lines of a field joined with ", "; undefined when there is none. */
  header(name: string): string | undefined {
    return fieldValue(this.headerLines, name);
  }

  /** Reads the body to its end by its framing; trailers are in `body.trailers` then. Fails when it is cut. */
  readBody(): Promise<Buffer> {
    return this.body.readAll();
  }

  /** Reads the next `size` bytes of the body and no more: what is not asked for stays on the wire. */
  readBytes(size: number): Promise<Buffer> {
    return this.body.read(size);
  }

  /** Reads bytes as they are on the wire, beyond any framing: for what follows an upgrade. */
  readRaw(size: number): Promise<Buffer> {
    return this.reader.read(size);
  }

  /** Writes anything, and waits while the other side does not read. */
  async write(bytes: string | Uint8Array): Promise<void> {
    this.answered = true;
    if (this.socket.destroyed) return;
    const sent = typeof bytes === 'string' ? this.socket.write(bytes, 'latin1') : this.socket.write(bytes);
    if (!sent) await Promise.race([once(this.socket, 'drain').catch(() => undefined), this.closed]);
  }

  /** Writes an interim response. */
  interim(status: number, headers: readonly HeaderLine[] = []): Promise<void> {
    return this.write(`${statusLine(status)}${fieldLines(headers)}\r\n`);
  }

  /** Writes a whole final response. */
  async respond(answer: RawAnswer): Promise<void> {
    const body = Buffer.from(answer.body ?? '');
    const headers = answer.headers ?? [];
    const chunked = /chunked/i.test(fieldValue(headers, 'transfer-encoding') ?? '');
    const framed = chunked || fieldValue(headers, 'content-length') !== undefined || bodiless(answer.status);
    const length = framed ? '' : `Content-Length: ${body.length}\r\n`;
    await this.write(`${statusLine(answer.status, answer.reason)}${fieldLines(headers)}${length}\r\n`);
    if (this.method === 'HEAD' || bodiless(answer.status)) return;
    await this.write(chunked ? inChunks(body, answer.trailers ?? []) : body);
  }

  /** Ends our direction in good order (FIN). */
  end(): void {
    this.socket.end();
  }

  /** Ends the connection with RST. */
  reset(): void {
    this.socket.resetAndDestroy();
  }
}

function bodiless(status: number): boolean {
  return status < 200 || status === 204 || status === 304;
}

function statusLine(status: number, reason: string = STATUS_CODES[status] ?? 'Unnamed'): string {
  return `HTTP/1.1 ${status} ${reason}\r\n`;
}

function fieldLines(headers: readonly HeaderLine[]): string {
  return headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
}

function inChunks(body: Buffer, trailers: readonly HeaderLine[]): Buffer {
  const head = body.length > 0 ? `${body.length.toString(16)}\r\n` : '';
  const tail = `${body.length > 0 ? '\r\n' : ''}0\r\n${fieldLines(trailers)}\r\n`;
  return Buffer.concat([Buffer.from(head), body, Buffer.from(tail, 'latin1')]);
}
