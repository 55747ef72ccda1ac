import { type ChildProcess, spawn } from 'node:child_process';
import { request } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { DemoEvent } from '../../src/demo/events.js';
import { until, within } from './temporary.js';

const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));

/** What is different from a request of the page; a header without a value is left out. */
interface ButtonRequest {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string | undefined>>;
}

/** One run of `rufh-proxy demo`. Needs `npm run build`. */
export class DemoCommand {
  readonly lines: string[] = [];
  /** What the listener of the buttons has told, oldest first. */
  readonly events: DemoEvent[] = [];
  controlsUrl = '';
  errors = '';
  /** Fulfilled with its exit code, or the name of the signal that ended it. */
  readonly exited: Promise<number | NodeJS.Signals>;
  private readonly listening = new AbortController();

  private constructor(private readonly child: ChildProcess) {
    this.exited = new Promise((resolve) => child.once('close', (code, signal) => resolve(code ?? signal!)));
    createInterface({ input: child.stdout! }).on('line', (line) => this.lines.push(line.trim()));
    child.stderr!.on('data', (bytes: Buffer) => (this.errors += bytes.toString()));
  }

  /** Starts the command and waits for nothing. */
  static spawn(line: readonly string[]): DemoCommand {
    const env = { ...process.env, NODE_OPTIONS: '' };
    const stdio = ['ignore', 'pipe', 'pipe'] as const;
    return new DemoCommand(spawn(process.execPath, [BINARY, 'demo', ...line], { env, stdio: [...stdio] }));
  }

  /** Starts it on free ports and waits until its page can be loaded. */
  static async start(line: readonly string[] = []): Promise<DemoCommand> {
    const demo = DemoCommand.spawn(['--listen', '127.0.0.1:0', ...line]);
    const ended = demo.exited.then((code) => Promise.reject(new Error(`it ended with ${code}: ${demo.errors}`)));
    await Promise.race([until(() => demo.lines.some((text) => text.startsWith('Ctrl-C')), 'the demo to start'), ended]);
    const settings = (await (await fetch(`${demo.pageUrl}settings.json`)).json()) as { controlsPort: number };
    demo.controlsUrl = `http://127.0.0.1:${settings.controlsPort}`;
    return demo;
  }

  /** With a slash at its end. */
  get pageUrl(): string {
    return this.told('Open');
  }

  get proxyUrl(): string {
    return this.told('proxy');
  }

  get originUrl(): string {
    return this.told('API');
  }

  get data(): string {
    return this.told('data');
  }

  /** Begins to collect events, as a page does. */
  async listen(): Promise<void> {
    const { signal } = this.listening;
    const response = await fetch(`${this.controlsUrl}/events`, { headers: this.pageHeaders, signal });
    void this.collect(response);
    await until(() => this.events.length > 0, 'the first event');
  }

  /** Waits for an event of this kind that has not been waited for yet. */
  async event<K extends DemoEvent['kind']>(kind: K): Promise<Extract<DemoEvent, { kind: K }>> {
    const at = await until(() => {
      const found = this.events.findIndex((event, index) => event.kind === kind && index >= (this.seen.get(kind) ?? 0));
      return found < 0 ? undefined : { found };
    }, `the event ${kind}`);
    this.seen.set(kind, at.found + 1);
    return this.events[at.found] as Extract<DemoEvent, { kind: K }>;
  }

  private readonly seen = new Map<string, number>();

  /** Presses a button, as the page does. Gives the status. */
  press(path: string, { method = 'POST', headers = {} }: ButtonRequest = {}): Promise<number> {
    return new Promise((resolve, reject) => {
      const lines: ButtonRequest['headers'] = { ...this.pageHeaders, ...headers };
      const given = Object.fromEntries(Object.entries(lines).filter(([, value]) => value !== undefined));
      const sending = request(`${this.controlsUrl}${path}`, { method, headers: given, agent: false });
      sending.once('error', reject).once('response', (response) => {
        response.resume().once('end', () => resolve(response.statusCode!));
      });
      sending.end();
    });
  }

  /** Sends a signal and waits for its end. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | NodeJS.Signals> {
    this.listening.abort();
    this.child.kill(signal);
    return within(this.exited, `the demo to end after ${signal}`);
  }

  private get pageHeaders(): Record<string, string> {
    return { origin: new URL(this.pageUrl).origin };
  }

  private told(name: string): string {
    const line = this.lines.find((text) => text.startsWith(`${name} `)) ?? '';
    return /^\S+\s+([^\s,]+)/.exec(line)?.[1] ?? '';
  }

  private async collect(response: Response): Promise<void> {
    let text = '';
    try {
      for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
        text += piece;
        const events = text.split('\n\n');
        text = events.pop()!;
        for (const event of events) {
          if (event.startsWith('data: ')) this.events.push(JSON.parse(event.slice('data: '.length)) as DemoEvent);
        }
      }
    } catch {
      // The demo has ended, or the test has.
    }
  }
}
