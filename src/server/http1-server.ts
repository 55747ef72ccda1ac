import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer, type Server as SecureServer, type ServerOptions } from 'node:https';
import type { Socket } from 'node:net';
import { fromRawHeaders } from '../model/headers.js';
import { type Problem, problemReply } from '../protocol/problem.js';
import { writeHeadsAsLatin1 } from '../streams/node-http.js';
import { CombiningRequest } from '../streams/small-pieces.js';
import { destroyWhenSilent, HALF_CLOSED_MS } from './closing.js';
import type { Exchange, Http1Exchange } from './exchange.js';
import { PipelinedRequests } from './pipelined-requests.js';
import { ignoreFurtherInput, isIgnored, parseProblem, refuseConnection } from './refuse-connection.js';
import { respondEarly } from './response.js';

/** The certificate of a listener, and what it demands of its clients. PEM. */
export interface ServerTls {
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  readonly minVersion?: 'TLSv1.2' | 'TLSv1.3';
  /** The authorities that sign client certificates; without them clients need none. */
  readonly ca?: string | Buffer;
}

/** The time limits of a listener that can change while it listens. */
interface Timeouts {
  readonly headersTimeoutMs: number;
  readonly keepAliveTimeoutMs: number;
}

export interface Http1Options extends Timeouts {
  readonly tls?: ServerTls;
  /** Also offers HTTP/2 to TLS clients. */
  readonly http2: boolean;
  /**
   * A client that has ended its side still gets responses as long as no gap between two writes is longer; 0: it gets
   * none.
   */
  readonly halfClosedMs?: number;
  /** Largest request head in bytes; Node's own limit by default. */
  readonly maxHeadBytes?: number;
}

/** Called for each request and each request to switch protocols. `head`: the bytes after the upgrade request. */
export interface Http1Handlers {
  onRequest(exchange: Exchange): void;
  onUpgrade(req: IncomingMessage, socket: Socket, head: Buffer): void;
}

/**
 * Node's HTTP/1.1 server, with a strict parser and no limit on the time of a body. It owns the listening socket,
 * because Node checks slow heads and idle connections only then, but `HttpListener` decides what becomes of each new
 * connection.
 */
export class Http1Server {
  readonly server: Server;
  /** The same server, if it serves TLS. */
  private readonly secureServer: SecureServer | undefined;
  private readonly serve: (socket: Socket) => void;
  private readonly handshake: (socket: Socket) => void;
  private readonly requests = new Map<Socket, PipelinedRequests>();
  /** Connections without any request yet, which Node does not count as idle. */
  private readonly unused = new Set<Socket>();
  private isDraining = false;
  private readonly halfClosedMs: number;

  constructor(
    options: Http1Options,
    private readonly handlers: Http1Handlers,
  ) {
    const { tls } = options;
    const settings = serverSettings(options);
    this.halfClosedMs = options.halfClosedMs ?? HALF_CLOSED_MS;
    this.secureServer =
      tls && createSecureServer({ ...settings, ...tlsSettings(options), ...tls, ...clientRules(tls) });
    this.server = this.secureServer ?? createServer(settings);
    // With a limit, Node drops fields silently, and those could be the ones that delimit the message. The limit on
    // their size is enough.
    this.server.maxHeadersCount = 0;
    // Missing in Node's types. Without it Node ends its own side as soon as the client has ended the other.
    Object.assign(this.server, { httpAllowHalfOpen: this.halfClosedMs > 0 });
    this.serve = this.removeConnectionListener(tls ? 'secureConnection' : 'connection');
    this.handshake = tls ? this.removeConnectionListener('connection') : this.serve;
    this.addListeners();
  }

  /** Changes the certificate and the rules for new connections; open ones keep theirs. */
  setTls(tls: ServerTls): void {
    this.secureServer?.setSecureContext(tls);
    // Node reads these for each new connection, and has no method that changes them.
    Object.assign(this.server, clientRules(tls));
  }

  /** Changes the time limits of requests and connections that begin from now on. */
  setTimeouts({ headersTimeoutMs, keepAliveTimeoutMs }: Timeouts): void {
    this.server.headersTimeout = headersTimeoutMs;
    this.server.keepAliveTimeout = keepAliveTimeoutMs;
  }

  /** Starts the TLS handshake on a new connection; a `secureConnection` event follows. */
  startTls(socket: Socket): void {
    this.handshake.call(this.server, socket);
  }

  /** Ends the connections that are waiting for their next request. */
  endIdle(): void {
    this.server.closeIdleConnections();
  }

  /** Serves HTTP/1.1 on this socket. */
  accept(socket: Socket): void {
    this.unused.add(socket);
    socket.once('close', () => this.unused.delete(socket));
    this.serve.call(this.server, writeHeadsAsLatin1(socket));
  }

  /** Closes connections without a request; the others announce it with their next response and then close. */
  drain(): void {
    this.isDraining = true;
    for (const { exchanges } of this.requests.values()) {
      for (const { res } of exchanges) if (!res.headersSent) res.shouldKeepAlive = false;
    }
    for (const socket of this.unused) socket.destroy();
    this.endIdle();
  }

  /** Takes over Node's own listener, so that it runs only for the connections that `HttpListener` selects. */
  private removeConnectionListener(event: string): (socket: Socket) => void {
    const [listener] = this.server.listeners(event);
    this.server.removeAllListeners(event);
    return listener as (socket: Socket) => void;
  }

  private addListeners(): void {
    // The code that reads the body answers expectations: 100 must not be sent before the request has been checked.
    for (const event of ['request', 'checkContinue', 'checkExpectation'] as const) {
      this.server.on(event, (req: IncomingMessage, res: ServerResponse) => this.receive({ req, res }));
    }
    this.server.on('upgrade', (req, socket: Socket, head) => this.upgrade(req, socket, head));
    this.server.on('connect', (_req, socket: Socket) => {
      this.refuseAfterPending(socket, { status: 501, detail: 'This server is no tunnel: CONNECT is not implemented.' });
    });
    this.server.on('clientError', (error, socket: Socket) => this.onParseError(error, socket));
  }

  /** Queues a request until its turn on the connection; one that is delimited wrongly is refused then. */
  private receive(exchange: Http1Exchange): void {
    const { req, res } = exchange;
    const { socket } = req;
    if (isIgnored(socket)) return;
    if (this.isDraining) res.shouldKeepAlive = false;
    const fault = framingFault(req);
    if (fault) ignoreFurtherInput(socket);
    this.requestsOf(socket).add(exchange, () => {
      if (!fault) return this.handlers.onRequest(exchange);
      res.shouldKeepAlive = false;
      void respondEarly(exchange, problemReply(fault));
    });
  }

  /** The head of the last response may have promised keep-alive before draining began. */
  private readonly onResponseClosed = (): void => {
    if (this.isDraining) setImmediate(() => this.server.closeIdleConnections());
  };

  private requestsOf(socket: Socket): PipelinedRequests {
    const existing = this.requests.get(socket);
    if (existing) return existing;
    this.unused.delete(socket);
    const requests = new PipelinedRequests(socket, this.onResponseClosed);
    this.requests.set(socket, requests);
    socket.once('close', () => this.requests.delete(socket));
    socket.once('end', () => this.onPeerEnded(socket));
    return requests;
  }

  /** The client sends nothing more: it has left, or it is only waiting for its responses. */
  private onPeerEnded(socket: Socket): void {
    const { exchanges = [] } = this.requests.get(socket) ?? {};
    if (this.halfClosedMs === 0 || exchanges.length === 0) return;
    destroyWhenSilent(socket, this.halfClosedMs);
  }

  /** Passes an upgrade request on, or has it parsed again as an ordinary request. */
  private upgrade(req: IncomingMessage, socket: Socket, head: Buffer): void {
    if (isIgnored(socket)) return;
    this.unused.delete(socket);
    if (isUpgrade(req)) {
      // Responses are still due on this connection, so it cannot switch protocols yet.
      if (this.newestOf(socket)) return this.refuseAfterPending(socket, { status: 400, detail: NO_PIPELINED_UPGRADE });
      // Until the new owner adds a listener, a connection reset must not end the process.
      socket.on('error', () => undefined);
      // A copy, because `HttpListener` releases the bytes that it was cut from.
      this.handlers.onUpgrade(req, socket, Buffer.from(head));
      return;
    }
    const parseAgain = (): void => {
      if (socket.destroyed) return;
      // The responses before it may have started the timeout of an idle connection.
      socket.setTimeout(0);
      socket.unshift(Buffer.concat([withoutUpgrade(req), head]));
      this.accept(socket);
    };
    const newest = this.newestOf(socket);
    if (newest) newest.res.once('close', () => setImmediate(parseAgain));
    else parseAgain();
  }

  /** Called when the parser has rejected the input. */
  private onParseError(error: NodeJS.ErrnoException, socket: Socket): void {
    const problem = parseProblem(error);
    const { req, res } = this.newestOf(socket) ?? {};
    const isIncomplete = error.code === 'HPE_INVALID_EOF_STATE' && req !== undefined;
    if (!problem || isIncomplete || (res?.headersSent && !req?.complete)) socket.destroy();
    else this.refuseAfterPending(socket, problem);
  }

  /**
   * Answers the requests before the bad input first: otherwise the client would take the refusal for one of their
   * responses.
   */
  private refuseAfterPending(socket: Socket, problem: Problem): void {
    if (isIgnored(socket)) return;
    ignoreFurtherInput(socket);
    const newest = this.newestOf(socket);
    if (newest?.req.complete) newest.res.once('close', () => refuseConnection(socket, problem));
    else refuseConnection(socket, problem);
  }

  private newestOf(socket: Socket): Http1Exchange | undefined {
    return this.requests.get(socket)?.newest;
  }
}

const NO_PIPELINED_UPGRADE = 'A request to change protocols has to wait for the answers before it.';

function serverSettings({ headersTimeoutMs, keepAliveTimeoutMs, maxHeadBytes }: Http1Options): ServerOptions {
  const settings = {
    IncomingMessage: CombiningRequest,
    // This timeout includes the body; idle bodies are ended where they are read.
    requestTimeout: 0,
    ...(maxHeadBytes === undefined ? {} : { maxHeaderSize: maxHeadBytes }),
    headersTimeout: headersTimeoutMs,
    // Node cannot change it later, and a reload may shorten the timeout.
    connectionsCheckingInterval: Math.min(1_000, Math.max(50, headersTimeoutMs / 4)),
    keepAliveTimeout: keepAliveTimeoutMs,
    insecureHTTPParser: false,
    // `readHead` checks it, where the refusal can say what is wrong.
    requireHostHeader: false,
    noDelay: true,
    shouldUpgradeCallback: isUpgrade,
  };
  return settings;
}

function clientRules({ ca }: ServerTls): Pick<ServerOptions, 'requestCert' | 'rejectUnauthorized'> {
  return { requestCert: ca !== undefined, rejectUnauthorized: ca !== undefined };
}

function tlsSettings({ http2, headersTimeoutMs }: Http1Options): ServerOptions {
  return { ALPNProtocols: http2 ? ['h2', 'http/1.1'] : ['http/1.1'], handshakeTimeout: headersTimeoutMs };
}

/**
 * Checks how an HTTP/1.1 message is delimited, because two readings of its end allow request smuggling: a connection
 * with a fault is not used again. Node's parser refuses most of it (CL with TE, repeated CL, "chunked" not last); this
 * refuses what it lets through on Node 20 to 26.
 */
function framingFault({ httpVersion, headers }: IncomingMessage): Problem | undefined {
  const coding = headers['transfer-encoding'];
  if (httpVersion !== '1.1' && httpVersion !== '1.0') {
    return { status: 505, detail: 'This connection speaks HTTP/1.1. HTTP/2 begins with its own preface.' };
  }
  if (coding === undefined) return undefined;
  // RFC 9112 §6.1: HTTP/1.0 knows no transfer codings.
  if (httpVersion === '1.0') return { status: 400, detail: 'Transfer-Encoding is not understood in HTTP/1.0.' };
  if (headers['content-length'] !== undefined) {
    return { status: 400, detail: 'A request has a Content-Length or a Transfer-Encoding, not both.' };
  }
  if (coding.trim().toLowerCase() === 'chunked') return undefined;
  return { status: 501, detail: 'The only transfer coding understood is "chunked".' };
}

/**
 * Whether to act on a request to switch protocols. A server may ignore Upgrade (RFC 9110 §7.8), and ours does where a
 * body comes with it or h2c is requested, which RFC 9113 §3.1 has removed.
 */
function isUpgrade({ headers }: IncomingMessage): boolean {
  const hasBody = headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
  const protocols = (headers.upgrade ?? '').split(',').map((protocol) => protocol.trim().toLowerCase());
  return !hasBody && protocols.some((protocol) => protocol !== '' && protocol !== 'h2c');
}

/**
 * The request head without its Upgrade, to be parsed again: Node 20 stops parsing at every Upgrade. Not needed when
 * Node 22 is our oldest, which calls `isUpgrade` first (shouldUpgradeCallback).
 */
function withoutUpgrade({ method, url, rawHeaders }: IncomingMessage): Buffer {
  const lines = fromRawHeaders(rawHeaders)
    .filter(([name]) => !['upgrade', 'http2-settings'].includes(name.toLowerCase()))
    .map(
      ([name, value]) => `${name}: ${name.toLowerCase() === 'connection' ? withoutUpgradeOption(value) : value}\r\n`,
    );
  return Buffer.from(`${method} ${url} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1');
}

function withoutUpgradeOption(value: string): string {
  const options = value.split(',').map((option) => option.trim());
  return options.filter((option) => !/^(?:upgrade|http2-settings)$/i.test(option)).join(', ');
}
