import { type IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { endToEnd, fieldValue, type HeaderLine } from '../model/headers.js';
import type { ResponseHead } from '../origin/response-head.js';
import { Http1Client } from '../server/client-connection.js';
import type { DiscardLimits } from '../server/closing.js';
import { reasonPhrase } from '../streams/node-http.js';
import { type ExchangeOptions, ProxiedExchange } from './proxied-exchange.js';

/** The arguments of a server's `upgrade` event. */
export interface UpgradeRequest {
  readonly request: IncomingMessage;
  readonly socket: Socket;
  /** The bytes that the client sent after its request. */
  readonly early: Buffer;
}

interface UpgradeOptions extends Omit<ExchangeOptions, 'client' | 'open' | 'onSwitched'>, UpgradeRequest {
  /** Limits for reading the rest of a refused request's body. */
  readonly limits: DiscardLimits;
}

/** Maximum number of bytes that a client may send before its request to switch is answered. */
const MAX_EARLY_BYTES = 64 * 1024;

/** Handles protocol switches (RFC 9110 §7.8): the origin accepts or refuses, and its answer goes to the client. */
export class Upgrades {
  /** Keyed by the connection to the origin. */
  private readonly tunnels = new Map<Socket, Promise<void>>();

  constructor(private readonly open: ExchangeOptions['open']) {}

  /** The number of connections to origins that have switched protocols. */
  get size(): number {
    return this.tunnels.size;
  }

  /** Sends the request to the origin, and joins both connections when it accepts. */
  start({ request, socket, early, limits, ...options }: UpgradeOptions): void {
    const response = responseOn(socket, request);
    const earlyBytes = new EarlyBytes(socket, early);
    const exchange = new ProxiedExchange({
      ...options,
      outgoing: { ...options.outgoing, headers: [...options.outgoing.headers, ...switchHeaders(options.head.headers)] },
      open: this.open,
      client: new Http1Client({ req: request, res: response }, limits),
      onSwitched: (answer, originSocket, originEarly) => {
        response.detachSocket(socket);
        socket.write(Buffer.concat([switchingHead(answer, options.fieldsForClient), originEarly]));
        originSocket.write(earlyBytes.release());
        this.join(socket, originSocket);
      },
    });
    void exchange.run();
  }

  /** Closes every switched connection. */
  async close(): Promise<void> {
    for (const socket of this.tunnels.keys()) socket.destroy();
    await Promise.all(this.tunnels.values());
  }

  private join(socket: Socket, originSocket: Socket): void {
    const ended = joinSockets(socket, originSocket).then(() => void this.tunnels.delete(originSocket));
    this.tunnels.set(originSocket, ended);
  }
}

/**
 * A response on the socket of an upgrade request, for its refusal. It ends the connection, because the bytes after it
 * are meant for another protocol.
 */
export function responseOn(socket: Socket, request: IncomingMessage): ServerResponse {
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(socket);
  response.once('finish', () => socket.destroySoon());
  socket.on('error', () => undefined);
  return response;
}

/**
 * Keeps reading the client while the origin decides, because only a socket that is read shows that its peer has left.
 */
class EarlyBytes {
  private readonly chunks: Buffer[];
  private byteCount = 0;

  constructor(
    private readonly socket: Socket,
    early: Buffer,
  ) {
    this.chunks = [early];
    socket.on('data', this.onData).once('end', this.onEnd);
  }

  /** Returns the bytes read so far and stops reading; the caller reads the socket from now on. */
  release(): Buffer {
    this.socket.off('data', this.onData).off('end', this.onEnd).pause();
    return Buffer.concat(this.chunks);
  }

  private readonly onData = (bytes: Buffer): void => {
    this.chunks.push(bytes);
    this.byteCount += bytes.length;
    if (this.byteCount > MAX_EARLY_BYTES) this.socket.pause();
  };

  /** A client that ends its side before the switch cannot use the other protocol. */
  private readonly onEnd = (): void => {
    this.socket.destroySoon();
  };
}

/** Upgrade and its connection option are hop-by-hop, so they are written again for the next hop. */
function switchHeaders(headers: ExchangeOptions['head']['headers']): HeaderLine[] {
  return [
    ['Connection', 'Upgrade'],
    ['Upgrade', fieldValue(headers, 'upgrade') ?? ''],
  ];
}

/** The 101 for the client; it is an interim response (RFC 9110 §15.2). */
function switchingHead(
  { status, reason, headers: lines }: ResponseHead,
  fieldsForClient: UpgradeOptions['fieldsForClient'] = (headers) => headers,
): Buffer {
  const headers = [...fieldsForClient(endToEnd(lines), 'interim'), ...switchHeaders(lines)];
  const text = headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  return Buffer.from(`HTTP/1.1 101 ${reasonPhrase(status, reason)}\r\n${text}\r\n`, 'latin1');
}

/** Forwards bytes both ways between two sockets, together with ends and errors. Resolves when both have closed. */
function joinSockets(one: Socket, other: Socket): Promise<void> {
  const closed = [forward(one, other), forward(other, one)];
  return Promise.all(closed).then(() => undefined);
}

function forward(from: Socket, to: Socket): Promise<void> {
  from.setTimeout(0);
  from.setNoDelay(true);
  from.setKeepAlive(true, KEEP_ALIVE_MS);
  // A side that has ended its output may still read.
  from.allowHalfOpen = true;
  from.on('error', () => to.destroy());
  from.pipe(to);
  return new Promise((resolve) => {
    from.once('close', () => {
      // Bytes before a proper end are still sent; after an error the other side must not see a proper end.
      if (from.readableEnded) to.destroySoon();
      else to.destroy();
      resolve();
    });
  });
}

/** Interval of TCP keep-alive, which detects a vanished peer: a tunnel itself may be silent without limit. */
const KEEP_ALIVE_MS = 60_000;
