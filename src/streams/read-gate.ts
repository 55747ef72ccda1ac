import type { Socket } from 'node:net';

/** Node's internal handle of a socket. There is no public API to make an HTTP server or HTTP/2 session read less. */
interface ReadingHandle {
  reading?: boolean;
  readStart(): number;
  readStop(): number;
}

type WithHandle = Socket & { readonly _handle?: Partial<ReadingHandle> | null };

/**
 * Stops reading from a connection until every `hold` is released, even if its HTTP server or HTTP/2 session asks for
 * more. Backpressure then slows the peer down.
 */
export class ReadGate {
  private holds = 0;
  /** Reading was requested and starts when the last hold is released. */
  private isReadRequested = false;
  private releasedAt = -Infinity;
  private readonly handle: ReadingHandle | undefined;
  private readonly start: (() => number) | undefined;

  private constructor(private readonly socket: Socket) {
    const { _handle: handle } = socket as WithHandle;
    if (!isReadingHandle(handle)) return;
    this.handle = handle;
    const start = handle.readStart.bind(handle);
    const stop = handle.readStop.bind(handle);
    this.start = start;
    handle.readStart = () => {
      if (this.holds === 0) return start();
      this.isReadRequested = true;
      return 0;
    };
    handle.readStop = () => {
      this.isReadRequested = false;
      return stop();
    };
  }

  /** The gate of a connection; the same one for every call. */
  static of(socket: Socket): ReadGate {
    const gate = GATES.get(socket) ?? new ReadGate(socket);
    GATES.set(socket, gate);
    return gate;
  }

  /**
   * Milliseconds since the connection was last held, 0 while it is, Infinity if it never was: silence of a held
   * connection is not its peer's fault.
   */
  static sinceHeldMs(socket: Socket): number {
    const gate = GATES.get(socket);
    if (!gate) return Infinity;
    return gate.holds > 0 ? 0 : performance.now() - gate.releasedAt;
  }

  /** Stops reading, while data is being read. Each call needs one call of `release`. */
  hold(): void {
    const { handle } = this;
    if (++this.holds > 1 || !handle) return;
    const isReading = handle.reading !== false;
    handle.readStop();
    this.isReadRequested = isReading;
  }

  release(): void {
    if (--this.holds > 0) return;
    this.releasedAt = performance.now();
    if (!this.isReadRequested || this.socket.destroyed) return;
    this.isReadRequested = false;
    this.start?.();
  }
}

const GATES = new WeakMap<Socket, ReadGate>();

function isReadingHandle(handle: Partial<ReadingHandle> | null | undefined): handle is ReadingHandle {
  return typeof handle?.readStart === 'function' && typeof handle.readStop === 'function';
}
