import { spawn, type ChildProcess } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { serverPort } from './server-port.js';
import { temporaryDirectory, until, within, type TemporaryDirectory } from './temporary.js';

/** One request that ended, as HAProxy saw it. */
export interface Relayed {
  /** Of all that came, counted from the first on. */
  readonly number: number;
  /** Of the node that got it; `<NOSRV>` when none was there. */
  readonly node: string;
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly status: number;
}

export interface Backend {
  readonly name: string;
  /** Host and port. */
  readonly address: string;
  /** Host and port of the listener that answers /readyz; without it the node counts as ready all the time. */
  readonly admin?: string;
}

/**
 * A real HAProxy that gives every request to the next node in turn: no affinity, and no second try that could hide what
 * a node did. Where a node ends a connection instead of answering, so does HAProxy. It speaks HTTP/1.1 and HTTP/2 with
 * prior knowledge on one port.
 */
export class Haproxy {
  /** Requests that have ended, in the order in which they came. */
  readonly relayed: Relayed[] = [];
  private readonly said: string[] = [];
  private readonly exited: Promise<unknown>;
  private ended = false;

  private constructor(
    private readonly child: ChildProcess,
    readonly url: string,
    private readonly directory: TemporaryDirectory,
  ) {
    this.exited = new Promise((resolve) => child.once('close', resolve)).then(() => (this.ended = true));
    createInterface({ input: child.stdout! }).on('line', (line) => this.hear(line));
    createInterface({ input: child.stderr! }).on('line', (line) => this.said.push(line));
  }

  static async start(backends: readonly Backend[]): Promise<Haproxy> {
    const port = await serverPort();
    return Haproxy.startWith(configuration(port, backends), port);
  }

  /** Starts it with a configuration that makes it listen on that port of 127.0.0.1. */
  static async startWith(text: string, port: number): Promise<Haproxy> {
    const directory = await temporaryDirectory('rufh-haproxy-');
    const file = join(directory.path, 'haproxy.cfg');
    await writeFile(file, text);
    const child = spawn('haproxy', ['-db', '-f', file], { stdio: ['ignore', 'pipe', 'pipe'] });
    const haproxy = new Haproxy(child, `http://127.0.0.1:${port}`, directory);
    try {
      await until(() => haproxy.ended || accepts(port), 'HAProxy to listen');
      if (haproxy.ended) throw new Error(`HAProxy ended:\n${haproxy.said.join('\n')}`);
    } catch (error) {
      await haproxy.stop();
      throw error;
    }
    return haproxy;
  }

  /** The nodes that the requests for these paths went to, in the order in which they came, once so many have ended. */
  async untilRelayed(paths: readonly string[], count: number): Promise<string[]> {
    const nodes = () => this.relayed.filter(({ path }) => paths.includes(path)).map(({ node }) => node);
    await until(
      () => nodes().length >= count,
      () => `${count} requests for ${paths.join(' or ')} (${nodes().length})`,
    );
    return nodes();
  }

  /** Waits until it has noticed that a node is there, or is not. */
  async untilNoticed(node: string, state: 'UP' | 'DOWN'): Promise<void> {
    const news = new RegExp(`Server nodes/${node} is (UP|DOWN)`);
    const last = () => this.said.map((line) => news.exec(line)?.[1]).findLast((word) => word !== undefined) ?? 'UP';
    await until(() => last() === state, `HAProxy to see ${node} ${state}`, 20_000);
  }

  async stop(): Promise<void> {
    if (!this.ended) this.child.kill('SIGKILL');
    await within(this.exited, 'HAProxy to end');
    await this.directory.remove();
  }

  private hear(line: string): void {
    if (!line.startsWith('{')) return void this.said.push(line);
    this.relayed.push(JSON.parse(line) as Relayed);
    // A client that leaves and comes back at once may have its answer before the end of what it left is told.
    this.relayed.sort((one, other) => one.number - other.number);
  }
}

function configuration(port: number, backends: readonly Backend[]): string {
  const servers = backends.map(({ name, address, admin }) => {
    const check = admin === undefined ? '' : ` check addr ${admin.split(':')[0]} port ${admin.split(':')[1]}`;
    return `  server ${name} ${address}${check}`;
  });
  return `
global
  log stdout format raw local0
defaults
  mode http
  log global
  log-format '{"number":%rt,"node":"%s","method":"%HM","path":"%HPO","status":%ST}'
  timeout connect 2s
  timeout check 10s
  timeout client 1h
  timeout server 1h
  retries 0
  option dontlognull
  option http-no-delay
  errorfile 502 /dev/null
frontend clients
  bind 127.0.0.1:${port}
  default_backend nodes
backend nodes
  balance roundrobin
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-response del-header Keep-Alive
  option httpchk GET /readyz
  default-server inter 100ms fall 1 rise 1
${servers.join('\n')}
`;
}

/** Whether somebody takes connections there. */
function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}
