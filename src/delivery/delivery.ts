import { setMaxListeners } from 'node:events';
import type { Headers } from '../model/headers.js';
import type { RelayedAnswer } from '../model/outcome.js';
import type { Undelivered, Upload } from '../model/upload.js';
import { keptAnswer } from './kept-answer.js';
import { retryAfterSeconds } from './retry.js';
import type { Rooms } from './rooms.js';
import { Run, type RunResult } from './run.js';
import { routeOf } from './terms.js';

export interface DeliveryOptions extends Omit<Rooms, 'claimMs' | 'draining' | 'halted'> {
  readonly claimMs?: number;
  /** How often to look for deliveries that nobody drives. */
  readonly pollMs?: number;
  /** How long attempts under way may go on after `stop`. */
  readonly stopGraceMs?: number;
}

export type DeliveryResult =
  | { readonly kind: 'answered'; readonly upload: Upload; readonly answer: RelayedAnswer }
  | {
      readonly kind: 'undelivered';
      readonly upload: Upload;
      readonly why: Undelivered;
      readonly retryAfterSeconds: number;
    }
  /** Cancelled, invalid or forgotten. */
  | { readonly kind: 'gone' };

/** So many deliveries that no client waits for run at once; the rest has its turn in the next rounds. */
const MOST_IN_BACKGROUND = 64;

/** Spool → origin: each whole upload becomes one request, and its answer is kept for whoever asks. */
export class Delivery {
  private readonly rooms: Rooms;
  private readonly running = new Map<string, Run>();
  private readonly drives = new Set<Promise<void>>();
  private readonly draining = new AbortController();
  private readonly halted = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private looking: Promise<void> | undefined;
  private dueBefore: ReadonlySet<string> | undefined;

  constructor(private readonly options: DeliveryOptions) {
    const signals = { draining: this.draining.signal, halted: this.halted.signal };
    // Every delivery listens to both: Node would take many of them for a leak.
    setMaxListeners(0, signals.draining, signals.halted);
    this.rooms = { claimMs: 15_000, ...options, ...signals };
  }

  /**
   * The answer to a whole upload: starts its delivery, joins the one that is running, or gives the kept answer. The signal
   * ends only the waiting, with its reason; the delivery goes on. Fails with a `Fault`.
   */
  async result(
    id: string,
    { credentials = [], to }: { readonly credentials?: Headers; readonly to: AbortSignal },
  ): Promise<DeliveryResult> {
    const known = this.running.has(id) ? undefined : await this.rooms.store.get(id);
    if (known?.phase === 'answered') return this.settledResult(known);
    if (known?.phase === 'receiving') throw new Error('an upload that is not whole cannot be delivered');
    const running = this.running.get(id);
    running?.renew(credentials);
    const result = await (running ?? this.begin(id, true, credentials)).outcome(to);
    return this.toDeliveryResult(id, result, to);
  }

  /** The recorded answer of an answered upload. */
  kept(upload: Upload): RelayedAnswer {
    return keptAnswer(upload, this.rooms);
  }

  /** Takes up deliveries that nobody drives: those of a process that died at once, those that become due from then on. */
  start(): void {
    this.look();
    this.timer = setInterval(() => this.look(), this.options.pollMs ?? 1000);
    this.timer.unref();
  }

  /** Begins nothing new, lets attempts under way come to their end for a while, then breaks them off; all is recorded. */
  async stop(): Promise<void> {
    clearInterval(this.timer);
    this.draining.abort(new Error('the proxy is being stopped'));
    const grace = setTimeout(() => this.halted.abort(this.draining.signal.reason), this.options.stopGraceMs ?? 10_000);
    await this.looking;
    await Promise.all(this.drives);
    clearTimeout(grace);
    await this.rooms.origin.close();
  }

  private begin(id: string, isAsked: boolean, credentials: Headers): Run {
    const run = new Run(id, this.rooms, { isAsked, credentials }, () => this.running.delete(id));
    this.running.set(id, run);
    const drive = run.drive();
    this.drives.add(drive);
    void drive.finally(() => this.drives.delete(drive));
    return run;
  }

  private look(): void {
    this.looking ??= this.takeUpDue()
      .catch((error: unknown) => this.rooms.log.error({ err: error }, 'due deliveries could not be listed'))
      .finally(() => (this.looking = undefined));
  }

  /**
   * After the first round only what was due in the round before: an upload that has just become whole is about to be asked
   * for, with credentials that are newer than the stored ones.
   */
  private async takeUpDue(): Promise<void> {
    const due = await this.rooms.store.dueDeliveries(this.rooms.clock());
    const before = this.dueBefore;
    for (const id of due) {
      if (this.running.size >= MOST_IN_BACKGROUND || this.draining.signal.aborted) break;
      if (!this.running.has(id) && (!before || before.has(id))) this.begin(id, false, []);
    }
    this.dueBefore = new Set(due);
  }

  private async toDeliveryResult(id: string, result: RunResult, to: AbortSignal): Promise<DeliveryResult> {
    switch (result.kind) {
      case 'tape':
        return { kind: 'answered', upload: result.upload, answer: result.tape.relay() };
      case 'undelivered':
        return this.undelivered(result.upload, result.why);
      case 'failed':
        throw result.error;
      case 'elsewhere':
        return this.settledResult(await this.rooms.store.settled(id, to));
    }
  }

  private settledResult(upload: Upload | undefined): DeliveryResult {
    if (upload?.phase === 'answered') return { kind: 'answered', upload, answer: this.kept(upload) };
    if (upload?.undelivered) return this.undelivered(upload, upload.undelivered);
    return { kind: 'gone' };
  }

  private undelivered(upload: Upload, why: Undelivered): DeliveryResult {
    const { retry } = routeOf(upload, this.rooms.routes).delivery;
    return { kind: 'undelivered', upload, why, retryAfterSeconds: retryAfterSeconds(upload.attempts.at(-1), retry) };
  }
}
