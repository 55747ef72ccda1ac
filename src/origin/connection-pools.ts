import { authenticatesConnection } from '../model/client-fields.js';
import type { Endpoint } from './endpoint.js';
import type { ConnectionOwner, OriginConnection } from './origin-connection.js';
import type { ClientConnection, OriginExchange } from './origin-exchange.js';
import type { ResponseHead } from './response-head.js';

/** Opens the connections of all pools, and counts them. */
export interface Connector {
  /** Opens a connection that belongs to `owner`. `idleMs` 0: it may be idle without limit. */
  connect(
    endpoint: Endpoint,
    owner: ConnectionOwner,
    options: { readonly idleMs: number; readonly connectTimeoutMs?: number },
  ): OriginConnection;
  /** Called when a connection has ended. */
  forget(connection: OriginConnection): void;
  /** Reserves one connection to each origin for this client. */
  reserve(client: ClientConnection): void;
}

/** A way to choose the connection of an exchange. */
export interface ConnectionPool extends ConnectionOwner {
  assign(exchange: OriginExchange, endpoint: Endpoint, connectTimeoutMs?: number): void;
}

/**
 * A login by NTLM or Negotiate begins with the client's next request, on a reserved connection. Returns true if the origin asks
 * for one: the connection of this response may already carry a login.
 */
function asksForLogin(connector: Connector, { client }: OriginExchange, { headers }: ResponseHead): boolean {
  if (!authenticatesConnection(headers)) return false;
  if (client) connector.reserve(client);
  return true;
}

/** Connections that carry one exchange each. */
export class FreshConnections implements ConnectionPool {
  constructor(private readonly connector: Connector) {}

  assign(exchange: OriginExchange, endpoint: Endpoint, connectTimeoutMs?: number): void {
    exchange.assign(this.connector.connect(endpoint, this, { idleMs: 0, connectTimeoutMs }));
  }

  mayKeep(exchange: OriginExchange, head: ResponseHead): boolean {
    asksForLogin(this.connector, exchange, head);
    return false;
  }

  onFree(connection: OriginConnection): void {
    connection.destroy();
  }

  onEnded(connection: OriginConnection): void {
    this.connector.forget(connection);
  }
}

/** Shorter than the idle timeout of most origins, so that few requests are sent on a connection that the origin closes. */
const IDLE_MS = 4_000;
const MAX_IDLE_CONNECTIONS = 256;

/** Connections that any request may use, the most recently used one first. */
export class KeptConnections implements ConnectionPool {
  private readonly idle = new Map<Endpoint, OriginConnection[]>();
  /** The list in which a connection waits while it is idle. */
  private readonly listOf = new WeakMap<OriginConnection, OriginConnection[]>();

  constructor(private readonly connector: Connector) {}

  assign(exchange: OriginExchange, endpoint: Endpoint, connectTimeoutMs?: number): void {
    const idle = this.idle.get(endpoint) ?? [];
    this.idle.set(endpoint, idle);
    let connection = idle.pop();
    for (; connection && !connection.isUsable; connection = idle.pop()) connection.destroy();
    if (!connection) {
      connection = this.connector.connect(endpoint, this, { idleMs: IDLE_MS, connectTimeoutMs });
      this.listOf.set(connection, idle);
    }
    exchange.assign(connection);
  }

  /**
   * A response that announces content which it must not have (RFC 9112 §6.3) may be followed by that content, which would be
   * taken for the response to the next request on the connection, possibly another client's.
   */
  mayKeep(exchange: OriginExchange, head: ResponseHead): boolean {
    return !asksForLogin(this.connector, exchange, head) && !head.announcesForbiddenContent;
  }

  onFree(connection: OriginConnection): void {
    const idle = this.listOf.get(connection)!;
    if (idle.length < MAX_IDLE_CONNECTIONS) idle.push(connection);
    else connection.destroy();
  }

  onEnded(connection: OriginConnection): void {
    const idle = this.listOf.get(connection)!;
    const at = idle.indexOf(connection);
    if (at !== -1) idle.splice(at, 1);
    this.connector.forget(connection);
  }
}

/** A request that waits for the connection of its client. */
interface WaitingExchange {
  readonly exchange: OriginExchange;
  readonly connectTimeoutMs?: number;
}

/** The connection to one origin that is reserved for one client. */
interface ReservedConnection {
  readonly endpoint: Endpoint;
  connection?: OriginConnection;
  isFree: boolean;
  waiting: WaitingExchange[];
}

/**
 * One connection to each origin, for the requests of one client. It is kept after answers to HEAD, whose announced length is
 * content that it must not have, because the login would be lost; only this client could be harmed.
 */
export class LoginConnections implements ConnectionPool {
  private readonly reserved = new Map<Endpoint, ReservedConnection>();
  private isClosed = false;

  constructor(private readonly connector: Connector) {}

  assign(exchange: OriginExchange, endpoint: Endpoint, connectTimeoutMs?: number): void {
    const login = this.reserved.get(endpoint) ?? { endpoint, isFree: true, waiting: [] };
    this.reserved.set(endpoint, login);
    // Requests that were given up need not be kept behind a slow one.
    login.waiting = login.waiting.filter((other) => !other.exchange.isClosed);
    login.waiting.push({ exchange, connectTimeoutMs });
    this.startNext(login);
  }

  mayKeep(): boolean {
    return !this.isClosed;
  }

  onFree(connection: OriginConnection): void {
    const login = this.loginOf(connection);
    if (!login) return connection.destroy();
    login.isFree = true;
    this.startNext(login);
  }

  onEnded(connection: OriginConnection): void {
    this.connector.forget(connection);
    const login = this.loginOf(connection);
    if (!login) return;
    login.connection = undefined;
    login.isFree = true;
    this.startNext(login);
  }

  /** Ends the connections and all requests that wait for them. */
  close(): void {
    this.isClosed = true;
    const all = [...this.reserved.values()];
    this.reserved.clear();
    for (const { connection, waiting } of all) {
      for (const { exchange } of waiting) exchange.destroy();
      connection?.destroy();
    }
  }

  private startNext(login: ReservedConnection): void {
    if (!login.isFree) return;
    let next = login.waiting.shift();
    while (next?.exchange.isClosed) next = login.waiting.shift();
    if (!next) return;
    login.isFree = false;
    if (!login.connection?.isUsable) {
      login.connection?.destroy();
      const options = { idleMs: 0, connectTimeoutMs: next.connectTimeoutMs };
      login.connection = this.connector.connect(login.endpoint, this, options);
    }
    next.exchange.assign(login.connection);
  }

  private loginOf(connection: OriginConnection): ReservedConnection | undefined {
    return [...this.reserved.values()].find((login) => login.connection === connection);
  }
}
