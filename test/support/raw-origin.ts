import { once } from 'node:events';
import { STATUS_CODES } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { fieldValue, type HeaderLine } from '../../src/model/headers.js';
import { until } from './temporary.js';
import { ConnectionClosed, framingOf, WireBody, type WireHead, WireReader } from './wire.js';

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

export interface RawAnswer {
  readonly status: number;
  readonly reason?: string;
  /** As they go on the wire. `Content-Length` is added unless they frame the body themselves. */
  readonly headers?: readonly HeaderLine[];
  readonly body?: string | Uint8Array;
  /** Sent after a body that `headers` declare as chunked. */
  readonly trailers?: readonly HeaderLine[];
}

/** Bodies up to this size are kept whole; of larger ones only size and digest. */
const KEEP_LIMIT = 4 * 1024 * 1024;

/** One request as a bare origin got it, and the means to answer it step by step. */
export class RawExchange {
  readonly requestLine: string;
  readonly method: string;
  readonly target: string;
  readonly version: string;
  /** In their order and case on the wire, duplicates kept. */
  readonly headerLines: HeaderLine[];
  readonly headText: string;
  readonly body: WireBody;
  /** Something was written as an answer. */
  answered = false;

  constructor(
    /** Counts all requests of this origin from 0. */
    readonly index: number,
    /** Counts the origin's connections from 0. */
    readonly connectionIndex: number,
    readonly socket: Socket,
    /** Fulfilled when the connection is gone, however. */
    readonly closed: Promise<void>,
    private readonly reader: WireReader,
    head: WireHead,
  ) {
    this.requestLine = head.startLine;
    [this.method = '', this.target = '', this.version = ''] = head.startLine.split(' ');
    this.headerLines = head.headerLines;
    this.headText = head.text;
    this.body = new WireBody(reader, framingOf(head.headerLines, { length: 0 }), KEEP_LIMIT);
  }

  /** All lines of a field joined with ", "; undefined when there is none. */
  header(name: string): string | undefined {
    return fieldValue(this.headerLines, name);
  }

  /** Reads the body to its end by its framing; trailers are in `body.trailers` then. Fails when it is cut. */
  readBody(): Promise<Buffer> {
    return this.body.readAll();
  }

  /** Reads the next `size` bytes of the body and no more: what is not asked for stays on the wire. */
  readBytes(size: number): Promise<Buffer> {
    return this.body.read(size);
  }

  /** Reads bytes as they are on the wire, beyond any framing: for what follows an upgrade. */
  readRaw(size: number): Promise<Buffer> {
    return this.reader.read(size);
  }

  /** Writes anything, and waits while the other side does not read. */
  async write(bytes: string | Uint8Array): Promise<void> {
    this.answered = true;
    if (this.socket.destroyed) return;
    const sent = typeof bytes === 'string' ? this.socket.write(bytes, 'latin1') : this.socket.write(bytes);
    if (!sent) await Promise.race([once(this.socket, 'drain').catch(() => undefined), this.closed]);
  }

  /** Writes an interim response. */
  interim(status: number, headers: readonly HeaderLine[] = []): Promise<void> {
    return this.write(`${statusLine(status)}${fieldLines(headers)}\r\n`);
  }

  /** Writes a whole final response. */
  async respond(answer: RawAnswer): Promise<void> {
    const body = Buffer.from(answer.body ?? '');
    const headers = answer.headers ?? [];
    const chunked = /chunked/i.test(fieldValue(headers, 'transfer-encoding') ?? '');
    const framed = chunked || fieldValue(headers, 'content-length') !== undefined || bodiless(answer.status);
    const length = framed ? '' : `Content-Length: ${body.length}\r\n`;
    await this.write(`${statusLine(answer.status, answer.reason)}${fieldLines(headers)}${length}\r\n`);
    if (this.method === 'HEAD' || bodiless(answer.status)) return;
    await this.write(chunked ? inChunks(body, answer.trailers ?? []) : body);
  }

  /** Ends our direction in good order (FIN). */
  end(): void {
    this.socket.end();
  }

  /** Ends the connection with RST. */
  reset(): void {
    this.socket.resetAndDestroy();
  }
}

function bodiless(status: number): boolean {
  return status < 200 || status === 204 || status === 304;
}

function statusLine(status: number, reason: string = STATUS_CODES[status] ?? 'Unnamed'): string {
  return `HTTP/1.1 ${status} ${reason}\r\n`;
}

function fieldLines(headers: readonly HeaderLine[]): string {
  return headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
}

function inChunks(body: Buffer, trailers: readonly HeaderLine[]): Buffer {
  const head = body.length > 0 ? `${body.length.toString(16)}\r\n` : '';
  const tail = `${body.length > 0 ? '\r\n' : ''}0\r\n${fieldLines(trailers)}\r\n`;
  return Buffer.concat([Buffer.from(head), body, Buffer.from(tail, 'latin1')]);
}
