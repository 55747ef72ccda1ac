import { formatBytes, formatDuration } from '../format-uploads.js';
import type { Progress } from '../../client/upload.js';

/** Where progress is shown; standard error of the program. */
interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const LONGEST_BAR = 24;
const BAR_INTERVAL_MS = 100;
/** Without a terminal, progress is a line now and then. */
const LINE_INTERVAL_MS = 10_000;
/** The rate is that of the last few seconds. */
const RATE_WINDOW_MS = 5_000;

/** Shows how far one file is: a bar on a terminal, else a line every ten seconds. */
export class ProgressDisplay {
  private readonly samples: { readonly atMs: number; readonly loaded: number }[] = [];
  private shownAtMs = -Infinity;
  private hasBar = false;

  constructor(
    private readonly screen: Screen,
    private readonly name: string,
    private readonly isQuiet: boolean,
    private readonly clock: () => number,
  ) {
    if (!screen.isTTY) this.shownAtMs = clock();
  }

  update(progress: Progress): void {
    if (this.isQuiet) return;
    const now = this.clock();
    if (progress.loaded < (this.samples.at(-1)?.loaded ?? 0)) this.samples.length = 0;
    this.samples.push({ atMs: now, loaded: progress.loaded });
    while (this.samples[0]!.atMs < now - RATE_WINDOW_MS && this.samples.length > 2) this.samples.shift();
    const interval = this.screen.isTTY ? BAR_INTERVAL_MS : LINE_INTERVAL_MS;
    if (now - this.shownAtMs < interval && progress.loaded !== progress.total) return;
    this.shownAtMs = now;
    if (this.screen.isTTY) this.drawBar(progress);
    else this.screen.write(`${this.name}: ${this.figures(progress)}\n`);
  }

  /** A line that stays, in place of the bar. */
  say(text: string): void {
    if (this.isQuiet) return;
    this.clear();
    this.screen.write(`${this.name}: ${text}\n`);
  }

  /** Removes the bar. */
  clear(): void {
    if (this.hasBar) this.screen.write('\r\u001b[K');
    this.hasBar = false;
  }

  private drawBar(progress: Progress): void {
    const { loaded, total } = progress;
    const width = (this.screen.columns || 80) - 1;
    const figures = this.figures(progress);
    const cells = Math.min(width - this.name.length - figures.length - 5, LONGEST_BAR);
    const full = Math.round((total ? loaded / total : 1) * cells);
    const bar = total === undefined || cells < 1 ? '' : `[${'='.repeat(full)}${' '.repeat(cells - full)}] `;
    this.screen.write(`\r${`${this.name}  ${bar}${figures}`.slice(0, width)}\u001b[K`);
    this.hasBar = true;
  }

  private figures({ loaded, total }: Progress): string {
    if (total === undefined) return [formatBytes(loaded), ...this.rate()].join('  ');
    const percent = total === 0 ? 100 : Math.floor((loaded / total) * 100);
    const amount = `${percent} %  ${formatBytes(loaded)} of ${formatBytes(total)}`;
    if (loaded === total) return `${amount}  waiting for the answer`;
    return [amount, ...this.rate(total - loaded)].join('  ');
  }

  /** The rate, and the time that is left at this rate; nothing while it is unknown. */
  private rate(left?: number): string[] {
    const first = this.samples[0];
    const last = this.samples.at(-1);
    if (!first || !last || last.loaded <= first.loaded) return [];
    const perMs = (last.loaded - first.loaded) / Math.max(last.atMs - first.atMs, 1);
    const rate = `${formatBytes(perMs * 1000)}/s`;
    return left === undefined ? [rate] : [rate, `${formatDuration(left / perMs)} left`];
  }
}
