import type { ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { lookEveryMs, RateWindow, type MinRate } from './min-rate.js';

type WriteDone = (error?: Error | null) => void;

/** Something that bytes wait in until the client takes them. */
interface Outlet {
  /** Bytes that the client has not taken. */
  readonly waiting: number;
  /** Bytes that have gone out so far. */
  readonly gone: number;
  end(): void;
}

interface MeasuredOutlet {
  readonly outlet: Outlet;
  window: RateWindow | undefined;
  gone: number;
  wasWaiting: boolean;
}

/**
 * Notices clients that do not take what they asked for: neither the bytes of their connection, nor those of an HTTP/2
 * stream whose window they leave shut. Time counts only while bytes wait for them.
 */
export class SlowReaders {
  private readonly measured = new Map<Socket | ServerHttp2Stream, MeasuredOutlet>();
  private readonly everyMs: number;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly rate: MinRate,
    private readonly onSlow: (socket: Socket) => void,
  ) {
    this.everyMs = lookEveryMs(rate);
  }

  watchConnection(socket: Socket): void {
    const end = (): void => {
      this.onSlow(socket);
      socket.destroy();
    };
    this.watch(socket, {
      get waiting() {
        return socket.writableLength + handleOf(socket).writeQueueSize;
      },
      get gone() {
        const { bytesWritten, writeQueueSize } = handleOf(socket);
        return bytesWritten - writeQueueSize;
      },
      end,
    });
  }

  watchStream(stream: ServerHttp2Stream, socket: Socket): void {
    const taken = countTaken(stream);
    const end = (): void => {
      this.onSlow(socket);
      stream.on('error', () => undefined);
      stream.destroy(new Error('the client does not take its answer'));
    };
    this.watch(stream, {
      get waiting() {
        return stream.writableLength;
      },
      get gone() {
        return taken.bytes;
      },
      end,
    });
  }

  /** The connection carries another protocol from now on, in which nobody has to read. */
  forget(watched: Socket | ServerHttp2Stream): void {
    this.measured.delete(watched);
    if (this.measured.size > 0) return;
    clearInterval(this.timer);
    this.timer = undefined;
  }

  private watch(watched: Socket | ServerHttp2Stream, outlet: Outlet): void {
    if (this.rate.bytesPerSecond === 0) return;
    this.measured.set(watched, { outlet, window: undefined, gone: 0, wasWaiting: false });
    this.timer ??= setInterval(() => this.look(), this.everyMs);
    watched.once('close', () => this.forget(watched));
  }

  private look(): void {
    for (const measured of [...this.measured.values()]) {
      const { outlet, wasWaiting } = measured;
      measured.wasWaiting = outlet.waiting > 0;
      if (!measured.wasWaiting) continue;
      const before = measured.gone;
      measured.gone = outlet.gone;
      if (!wasWaiting) continue;
      measured.window ??= new RateWindow(this.rate);
      if (measured.window.isTooSlow(this.everyMs, Math.max(0, measured.gone - before))) outlet.end();
    }
  }
}

interface WritingHandle {
  /** Everything that was given to it. */
  readonly bytesWritten: number;
  /** The part of it that the operating system has not taken. */
  readonly writeQueueSize: number;
}

/** Asked itself, because a session of HTTP/2 writes past its socket. */
function handleOf(socket: Socket): WritingHandle {
  const { _handle: handle } = socket as Socket & { readonly _handle?: Partial<WritingHandle> | null };
  return { bytesWritten: handle?.bytesWritten ?? 0, writeQueueSize: handle?.writeQueueSize ?? 0 };
}

/** Bytes of a stream that its session has sent: a window that stays shut keeps them waiting. */
function countTaken(stream: ServerHttp2Stream): { readonly bytes: number } {
  const taken = { bytes: 0 };
  const counting = (bytes: number, done: WriteDone): WriteDone => {
    return (error) => {
      if (!error) taken.bytes += bytes;
      done(error);
    };
  };
  const write = stream._write.bind(stream);
  stream._write = (chunk: Buffer, encoding, done) => write(chunk, encoding, counting(chunk.length, done));
  const writev = stream._writev?.bind(stream);
  if (writev)
    stream._writev = (chunks, done) =>
      writev(
        chunks,
        counting(
          chunks.reduce((sum, { chunk }) => sum + (chunk as Buffer).length, 0),
          done,
        ),
      );
  return taken;
}
