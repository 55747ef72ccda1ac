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
const SAMPLES_PER_WINDOW = 8;

function sampleIntervalMs({ windowMs }: MinRate): number {
  return Math.max(5, Math.ceil(windowMs / SAMPLES_PER_WINDOW));
}

interface Sample {
  readonly ms: number;
  readonly bytes: number;
  /** Bytes that the minimum rate requires in this time. */
  readonly requiredBytes: number;
}

/**
 * Sums up the samples of the newest window. Time counts by samples rather than by the clock, so that a suspended process
 * blames no client.
 */
export class RateWindow {
  private readonly samples: Sample[] = [];
  private totalMs = 0;
  private totalBytes = 0;
  private totalRequiredBytes = 0;

  constructor(private readonly rate: MinRate) {}

  /**
   * Adds a sample; true when a full window has passed and too few bytes moved in it. `share` is the number of bodies that
   * these bytes belong to.
   */
  isTooSlow(ms: number, bytes: number, share = 1): boolean {
    const { bytesPerSecond, windowMs } = this.rate;
    this.add({ ms, bytes, requiredBytes: (bytesPerSecond * share * ms) / 1000 });
    while (this.totalMs - this.samples[0]!.ms >= windowMs) this.dropOldest();
    return this.totalMs >= windowMs && this.totalBytes < this.totalRequiredBytes;
  }

  private add(sample: Sample): void {
    this.samples.push(sample);
    this.totalMs += sample.ms;
    this.totalBytes += sample.bytes;
    this.totalRequiredBytes += sample.requiredBytes;
  }

  private dropOldest(): void {
    const { ms, bytes, requiredBytes } = this.samples.shift()!;
    this.totalMs -= ms;
    this.totalBytes -= bytes;
    this.totalRequiredBytes -= requiredBytes;
  }
}

/** A request body that is being taken. */
export interface WatchedBody {
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
  private readonly connections = new Map<Socket | Http2Session, ConnectionBodies>();

  constructor(
    private readonly rate: MinRate,
    private readonly onSlow: () => void = () => undefined,
  ) {}

  /** What it gives is to be called when the body is over. */
  watch({ req }: Exchange, body: WatchedBody): () => void {
    const connection = connectionOf(req);
    if (!connection || this.rate.bytesPerSecond === 0) return () => undefined;
    const bodies = this.connections.get(connection) ?? new ConnectionBodies(connection, this.rate);
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
  readonly body: WatchedBody;
  readonly window: RateWindow;
  wasAwaited: boolean;
}

/** The bodies that one connection brings at the moment. */
class ConnectionBodies {
  private readonly bodies = new Set<MeasuredBody>();
  private readonly intervalMs: number;
  private timer: NodeJS.Timeout | undefined;
  private lastBytesRead = 0;

  constructor(
    private readonly connection: Socket | Http2Session,
    private readonly rate: MinRate,
  ) {
    this.intervalMs = sampleIntervalMs(rate);
  }

  get isEmpty(): boolean {
    return this.bodies.size === 0;
  }

  add(body: WatchedBody): () => void {
    if (this.isEmpty) this.lastBytesRead = this.bytesRead;
    const measured = { body, window: new RateWindow(this.rate), wasAwaited: body.isAwaited() };
    this.bodies.add(measured);
    this.timer ??= setInterval(() => this.sample(), this.intervalMs);
    return () => {
      this.bodies.delete(measured);
      if (!this.isEmpty) return;
      clearInterval(this.timer);
      this.timer = undefined;
    };
  }

  private sample(): void {
    const before = this.lastBytesRead;
    this.lastBytesRead = this.bytesRead;
    const awaited = [...this.bodies].filter((measured) => {
      const was = measured.wasAwaited;
      measured.wasAwaited = measured.body.isAwaited();
      return was && measured.wasAwaited;
    });
    for (const { body, window } of awaited)
      if (window.isTooSlow(this.intervalMs, this.lastBytesRead - before, awaited.length)) body.onSlow();
  }

  private get bytesRead(): number {
    const { connection } = this;
    // The socket of a session that has ended throws whatever it is asked.
    if (connection.destroyed) return this.lastBytesRead;
    return 'socket' in connection ? connection.socket.bytesRead : connection.bytesRead;
  }
}

type WriteDone = (error?: Error | null) => void;

/** Something that bytes wait in until the client takes them. */
interface SendQueue {
  /** Bytes that the client has not taken. */
  readonly pendingBytes: number;
  /** Bytes that have gone out so far. */
  readonly sentBytes: number;
  end(): void;
}

interface MeasuredQueue {
  readonly queue: SendQueue;
  window: RateWindow | undefined;
  sentBytes: number;
  hadPending: boolean;
}

/**
 * Notices clients that do not take what they asked for: neither the bytes of their connection, nor those of an HTTP/2
 * stream whose window they leave shut. Time counts only while bytes wait for them.
 */
export class SlowReaders {
  private readonly measured = new Map<Socket | ServerHttp2Stream, MeasuredQueue>();
  private readonly intervalMs: number;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly rate: MinRate,
    private readonly onSlow: (socket: Socket) => void,
  ) {
    this.intervalMs = sampleIntervalMs(rate);
  }

  watchConnection(socket: Socket): void {
    const end = (): void => {
      this.onSlow(socket);
      socket.destroy();
    };
    this.watch(socket, {
      get pendingBytes() {
        return socket.writableLength + handleOf(socket).writeQueueSize;
      },
      get sentBytes() {
        const { bytesWritten, writeQueueSize } = handleOf(socket);
        return bytesWritten - writeQueueSize;
      },
      end,
    });
  }

  watchStream(stream: ServerHttp2Stream, socket: Socket): void {
    const sent = countSent(stream);
    const end = (): void => {
      this.onSlow(socket);
      stream.on('error', () => undefined);
      stream.destroy(new Error('the client does not take its answer'));
    };
    this.watch(stream, {
      get pendingBytes() {
        return stream.writableLength;
      },
      get sentBytes() {
        return sent.bytes;
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

  private watch(watched: Socket | ServerHttp2Stream, queue: SendQueue): void {
    if (this.rate.bytesPerSecond === 0) return;
    this.measured.set(watched, { queue, window: undefined, sentBytes: 0, hadPending: false });
    this.timer ??= setInterval(() => this.sample(), this.intervalMs);
    watched.once('close', () => this.forget(watched));
  }

  private sample(): void {
    for (const measured of [...this.measured.values()]) {
      const { queue, hadPending } = measured;
      measured.hadPending = queue.pendingBytes > 0;
      if (!measured.hadPending) continue;
      const before = measured.sentBytes;
      measured.sentBytes = queue.sentBytes;
      if (!hadPending) continue;
      measured.window ??= new RateWindow(this.rate);
      if (measured.window.isTooSlow(this.intervalMs, Math.max(0, measured.sentBytes - before))) queue.end();
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
function countSent(stream: ServerHttp2Stream): { readonly bytes: number } {
  const sent = { bytes: 0 };
  const counting = (bytes: number, done: WriteDone): WriteDone => {
    return (error) => {
      if (!error) sent.bytes += bytes;
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
  return sent;
}
