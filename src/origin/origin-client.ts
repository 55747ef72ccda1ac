import { authenticatesConnection } from '../model/client-fields.js';
import { fieldValue, type HeaderLine, type Headers } from '../model/headers.js';
import {
  type ConnectionPool,
  type Connector,
  FreshConnections,
  KeptConnections,
  LoginConnections,
} from './connection-pools.js';
import { connectTo, type Endpoint, type OriginTls, parseEndpoint } from './endpoint.js';
import { type ConnectionOwner, OriginConnection } from './origin-connection.js';
import { type ClientConnection, type ExchangeListener, OriginExchange, requestStart } from './origin-exchange.js';

/** One request, sent to the origin exactly as given. */
export interface OutgoingRequest {
  /** Origin URL as in `Route.origin`. */
  readonly origin: string;
  readonly method: string;
  /** Target without the path of the origin URL, which is put before it. */
  readonly target: string;
  /** All header lines, including those that frame the body; `Connection` is added if it is missing. */
  readonly headers: Headers;
  /** `fresh`: a connection that is used for this request only. */
  readonly connection: 'kept' | 'fresh';
  /** The client's connection, for logins that are bound to a connection; missing if several clients share it. */
  readonly client?: ClientConnection;
  /** Limits the time to connect; without it only the caller does. */
  readonly connectTimeoutMs?: number;
}

/** A connect timeout for machines of the same network. */
export const CONNECT_TIMEOUT_MS = 2_000;

/**
 * Sends requests to origins over HTTP/1.1 and keeps the connections. It changes no header and neither follows, decodes nor
 * repeats anything; docs/decisions/0030-one-origin-client.md gives the reasons.
 */
export class OriginClient implements Connector {
  /** By origin URL. */
  private readonly endpoints = new Map<string, Endpoint>();
  private readonly kept = new KeptConnections(this);
  private readonly fresh = new FreshConnections(this);
  /** The connections of clients with a login that is bound to a connection. */
  private readonly logins = new Map<ClientConnection, LoginConnections>();
  private readonly connections = new Set<OriginConnection>();
  private isClosed = false;

  constructor(
    private readonly tls: OriginTls = {},
    /** Interval of TCP keep-alive, which finds out that a machine has vanished; 0: none. */
    private readonly keepAliveMs = 0,
  ) {}

  /** Number of open connections to origins, in use or idle. */
  get openConnections(): number {
    return this.connections.size;
  }

  /**
   * Sends the head of a request; the caller writes the body. Throws if the request cannot be sent as HTTP/1.1, and after
   * `close`.
   */
  open(request: OutgoingRequest, listener: ExchangeListener): OriginExchange {
    if (this.isClosed) throw new Error('connections to origins are closed');
    const { method, headers, client } = request;
    const endpoint = this.endpointOf(request.origin);
    const isLogin = authenticatesConnection(headers);
    if (isLogin && client) this.reserve(client);
    const reserved = client && this.logins.get(client);
    const pool: ConnectionPool = reserved ?? (isLogin ? this.fresh : this[request.connection]);
    const lines = withConnection(headers, pool === this.fresh ? 'close' : 'keep-alive');
    const start = requestStart(method, targetAt(endpoint, request.target), lines);
    const exchange = new OriginExchange(start, listener, client);
    pool.assign(exchange, endpoint, request.connectTimeoutMs);
    return exchange;
  }

  /** Ends every connection, and every request that waits for one. No request can be sent any more. */
  close(): void {
    this.isClosed = true;
    for (const login of this.logins.values()) login.close();
    for (const connection of this.connections) connection.destroy();
  }

  /**
   * Reserves one connection to each origin for this client, until the client's own connection closes. A single one, because all
   * rounds of a login must use the same connection.
   */
  reserve(client: ClientConnection): void {
    if (client.destroyed || this.logins.has(client)) return;
    const login = new LoginConnections(this);
    this.logins.set(client, login);
    client.once('close', () => {
      this.logins.delete(client);
      login.close();
    });
  }

  connect(
    endpoint: Endpoint,
    owner: ConnectionOwner,
    { idleMs, connectTimeoutMs }: { readonly idleMs: number; readonly connectTimeoutMs?: number },
  ): OriginConnection {
    const socket = connectTo(endpoint, this.tls, connectTimeoutMs);
    if (this.keepAliveMs > 0) socket.setKeepAlive(true, this.keepAliveMs);
    const connection = new OriginConnection(socket, owner, idleMs);
    this.connections.add(connection);
    return connection;
  }

  forget(connection: OriginConnection): void {
    this.connections.delete(connection);
  }

  private endpointOf(url: string): Endpoint {
    const known = this.endpoints.get(url);
    if (known) return known;
    const endpoint = parseEndpoint(url);
    this.endpoints.set(url, endpoint);
    return endpoint;
  }
}

/** The asterisk of OPTIONS stands for the entire server, so the origin's path does not apply (RFC 9112 §3.2.4). */
function targetAt(endpoint: Endpoint, target: string): string {
  return target === '*' ? target : endpoint.path + target;
}

function withConnection(headers: Headers, option: 'keep-alive' | 'close'): Headers {
  if (fieldValue(headers, 'connection') !== undefined) return headers;
  const line: HeaderLine = ['Connection', option];
  return [...headers, line];
}
