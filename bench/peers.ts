import { execFile, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { freePort, until } from '../test/support/temporary.js';
import { type Server, spawnQuietly, startHttpProxy, startTusServer, stop } from './programs.js';
import type { Bench } from './workbench.js';

const CACHE = fileURLToPath(new URL('../.cache/bench/', import.meta.url));
const NEEDS = fileURLToPath(new URL('../test/install-needs', import.meta.url));
const TUSD = '2.9.1';
const TUS_SERVER = ['@tus/server@2.4.5', '@tus/file-store@2.1.1'];

/** A server of others, in the words of the tables. */
export type PeerName = 'tusd' | '@tus/server' | 'nginx' | 'Caddy' | 'http-proxy' | 'Redis';

interface Peer {
  /** Its version where it is there; undefined where it is not. */
  readonly find: () => string | undefined;
  readonly install?: () => Promise<unknown>;
}

const PEERS: Record<PeerName, Peer> = {
  tusd: {
    find: () => (existsSync(join(CACHE, 'bin/tusd')) ? TUSD : undefined),
    install: () =>
      runCommand('go', ['install', `github.com/tus/tusd/v2/cmd/tusd@v${TUSD}`], { GOBIN: join(CACHE, 'bin') }),
  },
  '@tus/server': {
    find: () => packageVersion(join(CACHE, 'npm/node_modules/@tus/server/package.json')),
    install: () =>
      runCommand('npm', ['install', '--no-audit', '--no-fund', '--prefix', join(CACHE, 'npm'), ...TUS_SERVER]),
  },
  nginx: { find: () => said('nginx', '-v'), install: () => installProgram('nginx') },
  Caddy: { find: () => said('caddy', 'version'), install: () => installProgram('caddy') },
  'http-proxy': { find: () => packageVersion(createRequire(import.meta.url).resolve('http-proxy/package.json')) },
  Redis: { find: () => said('redis-server', '--version'), install: () => installProgram('redis-server') },
};

/** By name: the version, or the reason why a machine cannot have it. */
export type PeerState = { readonly version: string } | { readonly missing: string };
const states = new Map<PeerName, Promise<PeerState>>();

/** Brings a peer that is not there yet, once; what it brings is kept below .cache/bench, or by the system's package manager. */
export function peerState(name: PeerName): Promise<PeerState> {
  const known = states.get(name) ?? bring(PEERS[name]);
  states.set(name, known);
  return known;
}

/** The versions of all peers that were asked for so far. */
export async function knownPeers(): Promise<Readonly<Record<string, string>>> {
  const entries = await Promise.all([...states].map(async ([name, state]) => [name, await state] as const));
  return Object.fromEntries(entries.map(([name, state]) => [name, 'version' in state ? state.version : state.missing]));
}

async function bring({ find, install }: Peer): Promise<PeerState> {
  try {
    if (find() === undefined) await install?.();
    const version = find();
    return version === undefined ? { missing: 'not here: it was installed, but does not start' } : { version };
  } catch (error) {
    return { missing: `not here: ${reasonOf(error as NodeJS.ErrnoException)}` };
  }
}

/** The last line of what an installer said. */
function reasonOf({ code, path, message }: NodeJS.ErrnoException): string {
  if (code === 'ENOENT') return `there is no ${path ?? 'installer'} on this machine`;
  return message.trim().split('\n').at(-1)!;
}

/** Starts a peer until the contest is over, or says why it is missing. */
export async function usePeer(
  bench: Bench,
  name: PeerName,
  start: () => Promise<Server>,
): Promise<Server | { readonly missing: string }> {
  const state = await peerState(name);
  return 'missing' in state ? state : bench.use(start());
}

/** tusd with its file store. Go uses all cores. */
export function useTusd(bench: Bench): ReturnType<typeof usePeer> {
  return usePeer(bench, 'tusd', async () => {
    const quiet = ['-show-greeting=false', '-show-startup-logs=false', '-verbose=false', '-expose-metrics=false'];
    const directory = await bench.directory();
    return startListening(join(CACHE, 'bin/tusd'), (port) => [
      ...['-host', '127.0.0.1', '-port', `${port}`, '-upload-dir', directory, '-base-path', '/files/'],
      ...quiet,
    ]);
  });
}

/** @tus/server with its file store; one process, as ours. */
export function useTusServer(bench: Bench): ReturnType<typeof usePeer> {
  return usePeer(bench, '@tus/server', async () => startTusServer(join(CACHE, 'npm'), await bench.directory()));
}

/** http-proxy without anything around it; one process, as ours. */
export function useHttpProxy(bench: Bench, origin: string): ReturnType<typeof usePeer> {
  return usePeer(bench, 'http-proxy', () => startHttpProxy(origin));
}

/** nginx with one process, which buffers whole request bodies as it does by default. */
export function useNginx(bench: Bench, origin: string): ReturnType<typeof usePeer> {
  return usePeer(bench, 'nginx', () => startNginx(bench, origin));
}

/** The same for the caller to stop, where the peer is known to be there. */
export async function startNginx(bench: Bench, origin: string): Promise<Server> {
  const directory = await bench.directory();
  await mkdir(join(directory, 'body'));
  const file = join(directory, 'nginx.conf');
  return startListening('nginx', async (port) => {
    await writeFile(file, nginxSettings(directory, port, new URL(origin).host));
    return ['-c', file, '-p', directory];
  });
}

/** Caddy, which streams request bodies. Go uses all cores. */
export function useCaddy(bench: Bench, origin: string): ReturnType<typeof usePeer> {
  return usePeer(bench, 'Caddy', async () => {
    const directory = await bench.directory();
    const file = join(directory, 'Caddyfile');
    const environment = { HOME: directory, XDG_DATA_HOME: directory, XDG_CONFIG_HOME: directory };
    return startListening(
      'caddy',
      async (port) => {
        const site = `http://127.0.0.1:${port} {\n\tbind 127.0.0.1\n\treverse_proxy ${new URL(origin).host}\n}\n`;
        await writeFile(file, `{\n\tadmin off\n\tauto_https off\n\tlog {\n\t\toutput discard\n\t}\n}\n${site}`);
        return ['run', '--adapter', 'caddyfile', '--config', file];
      },
      environment,
    );
  });
}

/** Starts a server on a free port and waits until it takes requests. */
async function startListening(
  command: string,
  argsFor: (port: number) => readonly string[] | Promise<readonly string[]>,
  environment: Readonly<Record<string, string>> = {},
): Promise<Server> {
  const port = await freePort();
  const env = { ...withSbin(), ...environment };
  const child = spawnQuietly(command, await argsFor(port), { env, stdio: ['ignore', 'ignore', 'ignore'] });
  const url = `http://127.0.0.1:${port}`;
  const answers = (): Promise<boolean> =>
    fetch(url).then(
      () => true,
      () => false,
    );
  try {
    await until(async () => child.exitCode !== null || (await answers()), `${command} to listen`);
    if (child.exitCode !== null) throw new Error(`${command} ended with ${child.exitCode}`);
  } catch (error) {
    await stop(child);
    throw error;
  }
  return { url, pid: child.pid!, stop: () => stop(child) };
}

/** One process, so that ending it leaves nothing behind; responses are not spooled to the disk. */
function nginxSettings(directory: string, port: number, origin: string): string {
  return `
daemon off;
master_process off;
pid ${directory}/nginx.pid;
error_log ${directory}/error.log;
worker_rlimit_nofile 16384;
events { worker_connections 16000; }
http {
  access_log off;
  client_max_body_size 0;
  client_body_temp_path ${directory}/body;
  proxy_max_temp_file_size 0;
  keepalive_requests 1000000;
  upstream origin { server ${origin}; keepalive 64; keepalive_requests 1000000; }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
`;
}

/** What a program says of its version, without its name; undefined where there is no such program. */
function said(program: string, flag: string): string | undefined {
  const { status, stdout, stderr } = spawnSync(program, [flag], { encoding: 'utf8', env: withSbin() });
  return status === 0 ? /v?(\d+\.[\d.]+)/.exec(stdout + stderr)?.[1] : undefined;
}

function packageVersion(file: string): string | undefined {
  if (!existsSync(file)) return undefined;
  return (createRequire(import.meta.url)(file) as { version: string }).version;
}

function installProgram(name: string): Promise<unknown> {
  return runCommand('bash', [NEEDS, 'only', `${name}:${name}`]);
}

async function runCommand(
  command: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<void> {
  console.log(`  installs: ${[command, ...args].join(' ')}`);
  await mkdir(CACHE, { recursive: true });
  await promisify(execFile)(command, args, { env: { ...withSbin(), ...environment }, timeout: 600_000 });
}

/** Debian keeps nginx where only root looks. */
function withSbin(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` };
}
