import type { Http2Session } from 'node:http2';
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

export function lookEveryMs({ windowMs }: MinRate): number {
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
