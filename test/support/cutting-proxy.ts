import { createServer, connect, type Server, type Socket } from 'node:net';
import { serverPort } from './server-port.js';

/** A network between two programs on this machine, to be cut and mended: what comes to its port goes to another. */
export class CuttingProxy {
  private server: Server | undefined;
  private hangs = false;
  private changing: Promise<void> = Promise.resolve();
  private readonly sockets = new Set<Socket>();
  /** Bytes that came through, both ways. */
  bytes = 0;
  /** Connections it has accepted. */
  connections = 0;
  /** May change what goes to the other program, piece by piece. */
  onBytesThere: (bytes: Buffer) => void = () => undefined;

  private constructor(
    private readonly target: number,
    readonly port: number,
  ) {}

  static async start(target: number): Promise<CuttingProxy> {
    const proxy = new CuttingProxy(target, await serverPort());
    await proxy.listen();
    return proxy;
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

  private async listen(): Promise<void> {
    const server = createServer({ noDelay: true }, (socket) => this.accept(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(this.port, '127.0.0.1', resolve);
    });
    this.server = server;
  }

  private accept(near: Socket): void {
    this.connections += 1;
    const far = connect({ port: this.target, host: '127.0.0.1', noDelay: true });
    this.pass(near, far, (bytes) => this.onBytesThere(bytes));
    this.pass(far, near);
  }

  private pass(from: Socket, to: Socket, onBytes?: (bytes: Buffer) => void): void {
    this.sockets.add(from);
    from.on('data', (bytes: Buffer) => {
      this.bytes += bytes.length;
      onBytes?.(bytes);
      if (to.write(bytes)) return;
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
