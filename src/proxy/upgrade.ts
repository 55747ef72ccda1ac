import { type ClientRequest, type IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { endToEnd, fieldValue, fromRawHeaders, type HeaderLine } from '../model/headers.js';
import type { OutgoingRequest } from '../origin/origin-client.js';
import { Http1Client } from '../server/client-connection.js';
import type { DiscardLimits } from '../server/closing.js';
import { reasonPhrase } from '../streams/node-http.js';
import { type ExchangeOptions, ProxiedExchange } from './proxied-exchange.js';

export interface UpgradeOptions extends Omit<ExchangeOptions, 'client' | 'open' | 'switched'> {
  readonly request: IncomingMessage;
  readonly socket: Socket;
  /** What the client sent after its request. */
  readonly early: Buffer;
  readonly limits: DiscardLimits;
}

/** What a client may send before its request to switch is answered. */
const MAX_EARLY_BYTES = 64 * 1024;

/** Connections that change their protocol (RFC 9110 §7.8): the origin agrees or refuses, the client hears which. */
export class Upgrades {
  /** Each by the connection to its origin. */
  private readonly tunnels = new Map<Socket, Promise<void>>();

  constructor(private readonly open: (outgoing: OutgoingRequest) => ClientRequest) {}

  /** Connections to origins that speak another protocol now. */
  get size(): number {
    return this.tunnels.size;
  }

  start({ request, socket, early, limits, ...options }: UpgradeOptions): void {
    const response = responseOn(socket, request);
    const earlyBytes = new EarlyBytes(socket, early);
    const exchange = new ProxiedExchange({
      ...options,
      outgoing: { ...options.outgoing, headers: [...options.outgoing.headers, ...switchLines(options.head.headers)] },
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

  /** Ends every connection that was switched. */
  async close(): Promise<void> {
    for (const socket of this.tunnels.keys()) socket.destroy();
    await Promise.all(this.tunnels.values());
  }

  private join(socket: Socket, originSocket: Socket): void {
    const ended = joinSockets(socket, originSocket).then(() => void this.tunnels.delete(originSocket));
    this.tunnels.set(originSocket, ended);
  }
}

/** Where a refusal goes. It is the connection's last answer: what comes after it was meant for another protocol. */
export function responseOn(socket: Socket, request: IncomingMessage): ServerResponse {
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(socket);
  response.once('finish', () => socket.destroySoon());
  socket.on('error', () => undefined);
  return response;
}

/** Reads on while the origin decides, because only a socket that is read from tells that its peer has left. */
class EarlyBytes {
  private readonly bytes: Buffer[];
  private size = 0;

  constructor(
    private readonly socket: Socket,
    early: Buffer,
  ) {
    this.bytes = [early];
    socket.on('data', this.onData).once('end', this.onEnd);
  }

  /** Everything held so far; the socket is the caller's to read from now on. */
  release(): Buffer {
    this.socket.off('data', this.onData).off('end', this.onEnd).pause();
    return Buffer.concat(this.bytes);
  }

  private readonly onData = (bytes: Buffer): void => {
    this.bytes.push(bytes);
    this.size += bytes.length;
    if (this.size > MAX_EARLY_BYTES) this.socket.pause();
  };

  /** Who ends its side before the switch has nothing to switch to. */
  private readonly onEnd = (): void => {
    this.socket.destroySoon();
  };
}

/** Upgrade and the connection option that goes with it are said again for our hop. */
function switchLines(headers: ExchangeOptions['head']['headers']): HeaderLine[] {
  return [
    ['Connection', 'Upgrade'],
    ['Upgrade', fieldValue(headers, 'upgrade') ?? ''],
  ];
}

/** A 101 is an interim response (RFC 9110 §15.2). */
function switchingHead(
  { statusCode = 101, statusMessage, rawHeaders }: IncomingMessage,
  forClient: UpgradeOptions['fieldsForClient'] = (headers) => headers,
): Buffer {
  const lines = fromRawHeaders(rawHeaders);
  const kept = [...forClient(endToEnd(lines), 'interim'), ...switchLines(lines)];
  const text = kept.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  return Buffer.from(`HTTP/1.1 101 ${reasonPhrase(statusCode, statusMessage)}\r\n${text}\r\n`, 'latin1');
}

/** Two connections that are one from now on: what one sends the other gets, ends and breaks included. */
function joinSockets(one: Socket, other: Socket): Promise<void> {
  const closed = [forward(one, other), forward(other, one)];
  return Promise.all(closed).then(() => undefined);
}

function forward(from: Socket, to: Socket): Promise<void> {
  from.setTimeout(0);
  from.setNoDelay(true);
  from.setKeepAlive(true, KEEP_ALIVE_MS);
  // Whoever has said everything may still listen.
  from.allowHalfOpen = true;
  from.on('error', () => to.destroy());
  from.pipe(to);
  return new Promise((resolve) => {
    from.once('close', () => {
      // With a proper end everything it sent is on its way; otherwise the other side must not take it for one.
      if (from.readableEnded) to.destroySoon();
      else to.destroy();
      resolve();
    });
  });
}

/** A peer that vanished without a word is noticed by the kernel: a tunnel may be silent for as long as it likes. */
const KEEP_ALIVE_MS = 60_000;
