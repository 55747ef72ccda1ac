import type { Socket } from 'node:net';

/** The part of a connection that Node reads from. It has no public way to make an HTTP server or session read less. */
interface ReadingHandle {
  reading?: boolean;
  readStart(): number;
  readStop(): number;
}

type WithHandle = Socket & { readonly _handle?: Partial<ReadingHandle> | null };

/**
 * Stops reading from a connection, whatever its HTTP server or session wants meanwhile, until everybody who wanted it
 * stopped lets it go on. The peer notices by its own sends, which do not get through.
 */
export class ReadGate {
  private holds = 0;
  /** Somebody wants to read as soon as nobody holds the connection any more. */
  private isWanted = false;
  private releasedAt = -Infinity;
  private readonly handle: ReadingHandle | undefined;
  private readonly start: (() => number) | undefined;

  private constructor(private readonly socket: Socket) {
    const { _handle: handle } = socket as WithHandle;
    if (!isReading(handle)) return;
    this.handle = handle;
    const start = handle.readStart.bind(handle);
    const stop = handle.readStop.bind(handle);
    this.start = start;
    handle.readStart = () => {
      if (this.holds === 0) return start();
      this.isWanted = true;
      return 0;
    };
    handle.readStop = () => {
      this.isWanted = false;
      return stop();
    };
  }

  static of(socket: Socket): ReadGate {
    const known = GATES.get(socket) ?? new ReadGate(socket);
    GATES.set(socket, known);
    return known;
  }

  /**
   * Milliseconds since this connection was last kept from being read, 0 while it is: silence in that time is ours, not its
   * peer's.
   */
  static sinceHeldMs(socket: Socket): number {
    const gate = GATES.get(socket);
    if (!gate) return Infinity;
    return gate.holds > 0 ? 0 : performance.now() - gate.releasedAt;
  }

  /** To be called while something is read. Each call is undone by one of `release`. */
  hold(): void {
    const { handle } = this;
    if (++this.holds > 1 || !handle) return;
    const isWanted = handle.reading !== false;
    handle.readStop();
    this.isWanted = isWanted;
  }

  release(): void {
    if (--this.holds > 0) return;
    this.releasedAt = performance.now();
    if (!this.isWanted || this.socket.destroyed) return;
    this.isWanted = false;
    this.start?.();
  }
}

const GATES = new WeakMap<Socket, ReadGate>();

function isReading(handle: Partial<ReadingHandle> | null | undefined): handle is ReadingHandle {
  return typeof handle?.readStart === 'function' && typeof handle.readStop === 'function';
}
