import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import type { HeaderLine } from '../../src/model/headers.js';
import { serverPort } from './temporary.js';
import { ConnectionClosed, framingOf, WireBody, WireReader } from './wire.js';

/** A network between two programs on this machine, to be cut and mended: what comes to its port goes to another. */
export class CuttingProxy {
  private server: Server | undefined;
  private hangs = false;
  private changing: Promise<void> = Promise.resolve();
  protected readonly sockets = new Set<Socket>();
  /** Bytes that came through, both ways. */
  bytes = 0;
  /** Connections it has accepted. */
  connections = 0;
  /** May change what goes to the other program, piece by piece. */
  onBytesThere: (bytes: Buffer) => void = () => undefined;

  protected constructor(
    private readonly target: number,
    readonly port: number,
  ) {}

  static async start(target: number): Promise<CuttingProxy> {
    const proxy = new CuttingProxy(target, await serverPort());
    await proxy.listen();
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Ends every connection, and refuses new ones. */
  cut(): Promise<void> {
    return this.inTurn(async () => {
      const server = this.server;
      this.server = undefined;
      const closed = new Promise((resolve) => (server ? server.close(resolve) : resolve(undefined)));
      for (const socket of this.sockets) socket.destroy();
      await closed;
    });
  }

  /** Connections stay, new ones are accepted, nothing comes through. What is sent meanwhile comes late. */
  hang(): void {
    this.hangs = true;
    for (const socket of this.sockets) socket.pause();
  }

  /** As if nothing had been. */
  restore(): Promise<void> {
    return this.inTurn(async () => {
      this.hangs = false;
      for (const socket of this.sockets) socket.resume();
      if (!this.server) await this.listen();
    });
  }

  async stop(): Promise<void> {
    await this.cut();
  }

  private inTurn(change: () => Promise<void>): Promise<void> {
    return (this.changing = this.changing.then(change));
  }

  protected async listen(): Promise<void> {
    const server = createServer({ noDelay: true }, (socket) => this.accept(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(this.port, '127.0.0.1', resolve);
    });
    this.server = server;
  }

  protected accept(near: Socket): void {
    this.link(near, (bytes) => {
      this.onBytesThere(bytes);
      return true;
    });
  }

  /** Connects it to the other program, which gets the bytes that `passes` lets through. */
  protected link(near: Socket, passes: (bytes: Buffer) => boolean): void {
    this.connections += 1;
    const far = connect({ port: this.target, host: '127.0.0.1', noDelay: true });
    this.pass(near, far, passes);
    this.pass(far, near);
  }

  private pass(from: Socket, to: Socket, passes: (bytes: Buffer) => boolean = () => true): void {
    this.sockets.add(from);
    from.on('data', (bytes: Buffer) => {
      this.bytes += bytes.length;
      if (!passes(bytes) || to.write(bytes)) return;
      from.pause();
      to.once('drain', () => this.hangs || from.resume());
    });
    from.on('end', () => to.end());
    from.on('error', () => to.destroy());
    from.once('close', () => {
      this.sockets.delete(from);
      to.destroy();
    });
    if (this.hangs) from.pause();
  }
}

/** A connection in between that sends on every byte in a packet of its own, in both directions. */
export interface ByteByByte {
  readonly url: string;
  close(): Promise<void>;
}

/** Stands before the server at `url`. One in the same process reads every byte by itself. */
export async function startByteByByte(url: string): Promise<ByteByByte> {
  const { hostname, port } = new URL(url);
  const sockets = new Set<Socket>();
  const server = createServer((from) => {
    const to = connect(Number(port), hostname);
    for (const [source, sink] of [
      [from, to],
      [to, from],
    ] as const) {
      sockets.add(source);
      source.setNoDelay(true);
      source.on('error', () => sink.destroy());
      source.once('close', () => sockets.delete(source));
      void forward(source, sink);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function forward(source: Socket, sink: Socket): Promise<void> {
  try {
    for await (const bytes of source as AsyncIterable<Buffer>)
      for (const byte of bytes) {
        sink.write(Uint8Array.of(byte));
        await new Promise(setImmediate);
      }
    sink.end();
  } catch {
    sink.destroy();
  }
}

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
export class RecordingRelay extends CuttingProxy {
  /** What came over each connection. */
  private readonly received: Buffer[][] = [];
  private isBreaking: ((bytes: string) => boolean) | undefined;
  private isHolding = false;

  static override async start(target: number): Promise<RecordingRelay> {
    const relay = new RecordingRelay(target, await serverPort());
    await relay.listen();
    return relay;
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

  protected override accept(near: Socket): void {
    const pieces: Buffer[] = [];
    this.received.push(pieces);
    this.link(near, (bytes) => {
      // Of a connection that is cut nobody has heard: to send its bytes later would be no replay.
      if (this.isBreaking?.(bytes.toString('latin1'))) {
        this.isBreaking = undefined;
        near.destroy();
        return false;
      }
      pieces.push(bytes);
      return !this.isHolding;
    });
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
