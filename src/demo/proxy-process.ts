import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { UploadState } from './events.js';

/** The settings of the proxy's process. */
export interface ProxyProcessOptions {
  readonly originUrl: string;
  readonly data: string;
  /** A directory for its configuration. */
  readonly directory: string;
  /** Called when the process ends by itself, with the last lines that it printed. */
  readonly onUnexpectedEnd: (output: string) => void;
}

/** The proxy ended before it listened. */
export class ProxyNotStarted extends Error {}

const PROGRAM = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));
const LIFELINE = new URL('./ends-with-parent.js', import.meta.url).href;
const KEPT_LINES = 20;
const STOP_MS = 2_000;
const ADMIN_TIMEOUT_MS = 2_000;

/** A real proxy in a process of its own, which can be killed and started again on the same port and data. */
export class ProxyProcess {
  private child: ChildProcess | undefined;
  private adminUrl = '';
  private stopping = false;
  /** The port on 127.0.0.1; the same after every start. */
  port = 0;

  constructor(private readonly options: ProxyProcessOptions) {}

  get pid(): number | undefined {
    return this.child?.pid;
  }

  get isRunning(): boolean {
    return this.child !== undefined;
  }

  /** Starts the process and waits until it listens. */
  async start(): Promise<void> {
    const child = spawn(process.execPath, ['--import', LIFELINE, PROGRAM, 'serve', '-c', await this.writeConfig()], {
      stdio: ['pipe', 'pipe', 'pipe'],
      // Ctrl-C in the terminal is for the demo alone, which then stops the proxy.
      detached: true,
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('RUFH_PROXY_'))),
    });
    const output: string[] = [];
    const listening = new Promise<Announcement>((resolve, reject) => {
      const keep = (line: string): void => {
        output.push(line);
        if (output.length > KEPT_LINES) output.shift();
        const announcement = readAnnouncement(line);
        if (announcement) resolve(announcement);
      };
      for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', keep);
      child.once('error', reject);
      child.once('close', () => reject(new ProxyNotStarted(`the proxy did not start:\n${output.join('\n')}`)));
    });
    child.once('close', () => {
      const wasRunning = this.child === child;
      if (wasRunning) this.child = undefined;
      if (wasRunning && !this.stopping) this.options.onUnexpectedEnd(output.join('\n'));
    });
    const { url, admin } = await listening;
    this.child = child;
    this.port = Number(new URL(url).port);
    this.adminUrl = admin;
  }

  /** Ends the process with SIGKILL, which it cannot notice. */
  async kill(): Promise<void> {
    const { child } = this;
    if (!child) return;
    this.child = undefined;
    child.kill('SIGKILL');
    await once(child, 'close');
  }

  /** Stops the process for good. */
  async stop(): Promise<void> {
    this.stopping = true;
    const { child } = this;
    if (!child) return;
    const closed = once(child, 'close');
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
    await closed;
    clearTimeout(timer);
  }

  /** The newest uploads; none while the process is down. */
  async uploads(): Promise<readonly UploadState[]> {
    if (!this.child) return [];
    try {
      const response = await fetch(`${this.adminUrl}/uploads?limit=10`, {
        signal: AbortSignal.timeout(ADMIN_TIMEOUT_MS),
      });
      return ((await response.json()) as { uploads: UploadState[] }).uploads;
    } catch {
      // The process may be killed while it answers.
      return [];
    }
  }

  private async writeConfig(): Promise<string> {
    const { originUrl, data, directory } = this.options;
    const file = join(directory, 'rufh-proxy.yaml');
    const listen = `127.0.0.1:${this.port}`;
    const log = { format: 'json' };
    // JSON is YAML too.
    await writeFile(file, JSON.stringify({ origin: originUrl, listen, admin: '127.0.0.1:0', data, log }));
    return file;
  }
}

interface Announcement {
  readonly url: string;
  readonly admin: string;
}

/** Reads the first line of the log, which says where the proxy listens. */
function readAnnouncement(line: string): Announcement | undefined {
  if (!line.startsWith('{')) return undefined;
  const { msg, url, admin } = JSON.parse(line) as Announcement & { msg?: string };
  return msg === 'listening' ? { url, admin } : undefined;
}
