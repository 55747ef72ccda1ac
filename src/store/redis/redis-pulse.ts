import type { Fault } from '../../model/fault.js';
import type { Log } from '../../observe/log.js';
import { mayPass } from './redis-fault.js';

const BEAT_MS = 1000;

/** Asks Redis again and again whether it is well, remembers what is wrong, and says in the log when that changes. */
export class RedisPulse {
  private problem: string | undefined;
  /** What was said since it is away. */
  private readonly said = new Set<string>();
  private since = 0;
  private timer: NodeJS.Timeout | undefined;
  private beating: Promise<void> | undefined;

  constructor(
    private readonly beat: () => Promise<void>,
    private readonly log: Log,
  ) {}

  start(): void {
    this.timer = setInterval(() => {
      this.beating ??= this.ask().finally(() => (this.beating = undefined));
    }, BEAT_MS).unref();
  }

  /** What is wrong, for people; undefined when nothing is. */
  get trouble(): string | undefined {
    return this.problem;
  }

  /** A command has failed: no need to wait for the next beat. */
  noteTrouble(fault: Fault): void {
    const { message } = fault;
    if (this.problem === undefined) this.since = performance.now();
    if (this.isNews(fault)) this.log.error(`Redis is not available: ${message}`);
    this.problem = message;
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.beating;
  }

  /** One outage has many words; but that somebody has to change something, as a password, is said whatever came before. */
  private isNews({ message, cause }: Fault): boolean {
    if (this.problem === undefined) this.said.clear();
    else if (mayPass(cause) || this.said.has(message)) return false;
    this.said.add(message);
    return true;
  }

  private async ask(): Promise<void> {
    try {
      await this.beat();
    } catch (fault) {
      return this.noteTrouble(fault as Fault);
    }
    if (this.problem !== undefined)
      this.log.info({ awayMs: Math.round(performance.now() - this.since) }, 'Redis is available again');
    this.problem = undefined;
  }
}
