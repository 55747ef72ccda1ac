import type { Http2Session, ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { type ChurningMember, ChurningSet } from '../model/churning-set.js';
import { connectionOf, type Exchange } from './exchange.js';

/** The slowest rate at which a client may send or read. */
export interface MinRate {
  /** Zero: no limit. */
  readonly bytesPerSecond: number;
  readonly windowMs: number;
}

/** Number of samples taken within a window. */
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

/** A request body that is being read. */
export interface WatchedBody {
  /** True while the proxy waits for the client: the body is not held back, and no reader of it is behind. */
  readonly isAwaited: () => boolean;
  /** Called when the body is too slow. */
  readonly onSlow: () => void;
}

/**
 * Detects request bodies that arrive too slowly. The bodies of one HTTP/2 connection are measured together, because a
 * client that sends them one after the other is as fast as its connection.
 * Reasons: docs/decisions/0025.
 */
export class RequestRates {
  private readonly bodies = new ChurningSet<MeasuredBody>();
  private readonly intervalMs: number;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly rate: MinRate,
    private readonly onSlow: () => void = () => undefined,
  ) {
    this.intervalMs = sampleIntervalMs(rate);
  }

  /** Starts watching a body; the caller calls the returned function when the body has ended. */
  watch({ req }: Exchange, body: WatchedBody): () => void {
    const connection = connectionOf(req);
    if (!connection || this.rate.bytesPerSecond === 0) return () => undefined;
    const measured: MeasuredBody = {
      position: 0,
      connection,
      body,
      window: undefined,
      bytesRead: undefined,
      wasAwaited: false,
    };
    this.bodies.add(measured);
    this.timer ??= setInterval(() => this.sample(), this.intervalMs).unref();
    return () => this.bodies.delete(measured);
  }

  /** One timer serves all bodies. It outlives short gaps between them, so that a body costs none of its own. */
  private sample(): void {
    const awaited = new Map<Connection, MeasuredBody[]>();
    const all = this.bodies.all();
    for (const measured of all) {
      if (!wasAwaitedSinceLastSample(measured)) continue;
      const others = awaited.get(measured.connection);
      if (others) others.push(measured);
      else awaited.set(measured.connection, [measured]);
    }
    const bytesRead = new Map(all.map(({ connection }) => [connection, bytesReadFrom(connection)]));
    for (const bodies of awaited.values()) {
      for (const measured of bodies) {
        const { connection, body, bytesRead: previousBytes } = measured;
        const movedBytes = Math.max(0, (bytesRead.get(connection) ?? previousBytes!) - previousBytes!);
        measured.window ??= new RateWindow(this.rate);
        if (!measured.window.isTooSlow(this.intervalMs, movedBytes, bodies.length)) continue;
        this.onSlow();
        body.onSlow();
      }
    }
    for (const measured of all) measured.bytesRead = bytesRead.get(measured.connection) ?? measured.bytesRead;
    if (this.bodies.size > 0) return;
    clearInterval(this.timer);
    this.timer = undefined;
  }
}

type Connection = Socket | Http2Session;

interface MeasuredBody extends ChurningMember {
  readonly connection: Connection;
  readonly body: WatchedBody;
  window: RateWindow | undefined;
  /** The bytes that its connection had read at the last sample; undefined before the first, which comes early. */
  bytesRead: number | undefined;
  wasAwaited: boolean;
}

/** Whether the whole interval that ends now counts. */
function wasAwaitedSinceLastSample(measured: MeasuredBody): boolean {
  const { wasAwaited, bytesRead, body } = measured;
  measured.wasAwaited = body.isAwaited();
  return wasAwaited && measured.wasAwaited && bytesRead !== undefined;
}

/** Undefined for a closed connection: the socket of a closed session throws on every access. */
function bytesReadFrom(connection: Connection): number | undefined {
  if (connection.destroyed) return undefined;
  return 'socket' in connection ? connection.socket.bytesRead : connection.bytesRead;
}

type WriteDone = (error?: Error | null) => void;

/** The bytes that wait for a client to read them, on a connection or a stream. */
interface SendQueue {
  /** Bytes that are not sent yet. */
  readonly pendingBytes: number;
  /** Bytes sent so far. */
  readonly sentBytes: number;
  /** Ends the connection or stream of a client that is too slow. */
  end(): void;
}

interface MeasuredQueue {
  readonly queue: SendQueue;
  window: RateWindow | undefined;
  sentBytes: number;
  hadPending: boolean;
}

/**
 * Detects clients that read their responses too slowly, on their connection or on an HTTP/2 stream whose window they
 * keep closed. Time counts only while bytes wait for the client.
 */
export class SlowReaders {
  private readonly measured = new Map<Socket | ServerHttp2Stream, MeasuredQueue>();
  private intervalMs: number;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private rate: MinRate,
    private readonly onSlow: (socket: Socket) => void,
  ) {
    this.intervalMs = sampleIntervalMs(rate);
  }

  /** Changes the rate; what was measured before does not count. Connections without a limit so far stay without one. */
  setRate(rate: MinRate): void {
    this.rate = rate;
    this.intervalMs = sampleIntervalMs(rate);
    clearInterval(this.timer);
    this.timer = undefined;
    if (rate.bytesPerSecond === 0) this.measured.clear();
    for (const measured of this.measured.values()) measured.window = undefined;
    if (this.measured.size > 0) this.startTimer();
  }

  /** Watches a connection until it closes. */
  watchConnection(socket: Socket): void {
    const end = (): void => {
      this.onSlow(socket);
      socket.destroy();
    };
    this.watch(socket, {
      get pendingBytes() {
        return socket.writableLength + writeHandleOf(socket).writeQueueSize;
      },
      get sentBytes() {
        const { bytesWritten, writeQueueSize } = writeHandleOf(socket);
        return bytesWritten - writeQueueSize;
      },
      end,
    });
  }

  /** Watches an HTTP/2 stream until it closes; `socket` is its connection. */
  watchStream(stream: ServerHttp2Stream, socket: Socket): void {
    const sent = countSent(stream);
    const end = (): void => {
      this.onSlow(socket);
      stream.on('error', () => undefined);
      stream.destroy(new Error('the client does not read its response'));
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

  /** Stops watching, for example when the connection switches to another protocol. */
  forget(watched: Socket | ServerHttp2Stream): void {
    this.measured.delete(watched);
    if (this.measured.size > 0) return;
    clearInterval(this.timer);
    this.timer = undefined;
  }

  private watch(watched: Socket | ServerHttp2Stream, queue: SendQueue): void {
    if (this.rate.bytesPerSecond === 0) return;
    this.measured.set(watched, { queue, window: undefined, sentBytes: 0, hadPending: false });
    this.startTimer();
    watched.once('close', () => this.forget(watched));
  }

  private startTimer(): void {
    this.timer ??= setInterval(() => this.sample(), this.intervalMs);
  }

  private sample(): void {
    for (const measured of [...this.measured.values()]) {
      const { queue, hadPending } = measured;
      measured.hadPending = queue.pendingBytes > 0;
      if (!measured.hadPending) continue;
      const previousBytes = measured.sentBytes;
      measured.sentBytes = queue.sentBytes;
      if (!hadPending) continue;
      measured.window ??= new RateWindow(this.rate);
      if (measured.window.isTooSlow(this.intervalMs, Math.max(0, measured.sentBytes - previousBytes))) queue.end();
    }
  }
}

interface WriteHandle {
  /** All bytes passed to the handle. */
  readonly bytesWritten: number;
  /** The part of them that the operating system has not accepted. */
  readonly writeQueueSize: number;
}

/** The socket's own counters would miss the bytes of an HTTP/2 session, which writes to the handle directly. */
export function writeHandleOf(socket: Socket): WriteHandle {
  const { _handle: handle } = socket as Socket & { readonly _handle?: Partial<WriteHandle> | null };
  return { bytesWritten: handle?.bytesWritten ?? 0, writeQueueSize: handle?.writeQueueSize ?? 0 };
}

/** Counts the bytes of a stream that its session has sent; a closed window keeps them waiting. */
function countSent(stream: ServerHttp2Stream): { readonly bytes: number } {
  const sent = { bytes: 0 };
  const countWhenDone = (bytes: number, done: WriteDone): WriteDone => {
    return (error) => {
      if (!error) sent.bytes += bytes;
      done(error);
    };
  };
  const write = stream._write.bind(stream);
  stream._write = (chunk: Buffer, encoding, done) => write(chunk, encoding, countWhenDone(chunk.length, done));
  const writev = stream._writev?.bind(stream);
  if (writev)
    stream._writev = (chunks, done) =>
      writev(
        chunks,
        countWhenDone(
          chunks.reduce((sum, { chunk }) => sum + (chunk as Buffer).length, 0),
          done,
        ),
      );
  return sent;
}
