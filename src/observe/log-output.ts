import { constants, fstatSync, openSync, readFileSync, write, writeSync } from 'node:fs';

/** A reader that stands still must neither stop the process nor fill its memory: lines beyond this are dropped. */
const MOST_WAITING_BYTES = 8 * 2 ** 20;

/** POSIX: up to so many bytes, lines of several processes into one pipe do not mix (PIPE_BUF). */
const MOST_AT_ONCE_BYTES = 4096;

const FULL = new Set(['EAGAIN', 'EBUSY']);
const TRY_AGAIN_MS = 20;
/** The end of the process does not wait for longer than a second. */
const LAST_TRIES = 50;

/**
 * Lines into a file or a pipe, in their order and without ever making their writer wait. When nobody reads them any more
 * they go nowhere; nothing fails because of that. Our own because pino's (sonic-boom 4.2) tries for ever to write what is
 * left when the process ends and its reader has left or stands still.
 */
export class LogOutput {
  private readonly lines: Buffer[] = [];
  private bytes = 0;
  /** Something is being written, or waits to be tried again. */
  private isBusy = false;
  private isBroken = false;
  private readonly onEmpty: (() => void)[] = [];
  private readonly fd: number;
  private readonly neverWaits: boolean;

  constructor(fd: number) {
    const withoutWaiting = openedWithoutWaiting(fd);
    this.fd = withoutWaiting ?? fd;
    this.neverWaits = withoutWaiting !== undefined;
    process.once('exit', () => this.writeRest());
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.isBroken || this.bytes + bytes.length > MOST_WAITING_BYTES) return;
    this.lines.push(bytes);
    this.bytes += bytes.length;
    this.writeOn();
  }

  /** Called once, when all lines so far are written, or nobody reads them. */
  whenEmpty(then: () => void): void {
    if (this.lines.length === 0 && !this.isBusy) then();
    else this.onEmpty.push(then);
  }

  private writeOn(): void {
    while (!this.isBusy && this.lines.length > 0) this.writeBatch(this.nextBatch());
    if (!this.isBusy) for (const then of this.onEmpty.splice(0)) then();
  }

  /** Whole lines, as many as may go together. */
  private nextBatch(): Buffer {
    let size = 0;
    const end = this.lines.findIndex((line) => (size += line.length) > MOST_AT_ONCE_BYTES);
    const batch = this.lines.splice(0, end === -1 ? this.lines.length : Math.max(end, 1));
    return Buffer.concat(batch);
  }

  private writeBatch(batch: Buffer): void {
    if (!this.neverWaits) return this.writeInBackground(batch);
    try {
      this.written(batch, writeSync(this.fd, batch));
    } catch (error) {
      this.failed(batch, error as NodeJS.ErrnoException);
    }
  }

  /** Where a write may wait for its reader. */
  private writeInBackground(batch: Buffer): void {
    this.isBusy = true;
    write(this.fd, batch, (error, count) => {
      this.isBusy = false;
      if (error) this.failed(batch, error);
      else this.written(batch, count);
      this.writeOn();
    });
  }

  private written(batch: Buffer, count: number): void {
    this.bytes -= count;
    this.putBack(batch.subarray(count));
  }

  /** A pipe that is full is tried again. A disk that is full may have room later, a reader who has left does not come back. */
  private failed(batch: Buffer, { code = '' }: NodeJS.ErrnoException): void {
    if (FULL.has(code)) return this.tryAgain(batch);
    this.bytes -= batch.length;
    if (code !== 'EPIPE') return;
    this.isBroken = true;
    this.lines.length = 0;
    this.bytes = 0;
  }

  private tryAgain(batch: Buffer): void {
    this.putBack(batch);
    this.isBusy = true;
    setTimeout(() => {
      this.isBusy = false;
      this.writeOn();
    }, TRY_AGAIN_MS);
  }

  private putBack(rest: Buffer): void {
    if (rest.length > 0) this.lines.unshift(rest);
  }

  /** At the end of the process, which also waits for what is being written in the background. */
  private writeRest(): void {
    let rest = Buffer.concat(this.lines.splice(0));
    for (let tries = 0; rest.length > 0 && tries < LAST_TRIES;) {
      try {
        rest = rest.subarray(writeSync(this.fd, rest));
      } catch (error) {
        if (!FULL.has((error as NodeJS.ErrnoException).code ?? '')) return;
        tries++;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, TRY_AGAIN_MS);
      }
    }
  }
}

/**
 * What can be written to at once, whoever reads it: a file, the same pipe opened so that it says when it is full, or what
 * does so already, as Node makes of sockets. A write that waits for its reader could not be given up, and the process could
 * not end; one in the background could find it full when nobody hears of that any more. Undefined for terminals.
 */
function openedWithoutWaiting(fd: number): number | undefined {
  try {
    const kind = fstatSync(fd);
    if (kind.isFIFO()) return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
    return kind.isFile() || neverBlocks(fd) ? fd : undefined;
  } catch {
    return undefined;
  }
}

function neverBlocks(fd: number): boolean {
  const [, flags = '0'] = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) ?? [];
  return (Number.parseInt(flags, 8) & constants.O_NONBLOCK) !== 0;
}
