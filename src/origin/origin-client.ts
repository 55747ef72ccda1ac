import { Agent as HttpAgent, type ClientRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Http2Session } from 'node:http2';
import { Agent as HttpsAgent } from 'node:https';
import { createRequire } from 'node:module';
import { Socket } from 'node:net';
import { type Duplex, Stream } from 'node:stream';
import util from 'node:util';
import type HttpProxy from 'http-proxy';
import { authenticatesConnection } from '../model/client-fields.js';
import { fromRawHeaders, type Headers } from '../model/headers.js';
import { toNodeHeaders, writeHeadsAsLatin1 } from '../streams/node-http.js';
import { keepReadingAfterWriteError } from './half-closed-socket.js';

/** One request, sent to the origin exactly as given. */
export interface OutgoingRequest {
  /** Origin URL as in `Route.origin`. */
  readonly origin: string;
  readonly method: string;
  /** Target without the path of the origin URL, which is put before it. */
  readonly target: string;
  /** All header lines, including those that frame the body. */
  readonly headers: Headers;
  /** `fresh`: a connection that is used for this request only. */
  readonly connection: 'kept' | 'fresh';
  /** The client's connection, for logins that are bound to a connection; missing if several clients share it. */
  readonly client?: ClientConnection;
}

/**
 * Opens requests to origins with http-proxy. Its hooks are used so that it changes no header and leaves body, answer and errors
 * to us; docs/decisions/0001-pass-through.md gives the reasons.
 */
export class OriginRequests {
  private readonly proxy: HttpProxy;
  private readonly agents: OriginAgents;
  private readonly parsedOrigins = new Map<string, ParsedOrigin>();

  constructor(tls?: OriginTls) {
    this.proxy = loadHttpProxy().createProxyServer({});
    this.agents = new OriginAgents(tls);
  }

  /** Number of open connections to origins, in use or idle. */
  get openConnections(): number {
    return this.agents.openConnections;
  }

  /** Sends the head of a request. The caller writes the body and handles all events. */
  open({ origin, method, target, headers, connection, client }: OutgoingRequest): ClientRequest {
    const parsedOrigin = this.parsed(origin);
    const isLogin = authenticatesConnection(headers);
    if (isLogin && client) this.agents.reserve(client);
    const isReserved = this.agents.isReserved(client);
    const agent = this.agents.for(parsedOrigin.protocol, isLogin ? 'fresh' : connection, client);
    const capture = new RequestCapture();
    this.proxy.web(
      requestStub(method),
      RESPONSE_STUB,
      {
        target: parsedOrigin.target,
        agent,
        ssl: requestOptions(pathOf(parsedOrigin, target), headers),
        buffer: capture,
        toProxy: true,
        selfHandleResponse: true,
      },
      () => undefined,
    );
    const request = capture.request!;
    request.on('response', (answer) => {
      if (announcesForbiddenContent(method, answer)) request.shouldKeepAlive &&= isReserved;
      if (!authenticatesConnection(fromRawHeaders(answer.rawHeaders))) return;
      // The login begins with the client's next request, on a reserved connection; this connection may already carry a login.
      if (client) this.agents.reserve(client);
      if (!isReserved) request.shouldKeepAlive = false;
    });
    return request;
  }

  /** Ends every connection. */
  close(): void {
    this.agents.close();
  }

  private parsed(origin: string): ParsedOrigin {
    const cached = this.parsedOrigins.get(origin);
    if (cached) return cached;
    const parsedOrigin = parseOrigin(origin);
    this.parsedOrigins.set(origin, parsedOrigin);
    return parsedOrigin;
  }
}

/**
 * The answer announces content that it must not have (RFC 9112 §6.3). Some origins send that content, which would be taken
 * for the answer to the next request on the connection, possibly another client's.
 */
function announcesForbiddenContent(method: string, { statusCode, headers }: IncomingMessage): boolean {
  const announced = headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
  return announced && (method === 'HEAD' || statusCode === 204 || statusCode === 304);
}

/** The parts of an origin URL. */
interface ParsedOrigin {
  readonly protocol: string;
  readonly target: HttpProxy.ServerOptions['target'];
  /** Prefix of every target. */
  readonly path: string;
}

/** Stands in for the body that http-proxy pipes into its request, and captures that request. */
class RequestCapture extends Stream {
  request: ClientRequest | undefined;

  override pipe<T extends NodeJS.WritableStream>(request: T): T {
    this.request = request as unknown as ClientRequest;
    return request;
  }
}

/**
 * The object that http-proxy fills in and passes to http.request(). Path and headers are read-only, because http-proxy would
 * normalize the path and lose the order and repetitions of headers.
 */
function requestOptions(path: string, headers: Headers): object {
  const readOnly = (value: unknown): PropertyDescriptor => ({
    enumerable: true,
    get: () => value,
    set: () => undefined,
  });
  const options = { setHost: false, maxHeaderSize: MAX_HEAD_BYTES };
  return Object.defineProperties(options, { path: readOnly(path), headers: readOnly(toNodeHeaders(headers)) });
}

/** The same limit as for deliveries (`undici-origin.ts`), so that kept answers can be passed between nodes. */
const MAX_HEAD_BYTES = 256 * 1024;

/** The properties that http-proxy reads of a client's request; none of them changes the outgoing request. */
function requestStub(method: string): IncomingMessage {
  const view = { method, url: '/', headers: {}, httpVersion: '1.1', socket: {}, on: () => undefined };
  return view as unknown as IncomingMessage;
}

/** Looks to http-proxy like a finished response, so that it does not touch ours. */
const RESPONSE_STUB = { headersSent: true, finished: true } as unknown as ServerResponse;

function parseOrigin(origin: string): ParsedOrigin {
  const { protocol, hostname, port, pathname } = new URL(origin);
  const host = hostname.replace(/^\[|\]$/g, '');
  const target = { protocol, host, hostname: host, ...(port === '' ? {} : { port }) };
  return { protocol, target, path: pathname.replace(/\/$/, '') };
}

/** The asterisk of OPTIONS stands for the entire server, so the origin's path does not apply (RFC 9112 §3.2.4). */
function pathOf(origin: ParsedOrigin, target: string): string {
  return target === '*' ? target : origin.path + target;
}

/**
 * Loads http-proxy without the deprecation warning DEP0060: it reads `util._extend` when it is loaded, so a plain function
 * replaces that one during the load. Not needed once http-proxy uses Object.assign.
 */
export function loadHttpProxy(): typeof HttpProxy {
  const deprecated = Object.getOwnPropertyDescriptor(util, '_extend');
  Object.defineProperty(util, '_extend', { value: extend, configurable: true, writable: true });
  try {
    return createRequire(import.meta.url)('http-proxy') as typeof HttpProxy;
  } finally {
    if (deprecated) Object.defineProperty(util, '_extend', deprecated);
  }
}

function extend(target: object, source: object | null | undefined): object {
  return Object.assign(target, source);
}

/** The settings for verifying TLS origins, if they differ from Node's defaults. */
export interface OriginTls {
  /** CA certificates (PEM) that are trusted instead of Node's. */
  readonly ca?: string | Buffer | readonly (string | Buffer)[];
  readonly rejectUnauthorized?: boolean;
  /** This proxy's client certificate (PEM). */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
}

/** Shorter than the idle timeout of most origins, so that few requests are sent on a connection that the origin closes. */
const IDLE_MS = 4_000;
const MAX_IDLE_CONNECTIONS = 256;

/** The connection of a client: a socket or an HTTP/2 session. */
export type ClientConnection = Socket | Http2Session;

interface Agents {
  readonly http: HttpAgent;
  readonly https: HttpAgent;
}

/** The connections to origins. They are kept alive, and continue to read after the origin refuses a write. */
export class OriginAgents {
  private readonly kept: Agents;
  private readonly fresh: Agents;
  /** The agents of clients with a login that is bound to a connection. */
  private readonly reserved = new Map<ClientConnection, Agents>();
  private readonly tlsOptions: object;

  constructor(tls: OriginTls = {}) {
    const keepAliveOptions = {
      keepAlive: true,
      maxFreeSockets: MAX_IDLE_CONNECTIONS,
      scheduling: 'lifo',
      timeout: IDLE_MS,
    } as const;
    const { rejectUnauthorized = true, cert, key } = tls;
    const ca = tls.ca === undefined ? {} : { ca: [tls.ca].flat() };
    this.tlsOptions = { ...ca, ...(cert && { cert }), ...(key && { key }), rejectUnauthorized };
    this.kept = {
      http: new HalfClosedAgent(keepAliveOptions),
      https: new HalfClosedTlsAgent({ ...keepAliveOptions, ...this.tlsOptions }),
    };
    this.fresh = { http: new HalfClosedAgent({}), https: new HalfClosedTlsAgent(this.tlsOptions) };
  }

  /** The agent for a request. `fresh`: its connection is used once; a client's reserved connection takes precedence. */
  for(protocol: string, connection: 'kept' | 'fresh', client?: ClientConnection): HttpAgent {
    const agents = (client && this.reserved.get(client)) ?? this[connection];
    return protocol === 'https:' ? agents.https : agents.http;
  }

  /** The client has reserved connections to origins. */
  isReserved(client: ClientConnection | undefined): boolean {
    return client !== undefined && this.reserved.has(client);
  }

  /**
   * Reserves one connection to each origin for this client, until the client's own connection closes. A single one, because all
   * rounds of a login must use the same connection.
   */
  reserve(client: ClientConnection): void {
    if (client.destroyed || this.reserved.has(client)) return;
    const options = { keepAlive: true, maxSockets: 1 };
    const agents = {
      http: new HalfClosedAgent(options),
      https: new HalfClosedTlsAgent({ ...options, ...this.tlsOptions }),
    };
    this.reserved.set(client, agents);
    client.once('close', () => {
      this.reserved.delete(client);
      agents.http.destroy();
      agents.https.destroy();
    });
  }

  /** Number of open connections, in use or idle. */
  get openConnections(): number {
    return this.all.reduce((sum, agent) => sum + count(agent.sockets) + count(agent.freeSockets), 0);
  }

  /** Ends every connection. */
  close(): void {
    for (const agent of this.all) agent.destroy();
  }

  private get all(): HttpAgent[] {
    return [this.kept, this.fresh, ...this.reserved.values()].flatMap(({ http, https }) => [http, https]);
  }
}

type SocketCallback = (error: Error | null, socket: Duplex) => void;

class HalfClosedAgent extends HttpAgent {
  override createConnection(...[options, callback]: Parameters<HttpAgent['createConnection']>) {
    return prepareSocket(super.createConnection(options, wrapCallback(callback)));
  }
}

class HalfClosedTlsAgent extends HttpsAgent {
  override createConnection(...[options, callback]: Parameters<HttpsAgent['createConnection']>) {
    return prepareSocket(super.createConnection(options, wrapCallback(callback)));
  }
}

/** An agent may pass its socket as return value or to the callback. */
function wrapCallback(callback: SocketCallback | undefined): SocketCallback | undefined {
  return callback && ((error, socket) => callback(error, prepareSocket(socket)));
}

function prepareSocket<T>(socket: T): T {
  return socket instanceof Socket ? keepReadingAfterWriteError(writeHeadsAsLatin1(socket)) : socket;
}

function count(sockets: NodeJS.ReadOnlyDict<Socket[]>): number {
  return Object.values(sockets).reduce((sum, list) => sum + (list?.length ?? 0), 0);
}

/** A dead machine does not refuse a connection but stays silent. */
export const CONNECT_TIMEOUT_MS = 2_000;

/**
 * Destroys a socket that does not connect in time. Calls `onConnected` when it has connected, which may be immediately.
 */
export function enforceConnectTimeout(
  socket: Socket,
  timeoutMs: number,
  onConnected: () => void = () => undefined,
): void {
  if (!socket.connecting) return onConnected();
  const event = 'encrypted' in socket ? 'secureConnect' : 'connect';
  const timeout = Object.assign(new Error('no connection in time'), { code: 'ETIMEDOUT' });
  const timer = setTimeout(() => socket.destroy(timeout), timeoutMs);
  socket.once('close', () => clearTimeout(timer));
  socket.once(event, () => {
    clearTimeout(timer);
    onConnected();
  });
}
