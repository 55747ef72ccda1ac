import { execFile, spawn, type ChildProcess } from 'node:child_process';
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

/** What one upload was like for the client. */
export interface Sent {
  readonly seconds: number;
  /** How long it waited for the answer when everything was sent. */
  readonly afterLastByteSeconds: number;
  readonly status: number;
  /** The upload resource, if one was offered. */
  readonly location?: string;
}

export interface Sending {
  readonly url: string;
  readonly method: 'POST' | 'PUT';
  readonly headers: Readonly<Record<string, string>>;
  readonly size: number;
  /** As fast as it is taken when not given. */
  readonly bytesPerSecond?: number;
}

/** Many small bodies at the same time. */
export interface CrowdSending {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly size: number;
  /** All open at once, each with one request at a time. */
  readonly connections: number;
  /** Of all connections together. */
  readonly uploads: number;
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

/** A server that throws every body away. */
export async function startSink(): Promise<Server> {
  const child = spawn(process.execPath, [program('sink.mjs')], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  const { url } = JSON.parse(line) as { url: string };
  return { url, pid: child.pid!, stop: () => stop(child) };
}

/** Sends a body from a process of its own, so that its work is not counted for anyone else. */
export async function send(sending: Sending): Promise<Sent> {
  const sent = await run<Sent>('sender.mjs', sending);
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

export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'close');
  child.kill('SIGKILL');
  await gone;
}

async function run<T>(name: string, task: object): Promise<T> {
  const { stdout } = await promisify(execFile)(process.execPath, [program(name), JSON.stringify(task)]);
  return JSON.parse(stdout) as T;
}

function program(name: string): string {
  return fileURLToPath(new URL(`./programs/${name}`, import.meta.url));
}
