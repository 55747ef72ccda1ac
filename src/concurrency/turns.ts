import { setImmediate as yieldToEventLoop } from 'node:timers/promises';

/** Long enough to be worth the change, short enough for signals and health checks. */
const TURN_MS = 10;

/** The turns of a long task that blocks the process piece by piece: other work runs between two turns. */
export class Turns {
  private endsAt = performance.now() + TURN_MS;

  /** Whether this turn is over, so that the task should wait for `next`. */
  get isOver(): boolean {
    return performance.now() >= this.endsAt;
  }

  /** Resolves when other work has run, and begins the next turn. */
  async next(): Promise<void> {
    await yieldToEventLoop();
    this.endsAt = performance.now() + TURN_MS;
  }
}
