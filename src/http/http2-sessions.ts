import {
  createServer,
  type Http2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Stream,
  type ServerHttp2Session,
} from 'node:http2';
import type { Socket } from 'node:net';
import { problemReply } from '../protocol/problem.js';
import { joinPieces } from '../streams/gather.js';
import type { Exchange } from './exchange.js';
import { endManyResets, endSlowHeads } from './session-limits.js';
import { sendReply } from './reply.js';
import type { SlowReaders } from './slow-readers.js';
import { tameSmallPieces } from './small-piece-pace.js';
import { endWhenDeaf, SILENCE_MS } from './sign-of-life.js';

export interface Http2Options {
  /** Bytes a client may send ahead. With Node's 64 KiB an upload over 50 ms of distance makes 1.2 MB/s. */
  readonly windows: { readonly stream: number; readonly session: number };
  readonly maxConcurrentStreams: number;
  /** A connection whose first request, or any later head, has not come after this time is closed. */
  readonly headersTimeoutMs: number;
  /** A connection without requests is closed after this time. */
  readonly keepAliveTimeoutMs: number;
  /** A peer that says nothing for this long is asked whether it is there. */
  readonly silenceMs?: number;
  /** Addresses of peers on whose sessions many clients share: what one of them does may not end the others' requests. */
  readonly standsForMany?: (address: string) => boolean;
}

/** More than fit into the 64 KiB that a head may have. */
const MOST_FIELDS = 4096;

/** How long a session that was told to go may take for it. */
const LINGER_MS = 500;

/** The HTTP/2 connections of a listener: it gives them their sockets, nobody listens here. */
export class Http2Sessions {
  private readonly server: Http2Server;
  private readonly sessions = new Set<ServerHttp2Session>();
  /** Those without a request under way that have had one. */
  private readonly idle = new Set<ServerHttp2Session>();
  private draining = false;
  /** The connection that a session is being made of. */
  private accepting: Socket | undefined;

  constructor(
    private readonly options: Http2Options,
    onRequest: (exchange: Exchange) => void,
    private readonly slowReaders: SlowReaders,
  ) {
    const { windows, maxConcurrentStreams } = options;
    this.server = createServer({
      settings: { initialWindowSize: windows.stream, maxConcurrentStreams },
      // Node resets a stream with more than 128 fields; their size is limit enough, as it is over HTTP/1.1.
      maxHeaderListPairs: MOST_FIELDS,
      // In MB. What clients may send ahead of us is not to be counted as their misuse of memory.
      maxSessionMemory: 10 + Math.ceil((2 * windows.session) / 1_000_000),
    });
    this.server.on('session', (session) => this.begin(session));
    for (const event of ['request', 'checkContinue', 'checkExpectation'] as const) {
      this.server.on(event, (req: Http2ServerRequest, res: Http2ServerResponse) => {
        // Its client has given it up with the same read that brought it.
        if (!req.stream.destroyed && !req.stream.closed) onRequest({ req, res });
      });
    }
    this.server.on('connect', (req: Http2ServerRequest, res: Http2ServerResponse) => {
      const problem = { status: 501, detail: 'This server is no tunnel: CONNECT is not implemented.' };
      void sendReply({ req, res }, problemReply(problem));
    });
  }

  /** From here on the socket speaks HTTP/2. */
  accept(socket: Socket): void {
    // A socket of an HTTP/1.1 server stays open when its peer has ended, and a session does not notice that it has.
    socket.allowHalfOpen = false;
    // Node 26 gives what has come to its session piece by piece, and throws where nobody catches it when one of them has
    // ended the session and another follows.
    joinPieces(socket);
    this.accepting = socket;
    this.server.emit('connection', socket);
    this.accepting = undefined;
  }

  /** GOAWAY: what is under way may end, nothing new is taken (RFC 9113 §6.8). */
  drain(): void {
    this.draining = true;
    for (const session of this.sessions) session.close();
  }

  /** Ends the sessions that wait for their next request. */
  endIdle(): void {
    for (const session of this.idle) session.close();
  }

  private begin(session: ServerHttp2Session): void {
    this.sessions.add(session);
    // The settings speak of streams only; the connection's own window has to be raised by hand.
    session.setLocalWindowSize(this.options.windows.session);
    session.once('close', () => this.sessions.delete(session));
    this.closeWhenIdle(session);
    endSlowHeads(session, this.options.headersTimeoutMs);
    // Node's own limit holds for these too: 1000 at once, and 33 a second.
    if (!this.options.standsForMany?.(session.socket.remoteAddress ?? '')) endManyResets(session);
    const { accepting } = this;
    if (accepting) {
      endWhenDeaf(session, accepting, this.options.silenceMs ?? SILENCE_MS);
      // Before anybody reads from it.
      session.prependListener('stream', (stream: ServerHttp2Stream) => {
        tameSmallPieces(stream, accepting);
        this.slowReaders.watchStream(stream, accepting);
      });
    }
    if (this.draining) session.close();
  }

  /**
   * Node has no limit of any kind here. Streams are counted, because a PING must not keep a connection. A header section
   * that never ends is no stream yet, and nothing else may come on its connection meanwhile (RFC 9113 §6.10): it has no more
   * time than the connection has without it.
   */
  private closeWhenIdle(session: ServerHttp2Session): void {
    const { headersTimeoutMs, keepAliveTimeoutMs } = this.options;
    let streams = 0;
    const end = (): void => {
      session.close();
      // Left alone, it would wait for the end of a header section that has begun.
      timer = setTimeout(() => streams === 0 && session.destroy(), LINGER_MS);
    };
    const wait = (ms: number): NodeJS.Timeout | undefined => (ms === 0 ? undefined : setTimeout(end, ms));
    let timer = wait(keepAliveTimeoutMs === 0 ? headersTimeoutMs : Math.min(headersTimeoutMs, keepAliveTimeoutMs));
    session.on('stream', (stream) => {
      streams++;
      this.idle.delete(session);
      clearTimeout(timer);
      stream.once('close', () => {
        streams--;
        if (streams > 0 || session.destroyed) return;
        this.idle.add(session);
        timer = wait(keepAliveTimeoutMs);
      });
    });
    session.once('close', () => {
      clearTimeout(timer);
      this.idle.delete(session);
    });
  }
}
