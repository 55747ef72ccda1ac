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

/** A server that throws every body away. */
export async function startSink(): Promise<Server> {
  const child = spawn(process.execPath, [program('sink.mjs')], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  const { url } = JSON.parse(line) as { url: string };
  return { url, pid: child.pid!, stop: () => stop(child) };
}

/** Sends a body from a process of its own, so that its work is not counted for anyone else. */
export async function send(sending: Sending): Promise<Sent> {
  const { stdout } = await promisify(execFile)(process.execPath, [program('sender.mjs'), JSON.stringify(sending)]);
  const sent = JSON.parse(stdout) as Sent;
  if (sent.status < 200 || sent.status > 299) throw new Error(`${sending.url} answered with ${sent.status}`);
  return sent;
}

export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'close');
  child.kill('SIGKILL');
  await gone;
}

function program(name: string): string {
  return fileURLToPath(new URL(`./programs/${name}`, import.meta.url));
}
