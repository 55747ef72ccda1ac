import { constants, fstatSync, openSync, readFileSync, write, writeSync } from 'node:fs';

/** A stalled reader must neither block the process nor fill its memory: lines beyond this are dropped. */
const MAX_WAITING_BYTES = 8 * 2 ** 20;

/** PIPE_BUF: POSIX writes up to this many bytes to a pipe without mixing them with those of other processes. */
const MAX_BATCH_BYTES = 4096;

/** Lines that may be written together wait this long for others. */
const SOON_MS = 10;

const BUSY_CODES = new Set(['EAGAIN', 'EBUSY']);
const RETRY_DELAY_MS = 20;
/** At exit the process waits at most one second in all. */
const MAX_EXIT_RETRIES = 50;

/**
 * Writes lines to a file or pipe in order, without ever blocking the caller. If nobody reads them any more they are
 * dropped without an error. Replaces pino's sonic-boom (4.2), which at exit retries forever if the reader has left or
 * stalls.
 * Reasons: docs/decisions/0017.
 */
export class LogOutput {
  private readonly lines: Buffer[] = [];
  private waitingBytes = 0;
  /** A write is in progress, or waits for its retry. */
  private isBusy = false;
  private isClosed = false;
  /** Lines that wait for others. */
  private soon = '';
  private soonTimer: NodeJS.Timeout | undefined;
  private readonly emptyListeners: (() => void)[] = [];
  private readonly fd: number;
  private readonly isNonBlocking: boolean;

  constructor(fd: number) {
    const nonBlocking = nonBlockingFd(fd);
    this.fd = nonBlocking ?? fd;
    this.isNonBlocking = nonBlocking !== undefined;
    process.once('exit', () => this.writeRest());
  }

  write(line: string): void {
    this.addSoon();
    this.add(line);
    this.writeWaiting();
  }

  /** Writes a line a moment later, together with others, because each write costs a system call. */
  writeSoon(line: string): void {
    if (this.soon.length + line.length > MAX_BATCH_BYTES) this.addSoon();
    this.soon += line;
    this.soonTimer ??= setTimeout(this.onSoon, SOON_MS);
  }

  /** Lines with characters beyond ASCII may be longer than a batch, which is then divided. */
  private addSoon(): void {
    const { soon } = this;
    this.soon = '';
    if (Buffer.byteLength(soon) <= MAX_BATCH_BYTES) this.add(soon);
    else for (const line of soon.split('\n').slice(0, -1)) this.add(`${line}\n`);
    this.writeWaiting();
  }

  private add(line: string): void {
    const bytes = Buffer.from(line);
    if (bytes.length === 0 || this.isClosed || this.waitingBytes + bytes.length > MAX_WAITING_BYTES) return;
    this.lines.push(bytes);
    this.waitingBytes += bytes.length;
  }

  private readonly onSoon = (): void => {
    this.soonTimer = undefined;
    this.addSoon();
  };

  /** Calls `listener` once, when all lines so far are written or dropped. */
  onEmpty(listener: () => void): void {
    this.addSoon();
    if (this.lines.length === 0 && !this.isBusy) listener();
    else this.emptyListeners.push(listener);
  }

  private writeWaiting(): void {
    while (!this.isBusy && this.lines.length > 0) this.writeBatch(this.nextBatch());
    if (!this.isBusy) for (const listener of this.emptyListeners.splice(0)) listener();
  }

  /** As many complete lines as fit into one batch, at least one. */
  private nextBatch(): Buffer {
    let size = 0;
    const end = this.lines.findIndex((line) => (size += line.length) > MAX_BATCH_BYTES);
    const batch = this.lines.splice(0, end === -1 ? this.lines.length : Math.max(end, 1));
    return Buffer.concat(batch);
  }

  private writeBatch(batch: Buffer): void {
    if (!this.isNonBlocking) return this.writeInBackground(batch);
    try {
      this.onWritten(batch, writeSync(this.fd, batch));
    } catch (error) {
      this.onFailed(batch, error as NodeJS.ErrnoException);
    }
  }

  /** Writes to a descriptor that may block until its reader continues. */
  private writeInBackground(batch: Buffer): void {
    this.isBusy = true;
    write(this.fd, batch, (error, count) => {
      this.isBusy = false;
      if (error) this.onFailed(batch, error);
      else this.onWritten(batch, count);
      this.writeWaiting();
    });
  }

  private onWritten(batch: Buffer, count: number): void {
    this.waitingBytes -= count;
    this.putBack(batch.subarray(count));
  }

  /**
   * Retries on a full pipe, drops the batch on other errors such as a full disk, and all lines if the reader has left.
   */
  private onFailed(batch: Buffer, { code = '' }: NodeJS.ErrnoException): void {
    if (BUSY_CODES.has(code)) return this.retryLater(batch);
    this.waitingBytes -= batch.length;
    if (code !== 'EPIPE') return;
    this.isClosed = true;
    this.lines.length = 0;
    this.waitingBytes = 0;
  }

  private retryLater(batch: Buffer): void {
    this.putBack(batch);
    this.isBusy = true;
    setTimeout(() => {
      this.isBusy = false;
      this.writeWaiting();
    }, RETRY_DELAY_MS);
  }

  private putBack(rest: Buffer): void {
    if (rest.length > 0) this.lines.unshift(rest);
  }

  /** Writes the remaining lines at exit; Node itself waits for a write in the background. */
  private writeRest(): void {
    this.add(this.soon);
    this.soon = '';
    let rest = Buffer.concat(this.lines.splice(0));
    for (let retries = 0; rest.length > 0 && retries < MAX_EXIT_RETRIES;) {
      try {
        rest = rest.subarray(writeSync(this.fd, rest));
      } catch (error) {
        if (!BUSY_CODES.has((error as NodeJS.ErrnoException).code ?? '')) return;
        retries++;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_DELAY_MS);
      }
    }
  }
}

/**
 * A descriptor for the same output whose writes never block: that of a file, of a pipe opened again as non-blocking, or
 * of a socket that Node has made non-blocking. Undefined for others, such as terminals, which are written in the background.
 */
function nonBlockingFd(fd: number): number | undefined {
  try {
    const stats = fstatSync(fd);
    // A write that blocks could not be given up at exit, so the process could not end.
    if (stats.isFIFO()) return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
    return stats.isFile() || hasNonBlockingFlag(fd) ? fd : undefined;
  } catch {
    // Without /proc (not Linux) nothing is known about the descriptor.
    return undefined;
  }
}

function hasNonBlockingFlag(fd: number): boolean {
  const [, flags = '0'] = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) ?? [];
  return (Number.parseInt(flags, 8) & constants.O_NONBLOCK) !== 0;
}
