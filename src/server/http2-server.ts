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
import { watchForReset } from './http2-reset.js';
import { SessionWindows, type Windows } from './http2-windows.js';
import { sendReply } from './response.js';
import { type SlowReaders, writeHandleOf } from './slow-clients.js';

export interface Http2Options {
  /** The initial ones. With Node's 64 KiB, an upload with a round trip of 50 ms reaches only 1.2 MB/s. */
  readonly windows: Windows;
  readonly maxConcurrentStreams: number;
  /** Closes a connection whose first request, or any later request head, has not arrived after this time. */
  readonly headersTimeoutMs: number;
  /** Closes a connection without requests after this time. */
  readonly keepAliveTimeoutMs: number;
  /** Sends a PING to a peer that has been silent for this long. */
  readonly pingAfterMs?: number;
  /**
   * Addresses of peers whose sessions many clients share: resets by one client must not end the requests of the others.
   */
  readonly isSharedPeer?: (address: string) => boolean;
}

/** More fields than fit into the 64 KiB of a request head. */
const MAX_FIELDS = 4096;

/** Time that a session may take to close by itself. */
const CLOSE_GRACE_MS = 500;

/** Serves HTTP/2 on the sockets that the listener passes in; it does not listen itself. */
export class Http2Sessions {
  private options: Http2Options;
  private readonly server: Http2Server;
  private readonly sessions = new Set<ServerHttp2Session>();
  /** Sessions without a request in progress that have had one. */
  private readonly idle = new Set<ServerHttp2Session>();
  private isDraining = false;
  /** The socket whose session Node is creating right now. */
  private accepting: Socket | undefined;

  constructor(
    options: Http2Options,
    onRequest: (exchange: Exchange) => void,
    private readonly slowReaders: SlowReaders,
  ) {
    this.options = options;
    const { windows, maxConcurrentStreams } = options;
    this.server = createServer({
      settings: { initialWindowSize: windows.stream, maxConcurrentStreams },
      // Node resets a stream with more than 128 fields by default; the limit on their size is enough, as it is over
      // HTTP/1.1.
      maxHeaderListPairs: MAX_FIELDS,
      // In MB. Bytes within the flow-control window must not count as excessive use of memory.
      maxSessionMemory: 10 + Math.ceil((2 * windows.session) / 1_000_000),
    });
    this.server.on('session', (session) => this.begin(session));
    for (const event of ['request', 'checkContinue', 'checkExpectation'] as const) {
      this.server.on(event, (req: Http2ServerRequest, res: Http2ServerResponse) => {
        // The client may have reset the stream in the same read that brought the request.
        if (!req.stream.destroyed && !req.stream.closed) onRequest({ req, res });
      });
    }
    this.server.on('connect', (req: Http2ServerRequest, res: Http2ServerResponse) => {
      const problem = { status: 501, detail: 'This server is no tunnel: CONNECT is not implemented.' };
      void sendReply({ req, res }, problemReply(problem));
    });
  }

  /** Serves HTTP/2 on this socket. */
  accept(socket: Socket): void {
    // A socket of an HTTP/1.1 server stays open when its peer has ended, which an HTTP/2 session does not notice.
    socket.allowHalfOpen = false;
    // Node 26 passes received chunks to the session one by one, and throws an uncaught error when one of them ends the
    // session and another follows.
    joinPieces(socket);
    this.accepting = socket;
    this.server.emit('connection', socket);
    this.accepting = undefined;
  }

  /** Changes the time limits of sessions that begin from now on. */
  setTimeouts(timeouts: Pick<Http2Options, 'headersTimeoutMs' | 'keepAliveTimeoutMs'>): void {
    this.options = { ...this.options, ...timeouts };
  }

  /** Sends GOAWAY: requests in progress may finish, new ones are not accepted (RFC 9113 §6.8). */
  drain(): void {
    this.isDraining = true;
    for (const session of this.sessions) session.close();
  }

  /** Ends the sessions that are waiting for their next request. */
  endIdle(): void {
    for (const session of this.idle) session.close();
  }

  private begin(session: ServerHttp2Session): void {
    this.sessions.add(session);
    // SETTINGS set the windows of streams only; the window of the connection has to be set by hand.
    session.setLocalWindowSize(this.options.windows.session);
    session.once('close', () => this.sessions.delete(session));
    this.closeWhenIdle(session);
    endSlowHeads(session, this.options.headersTimeoutMs);
    // Shared peers still have Node's own limit: 1000 at the same time, and 33 a second.
    if (!this.options.isSharedPeer?.(session.socket.remoteAddress ?? '')) endOnManyResets(session);
    // First, so that it runs before anything reads from the stream.
    session.prependListener('stream', watchForReset);
    const { accepting } = this;
    if (accepting) {
      endWhenUnresponsive(session, accepting, this.options.pingAfterMs ?? PING_AFTER_MS);
      const windows = new SessionWindows(session, accepting, this.options.windows);
      session.prependListener('stream', (stream: ServerHttp2Stream) => {
        windows.watch(stream);
        limitSmallPieces(stream, accepting);
        this.slowReaders.watchStream(stream, accepting);
      });
    }
    if (this.isDraining) session.close();
  }

  /**
   * Closes idle sessions, which Node never does. Idle means without streams, because a PING must not keep a connection
   * alive. A header section that never ends is not a stream yet and blocks its connection (RFC 9113 §6.10), so it gets
   * no more time than an idle connection.
   */
  private closeWhenIdle(session: ServerHttp2Session): void {
    const { headersTimeoutMs, keepAliveTimeoutMs } = this.options;
    let streams = 0;
    const end = (): void => {
      session.close();
      // Without this, the session would wait for the end of a header section that has begun.
      timer = setTimeout(() => streams === 0 && session.destroy(), CLOSE_GRACE_MS);
    };
    const startTimer = (ms: number): NodeJS.Timeout | undefined => (ms === 0 ? undefined : setTimeout(end, ms));
    let timer = startTimer(
      keepAliveTimeoutMs === 0 ? headersTimeoutMs : Math.min(headersTimeoutMs, keepAliveTimeoutMs),
    );
    session.on('stream', (stream) => {
      streams++;
      this.idle.delete(session);
      clearTimeout(timer);
      stream.once('close', () => {
        streams--;
        if (streams > 0 || session.destroyed) return;
        this.idle.add(session);
        timer = startTimer(keepAliveTimeoutMs);
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
 * Ends a session whose next header section takes longer than this, because nothing else can arrive on it meanwhile (RFC
 * 9113 §4.3). Node reports only complete header sections: the stream number shows that one has begun, and a PING, which
 * the client cannot answer before the section ends, shows that it continues.
 */
function endSlowHeads(session: ServerHttp2Session, headersTimeoutMs: number): void {
  const intervalMs = Math.max(5, Math.min(HEAD_CHECK_MS, headersTimeoutMs / 4));
  /** The header sections of the streams up to this one are complete, or the streams were refused. */
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

/** Resets allowed at the same time: a page that the user leaves resets everything it is still loading. */
const RESET_BURST = 256;
const RESETS_PER_SECOND = 32;
const MANY_RESETS = 'the client keeps resetting its requests';

/**
 * Ends a session whose client keeps resetting its requests, with ENHANCE_YOUR_CALM (RFC 9113 §10.5): a reset costs the
 * client nothing, and the proxy a request. A stream that the proxy resets for a protocol violation counts too.
 */
function endOnManyResets(session: ServerHttp2Session): void {
  let allowance = RESET_BURST;
  let countedAt = performance.now();
  const count = (): void => {
    const now = performance.now();
    allowance = Math.min(RESET_BURST, allowance + ((now - countedAt) / 1000) * RESETS_PER_SECOND) - 1;
    countedAt = now;
    // Without an error object Node sends NO_ERROR instead of the code.
    if (allowance < 0 && !session.destroyed)
      session.destroy(new Error(MANY_RESETS), constants.NGHTTP2_ENHANCE_YOUR_CALM);
  };
  session.on('stream', (stream) => stream.once('close', () => wasResetByClient(stream) && count()));
}

/** Whether the client reset the stream before it had its response. */
function wasResetByClient({ aborted, errored }: ServerHttp2Stream): boolean {
  const error: NodeJS.ErrnoException | null = errored;
  return aborted && (error === null || error.code === 'ERR_HTTP2_STREAM_ERROR');
}

/** Time that a peer may be silent before it gets a PING, which it must answer within the same time. */
const PING_AFTER_MS = 20_000;

/** Interval at which a session is checked. */
const LIVENESS_CHECK_MS = 500;

/** Time that a peer has to close the connection of an ended session before it is destroyed. */
const SOCKET_GRACE_MS = 1500;

/**
 * Ends a session whose peer has vanished, because TCP takes many minutes to notice (RFC 9113 §6.7). It also ends,
 * within about two seconds, a dead session: Node has ended it for a protocol violation without closing it, and it would
 * keep its streams forever. Not needed for dead sessions once Node closes them itself.
 */
export function endWhenUnresponsive(session: ServerHttp2Session, socket: Socket, pingAfterMs: number): void {
  const intervalMs = Math.min(LIVENESS_CHECK_MS, pingAfterMs);
  const peer = new PeerLiveness(session, socket, pingAfterMs);
  let endedForMs = 0;
  const check = (): void => {
    if (!session.destroyed) return peer.check(intervalMs);
    // The proxy has ended its side; a client that does not end the other would keep the connection.
    endedForMs += intervalMs;
    if (endedForMs >= SOCKET_GRACE_MS) socket.destroy();
  };
  const timer = setInterval(check, intervalMs);
  socket.once('close', () => clearInterval(timer));
}

/** Decides by PINGs whether the peer of a session, and the session itself, are still alive. */
class PeerLiveness {
  private lastBytesRead = -1;
  private silentMs = 0;
  /** `socket.bytesWritten` at the last PING. */
  private bytesWrittenAtPing: number | undefined;
  private isPingPending = false;
  /** Bytes arrived since the last PING, and they may have ended the session. */
  private hasReadSincePing = false;

  constructor(
    private readonly session: ServerHttp2Session,
    private readonly socket: Socket,
    private readonly pingAfterMs: number,
  ) {}

  check(passedMs: number): void {
    const { bytesRead } = this.socket;
    // While reading is paused, silence says nothing about the peer.
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
      // The answer itself does not call for another PING.
      if (!this.session.destroyed) this.reset(this.socket.bytesRead);
    });
  }

  /** The PING was never written although the socket accepts more bytes: Node's session no longer exists. */
  private get isSessionDead(): boolean {
    const { session, socket, bytesWrittenAtPing } = this;
    if (bytesWrittenAtPing === undefined || socket.bytesWritten !== bytesWrittenAtPing) return false;
    return (session.state.outboundQueueSize ?? 0) > 0 && writeHandleOf(socket).writeQueueSize === 0;
  }
}
