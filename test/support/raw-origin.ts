import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { RawExchange } from './raw-exchange.js';
import { until } from './temporary.js';
import { ConnectionClosed, WireReader } from './wire-reader.js';

export type { RawExchange } from './raw-exchange.js';

/** Plays one request. When it returns without an answer, the connection is left as it is until somebody ends it. */
export type RawScript = (exchange: RawExchange) => Promise<void> | void;

/** One connection to the origin and what came over it. */
export interface RawConnection {
  readonly socket: Socket;
  /** How many requests were read from it. */
  requests: number;
  open: boolean;
  /** The first megabyte exactly as received, framing and all. */
  readonly received: Buffer;
  readonly receivedSize: number;
  readonly closed: Promise<void>;
}

const RECORD_LIMIT = 1024 * 1024;

/** Answers 200 "ok" after reading the whole body. */
export async function answerOk(exchange: RawExchange): Promise<void> {
  await exchange.readBody();
  await exchange.respond({ status: 200, body: 'ok' });
}

/** An origin on a bare socket: it sees what is really on the wire and answers with exactly what the script writes. */
export class RawOrigin {
  /** Every request, in the order of their heads. */
  readonly exchanges: RawExchange[] = [];
  readonly connections: RawConnection[] = [];
  private readonly failures: unknown[] = [];

  constructor(
    private readonly server: Server,
    private script: RawScript,
  ) {
    server.on('connection', (socket) => void this.serve(socket));
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get openConnections(): number {
    return this.connections.filter((connection) => connection.open).length;
  }

  /** From now on requests are played by this script. */
  setScript(script: RawScript): void {
    this.script = script;
  }

  /** From now on answers wait until they are let go: by what this returns. */
  holdAnswers(): () => void {
    let release: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    this.setScript(async (exchange) => {
      await exchange.readBody();
      await released;
      await answerOk(exchange);
    });
    return () => release();
  }

  /** The `count`-th request, as soon as its head is here. */
  async exchange(index: number): Promise<RawExchange> {
    return until(() => this.exchanges[index], `request ${index} of the origin (it got ${this.exchanges.length})`);
  }

  /** Ends every connection. Fails with the first error a script threw on its own account. */
  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    for (const { socket } of this.connections) socket.destroy();
    await closed;
    if (this.failures.length > 0) throw this.failures[0] as Error;
  }

  private async serve(socket: Socket): Promise<void> {
    socket.setNoDelay(true);
    const reader = new WireReader(socket, { recordLimit: RECORD_LIMIT });
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    const connection: RawConnection = {
      socket,
      requests: 0,
      open: true,
      closed,
      get received() {
        return Buffer.concat(reader.record);
      },
      get receivedSize() {
        return reader.received;
      },
    };
    const connectionIndex = this.connections.push(connection) - 1;
    void closed.then(() => (connection.open = false));
    try {
      while (await this.playNext(socket, reader, connection, connectionIndex));
    } catch (error) {
      if (!(error instanceof ConnectionClosed)) this.failures.push(error);
      socket.destroy();
    }
  }

  /** Plays one request; false when no more can follow on this connection. */
  private async playNext(
    socket: Socket,
    reader: WireReader,
    connection: RawConnection,
    connectionIndex: number,
  ): Promise<boolean> {
    const head = await reader.readHead();
    if (!head) {
      socket.end();
      return false;
    }
    connection.requests++;
    const exchange = new RawExchange(this.exchanges.length, connectionIndex, socket, connection.closed, reader, head);
    this.exchanges.push(exchange);
    await this.script(exchange);
    if (!exchange.answered) return false;
    await exchange.readBody();
    return !socket.writableEnded;
  }
}

/** Starts an origin on a free port of 127.0.0.1. */
export async function startRawOrigin(script: RawScript = answerOk): Promise<RawOrigin> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return new RawOrigin(server, script);
}
