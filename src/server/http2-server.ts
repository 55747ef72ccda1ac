import {
  constants,
  createServer,
  type Http2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import { problemReply } from '../protocol/problem.js';
import { ReadGate } from '../streams/read-gate.js';
import { joinPieces, limitSmallPieces } from '../streams/small-pieces.js';
import type { Exchange } from './exchange.js';
import { sendReply } from './response.js';
import type { SlowReaders } from './slow-clients.js';

export interface Http2Options {
  /** Bytes a client may send ahead. With Node's 64 KiB an upload over 50 ms of distance makes 1.2 MB/s. */
  readonly windows: { readonly stream: number; readonly session: number };
  readonly maxConcurrentStreams: number;
  /** A connection whose first request, or any later head, has not come after this time is closed. */
  readonly headersTimeoutMs: number;
  /** A connection without requests is closed after this time. */
  readonly keepAliveTimeoutMs: number;
  /** A peer that says nothing for this long is asked whether it is there. */
  readonly pingAfterMs?: number;
  /** Addresses of peers on whose sessions many clients share: what one of them does may not end the others' requests. */
  readonly isSharedPeer?: (address: string) => boolean;
}

/** More than fit into the 64 KiB that a head may have. */
const MAX_FIELDS = 4096;

/** How long a session that was told to go may take for it. */
const CLOSE_GRACE_MS = 500;

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
      maxHeaderListPairs: MAX_FIELDS,
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
    if (!this.options.isSharedPeer?.(session.socket.remoteAddress ?? '')) endOnManyResets(session);
    const { accepting } = this;
    if (accepting) {
      endWhenUnresponsive(session, accepting, this.options.pingAfterMs ?? PING_AFTER_MS);
      // Before anybody reads from it.
      session.prependListener('stream', (stream: ServerHttp2Stream) => {
        limitSmallPieces(stream, accepting);
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
      timer = setTimeout(() => streams === 0 && session.destroy(), CLOSE_GRACE_MS);
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

const HEAD_CHECK_MS = 500;

/**
 * Ends a session whose next header section takes longer than this, whatever else is under way on it: in HTTP/2 nothing
 * else can come meanwhile (RFC 9113 §4.3). Node tells of a header section when it is whole. That one has begun is seen by
 * the number of its stream, and that it goes on by a PING, which its client cannot answer before.
 */
function endSlowHeads(session: ServerHttp2Session, headersTimeoutMs: number): void {
  const intervalMs = Math.max(5, Math.min(HEAD_CHECK_MS, headersTimeoutMs / 4));
  /** Streams up to this one have their header section, or were refused. */
  let settled = 0;
  let pending = 0;
  let pendingMs = 0;
  const check = (): void => {
    const newest = session.destroyed ? 0 : (session.state.lastProcStreamID ?? 0);
    if (newest <= settled) return;
    if (newest !== pending) {
      pending = newest;
      pendingMs = 0;
      session.ping(() => (settled = Math.max(settled, newest)));
    } else pendingMs += intervalMs;
    if (pendingMs >= headersTimeoutMs) session.destroy();
  };
  const timer = setInterval(check, intervalMs);
  session.on('stream', ({ id = 0 }) => (settled = Math.max(settled, id)));
  session.once('close', () => clearInterval(timer));
}

/** So many requests may be given up at once: pages that are left do so with all that they still load. */
const RESET_BURST = 256;
const RESETS_PER_SECOND = 32;
const MANY_RESETS = 'the client gives up its requests again and again';

/**
 * Ends a session that gives up its requests again and again, with ENHANCE_YOUR_CALM (RFC 9113 §10.5): each costs its client
 * nothing, and us a request. A stream that we reset because its client broke a rule on it counts too.
 */
function endOnManyResets(session: ServerHttp2Session): void {
  let allowance = RESET_BURST;
  let countedAt = performance.now();
  const count = (): void => {
    const now = performance.now();
    allowance = Math.min(RESET_BURST, allowance + ((now - countedAt) / 1000) * RESETS_PER_SECOND) - 1;
    countedAt = now;
    // Without an error Node sends NO_ERROR in place of the code.
    if (allowance < 0 && !session.destroyed)
      session.destroy(new Error(MANY_RESETS), constants.NGHTTP2_ENHANCE_YOUR_CALM);
  };
  session.on('stream', (stream) => stream.once('close', () => wasResetByClient(stream) && count()));
}

/** By its client, before it had its answer, and not by us. */
function wasResetByClient({ aborted, errored }: ServerHttp2Stream): boolean {
  const error: NodeJS.ErrnoException | null = errored;
  return aborted && (error === null || error.code === 'ERR_HTTP2_STREAM_ERROR');
}

/** A peer that has said nothing for this long is asked whether it is there, and has as long again to answer. */
const PING_AFTER_MS = 20_000;

/** How often a session is looked at. */
const LIVENESS_CHECK_MS = 500;

/** A connection whose session has ended is closed by its peer within this time, or by us. */
const SOCKET_GRACE_MS = 1500;

/**
 * Ends a session that has no life left, within two seconds or so, and one whose peer is gone without a word. TCP takes many
 * minutes to notice the second (RFC 9113 §6.7). The first hears nothing more, not even the end of its connection: Node has
 * ended it for breaking the protocol, and it would stay for ever with every stream that was open. Not needed for that once
 * Node closes such a session itself.
 */
export function endWhenUnresponsive(session: ServerHttp2Session, socket: Socket, pingAfterMs: number): void {
  const intervalMs = Math.min(LIVENESS_CHECK_MS, pingAfterMs);
  const peer = new PeerLiveness(session, socket, pingAfterMs);
  let endedForMs = 0;
  const check = (): void => {
    if (!session.destroyed) return peer.check(intervalMs);
    // The end was sent: a client that does not send its own would keep the connection.
    endedForMs += intervalMs;
    if (endedForMs >= SOCKET_GRACE_MS) socket.destroy();
  };
  const timer = setInterval(check, intervalMs);
  socket.once('close', () => clearInterval(timer));
}

class PeerLiveness {
  private lastBytesRead = -1;
  private silentMs = 0;
  /** Bytes that had been written when it was asked last. */
  private bytesWrittenAtPing: number | undefined;
  private isPingPending = false;
  /** What was heard since the last question may have been the end of the session. */
  private hasReadSincePing = false;

  constructor(
    private readonly session: ServerHttp2Session,
    private readonly socket: Socket,
    private readonly pingAfterMs: number,
  ) {}

  check(passedMs: number): void {
    const { bytesRead } = this.socket;
    // A peer that we do not read from cannot be heard.
    if (bytesRead !== this.lastBytesRead || ReadGate.sinceHeldMs(this.socket) === 0) {
      this.reset(bytesRead);
      this.hasReadSincePing = true;
      return;
    }
    this.silentMs += passedMs;
    if (this.isSessionDead || (this.isPingPending && this.silentMs >= 2 * this.pingAfterMs))
      return this.session.destroy();
    const isSilentForLong = this.silentMs >= this.pingAfterMs && this.silentMs - passedMs < this.pingAfterMs;
    if (this.hasReadSincePing || isSilentForLong) this.ping();
  }

  private reset(bytesRead: number): void {
    this.lastBytesRead = bytesRead;
    this.silentMs = 0;
    this.bytesWrittenAtPing = undefined;
    this.isPingPending = false;
  }

  private ping(): void {
    this.hasReadSincePing = false;
    this.bytesWrittenAtPing = this.socket.bytesWritten;
    this.isPingPending = true;
    this.session.ping(() => {
      // The answer itself is nothing to ask about again.
      if (!this.session.destroyed) this.reset(this.socket.bytesRead);
    });
  }

  /** The question was not sent, though nothing stands in its way: there is no session any more that could send it. */
  private get isSessionDead(): boolean {
    const { session, socket, bytesWrittenAtPing: writtenWhenAsked } = this;
    if (writtenWhenAsked === undefined || socket.bytesWritten !== writtenWhenAsked) return false;
    return (session.state.outboundQueueSize ?? 0) > 0 && unsentBytes(socket) === 0;
  }
}

/** Of what was given to the operating system; a session writes past its socket's own queue. */
function unsentBytes(socket: Socket): number {
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly writeQueueSize?: number } | null };
  return handle?.writeQueueSize ?? 0;
}
