/** How far the upload is. */
export interface Progress {
  readonly total: number;
  /** Bytes given to the network. */
  readonly sent: number;
  /** Bytes the proxy has said it has. */
  readonly safe: number;
  /** What is going on, when it is not sending. */
  readonly note?: string;
}

type Colour = 'red' | 'green' | 'yellow' | 'cyan' | 'dim' | 'bold';
const CODES: Record<Colour, number> = { red: 31, green: 32, yellow: 33, cyan: 36, dim: 2, bold: 1 };
const REDRAW_MS = 80;
/** What stands beside the bar, at most times. */
const TEXT_WIDTH = 48;

/** Tells the story: on a terminal with one bar at the bottom that is redrawn, elsewhere in plain lines. */
export class Screen {
  /** There is a bar. */
  readonly live: boolean;
  private closed = false;
  private readonly coloured: boolean;
  private progress: Progress | undefined;
  private redraw: NodeJS.Timeout | undefined;
  private tenths = 0;
  /** What was sent in the last second or so, for the speed. */
  private samples: { readonly at: number; readonly sent: number }[] = [];
  private readonly startedAt = Date.now();

  constructor(private readonly out: NodeJS.WriteStream) {
    this.live = out.isTTY && process.env['TERM'] !== 'dumb' && !process.env['CI'];
    this.coloured = this.live && !process.env['NO_COLOR'];
  }

  /** Text in a colour, where there are colours. */
  paint(colour: Colour, text: string): string {
    return this.coloured ? `\x1b[${CODES[colour]}m${text}\x1b[0m` : text;
  }

  /** A line of its own, above the bar. */
  say(line = ''): void {
    if (this.closed) return;
    this.out.write(this.progress && this.live ? `\r\x1b[2K${line}\n${this.barLine(this.progress)}` : `${line}\n`);
  }

  /** Something that happened at a place in the file. */
  event(mark: string, colour: Colour, offset: number | undefined, text: string): void {
    const place = offset === undefined ? '' : mebibytes(offset);
    this.say(`  ${this.paint(colour, mark)} ${place.padStart(11)}  ${text}`);
  }

  /** Shows how far it is; may be called as often as one likes. */
  show(progress: Progress): void {
    if (this.closed) return;
    this.measure(progress);
    this.progress = progress;
    if (!this.live) this.sayTenths(progress);
    else this.redraw ??= this.startDrawing();
  }

  /** Takes the bar away, and shows the cursor again. */
  hide(): void {
    clearInterval(this.redraw);
    if (this.redraw) this.out.write('\r\x1b[2K\x1b[?25h');
    this.redraw = undefined;
    this.progress = undefined;
  }

  /** Takes the bar away and shows nothing any more. */
  close(): void {
    this.hide();
    this.closed = true;
  }

  private startDrawing(): NodeJS.Timeout {
    this.out.write('\x1b[?25l');
    const timer = setInterval(() => this.out.write(`\r\x1b[2K${this.barLine(this.progress!)}`), REDRAW_MS);
    return timer.unref();
  }

  private barLine(progress: Progress): string {
    const columns = Math.max(this.out.columns, 30) - 1;
    const width = Math.min(40, Math.max(10, columns - TEXT_WIDTH));
    const percent = `${Math.floor((progress.sent / Math.max(progress.total, 1)) * 100)} %`.padStart(5);
    const tail = progress.note ?? `${mebibytes(this.speed())}/s`;
    const whole = ` ${percent}  ${mebibytes(progress.sent)} of ${mebibytes(progress.total)}  ${tail}`;
    // In a narrow window the amounts give way first: a line that wraps cannot be redrawn.
    const text = (whole.length + width + 2 <= columns ? whole : ` ${percent}  ${tail}`).slice(0, columns - width - 2);
    return `  ${this.bar(progress, width)}${progress.note ? text.replace(tail, this.paint('yellow', tail)) : text}`;
  }

  private bar(progress: Progress, width: number): string {
    const cells = (bytes: number): number => Math.round((bytes / Math.max(progress.total, 1)) * width);
    const safe = Math.min(cells(progress.safe), cells(progress.sent));
    const onTheWay = cells(progress.sent) - safe;
    const rest = width - safe - onTheWay;
    return [
      this.paint('green', '█'.repeat(safe)),
      this.paint('cyan', '▒'.repeat(onTheWay)),
      this.paint('dim', '░'.repeat(rest)),
    ].join('');
  }

  private sayTenths(progress: Progress): void {
    const tenths = Math.floor((progress.sent / Math.max(progress.total, 1)) * 10);
    if (tenths <= this.tenths) return;
    this.tenths = tenths;
    const seconds = ((Date.now() - this.startedAt) / 1000).toFixed(1);
    this.say(`    ${mebibytes(progress.sent).padStart(11)}  ${tenths * 10} % after ${seconds} s`);
  }

  private measure({ sent, note }: Progress): void {
    const now = Date.now();
    // What was sent before an interruption says nothing about the speed now.
    if (note !== undefined || sent < (this.samples.at(-1)?.sent ?? 0)) this.samples = [];
    this.samples.push({ at: now, sent });
    while (this.samples.length > 2 && this.samples[0]!.at < now - 1000) this.samples.shift();
  }

  private speed(): number {
    const [first, last] = [this.samples[0], this.samples.at(-1)];
    if (!first || !last || last.at === first.at) return 0;
    return ((last.sent - first.sent) / (last.at - first.at)) * 1000;
  }
}

export function mebibytes(bytes: number): string {
  if (bytes < 1024) return `${Math.round(bytes)} B`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  if (bytes < 10 * 1024 ** 3) return `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
  return `${(bytes / 1024 ** 3).toFixed(1)} GiB`;
}
