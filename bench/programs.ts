import { type ChildProcess, execFile, spawn, type SpawnOptions } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** A server in a process of its own. */
export interface Server {
  readonly url: string;
  readonly pid: number;
  stop(): Promise<void>;
}

/** What one body was like for the client that sent it. */
export interface Sent {
  readonly seconds: number;
  /** How long it waited for the response when everything was sent. */
  readonly afterLastByteSeconds: number;
  readonly status: number;
  /** The upload resource, if one was offered. */
  readonly location?: string;
}

export interface Sending {
  readonly url: string;
  readonly method: 'POST' | 'PUT' | 'PATCH';
  readonly headers: Readonly<Record<string, string>>;
  readonly size: number;
  /** As fast as it is taken when not given. */
  readonly bytesPerSecond?: number;
  /** Over TLS only. */
  readonly isHttp2?: boolean;
}

/** The same request again and again, by many clients at the same time. */
export interface CrowdSending {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly size: number;
  /** All open at once, each with one request at a time. */
  readonly connections: number;
  /** Of all connections together. */
  readonly requests: number;
}

/** What it was like for those who sent them. */
export interface Crowd {
  readonly seconds: number;
  readonly medianMs: number;
  readonly p99Ms: number;
  /** How often each status was given. */
  readonly statuses: Readonly<Record<string, number>>;
  readonly cpuSeconds: number;
}

/** A client that takes longer is killed, and its contest has failed. */
const LONGEST_MS = 600_000;

/** A server that throws every body away; GET /big is answered with 1 GiB. */
export function startOrigin(): Promise<Server> {
  return startProgram('origin.mjs');
}

/** http-proxy without anything of ours. */
export function startHttpProxy(origin: string): Promise<Server> {
  return startProgram('bare-http-proxy.mjs', origin);
}

/** @tus/server from the packages in that directory. */
export function startTusServer(packages: string, uploads: string): Promise<Server> {
  return startProgram('tus-server.mjs', packages, uploads);
}

/** A relay to a host and port that delays every byte in both directions. */
export function startRelay(to: string, delayMs: number): Promise<Server> {
  return startProgram('relay.mjs', JSON.stringify({ to, delayMs }));
}

/** Slow clients that have all begun; they go on until they are stopped. */
export async function startSlowCrowd(task: Omit<CrowdSending, 'requests'>): Promise<ChildProcess> {
  const child = spawnQuietly(process.execPath, [program('slow-crowd.mjs'), JSON.stringify(task)]);
  await firstLine(child);
  return child;
}

/** Starts a program that is a server; its standard output can be read, its errors are shown. */
export function spawnQuietly(command: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  return spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], ...options });
}

async function startProgram(name: string, ...args: readonly string[]): Promise<Server> {
  const child = spawnQuietly(process.execPath, [program(name), ...args]);
  const { port } = JSON.parse(await firstLine(child)) as { port: number };
  return { url: `http://127.0.0.1:${port}`, pid: child.pid!, stop: () => stop(child) };
}

/** Sends a body from a process of its own, so that its work is not counted for anyone else. */
export async function send({ isHttp2 = false, ...sending }: Sending): Promise<Sent> {
  const sent = await run<Sent>(isHttp2 ? 'sender-h2.mjs' : 'sender.mjs', sending);
  if (sent.status < 200 || sent.status > 299) throw new Error(`${sending.url} answered with ${sent.status}`);
  return sent;
}

/** Sends many, from a process of its own as well. */
export async function sendMany(sending: CrowdSending): Promise<Crowd> {
  const crowd = await run<Crowd>('crowd.mjs', sending);
  const refused = Object.keys(crowd.statuses).filter((status) => !status.startsWith('2'));
  if (refused.length > 0) throw new Error(`${sending.url} answered with ${refused.join(', ')}`);
  return crowd;
}

/** Reads one long response of at least so many bytes. */
export function get(task: { readonly url: string; readonly size: number }): Promise<{ readonly seconds: number }> {
  return run('getter.mjs', task);
}

/** Kills a process that was started here, and waits for its end. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'close');
  child.kill('SIGKILL');
  await gone;
}

async function firstLine(child: ChildProcess): Promise<string> {
  const lines = createInterface({ input: child.stdout! });
  const ended = once(child, 'close').then(([code]) => {
    throw new Error(`${child.spawnargs.slice(0, 2).join(' ')} ended with ${String(code)}`);
  });
  const [line] = (await Promise.race([once(lines, 'line'), ended])) as [string];
  // Its end is no failure from now on.
  ended.catch(() => undefined);
  return line;
}

async function run<T>(name: string, task: object): Promise<T> {
  const options = { timeout: LONGEST_MS };
  const { stdout } = await promisify(execFile)(process.execPath, [program(name), JSON.stringify(task)], options);
  return JSON.parse(stdout) as T;
}

function program(name: string): string {
  return fileURLToPath(new URL(`./programs/${name}`, import.meta.url));
}
