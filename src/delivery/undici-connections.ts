import type { Socket } from 'node:net';
import { buildConnector, Client } from 'undici';
import type { OriginRequest } from './origin.js';
import { makePatient, type OriginSocket } from './undici-socket.js';

/** Longer than any handshake of an origin worth waiting for; a connection that never comes about may be tried again. */
const LONGEST_CONNECT_MS = 10_000;
/** Answers with larger heads are not taken. */
export const LARGEST_HEAD = 256 * 1024;

/** It gives back the socket on its way, which its types do not say: without it a connection attempt could not be ended. */
type Connect = (...given: Parameters<buildConnector.connector>) => Socket;

/** One connection at a time to one origin, made when it is needed. Carries one exchange at a time. */
export class OriginConnection {
  readonly client: Client;
  /** Of the newest connection; missing until one is made. */
  socket: OriginSocket | undefined;
  isOpen = false;
  private connecting: Socket | undefined;

  constructor(
    readonly key: string,
    origin: string,
    options: { readonly connectMs: number; readonly ca?: string },
    onClose: (connection: OriginConnection) => void,
  ) {
    const connect = buildConnector({ timeout: options.connectMs, ca: options.ca }) as Connect;
    this.client = new Client(origin, {
      pipelining: 1,
      maxHeaderSize: LARGEST_HEAD,
      connect: (target, done) => {
        // The certificate has to be the origin's: undici would ask for the one of the `Host` that we pass on.
        this.connecting = connect({ ...target, servername: undefined }, (...result) => {
          // From now on it is undici's to end, which has to hear why: an end without a reason may be that of an answer.
          this.connecting = undefined;
          if (result[1]) this.socket = makePatient(result[1]);
          done(...result);
        });
      },
    });
    this.client.on('connect', () => (this.isOpen = true));
    this.client.on('disconnect', () => {
      this.isOpen = false;
      onClose(this);
    });
  }

  /** Ends the connection at once, with everything that is under way on it. */
  async destroy(reason: Error): Promise<void> {
    this.connecting?.on('error', () => undefined).destroy();
    await this.client.destroy(reason);
  }
}

type ConnectionRequest = Pick<OriginRequest, 'origin' | 'timeoutMs' | 'connection'>;

/** Connections to origins. One that carried an exchange to its end waits a little for the next (RFC 9112 §9.3). */
export class OriginConnections {
  private readonly idle = new Set<OriginConnection>();
  private readonly all = new Set<OriginConnection>();

  constructor(private readonly options: { readonly ca?: string }) {}

  /** A new one, or for a request that may be repeated one that waits. */
  take({ origin, timeoutMs, connection: wanted }: ConnectionRequest): OriginConnection {
    const connectMs = Math.min(timeoutMs, LONGEST_CONNECT_MS);
    const key = `${origin} ${connectMs}`;
    for (const connection of wanted === 'kept' ? this.idle : []) {
      if (connection.key !== key) continue;
      this.idle.delete(connection);
      return connection;
    }
    const connection = new OriginConnection(key, origin, { connectMs, ca: this.options.ca }, (closed) => {
      if (this.idle.delete(closed)) void this.end(closed, new Error('the origin closed an idle connection'));
    });
    this.all.add(connection);
    return connection;
  }

  /** The exchange is over and the connection is fit for another, if it is still open. */
  giveBack(connection: OriginConnection): void {
    if (connection.isOpen && this.all.has(connection)) this.idle.add(connection);
    else void this.end(connection, new Error('the origin closed the connection'));
  }

  /** Never rejects. */
  async end(connection: OriginConnection, reason: Error): Promise<void> {
    this.idle.delete(connection);
    this.all.delete(connection);
    await connection.destroy(reason);
  }

  async close(): Promise<void> {
    const reason = new Error('the proxy stops');
    await Promise.all([...this.all].map((connection) => this.end(connection, reason)));
  }
}
