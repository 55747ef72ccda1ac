import { Change } from './change.js';

/** A timer of Node cannot be set farther than this. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The time between two attempts, which somebody may want to be over sooner. */
export class Interlude {
  private readonly changed = new Change();
  private until: number | undefined;
  private notBefore = 0;
  private isSkipped = false;

  constructor(
    private readonly monotonic: () => number,
    private readonly draining: AbortSignal,
  ) {}

  /** Over at `until` (monotonic), or when somebody hurries it, or when nothing new may begin. `notBefore`: no client can hurry it more. */
  async pause(until: number, notBefore = 0): Promise<void> {
    this.until = this.isSkipped ? 0 : until;
    this.isSkipped = false;
    this.notBefore = notBefore;
    const left = (): number => this.until! - this.monotonic();
    for (let leftMs = left(); leftMs > 0 && !this.draining.aborted; leftMs = left()) {
      const timer = setTimeout(() => this.changed.announce(), Math.min(leftMs, LONGEST_TIMER_MS));
      // Draining ends the pause, as the loop sees.
      await this.changed.next(this.draining).catch(() => undefined);
      clearTimeout(timer);
    }
    this.until = undefined;
  }

  /** Ends it now; false when it is not to be ended, or there is none. */
  hurry(): boolean {
    return this.notBefore <= this.monotonic() && this.insist();
  }

  /** Ends it, or else the next one before it begins. */
  insistNowOrNext(): boolean {
    this.isSkipped = this.until === undefined;
    return this.insist();
  }

  /** Ends it, whatever was asked for. */
  insist(): boolean {
    if (this.until === undefined) return false;
    this.until = 0;
    this.changed.announce();
    return true;
  }
}
