import type { EventEmitter } from 'node:events';
import { Readable, type Writable } from 'node:stream';
import { isHttp2, type Exchange } from './exchange.js';

/** Notices a client that leaves before its response is complete. */
export class Watch {
  isGone: boolean;
  private wake: (() => void) | undefined;
  private readonly stopListening: () => void;

  constructor(private readonly exchange: Exchange) {
    const { res } = exchange;
    // Of an HTTP/2 response neither 'finish' nor its flags tell whether the stream was reset. An HTTP/1.1 response
    // behind a pipelined one has no connection yet and does not hear of its end.
    const ends: EventEmitter[] = isHttp2(exchange) ? [exchange.res.stream] : [res, exchange.req.socket];
    this.isGone = isHttp2(exchange) ? isReset(exchange.res.stream) : exchange.req.socket.destroyed;
    const leave = (): void => {
      this.isGone = true;
      this.wake?.();
    };
    for (const end of ends) end.once('close', leave).once('aborted', leave);
    // A write that fails tells so by the close that follows.
    (isHttp2(exchange) ? exchange.res.stream : res).on('error', () => undefined);
    this.stopListening = () => ends.forEach((end) => end.off('close', leave).off('aborted', leave));
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
  async finished(): Promise<'whole' | 'client-left'> {
    const { exchange } = this;
    const out: Writable = isHttp2(exchange) ? exchange.res.stream : exchange.res;
    if (out.writableFinished && !this.isGone) return 'whole';
    const finish = new Promise<'whole'>((resolve) => out.once('finish', () => resolve('whole')));
    return (await this.until(finish)) ?? 'client-left';
  }

  stop(): void {
    this.stopListening();
  }
}

/** Copies `body` into the response at the pace of its reader; `cut` when it fails or has another size than announced. */
export async function pump(
  body: AsyncIterable<Uint8Array>,
  res: NodeJS.WritableStream,
  watch: Watch,
  announcedSize: number | undefined,
): Promise<'whole' | 'client-left' | 'cut'> {
  const source = body[Symbol.asyncIterator]();
  let size = 0;
  try {
    for (;;) {
      const step = await watch.until(source.next());
      if (!step) return 'client-left';
      if (step.done) return announcedSize === undefined || size === announcedSize ? 'whole' : 'cut';
      size += step.value.length;
      if (announcedSize !== undefined && size > announcedSize) return 'cut';
      if (!res.write(step.value)) await watch.until(drained(res));
    }
  } catch {
    // Whoever made the body knows why it failed; the client can only be shown that it did.
    return 'cut';
  } finally {
    stopSource(body, source);
  }
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

function isReset(stream: { destroyed: boolean; aborted?: boolean; rstCode?: number }): boolean {
  return stream.destroyed || stream.aborted === true;
}
