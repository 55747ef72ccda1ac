import type { HeaderLine } from '../model/headers.js';
import {
  type ContentFraming,
  InvalidResponse,
  invalidLine,
  notHttp,
  readFields,
  readHead,
  type ResponseHead,
} from './response-head.js';

/** Called by a `ResponseParser`. Bytes of content belong to the receiver. */
export interface ResponseListener {
  /** An interim or a final head; after 101 the rest is not HTTP. `contentIsLate`: none of its content has arrived. */
  onHead(head: ResponseHead, contentIsLate: boolean): void;
  /** `isLast`: the end of the response is called next. */
  onContent(bytes: Buffer, isLast: boolean): void;
  onEnd(trailers: readonly HeaderLine[]): void;
}

/** Larger heads and trailers are refused. */
const MAX_HEAD_BYTES = 256 * 1024;
/** Limits of the interim responses before a response, against an origin that never stops sending them (docs/decisions/0024). */
const MAX_INTERIMS = 1000;
const MAX_INTERIM_BYTES = MAX_HEAD_BYTES;
/** Limit of empty lines before a head. */
const MAX_SKIPPED_BYTES = 1024;
/** Limit of a line that begins a chunk, which may have extensions. */
const MAX_CHUNK_LINE = 16 * 1024;

type State =
  'idle' | 'head' | 'length' | 'until-close' | 'chunk-line' | 'chunk' | 'chunk-end' | 'trailers' | 'switched';

/** The state after a final head. */
const STATE_AFTER: Record<ContentFraming, State> = {
  none: 'length',
  length: 'length',
  chunks: 'chunk-line',
  connection: 'until-close',
  switched: 'switched',
};

const HEAD_END = Buffer.from('\r\n\r\n');
const CR = 13;
const LF = 10;

/**
 * Parses the responses of one connection (RFC 9112), as strictly as Node's own parser: no bare CR or LF, no folded lines,
 * no second reading of the length. `begin` announces each request, and `parse` takes what was received.
 */
export class ResponseParser {
  private state: State = 'idle';
  private method = '';
  /** The beginning of an incomplete line of a chunk. */
  private line = '';
  /** The beginning of an incomplete head or trailer section. */
  private readonly section = new PartialSection();
  /** Size of the empty lines before the head. */
  private skippedBytes = 0;
  private interimCount = 0;
  private interimBytes = 0;
  /** Bytes that remain of the content or of the chunk. */
  private remaining = 0;

  constructor(private readonly listener: ResponseListener) {}

  /** A request was sent, whose response comes next. */
  begin(method: string): void {
    this.state = 'head';
    this.method = method;
    this.skippedBytes = 0;
    this.interimCount = 0;
    this.interimBytes = 0;
  }

  /**
   * Parses received bytes, and returns how many belong to the response; the rest has no request, or another protocol.
   * Throws an `InvalidResponse`.
   */
  parse(bytes: Buffer): number {
    let at = 0;
    while (at < bytes.length) {
      switch (this.state) {
        case 'head':
          at = this.parseHead(bytes, at);
          break;
        case 'length':
          at = this.parseLength(bytes, at);
          break;
        case 'until-close':
          this.listener.onContent(at === 0 ? bytes : bytes.subarray(at), false);
          return bytes.length;
        case 'chunk-line':
        case 'chunk':
        case 'chunk-end':
          at = this.parseChunks(bytes, at);
          break;
        case 'trailers':
          at = this.parseTrailers(bytes, at);
          break;
        case 'idle':
        case 'switched':
          return at;
      }
    }
    return at;
  }

  /** The connection has ended properly. Returns false if that is not the end of the response. */
  finish(): boolean {
    if (this.state !== 'until-close') return this.state === 'idle';
    this.end([]);
    return true;
  }

  /** RFC 9112 §2.2: empty lines before a message are ignored, but not without end. */
  private skipEmptyLines(bytes: Buffer, from: number): number {
    let at = from;
    while (at < bytes.length && (bytes[at] === CR || bytes[at] === LF)) at++;
    this.skippedBytes += at - from;
    if (this.skippedBytes > MAX_SKIPPED_BYTES) throw notHttp();
    return at;
  }

  private parseHead(bytes: Buffer, from: number): number {
    const start = this.section.isEmpty ? this.skipEmptyLines(bytes, from) : from;
    if (start === bytes.length) return start;
    const end = this.section.add(bytes, start);
    if (end === -1) {
      if (!this.section.startsLike('HTTP/')) throw notHttp();
      return bytes.length;
    }
    const text = this.section.take();
    const head = readHead(text, this.method);
    if (head.status < 200 && head.framing !== 'switched') {
      this.countInterim(text.length);
      this.listener.onHead(head, false);
      return end;
    }
    this.state = STATE_AFTER[head.framing];
    this.remaining = head.framing === 'length' ? head.contentLength! : 0;
    const isComplete = this.state === 'length' && this.remaining === 0;
    this.listener.onHead(head, end === bytes.length && !isComplete);
    if (isComplete) this.end([]);
    return end;
  }

  private countInterim(size: number): void {
    this.interimBytes += size;
    if (++this.interimCount > MAX_INTERIMS || this.interimBytes > MAX_INTERIM_BYTES)
      throw new InvalidResponse('HPE_TOO_MANY_INTERIMS', 'the origin sends too many interim responses');
  }

  private parseLength(bytes: Buffer, from: number): number {
    const end = Math.min(bytes.length, from + this.remaining);
    this.remaining -= end - from;
    const content = from === 0 && end === bytes.length ? bytes : bytes.subarray(from, end);
    this.listener.onContent(content, this.remaining === 0);
    if (this.remaining === 0) this.end([]);
    return end;
  }

  /** Moves the content of all chunks together, so that tiny chunks cost no more than large ones. */
  private parseChunks(bytes: Buffer, from: number): number {
    let at = from;
    let contentStart = from;
    let contentEnd = from;
    while (at < bytes.length && this.state !== 'trailers') {
      if (this.state === 'chunk-line') at = this.parseChunkLine(bytes, at);
      else if (this.state === 'chunk-end') at = this.parseChunkEnd(bytes, at);
      else {
        const size = Math.min(this.remaining, bytes.length - at);
        if (contentStart === contentEnd) contentStart = contentEnd = at;
        if (contentEnd !== at) bytes.copyWithin(contentEnd, at, at + size);
        contentEnd += size;
        at += size;
        this.remaining -= size;
        if (this.remaining === 0) this.state = 'chunk-end';
      }
    }
    if (contentEnd > contentStart) this.listener.onContent(bytes.subarray(contentStart, contentEnd), false);
    return at;
  }

  private parseChunkLine(bytes: Buffer, from: number): number {
    const end = bytes.indexOf(LF, from);
    this.line += bytes.toString('latin1', from, end === -1 ? bytes.length : end + 1);
    if (this.line.length > MAX_CHUNK_LINE)
      throw new InvalidResponse('HPE_CHUNK_EXTENSIONS_OVERFLOW', 'a line of a chunk is too long');
    if (end === -1) return bytes.length;
    const [, size] = CHUNK_LINE.exec(this.line) ?? [];
    if (size === undefined) throw new InvalidResponse('HPE_INVALID_CHUNK_SIZE', 'the size of a chunk is malformed');
    this.line = '';
    this.remaining = Number.parseInt(size, 16);
    this.state = this.remaining === 0 ? 'trailers' : 'chunk';
    // The empty line after the last chunk ends the trailer section; this one stands for the lines before it.
    if (this.remaining === 0) this.section.begin('\r\n');
    return end + 1;
  }

  private parseChunkEnd(bytes: Buffer, from: number): number {
    const end = Math.min(bytes.length, from + 2 - this.line.length);
    this.line += bytes.toString('latin1', from, end);
    if (!'\r\n'.startsWith(this.line)) throw new InvalidResponse('HPE_STRICT', 'a chunk is longer than its size');
    if (this.line.length < 2) return end;
    this.line = '';
    this.state = 'chunk-line';
    return end;
  }

  private parseTrailers(bytes: Buffer, from: number): number {
    if (this.section.isOneLine && bytes[from] === CR && bytes[from + 1] === LF) {
      this.section.take();
      this.end([]);
      return from + 2;
    }
    const end = this.section.add(bytes, from);
    if (end === -1) return bytes.length;
    this.end(readFields(this.section.take().slice(2)).headers);
    return end;
  }

  private end(trailers: readonly HeaderLine[]): void {
    this.state = 'idle';
    this.listener.onEnd(trailers);
  }
}

/** Collects a section that ends with an empty line. Small pieces are joined only once, at its end. */
class PartialSection {
  private pieces: string[] = [];
  /** A section that was received in one piece, without its end. */
  private whole: string | undefined;
  private size = 0;
  /** The last three characters: the end may be divided between two pieces. */
  private tail = '';

  get isEmpty(): boolean {
    return this.size === 0;
  }

  /** So far it is the text of `begin`, one line end. */
  get isOneLine(): boolean {
    return this.size === 2;
  }

  /** Starts with a text that was received as part of something else. */
  begin(text: string): void {
    this.append(text);
  }

  /** Adds bytes; returns the position after the end of the section, or -1 if it has not come. */
  add(bytes: Buffer, from: number): number {
    const end = this.endIn(bytes, from);
    if (end !== -1 && this.size === 0) {
      this.checkSize(end - from);
      this.whole = bytes.toString('latin1', from, end - 4);
      return end;
    }
    const text = bytes.toString('latin1', from, end === -1 ? bytes.length : end);
    // A section whose lines end otherwise would never end.
    if (end === -1 && hasBareLineFeed(text, this.tail)) throw invalidLine();
    this.append(text);
    return end;
  }

  /** The section without the empty line at its end. The next one begins. */
  take(): string {
    if (this.whole !== undefined) {
      const { whole } = this;
      this.whole = undefined;
      return whole;
    }
    const text = this.pieces.length === 1 ? this.pieces[0]! : this.pieces.join('');
    this.pieces = [];
    this.size = 0;
    this.tail = '';
    return text.slice(0, -4);
  }

  /** Whether the section can still begin with this text. */
  startsLike(text: string): boolean {
    let start = '';
    for (let at = 0; start.length < text.length && at < this.pieces.length; at++) start += this.pieces[at]!;
    return text.startsWith(start.slice(0, text.length));
  }

  private endIn(bytes: Buffer, from: number): number {
    const seam = this.tail === '' ? -1 : (this.tail + bytes.toString('latin1', from, from + 3)).indexOf('\r\n\r\n');
    if (seam !== -1) return from + seam + 4 - this.tail.length;
    const end = bytes.indexOf(HEAD_END, from);
    return end === -1 ? -1 : end + 4;
  }

  private append(text: string): void {
    this.pieces.push(text);
    this.size += text.length;
    this.tail = (this.tail + text.slice(-3)).slice(-3);
    this.checkSize(this.size);
  }

  private checkSize(size: number): void {
    if (size > MAX_HEAD_BYTES)
      throw new InvalidResponse('HPE_HEADER_OVERFLOW', `the head of the answer is larger than ${MAX_HEAD_BYTES} bytes`);
  }
}

function hasBareLineFeed(text: string, before: string): boolean {
  return (text.startsWith('\n') && !before.endsWith('\r')) || /[^\r]\n/.test(text);
}

/** RFC 9112 §7.1. Twelve digits are 256 TiB. */
const CHUNK_LINE = /^0*([0-9A-Fa-f]{1,12})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n$/;
