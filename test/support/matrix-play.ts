import { Server, type Socket } from 'node:net';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import type { Guarantee } from '../../src/model/route.js';
import type { Cell, Client } from './delivery-matrix.js';
import { bodyOf, DeliveryRoom, neverAborted } from './delivery-room.js';
import { made, UPLOAD_SIZE, type OriginFault } from './origin-faults.js';
import { RawOrigin } from './raw-origin.js';
import { serverPort } from './server-port.js';
import { randomBytes, until } from './temporary.js';

export interface Play {
  readonly fault: OriginFault;
  readonly guarantee: Guarantee;
  readonly method: string;
  readonly client: Client;
}

export interface Played extends Cell {
  /** Between the end of the first attempt and the second's beginning. */
  readonly pauseMs: number | undefined;
}

const BYTES = randomBytes(UPLOAD_SIZE, 3);
const FRESH = [['Authorization', 'Bearer fresh']] as const;

/** Plays one cell of the matrix, with an origin, a store and a spool of its own. */
export async function play(cell: Play): Promise<Played> {
  const stage = await MatrixStage.open(cell);
  try {
    const got = await stage.playClient();
    return await stage.seen(got);
  } finally {
    await stage.close();
  }
}

/**
 * The first connection is ended after something came over it, so that the request was certainly sent, and not before it may
 * be: until then the attempt is under way.
 */
class ClosingOnce extends Server {
  private closed = 0;

  constructor(private readonly released: Promise<void>) {
    super();
  }

  override emit(event: string, ...given: unknown[]): boolean {
    if (event !== 'connection' || this.closed++ > 0) return super.emit(event, ...given);
    const [socket] = given as [Socket];
    socket
      .on('error', () => undefined)
      .once('data', () => {
        socket.pause();
        void this.released.then(() => socket.destroy());
      });
    return true;
  }
}

class MatrixStage {
  private id = '';
  private listening: Promise<void> | undefined;

  private constructor(
    private readonly cell: Play,
    private readonly gate: { readonly released: Promise<void>; readonly release: () => void },
    private readonly port: number,
    private readonly server: Server,
    private readonly origin: RawOrigin,
    private readonly room: DeliveryRoom,
  ) {}

  static async open(cell: Play): Promise<MatrixStage> {
    const { fault, guarantee } = cell;
    // An origin that is not there yet comes to the port that was tried in vain: nobody else may take it meanwhile.
    const port = await serverPort();
    let release = (): void => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    const server = fault.before === 'closes' ? new ClosingOnce(released) : new Server();
    const origin = new RawOrigin(server, made);
    const room = await DeliveryRoom.open(`http://127.0.0.1:${port}`, {
      rules: { guarantee, timeoutMs: fault.stalls ? 1500 : 30_000 },
      retry: { maxAttempts: 1000, firstDelayMs: 10, longestDelayMs: 20, inBackgroundMs: 30_000 },
    });
    const stage = new MatrixStage(cell, { released, release }, port, server, origin, room);
    await stage.set();
    return stage;
  }

  async playClient(): Promise<string[]> {
    const { client } = this.cell;
    if (client === 'waiting') {
      this.letGo();
      return this.askUntilWhole();
    }
    await this.askAndLeave();
    if (client === 'back during') {
      const back = this.askUntilWhole();
      this.letGo();
      return back;
    }
    this.letGo();
    await this.isOver();
    return client === 'gone' ? [] : this.askUntilAnswered();
  }

  async seen(got: string[]): Promise<Played> {
    const { phase, attempts } = await this.isOver();
    const [first, second] = attempts;
    return {
      requests: this.origin.exchanges.length,
      whole: this.origin.exchanges.filter(({ body }) => body.endedCleanly).length,
      got,
      phase,
      pauseMs: second && second.startedAt - first!.endedAt!,
    };
  }

  async close(): Promise<void> {
    this.letGo();
    await this.room.close();
    await this.listening;
    await this.origin.close();
  }

  private async set(): Promise<void> {
    const { fault, method } = this.cell;
    this.origin.setScript((exchange) =>
      exchange.index === 0 && !fault.before ? fault.script(exchange, this.gate.released) : made(exchange),
    );
    if (fault.before !== 'refuses') await this.listen();
    this.id = (await this.room.whole({ body: BYTES, request: { method } })).id;
  }

  /** What went wrong may go on; an origin that was not there comes. */
  private letGo(): void {
    this.gate.release();
    void this.listen();
  }

  private listen(): Promise<void> {
    return (this.listening ??= new Promise((resolve) => this.server.listen(this.port, '127.0.0.1', resolve)));
  }

  private async askAndLeave(): Promise<void> {
    const client = new AbortController();
    const waiting = this.room.result(this.id, { to: client.signal }).catch(() => undefined);
    const { before } = this.cell.fault;
    if (before) await until(async () => (await this.room.upload(this.id)).attemptCount > 0, 'the first attempt');
    else await this.origin.exchange(0);
    client.abort(new Error('the client left'));
    await waiting;
  }

  /** Whoever sees an answer break off asks again. */
  private async askUntilWhole(): Promise<string[]> {
    const first = await this.ask();
    return first.startsWith('cut') ? [first, await this.ask()] : [first];
  }

  private async askUntilAnswered(): Promise<string[]> {
    const first = await this.ask();
    if (first === 'unknown') return [first, await this.ask()];
    return first === '401' ? [first, await this.ask(true)] : [first];
  }

  private async ask(hasCredentials = false): Promise<string> {
    const credentials = hasCredentials ? FRESH : [];
    return heard(await this.room.result(this.id, { credentials, to: neverAborted() }));
  }

  private isOver() {
    return until(
      async () => {
        const upload = await this.room.upload(this.id);
        return (upload.phase === 'answered' || upload.phase === 'undelivered') && upload;
      },
      `an end of the delivery: ${this.cell.fault.name}`,
      50_000,
    );
  }
}

/** In a word; whole answers only. */
async function heard(result: DeliveryResult): Promise<string> {
  switch (result.kind) {
    case 'answered':
    case 'parked': {
      const declared = result.answer.headers.find(([name]) => name === 'Content-Length')?.[1];
      const body = await bodyOf(result.answer).catch(() => undefined);
      return body?.length === Number(declared) ? String(result.answer.status) : `cut ${result.answer.status}`;
    }
    case 'undelivered':
      return result.failure.reason === 'outcome-unknown' ? 'unknown' : result.failure.reason;
    case 'pending':
    case 'answer-lost':
    case 'gone':
      return result.kind;
  }
}
