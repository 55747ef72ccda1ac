import type { Http2Session } from 'node:http2';
import type { Socket } from 'node:net';
import { isFieldValue, isToken } from '../model/grammar.js';
import { fieldValue, type HeaderLine, type Headers } from '../model/headers.js';
import type { ResponseHead } from './response-head.js';

/** The events of one exchange with an origin. Nothing is called after `onClosed`, nor after `onSwitched`. */
export interface ExchangeListener {
  /** An interim response, never 101. */
  onInterim(head: ResponseHead): void;
  /** The final head. `contentIsLate`: none of its content has arrived. */
  onHead(head: ResponseHead, contentIsLate: boolean): void;
  /** The bytes belong to the receiver. `isLast`: `onEnd` is called next. */
  onContent(bytes: Buffer, isLast: boolean): void;
  /** The response is complete; the request may not be. */
  onEnd(trailers: readonly HeaderLine[]): void;
  /** The origin has switched protocols. The paused socket belongs to the receiver. */
  onSwitched(head: ResponseHead, socket: Socket, early: Buffer): void;
  /** The request may be continued after `write` has returned false. */
  onDrain(): void;
  /** Nothing more is sent or received. Without an error the response is complete; the request may not be. */
  onClosed(error: Error | undefined): void;
}

/** The connection of a client: a socket or an HTTP/2 session. */
export type ClientConnection = Socket | Http2Session;

/** The size of a request's content as its head announces it; `chunked`: the last chunk shows the end. */
type AnnouncedSize = number | 'chunked';

/** A request without its content, ready to be sent. */
export interface RequestStart {
  readonly method: string;
  /** The head as on the wire, one character per octet. */
  readonly head: string;
  readonly size: AnnouncedSize;
}

/** The connection that an exchange uses. */
export interface ExchangeCarrier {
  readonly socket: Socket;
  readonly isConnected: boolean;
  /** It has carried an exchange before. */
  readonly wasUsed: boolean;
  /** Sends the head of the exchange. */
  begin(exchange: OriginExchange): void;
  /** Like `write` of the socket, for all bytes after the head. */
  write(bytes: Buffer, onTaken?: OnTaken): boolean;
  /** Called when a direction of the exchange is complete. */
  finishIfComplete(): void;
  /** Ends the connection, unless it carries another exchange by now. */
  abort(exchange: OriginExchange, error?: Error): void;
}

/**
 * `open`: neither direction is complete. `sent`: the request is. `answered`: the response is. `complete`: both are, but written
 * bytes may still wait in the socket. `closed`: the exchange is over. `cut`: it ended before it was complete.
 */
type ExchangePhase = 'open' | 'sent' | 'answered' | 'complete' | 'closed' | 'cut';

type OnTaken = (error?: Error | null) => void;

/** Bytes that wait for a connection. */
interface Piece {
  readonly bytes: Buffer;
  readonly onTaken?: OnTaken;
}

/** One request to an origin and its response. It may have to wait for the connection of its client's login. */
export class OriginExchange {
  private phase: ExchangePhase = 'open';
  private connection: ExchangeCarrier | undefined;
  private usesKeptConnection = false;
  private writtenBytes = 0;
  /** Content that was written before there was a connection. */
  private waiting: Piece[] = [];

  constructor(
    readonly start: RequestStart,
    readonly listener: ExchangeListener,
    readonly client?: ClientConnection,
  ) {}

  /** The request was written completely. */
  get isSent(): boolean {
    return this.phase === 'sent' || this.phase === 'complete' || this.phase === 'closed';
  }

  /** The response is complete. */
  get isAnswered(): boolean {
    return this.phase === 'answered' || this.phase === 'complete' || this.phase === 'closed';
  }

  /** Both directions are complete. */
  get isComplete(): boolean {
    return this.phase === 'complete';
  }

  /** Nothing more is sent or received. */
  get isClosed(): boolean {
    return this.phase === 'closed' || this.phase === 'cut';
  }

  /** The connection had carried another exchange before. */
  get isReused(): boolean {
    return this.usesKeptConnection;
  }

  /** The socket of the connection; undefined while the exchange waits for one. */
  get socket(): Socket | undefined {
    return this.connection?.socket;
  }

  /** The connection to the origin is established, so bytes of the request may have been sent. */
  get isConnected(): boolean {
    return this.connection?.isConnected ?? false;
  }

  /** The request must not be continued before `onDrain`. */
  get needsDrain(): boolean {
    return this.connection ? this.connection.socket.writableNeedDrain : this.waiting.length > 0;
  }

  /** Called once by a pool, with a free connection. */
  assign(connection: ExchangeCarrier): void {
    this.connection = connection;
    this.usesKeptConnection = connection.wasUsed;
    connection.begin(this);
    if (this.waiting.length === 0) return;
    for (const { bytes, onTaken } of this.waiting.splice(0)) connection.write(bytes, onTaken);
    if (!connection.socket.writableNeedDrain) this.listener.onDrain();
  }

  /**
   * Writes content. Returns false if the caller has to wait for `onDrain`. `onTaken` is called when the socket has taken the
   * bytes, or with the error because of which it may not have finished with them.
   */
  write(bytes: Buffer, onTaken?: OnTaken): boolean {
    if (bytes.length === 0 || this.isClosed) return true;
    const { size } = this.start;
    if (size === 'chunked') return this.sendChunk(bytes, onTaken);
    this.writtenBytes += bytes.length;
    if (this.writtenBytes <= size) return this.send(bytes, onTaken);
    this.destroy(new Error('the body of the request is longer than announced'));
    return true;
  }

  /**
   * Ends the request. Trailers can follow chunked content only. Content of another size than announced ends the connection: it
   * would shift the beginning of the next request on it.
   */
  end(trailers: Headers = []): void {
    if (this.isSent || this.isClosed) return;
    const { size } = this.start;
    if (size !== 'chunked' && this.writtenBytes !== size)
      return this.destroy(new Error('the body of the request is shorter than announced'));
    try {
      if (size === 'chunked') this.send(Buffer.from(`0\r\n${fieldText(trailers)}\r\n`, 'latin1'));
    } catch (error) {
      return this.destroy(error as Error);
    }
    this.phase = this.phase === 'answered' ? 'complete' : 'sent';
    this.connection?.finishIfComplete();
  }

  /** Ends the exchange together with its connection. */
  destroy(error?: Error): void {
    if (this.isClosed) return;
    if (this.connection) this.connection.abort(this, error);
    else this.close(error ?? new Error('the exchange was ended'));
  }

  /** Stops receiving the response. */
  pause(): void {
    if (!this.isClosed) this.connection?.socket.pause();
  }

  resume(): void {
    if (!this.isClosed) this.connection?.socket.resume();
  }

  /** Called by the connection at the end of the response. */
  markAnswered(): void {
    this.phase = this.phase === 'sent' ? 'complete' : 'answered';
  }

  /** Called by the connection when the protocol is switched: its socket is no longer ours. */
  markSwitched(): void {
    this.phase = 'closed';
  }

  /** Called by the connection or a pool when the exchange is over. */
  close(error: Error | undefined): void {
    if (this.isClosed) return;
    this.phase = this.phase === 'complete' && !error ? 'closed' : 'cut';
    this.waiting = [];
    this.listener.onClosed(error);
  }

  /** Sends the size, the bytes and the line end of a chunk in one piece. */
  private sendChunk(bytes: Buffer, onTaken?: OnTaken): boolean {
    this.socket?.cork();
    this.send(Buffer.from(`${bytes.length.toString(16)}\r\n`, 'latin1'));
    this.send(bytes, onTaken);
    const mayContinue = this.send(CRLF);
    this.socket?.uncork();
    return mayContinue;
  }

  private send(bytes: Buffer, onTaken?: OnTaken): boolean {
    if (this.connection) return this.connection.write(bytes, onTaken);
    this.waiting.push({ bytes, onTaken });
    return false;
  }
}

const CRLF = Buffer.from('\r\n');

/** The request contains characters or lengths that the origin could read as another message. */
class InvalidRequest extends Error {
  readonly code = 'ERR_INVALID_CHAR';
}

const TARGET = /^[\x21-\x7e\x80-\xff]+$/;

/** The beginning of a request as on the wire. Throws if the origin could read it as another request. */
export function requestStart(method: string, target: string, headers: Headers): RequestStart {
  // The answer to CONNECT would not be HTTP (RFC 9110 §9.3.6).
  if (!isToken(method) || method === 'CONNECT') throw new InvalidRequest('the method cannot be sent');
  if (!TARGET.test(target)) throw new InvalidRequest('the target cannot be sent');
  const head = `${method} ${target} HTTP/1.1\r\n${fieldText(headers)}\r\n`;
  return { method, head, size: announcedSize(headers) };
}

/** RFC 9112 §6.2, §6.3: a request with two lengths could end at two places. */
function announcedSize(headers: Headers): AnnouncedSize {
  const coding = fieldValue(headers, 'transfer-encoding');
  const length = fieldValue(headers, 'content-length');
  const isValid = coding === undefined ? length === undefined || /^\d+$/.test(length) : length === undefined;
  if (!isValid || (coding ?? 'chunked') !== 'chunked') throw new InvalidRequest('the length of the body is doubtful');
  return coding === undefined ? Number(length ?? 0) : 'chunked';
}

function fieldText(lines: Headers): string {
  let text = '';
  for (const [name, value] of lines) {
    if (!isToken(name) || !isFieldValue(value)) throw new InvalidRequest(`the field ${name} cannot be sent`);
    text += `${name}: ${value}\r\n`;
  }
  return text;
}
