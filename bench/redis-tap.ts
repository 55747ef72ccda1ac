import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { ValueReader, wordsOf } from './resp.js';

/** A command that went to Redis. */
export interface Exchange {
  /** Its name; that of the file for a script. */
  readonly name: string;
  readonly words: readonly string[];
  /** When it was sent, and when its reply arrived, on the tap's own clock of events. */
  readonly sentAt: number;
  repliedAt?: number;
}

const SCRIPTS = new URL('../src/store/redis/lua/', import.meta.url);

/**
 * Stands between a proxy and Redis and notes each command with its reply. Replies are held back for a while, as by a
 * network: what does not wait for a reply is seen to go on before it.
 */
export class RedisTap {
  readonly exchanges: Exchange[] = [];
  private events = 0;
  private readonly sockets = new Set<Socket>();
  private readonly scripts = new Map<string, string>();

  private constructor(
    private readonly server: Server,
    private readonly target: URL,
    private readonly delayMs: number,
  ) {
    server.on('connection', (near: Socket) => this.accept(near));
  }

  static async start(target: string, delayMs: number): Promise<RedisTap> {
    const tap = new RedisTap(createServer({ noDelay: true }), new URL(target), delayMs);
    await new Promise<void>((resolve) => tap.server.listen(0, '127.0.0.1', resolve));
    return tap;
  }

  get url(): string {
    return `redis://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** A moment, to be compared with those of exchanges. */
  now(): number {
    return ++this.events;
  }

  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }

  private accept(near: Socket): void {
    const far = connect({ port: Number(this.target.port), host: this.target.hostname, noDelay: true });
    const open: Exchange[] = [];
    const commands = new ValueReader((command) => {
      const words = wordsOf(command);
      open.push({ name: this.nameOf(words), words, sentAt: this.now() });
      this.exchanges.push(open.at(-1)!);
    });
    const replies = new ValueReader((reply) => {
      const exchange = open.shift();
      const pass = (): void => {
        if (exchange) exchange.repliedAt = this.now();
        near.write(reply);
      };
      setTimeout(pass, this.delayMs);
    });
    near.on('data', (bytes) => {
      commands.read(bytes);
      far.write(bytes);
    });
    far.on('data', (bytes) => replies.read(Buffer.from(bytes)));
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.sockets.add(socket);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        this.sockets.delete(socket);
        other.destroy();
      });
    }
  }

  /** A script travels once and is then called by its hash. */
  private nameOf([command = '', script = '']: readonly string[]): string {
    const upper = command.toUpperCase();
    if (upper === 'EVAL') this.scripts.set(createHash('sha1').update(script, 'latin1').digest('hex'), fileOf(script));
    return (
      this.scripts.get(upper === 'EVAL' ? createHash('sha1').update(script, 'latin1').digest('hex') : script) ?? upper
    );
  }
}

/** The file a script was read from: known by its first line. */
function fileOf(script: string): string {
  const files = readdirSync(SCRIPTS).filter((name) => name.endsWith('.lua'));
  const firstLine = (name: string): string => readFileSync(new URL(name, SCRIPTS), 'latin1').split('\n', 1)[0]!;
  return files.find((name) => script.includes(firstLine(name)))?.replace(/\.lua$/, '') ?? 'EVAL';
}
