import { constants, fstatSync, openSync, write, writeSync } from 'node:fs';

/** A reader that stands still must neither stop the process nor fill its memory: lines beyond this are dropped. */
const MOST_WAITING_BYTES = 8 * 2 ** 20;

/** POSIX: up to so many bytes, lines of several processes into one pipe do not mix (PIPE_BUF). */
const MOST_AT_ONCE_BYTES = 4096;

/** A pipe that is full is tried again. */
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
  private isWriting = false;
  private isBroken = false;
  private readonly onEmpty: (() => void)[] = [];
  private readonly fd: number;

  constructor(fd: number) {
    this.fd = withoutWaiting(fd);
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
    if (this.lines.length === 0 && !this.isWriting) then();
    else this.onEmpty.push(then);
  }

  private writeOn(): void {
    if (this.isWriting) return;
    const batch = this.nextBatch();
    if (batch.length > 0) return this.writeBatch(batch);
    for (const then of this.onEmpty.splice(0)) then();
  }

  /** Whole lines, as many as may go together. */
  private nextBatch(): Buffer {
    let size = 0;
    const end = this.lines.findIndex((line) => (size += line.length) > MOST_AT_ONCE_BYTES);
    const batch = this.lines.splice(0, end === -1 ? this.lines.length : Math.max(end, 1));
    return Buffer.concat(batch);
  }

  private writeBatch(batch: Buffer): void {
    this.isWriting = true;
    write(this.fd, batch, (error, written) => {
      this.isWriting = false;
      this.bytes -= error ? 0 : written;
      if (!error) this.putBack(batch.subarray(written));
      else if (FULL.has(error.code ?? '')) return this.tryAgain(batch);
      else this.giveUp(batch, error);
      this.writeOn();
    });
  }

  private tryAgain(batch: Buffer): void {
    this.putBack(batch);
    this.isWriting = true;
    setTimeout(() => {
      this.isWriting = false;
      this.writeOn();
    }, TRY_AGAIN_MS);
  }

  private putBack(rest: Buffer): void {
    if (rest.length > 0) this.lines.unshift(rest);
  }

  /** A disk that is full may have room later, a reader who has left does not come back. */
  private giveUp(batch: Buffer, { code }: NodeJS.ErrnoException): void {
    this.bytes -= batch.length;
    if (code !== 'EPIPE') return;
    this.isBroken = true;
    this.lines.length = 0;
    this.bytes = 0;
  }

  /** At the end of the process. What is just being written is finished by then. */
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
 * The same pipe, opened so that a write to it says that it is full: one that waits for its reader could not be given up,
 * and the process could not end. What is no pipe, or cannot be opened again, stays as it is.
 */
function withoutWaiting(fd: number): number {
  try {
    if (!fstatSync(fd).isFIFO()) return fd;
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch {
    return fd;
  }
}
