import type { CrashEvent, Moment } from './crash-plan.js';

/** A moment that does not come is a fault of the campaign's: uploads go on all the time. */
const DEADLINE_MS = 60_000;

/** Waits for the moment to kill. */
export class Trigger {
  private moment: Moment | undefined;
  private left = 0;
  private delay: NodeJS.Timeout | undefined;
  private deadline: NodeJS.Timeout | undefined;
  private pull: () => void = () => undefined;

  /** Kills at this moment. Fulfilled when it has come. */
  arm(moment: Moment, kill: () => void): Promise<void> {
    this.moment = moment;
    this.left = moment.count;
    return new Promise((resolve, reject) => {
      const late = (): void => reject(new Error(`the moment to kill never came: ${JSON.stringify(moment)}`));
      this.deadline = setTimeout(late, DEADLINE_MS);
      this.pull = () => {
        this.disarm();
        kill();
        resolve();
      };
    });
  }

  notice(event: CrashEvent, count = 1): void {
    if (event !== this.moment?.event) return;
    this.left -= count;
    if (this.left > 0) return;
    const { delayMs } = this.moment;
    this.moment = undefined;
    if (delayMs === 0) this.pull();
    else this.delay = setTimeout(() => this.pull(), delayMs);
  }

  disarm(): void {
    this.moment = undefined;
    clearTimeout(this.delay);
    clearTimeout(this.deadline);
  }
}
