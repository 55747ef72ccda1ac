import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { clearSocketPath, setSocketMode } from '../fs/unix-socket.js';
import { ReadGate } from '../streams/read-gate.js';
import { releaseMemory } from '../streams/release-memory.js';
import { resetConnection } from './closing.js';
import type { ConnectionGate } from './connection-limits.js';
import { type Http1Handlers, type Http1Options, Http1Server, type ServerTls } from './http1-server.js';
import { type Http2Options, Http2Sessions } from './http2-server.js';
import { refuseConnection } from './refuse-connection.js';
import { type MinRate, SlowReaders } from './slow-clients.js';

/** A TCP or Unix address to listen on. */
export type ListenAddress =
  /** Port 0 picks a free port. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  /** `isShared`: another worker of this proxy listens there already and has removed any stale socket file. */
  | { readonly kind: 'unix'; readonly path: string; readonly isShared?: boolean; readonly mode?: number };

/** The settings of a listener that can change while it listens. New connections follow them. */
export interface ListenerSettings {
  /** A request head that takes longer is refused with 408. */
  readonly headersTimeoutMs?: number;
  /**
   * Closes a connection without requests after this time. It should exceed the idle timeout of load balancers in front.
   */
  readonly keepAliveTimeoutMs?: number;
  /** A client that reads responses more slowly loses its connection or stream; without it no client does. */
  readonly responseRate?: MinRate;
}

export interface ListenerOptions extends ListenerSettings {
  readonly address: ListenAddress;
  /** Without it the listener uses cleartext. */
  readonly tls?: ServerTls;
  /** Offers HTTP/2 beside HTTP/1.1: by ALPN with TLS, by prior knowledge without. */
  readonly http2: boolean;
  readonly windows: Http2Options['windows'];
  readonly maxConcurrentStreams: number;
  readonly halfClosedMs?: Http1Options['halfClosedMs'];
  readonly maxHeadBytes?: Http1Options['maxHeadBytes'];
  /** HTTP/2: sends a PING to a peer that has been silent for this long. */
  readonly pingAfterMs?: number;
  readonly isSharedPeer?: Http2Options['isSharedPeer'];
  /** Decides which connections are accepted; without it all of them are. */
  readonly gate?: ConnectionGate;
  readonly onSlowReader?: (socket: Socket) => void;
}

/** Called for every request and every request to switch protocols, with either version of HTTP. */
export type Handlers = Http1Handlers;

/** One listening address with all its connections. */
export interface Listener {
  /** `http://127.0.0.1:8080`, `https://…`, or `unix:/path`. */
  readonly url: string;
  /** Open connections, whatever protocol they use. */
  readonly connections: number;
  /** Resolves when the address is closed and no connection is left. */
  readonly closed: Promise<void>;
  /** Changes the settings. Settings that are left out have their defaults. */
  configure(settings: ListenerSettings): void;
  /** Changes the certificate and the demands on clients, of a listener with TLS. Open connections keep theirs. */
  setTls(tls: ServerTls): void;
  /** Stops accepting connections: idle ones end now, the others with their response. May be called more than once. */
  stopAccepting(): void;
  /** Ends the connections that are waiting for their next request. */
  endIdle(): void;
  /** Ends every connection immediately, requests in progress included. */
  destroyAll(): void;
}

/** Starts listening. Rejects when the address cannot be bound. */
export async function startListener(options: ListenerOptions, handlers: Handlers): Promise<Listener> {
  const { address } = options;
  if (address.kind === 'unix' && !address.isShared) await clearSocketPath(address.path);
  const listener = new HttpListener(options, handlers);
  await listener.listen();
  if (address.kind === 'unix') await setSocketMode(address.path, address.mode);
  return listener;
}

const HEADERS_TIMEOUT_MS = 60_000;
const KEEP_ALIVE_TIMEOUT_MS = 75_000;

function timeoutsOf({
  headersTimeoutMs = HEADERS_TIMEOUT_MS,
  keepAliveTimeoutMs = KEEP_ALIVE_TIMEOUT_MS,
}: ListenerSettings) {
  return { headersTimeoutMs, keepAliveTimeoutMs };
}

const NO_RATE: MinRate = { bytesPerSecond: 0, windowMs: 60_000 };

class HttpListener implements Listener {
  readonly closed: Promise<void>;
  private readonly http1: Http1Server;
  private readonly http2: Http2Sessions;
  private headersTimeoutMs: number;
  private readonly slowReaders: SlowReaders;
  private readonly sockets = new Set<Socket>();
  /** Connections whose protocol is not known yet. */
  private readonly undetected = new Set<Socket>();
  private isAccepting = true;

  constructor(
    private readonly options: ListenerOptions,
    handlers: Handlers,
  ) {
    const { responseRate = NO_RATE, onSlowReader = () => undefined } = options;
    const timeouts = timeoutsOf(options);
    this.headersTimeoutMs = timeouts.headersTimeoutMs;
    const slowReaders = (this.slowReaders = new SlowReaders(responseRate, onSlowReader));
    const onUpgrade: Handlers['onUpgrade'] = (req, socket, head) => {
      slowReaders.forget(socket);
      handlers.onUpgrade(req, socket, head);
    };
    this.http1 = new Http1Server({ ...options, ...timeouts }, { ...handlers, onUpgrade });
    this.http2 = new Http2Sessions(
      { ...options, ...timeouts },
      (exchange) => handlers.onRequest(exchange),
      slowReaders,
    );
    const { server } = this.http1;
    server.on('connection', (socket: Socket) => this.acceptConnection(socket));
    if (options.tls) server.on('secureConnection', (socket: TLSSocket) => this.serveSecure(socket));
    this.closed = new Promise((resolve) => server.once('close', () => resolve()));
  }

  async listen(): Promise<void> {
    const { address } = this.options;
    const { server } = this.http1;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(address, () => {
        server.off('error', reject);
        resolve();
      });
    });
  }

  get url(): string {
    const { address, tls } = this.options;
    if (address.kind === 'unix') return `unix:${address.path}`;
    const bound = this.http1.server.address();
    const port = typeof bound === 'object' && bound ? bound.port : address.port;
    const host = address.host.includes(':') ? `[${address.host}]` : address.host;
    return `${tls ? 'https' : 'http'}://${host}:${port}`;
  }

  get connections(): number {
    return this.sockets.size;
  }

  configure(settings: ListenerSettings): void {
    const timeouts = timeoutsOf(settings);
    this.headersTimeoutMs = timeouts.headersTimeoutMs;
    this.http1.setTimeouts(timeouts);
    this.http2.setTimeouts(timeouts);
    this.slowReaders.setRate(settings.responseRate ?? NO_RATE);
  }

  setTls(tls: ServerTls): void {
    this.http1.setTls(tls);
  }

  stopAccepting(): void {
    if (this.isAccepting) this.http1.server.close();
    this.isAccepting = false;
    for (const socket of this.undetected) socket.destroy();
    this.http1.drain();
    this.http2.drain();
  }

  endIdle(): void {
    this.http1.endIdle();
    this.http2.endIdle();
  }

  destroyAll(): void {
    this.stopAccepting();
    for (const socket of this.sockets) socket.destroy();
  }

  private acceptConnection(socket: Socket): void {
    const { gate, tls } = this.options;
    const release = gate ? gate.admit(socket.remoteAddress ?? '') : () => undefined;
    if (!release) return resetConnection(socket);
    this.sockets.add(socket);
    socket.once('close', () => {
      this.sockets.delete(socket);
      release();
    });
    if (tls) this.http1.startTls(socket);
    else this.servePlain(socket);
  }

  private serveSecure(socket: TLSSocket): void {
    if (socket.alpnProtocol === 'h2') this.serveHttp2(socket);
    else this.serveHttp1(socket);
  }

  private servePlain(socket: Socket): void {
    if (!this.options.http2) return this.serveHttp1(socket);
    this.undetected.add(socket);
    detectProtocol(socket, this.headersTimeoutMs, (protocol) => {
      this.undetected.delete(socket);
      this.serve(socket, protocol);
    });
  }

  private serve(socket: Socket, protocol: DetectedProtocol): void {
    switch (protocol) {
      case 'http1':
        return this.serveHttp1(socket);
      case 'http2':
        return this.serveHttp2(socket);
      case 'late':
        return refuseConnection(socket, { status: 408, detail: 'The header section did not arrive in time.' });
      case 'silent':
      case 'closed':
        socket.destroy();
    }
  }

  private serveHttp1(socket: Socket): void {
    this.slowReaders.watchConnection(socket);
    this.http1.accept(socket);
  }

  private serveHttp2(socket: Socket): void {
    this.slowReaders.watchConnection(socket);
    this.http2.accept(socket);
  }
}

/** First line of the HTTP/2 connection preface (RFC 9113 §3.4); the rest of it is certain to follow. */
const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n');

/** `late`: the bytes received in time do not decide it; `silent`: no byte was received. */
export type DetectedProtocol = 'http1' | 'http2' | 'late' | 'silent' | 'closed';

/**
 * Detects the protocol of a new connection and calls `onDetected` once. The bytes inspected are put back, so that the
 * protocol's own parser reads them.
 */
export function detectProtocol(
  socket: Socket,
  timeoutMs: number,
  onDetected: (protocol: DetectedProtocol) => void,
): void {
  let received: Buffer = Buffer.alloc(0);
  const finish = (protocol: DetectedProtocol): void => {
    clearTimeout(timer);
    socket.off('readable', inspect).off('end', onEnd).off('close', onEnd).off('error', onEnd);
    // After the end of the connection nothing can be put back, and no parser would read it.
    if (protocol !== 'http1' && protocol !== 'http2') return onDetected(protocol);
    socket.unshift(received);
    socket.on('error', ignore);
    const mayFollowMore = protocol === 'http1' && received.length >= FULL_READ_BYTES;
    const readAgain = mayFollowMore ? holdUntilParsed(socket, received) : ignore;
    // Inside 'readable' Node has scheduled another read, which would come after the new owner has paused the socket.
    // Pausing would have no effect from then on, and a body would fill the memory.
    setImmediate(() => {
      socket.off('error', ignore);
      onDetected(socket.destroyed ? 'closed' : protocol);
      setImmediate(readAgain);
    });
  };
  const onEnd = (): void => finish('closed');
  const inspect = (): void => {
    const bytes = socket.read() as Buffer | null;
    if (!bytes) return;
    received = received.length === 0 ? bytes : Buffer.concat([received, bytes]);
    const length = Math.min(received.length, PREFACE.length);
    if (!received.subarray(0, length).equals(PREFACE.subarray(0, length))) finish('http1');
    else if (length === PREFACE.length) finish('http2');
  };
  const ignore = (): void => undefined;
  const timer = setTimeout(() => finish(received.length === 0 ? 'silent' : 'late'), timeoutMs);
  socket.on('readable', inspect).once('end', onEnd).once('close', onEnd).once('error', onEnd);
}

/** Node reads so many bytes at once; a connection with fewer has been read to the end. */
const FULL_READ_BYTES = 64 * 1024;

/**
 * Stops reading, so that the system rather than this process keeps the rest of a body that nobody asks for yet. The
 * returned function reads again, and releases the first bytes once the parser of HTTP/1.1, which copies what it passes
 * on, has them.
 */
function holdUntilParsed(socket: Socket, received: Buffer): () => void {
  const gate = ReadGate.of(socket);
  gate.hold();
  return () => {
    if (socket.readableLength === 0) releaseMemory([received]);
    gate.release();
  };
}
