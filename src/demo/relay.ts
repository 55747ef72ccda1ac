import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/** Where the relay takes connections to, and how fast. */
export interface RelayOptions {
  /** The port of the proxy on 127.0.0.1. */
  readonly target: number;
  /** The speed of all uploads together; undefined for no limit. */
  readonly bytesPerSecond: number | undefined;
  /** A monotonic clock, in milliseconds. */
  readonly clock: () => number;
}

const MAX_CONNECTIONS = 256;

/**
 * Carries the bytes of browsers to the proxy and back, unread. It slows uploads down, so that there is time to press a
 * button, and it can cut all connections.
 */
export class Relay {
  private readonly server = createServer({ allowHalfOpen: true, noDelay: true });
  private readonly sockets = new Set<Socket>();
  private outage: NodeJS.Timeout | undefined;
  private readonly pace: Pace;

  constructor(private readonly options: RelayOptions) {
    this.pace = new Pace(options.bytesPerSecond, options.clock);
    this.server.maxConnections = MAX_CONNECTIONS;
    this.server.on('connection', (socket: Socket) => void this.carry(socket));
  }

  listen({ host, port }: { readonly host: string; readonly port: number }): Promise<void> {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject).listen(port, host, resolve);
    });
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  set bytesPerSecond(rate: number | undefined) {
    this.pace.bytesPerSecond = rate;
  }

  /** The number of open connections. */
  get connections(): number {
    // Each has a socket at either end.
    return Math.ceil(this.sockets.size / 2);
  }

  /** Resets all connections and refuses new ones for so long, then calls `onRestored`. */
  cut(outageMs: number, onRestored: () => void): void {
    clearTimeout(this.outage);
    this.outage = setTimeout(() => {
      this.outage = undefined;
      onRestored();
    }, outageMs);
    for (const socket of this.sockets) socket.resetAndDestroy();
  }

  close(): Promise<void> {
    clearTimeout(this.outage);
    for (const socket of this.sockets) socket.resetAndDestroy();
    return new Promise((resolve) => this.server.close(() => resolve()));
  }

  private async carry(client: Socket): Promise<void> {
    // A socket without a listener would end the program with its error.
    client.on('error', () => undefined);
    if (this.outage) {
      client.resetAndDestroy();
      return;
    }
    const upstream = connect({ host: '127.0.0.1', port: this.options.target, allowHalfOpen: true, noDelay: true });
    const pair = [client, upstream];
    for (const socket of pair) this.sockets.add(socket);
    try {
      await Promise.all([pipeline(client, this.slowDown(), upstream), pipeline(upstream, client)]);
    } catch {
      // One end is gone, which the other one has to notice.
      for (const socket of pair) socket.resetAndDestroy();
    } finally {
      for (const socket of pair) this.sockets.delete(socket.destroy());
    }
  }

  private slowDown(): Transform {
    return new Transform({
      transform: (bytes: Buffer, _encoding, done) => {
        this.pace.take(bytes.length, () => done(undefined, bytes));
      },
    });
  }
}

/** Lets so many bytes a second pass. */
class Pace {
  private dueMs = 0;

  constructor(
    public bytesPerSecond: number | undefined,
    private readonly clock: () => number,
  ) {}

  take(bytes: number, pass: () => void): void {
    const now = this.clock();
    const waitMs = this.dueMs - now;
    if (this.bytesPerSecond === undefined) return pass();
    this.dueMs = Math.max(this.dueMs, now) + (bytes / this.bytesPerSecond) * 1000;
    if (waitMs > 0) setTimeout(pass, waitMs);
    else pass();
  }
}
