import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Transport } from './client.js';
import type { ProxyProcess } from './proxy-process.js';
import {
  makeCertificate,
  serverPort,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
  within,
} from './temporary.js';

/** What the shipped configuration of a front proxy is expected to do; a row of the table in docs/deployment.md. */
export interface FrontKind {
  readonly name: string;
  /** The configuration in deploy/fronts/. */
  readonly file: string;
  /** More files there that belong to it. */
  readonly also?: readonly string[];
  readonly transports: readonly Transport[];
  readonly scheme: 'http' | 'https';
  /** Whether it relays a 104 as it comes; rufh-proxy is told so by `relays_interim`. */
  readonly interims: boolean;
  /** How other spellings of a path with uploads reach rufh-proxy; none may go past the split to the application. */
  readonly spellings: 'as written' | 'normalised';
  /** The status where it refuses another case of such a path instead. */
  readonly otherCase?: number;
  /** It ends a connection in the middle of a long body now and then, for no reason that was found: its client goes on. */
  readonly mayCut?: boolean;
  /** How a client sees a restart of rufh-proxy, with the request that runs and with the next one: a status, or `cut`. */
  readonly restart: { readonly running: number | 'cut'; readonly next: number | 'cut' };
  /** The program and its arguments for a configuration file and a directory for whatever it writes. */
  readonly command: (file: string, directory: string) => readonly [program: string, ...args: string[]];
  /** Changes the text of `file` where it names places that belong to the system. */
  readonly adapt?: (text: string, directory: string) => string;
}

const ENVOY = fileURLToPath(new URL('../../.cache/envoy/envoy', import.meta.url));
const TRAEFIK = fileURLToPath(new URL('../../.cache/traefik/traefik', import.meta.url));
const APACHE_MODULES = '/usr/lib/apache2/modules';

/** Every front proxy whose configuration we ship. */
export const FRONTS: readonly FrontKind[] = [
  {
    name: 'nginx',
    file: 'nginx.conf',
    transports: ['HTTP/1.1', 'HTTP/2'],
    scheme: 'https',
    interims: false,
    spellings: 'as written',
    restart: { running: 'cut', next: 'cut' },
    command: (file, directory) => ['nginx', '-p', directory, '-c', file, '-e', 'stderr', '-g', 'daemon off;'],
    adapt: (text, directory) => {
      const places = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
      const temporary = places.map((place) => `${place}_temp_path ${directory}/${place};`).join(' ');
      return `pid ${directory}/nginx.pid;\n${text.replace('http {', `http {\n  access_log off; ${temporary}`)}`;
    },
  },
  {
    name: 'HAProxy',
    file: 'haproxy.cfg',
    transports: ['HTTP/1.1', 'HTTP/2'],
    scheme: 'https',
    interims: true,
    spellings: 'normalised',
    restart: { running: 'cut', next: 'cut' },
    command: (file) => ['haproxy', '-db', '-f', file],
  },
  {
    name: 'Caddy',
    file: 'Caddyfile',
    transports: ['HTTP/1.1', 'HTTP/2'],
    scheme: 'https',
    interims: true,
    spellings: 'as written',
    restart: { running: 'cut', next: 'cut' },
    command: (file) => ['caddy', 'run', '--adapter', 'caddyfile', '--config', file],
    adapt: (text) => text.replace('auto_https', 'admin off\n\tauto_https'),
  },
  {
    name: 'Apache httpd',
    file: 'apache.conf',
    transports: ['HTTP/1.1', 'HTTP/2'],
    scheme: 'https',
    interims: false,
    spellings: 'normalised',
    otherCase: 403,
    restart: { running: 502, next: 503 },
    command: (file, directory) => ['apache2', '-d', directory, '-f', file, '-DFOREGROUND'],
    adapt: (text, directory) => {
      const modules = [
        'mpm_event',
        'authz_core',
        'reqtimeout',
        'ssl',
        'socache_shmcb',
        'http2',
        'proxy',
        'proxy_http',
        'headers',
      ];
      const loads = modules.map((name) => `LoadModule ${name}_module ${APACHE_MODULES}/mod_${name}.so\n`).join('');
      const user = process.getuid?.() === 0 ? 'User www-data\nGroup www-data\n' : '';
      const places = `ServerName localhost\nPidFile ${directory}/pid\nErrorLog ${directory}/error.log\nDefaultRuntimeDir ${directory}\n`;
      return `${loads}${user}${places}${text}`;
    },
  },
  {
    name: 'Traefik',
    file: 'traefik.yaml',
    also: ['traefik-routes.yaml'],
    transports: ['HTTP/1.1', 'HTTP/2'],
    scheme: 'https',
    interims: true,
    spellings: 'normalised',
    restart: { running: 502, next: 502 },
    command: (file) => [TRAEFIK, `--configFile=${file}`],
    adapt: (text, directory) => text.replaceAll('/etc/traefik/', `${directory}/`),
  },
  {
    name: 'Squid',
    file: 'squid.conf',
    also: ['squid-without-app.sed'],
    transports: ['HTTP/1.1'],
    scheme: 'https',
    interims: true,
    spellings: 'as written',
    mayCut: true,
    restart: { running: 502, next: 503 },
    command: (file) => ['squid', '-N', '-f', file, '-d', '1'],
    adapt: (text, directory) =>
      `pid_filename none\naccess_log none\ncache_log /dev/null\nvisible_hostname localhost\n${text.replaceAll('/etc/squid/', `${directory}/`)}`,
  },
  {
    name: 'Varnish',
    file: 'varnish.vcl',
    transports: ['HTTP/1.1'],
    scheme: 'http',
    interims: true,
    spellings: 'as written',
    restart: { running: 'cut', next: 'cut' },
    command: (file, directory) => ['varnishd', '-F', '-a', '127.0.0.1:8443', '-f', file, '-n', `${directory}/state`],
  },
  {
    name: 'Envoy',
    file: 'envoy.yaml',
    transports: ['HTTP/1.1', 'HTTP/2'],
    scheme: 'https',
    interims: true,
    spellings: 'normalised',
    restart: { running: 503, next: 503 },
    command: (file) => [ENVOY, '-c', file, '--concurrency', '1', '--disable-hot-restart', '--log-level', 'warning'],
  },
];

/** The table in docs/deployment.md; the tests of the fronts hold every cell of it. */
export function frontsTable(): string {
  const head =
    '| front | configuration | clients | 104 | other spellings of a path with uploads | a running upload when rufh-proxy restarts | a request before it is back |';
  const rows = FRONTS.map(({ name, file, scheme, transports, interims, spellings, otherCase, restart }) => {
    const clients = scheme === 'https' ? `TLS, ${transports.join(' and ')}` : transports.join(' and ');
    const seen = (what: number | 'cut'): string =>
      what === 'cut' ? 'cut: the client resumes' : `${what}: final for an iPhone`;
    const link = `[${file}](../deploy/fronts/${file})`;
    const spelled = `reach rufh-proxy ${spellings}${otherCase ? `, in another case ${otherCase}` : ''}`;
    return `| ${name} | ${link} | ${clients} | ${interims ? 'relayed' : 'not sent'} | ${spelled} | ${seen(restart.running)} | ${seen(restart.next)} |`;
  });
  return [head, '| --- | --- | --- | --- | --- | --- | --- |', ...rows].join('\n');
}

export interface FrontPlaces {
  /** Host and port of rufh-proxy, and of the application that the other paths go to. */
  readonly proxy: string;
  readonly application: string;
}

/** A started front proxy, with a directory of its own. */
class FrontProcess {
  protected readonly said: string[] = [];
  private readonly exited: Promise<unknown>;
  private ended = false;

  protected constructor(
    protected readonly child: ChildProcess,
    readonly url: string,
    private readonly directory: TemporaryDirectory,
  ) {
    this.exited = new Promise((resolve) => child.once('close', resolve)).then(() => (this.ended = true));
    for (const stream of [child.stdout!, child.stderr!])
      createInterface({ input: stream }).on('line', (line) => this.hear(line));
  }

  /** Waits until the proxy is ready; stops it and rejects with its output if it ends before, or takes too long. */
  protected async ready(name: string, isReady: () => Promise<boolean>, timeoutMs?: number): Promise<this> {
    try {
      await until(() => this.ended || isReady(), `${name} to be ready`, timeoutMs);
      if (this.ended) throw new Error(`${name} ended:\n${this.said.join('\n')}`);
    } catch (error) {
      await this.stop();
      throw error;
    }
    return this;
  }

  async stop(): Promise<void> {
    if (!this.ended) this.child.kill('SIGTERM');
    const killing = setTimeout(() => this.child.kill('SIGKILL'), 5000);
    await within(this.exited, 'the front proxy to end');
    clearTimeout(killing);
    await this.directory.remove();
  }

  protected hear(line: string): void {
    this.said.push(line);
  }
}

/** A real front proxy with the configuration we ship; only addresses and paths of the machine are others. */
export class Front extends FrontProcess {
  static async start(kind: FrontKind, places: FrontPlaces): Promise<Front> {
    const directory = await temporaryDirectory('rufh-front-');
    const port = await serverPort();
    const file = await writeConfiguration(kind, places, directory.path, port);
    const [program, ...args] = kind.command(file, directory.path);
    const child = spawn(
      program,
      args.map((arg) => arg.replace(':8443', `:${port}`)),
      {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, HOME: directory.path, XDG_DATA_HOME: directory.path, XDG_CONFIG_HOME: directory.path },
      },
    );
    const front = new Front(child, `${kind.scheme}://127.0.0.1:${port}`, directory);
    // Some listen before they know their routes: Traefik ends a TLS connection then.
    return front.ready(kind.name, () => answers(front.url), 60_000);
  }
}

async function writeConfiguration(
  kind: FrontKind,
  { proxy, application }: FrontPlaces,
  directory: string,
  port: number,
): Promise<string> {
  const { cert, key } = makeCertificate();
  // Some give their rights away before they read or write these.
  await chmod(directory, 0o755);
  await mkdir(join(directory, 'state'), { mode: 0o777 });
  await writeFile(join(directory, 'site.key'), key, { mode: 0o644 });
  await writeFile(join(directory, 'site.pem'), cert);
  await writeFile(join(directory, 'both.pem'), cert + key, { mode: 0o644 });
  const [proxyPort, applicationPort] = [proxy, application].map((host) => new URL(`http://${host}`).port);
  for (const name of [kind.file, ...(kind.also ?? [])]) {
    const shipped = await readFile(new URL(`../../deploy/fronts/${name}`, import.meta.url), 'utf8');
    const moved = shipped
      .replaceAll('crt /etc/ssl/site.pem', `crt ${directory}/both.pem`)
      .replaceAll('/etc/ssl/', `${directory}/`)
      .replaceAll('127.0.0.1:8080', proxy)
      .replaceAll('127.0.0.1:3000', application)
      .replaceAll('parent 8080', `parent ${proxyPort}`)
      .replaceAll('parent 3000', `parent ${applicationPort}`)
      .replaceAll(/(port(?:_value:| =) ?"?)8080/g, `$1${proxyPort}`)
      .replaceAll(/(port(?:_value:| =) ?"?)3000/g, `$1${applicationPort}`)
      .replaceAll('8443', `${port}`);
    const adapted = name === kind.file ? kind.adapt?.(moved, directory) : undefined;
    await writeFile(join(directory, name), adapted ?? moved, { mode: 0o644 });
  }
  return join(directory, kind.file);
}

/** Whether a request for the application gets there. */
function answers(url: string): Promise<boolean> {
  const ask = url.startsWith('https:') ? requestHttps : requestHttp;
  return new Promise((resolve) => {
    const request = ask(`${url}/is-ready`, { rejectUnauthorized: false, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.once('error', () => resolve(false));
    request.setTimeout(5000, () => request.destroy(new Error('no answer')));
    request.end();
  });
}

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
export class Haproxy extends FrontProcess {
  /** Requests that have ended, in the order in which they came. */
  readonly relayed: Relayed[] = [];

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
    return haproxy.ready('HAProxy', () => accepts(port));
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

  /** Kills it: it would wait for the connections that its clients keep. */
  override async stop(): Promise<void> {
    this.child.kill('SIGKILL');
    await super.stop();
  }

  protected override hear(line: string): void {
    if (!line.startsWith('{')) return super.hear(line);
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

const FILE = new URL('../../deploy/haproxy.cfg', import.meta.url);

/** HAProxy with the configuration that we ship, and these nodes of this machine in place of its containers. */
export async function startShippedHaproxy(nodes: ReadonlyMap<string, ProxyProcess>): Promise<Haproxy> {
  const port = await serverPort();
  const servers = (isChecked: boolean): string =>
    [...nodes]
      .map(([name, { url, adminUrl }]) => {
        const check = isChecked ? ` port ${new URL(adminUrl).port}` : '';
        return `  server ${name} ${new URL(url).host}${check}\n`;
      })
      .join('');
  let backend = 0;
  const text = readFileSync(FILE, 'utf8')
    .replaceAll(/( {2}server proxy-\d .*\n)+/g, () => servers(backend++ === 0))
    .replace('check port 9090', 'check')
    .replace('bind :8080', `bind 127.0.0.1:${port}`);
  return Haproxy.startWith(text, port);
}
