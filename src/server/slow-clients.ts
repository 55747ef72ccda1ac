import type { Http2Session, ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { connectionOf, type Exchange } from './exchange.js';

/** How slow a client may be. */
export interface MinRate {
  /** Zero: it may be as slow as it likes. */
  readonly bytesPerSecond: number;
  readonly windowMs: number;
}

/** How often is looked within a window. */
const LOOKS = 8;

function lookEveryMs({ windowMs }: MinRate): number {
  return Math.max(5, Math.ceil(windowMs / LOOKS));
}

/** What moved in the newest time that counts. Only looks are counted, so that a process that stood still blames nobody. */
export class RateWindow {
  private readonly looks: { readonly ms: number; readonly bytes: number; readonly wanted: number }[] = [];
  private ms = 0;
  private bytes = 0;
  private wanted = 0;

  constructor(private readonly rate: MinRate) {}

  /** `share`: how many share what moved. True when a whole window has passed and too little moved in it. */
  isTooSlow(ms: number, bytes: number, share = 1): boolean {
    const { bytesPerSecond, windowMs } = this.rate;
    this.add({ ms, bytes, wanted: (bytesPerSecond * share * ms) / 1000 });
    while (this.ms - this.looks[0]!.ms >= windowMs) this.dropOldest();
    return this.ms >= windowMs && this.bytes < this.wanted;
  }

  private add(look: { ms: number; bytes: number; wanted: number }): void {
    this.looks.push(look);
    this.ms += look.ms;
    this.bytes += look.bytes;
    this.wanted += look.wanted;
  }

  private dropOldest(): void {
    const { ms, bytes, wanted } = this.looks.shift()!;
    this.ms -= ms;
    this.bytes -= bytes;
    this.wanted -= wanted;
  }
}

/** A request body that is being taken. */
export interface TakenBody {
  /** It is the client's turn: neither is its body held back, nor is anybody behind who takes it. */
  readonly isAwaited: () => boolean;
  /** Called at most once. */
  readonly onSlow: () => void;
}

/**
 * Notices request bodies that come too slowly. The bodies of one connection are measured together: a client that sends
 * one after the other over HTTP/2 is as fast as its connection, whichever stream it is that moves.
 */
export class RequestRates {
  private readonly connections = new Map<Socket | Http2Session, TakenBodies>();

  constructor(
    private readonly rate: MinRate,
    private readonly onSlow: () => void = () => undefined,
  ) {}

  /** What it gives is to be called when the body is over. */
  watch({ req }: Exchange, body: TakenBody): () => void {
    const connection = connectionOf(req);
    if (!connection || this.rate.bytesPerSecond === 0) return () => undefined;
    const bodies = this.connections.get(connection) ?? new TakenBodies(connection, this.rate);
    this.connections.set(connection, bodies);
    const onSlow = (): void => {
      this.onSlow();
      body.onSlow();
    };
    const stop = bodies.add({ ...body, onSlow });
    return () => {
      stop();
      if (bodies.isEmpty) this.connections.delete(connection);
    };
  }
}

interface MeasuredBody {
  readonly body: TakenBody;
  readonly window: RateWindow;
  wasAwaited: boolean;
}

/** The bodies that one connection brings at the moment. */
class TakenBodies {
  private readonly bodies = new Set<MeasuredBody>();
  private readonly everyMs: number;
  private timer: NodeJS.Timeout | undefined;
  private read = 0;

  constructor(
    private readonly connection: Socket | Http2Session,
    private readonly rate: MinRate,
  ) {
    this.everyMs = lookEveryMs(rate);
  }

  get isEmpty(): boolean {
    return this.bodies.size === 0;
  }

  add(body: TakenBody): () => void {
    if (this.isEmpty) this.read = this.bytesRead;
    const measured = { body, window: new RateWindow(this.rate), wasAwaited: body.isAwaited() };
    this.bodies.add(measured);
    this.timer ??= setInterval(() => this.look(), this.everyMs);
    return () => {
      this.bodies.delete(measured);
      if (!this.isEmpty) return;
      clearInterval(this.timer);
      this.timer = undefined;
    };
  }

  private look(): void {
    const before = this.read;
    this.read = this.bytesRead;
    const awaited = [...this.bodies].filter((measured) => {
      const was = measured.wasAwaited;
      measured.wasAwaited = measured.body.isAwaited();
      return was && measured.wasAwaited;
    });
    for (const { body, window } of awaited)
      if (window.isTooSlow(this.everyMs, this.read - before, awaited.length)) body.onSlow();
  }

  private get bytesRead(): number {
    const { connection } = this;
    // The socket of a session that has ended throws whatever it is asked.
    if (connection.destroyed) return this.read;
    return 'socket' in connection ? connection.socket.bytesRead : connection.bytesRead;
  }
}

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
