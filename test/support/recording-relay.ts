import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import type { HeaderLine } from '../../src/model/headers.js';
import { framingOf, WireBody } from './wire-body.js';
import { ConnectionClosed, WireReader } from './wire-reader.js';

/** One request as somebody on the way between two nodes has seen it. */
export interface RecordedRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: readonly HeaderLine[];
  readonly body: Buffer;
  readonly isChunked: boolean;
  readonly trailers: readonly HeaderLine[];
}

/** Passes connections on as they are, and keeps what their clients send. */
export class RecordingRelay {
  /** What came over each connection. */
  private readonly received: Buffer[][] = [];
  private readonly sockets = new Set<Socket>();
  private isBreaking: ((bytes: string) => boolean) | undefined;
  private isHolding = false;

  private constructor(
    private readonly server: Server,
    private readonly port: number,
  ) {
    server.on('connection', (socket: Socket) => this.pass(socket));
  }

  /** `port`: where connections go on to, on this machine. */
  static async open(port: number): Promise<RecordingRelay> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new RecordingRelay(server, port);
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Everything that was asked so far and came whole, connection by connection. */
  async requests(): Promise<RecordedRequest[]> {
    return (await Promise.all(this.received.map((pieces) => requestsIn(Buffer.concat(pieces))))).flat();
  }

  /** The connection that sends such bytes next is cut. */
  breakNext(isMeant: (bytes: string) => boolean): void {
    this.isBreaking = isMeant;
  }

  /** From now on nothing gets through; what is sent is kept all the same. */
  hold(): void {
    this.isHolding = true;
    for (const socket of this.sockets) socket.destroy();
  }

  release(): void {
    this.isHolding = false;
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }

  private pass(from: Socket): void {
    const to = connect(this.port, '127.0.0.1');
    const pieces: Buffer[] = [];
    this.received.push(pieces);
    for (const [socket, other] of [
      [from, to],
      [to, from],
    ] as const) {
      this.sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => other.destroy());
      socket.once('close', () => {
        this.sockets.delete(socket);
        other.destroy();
      });
    }
    to.pipe(from);
    from.on('data', (bytes: Buffer) => {
      pieces.push(bytes);
      if (this.isBreaking?.(bytes.toString('latin1'))) {
        this.isBreaking = undefined;
        // Nobody has heard of it: to send it now would be no replay.
        pieces.pop();
        from.destroy();
      } else if (!this.isHolding && !to.write(bytes)) {
        from.pause();
        to.once('drain', () => from.resume());
      }
    });
    from.once('end', () => to.end());
  }
}

async function requestsIn(bytes: Buffer): Promise<RecordedRequest[]> {
  const stream = new PassThrough();
  stream.end(bytes);
  const reader = new WireReader(stream);
  const found: RecordedRequest[] = [];
  try {
    for (let head = await reader.readHead(); head; head = await reader.readHead()) {
      const [method = '', target = ''] = head.startLine.split(' ');
      const framing = framingOf(head.headerLines, { length: 0 });
      const body = new WireBody(reader, framing, Infinity);
      const content = await body.readAll();
      const { trailers } = body;
      found.push({
        method,
        target,
        headers: head.headerLines,
        body: content,
        isChunked: framing === 'chunked',
        trailers,
      });
    }
  } catch (error) {
    // The last one was cut.
    if (!(error instanceof ConnectionClosed)) throw error;
  }
  return found;
}
