import type { EventEmitter } from 'node:events';
import { Readable, type Writable } from 'node:stream';
import { isHttp2, type Exchange } from './exchange.js';

/** Notices a client that leaves before its response is complete. What happens first counts: both end with a 'close'. */
export class Watch {
  private end: 'whole' | 'client-left' | undefined;
  private wake: (() => void) | undefined;
  private readonly listenedTo: EventEmitter[];
  private readonly out: Writable;

  constructor(exchange: Exchange) {
    const overHttp2 = isHttp2(exchange);
    this.out = overHttp2 ? exchange.res.stream : exchange.res;
    // An HTTP/1.1 response behind a pipelined one has no connection yet and does not hear of its end.
    this.listenedTo = overHttp2 ? [this.out] : [this.out, exchange.req.socket];
    for (const emitter of this.listenedTo) emitter.once('close', this.leave).once('aborted', this.leave);
    this.out.once('finish', this.finish);
    // A write that fails tells so by the close that follows.
    this.out.on('error', () => undefined);
    const isGone = overHttp2
      ? exchange.res.stream.destroyed || exchange.res.stream.aborted
      : exchange.req.socket.destroyed;
    if (isGone) this.leave();
  }

  get isGone(): boolean {
    return this.end === 'client-left';
  }

  /** Fulfilled like `step`, or with undefined as soon as the client is gone. */
  until<T>(step: Promise<T>): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      if (this.isGone) return resolve(undefined);
      this.wake = () => resolve(undefined);
      step.then(resolve, reject);
    });
  }

  /** Fulfilled when everything was given to the connection, or the client is gone. */
  finished(): Promise<'whole' | 'client-left'> {
    return new Promise((resolve) => {
      if (this.end) return resolve(this.end);
      this.wake = () => resolve(this.end!);
    });
  }

  stop(): void {
    for (const emitter of this.listenedTo) emitter.off('close', this.leave).off('aborted', this.leave);
    this.out.off('finish', this.finish);
  }

  private readonly leave = (): void => this.endWith('client-left');

  private readonly finish = (): void => this.endWith('whole');

  private endWith(end: 'whole' | 'client-left'): void {
    this.end ??= end;
    this.wake?.();
  }
}

/**
 * Copies `body` into the response at the pace of its reader; `cut` when it fails or has another size than announced. `begin`
 * writes the head, with the first bytes or the end of the body: of one that fails before, `nothing` was said.
 */
export async function pump(
  body: AsyncIterable<Uint8Array>,
  res: NodeJS.WritableStream,
  watch: Watch,
  announcedSize: number | undefined,
  begin: () => void,
): Promise<'whole' | 'client-left' | 'cut' | 'nothing'> {
  const source = body[Symbol.asyncIterator]();
  let size = 0;
  let hasBegun = false;
  try {
    for (;;) {
      // Whoever made the body knows why it failed; the client can only be shown that it did.
      const step = await watch.until(source.next()).catch(() => 'failed' as const);
      if (!step) return 'client-left';
      if (step !== 'failed' && !step.done) size += step.value.length;
      const isWrong = announcedSize !== undefined && (size > announcedSize || (isEnd(step) && size < announcedSize));
      if (step === 'failed' || isWrong) return hasBegun ? 'cut' : 'nothing';
      if (!hasBegun) begin();
      hasBegun = true;
      if (step.done) return 'whole';
      if (!res.write(step.value)) await watch.until(drained(res));
    }
  } finally {
    stopSource(body, source);
  }
}

function isEnd(step: IteratorResult<Uint8Array> | 'failed'): boolean {
  return step !== 'failed' && step.done === true;
}

/** Tells a body that nobody will read it. */
export function giveUp(body: AsyncIterable<Uint8Array>): void {
  stopSource(body, body[Symbol.asyncIterator]());
}

/** Not waited for: a source that waits for its next bytes may hear of it late. */
function stopSource(body: AsyncIterable<Uint8Array>, source: AsyncIterator<Uint8Array>): void {
  // The iterator of a stream that was never read does not know that it has something to end.
  if (body instanceof Readable) body.on('error', () => undefined).destroy();
  else source.return?.().catch(() => undefined);
}

function drained(res: NodeJS.WritableStream): Promise<void> {
  return new Promise((resolve) => res.once('drain', () => resolve()));
}
