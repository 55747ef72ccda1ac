import { Server, type Socket } from 'node:net';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import type { Guarantee } from '../../src/model/route.js';
import type { Upload } from '../../src/model/upload.js';
import { bodyOf, DeliveryHarness, neverAborted } from './delivery-harness.js';
import { type RawExchange, RawOrigin } from './raw-origin.js';
import { randomBytes, serverPort, until } from './temporary.js';

/** What the client does: stays, leaves for good, is back before the delivery has ended, or after. */
export const CLIENTS = ['waiting', 'gone', 'back during', 'back after'] as const;
export type Client = (typeof CLIENTS)[number];

/** What is stated of one cell, and what is seen in it. */
export interface Cell {
  /** Requests whose head the origin read, and how many of them it got whole. */
  readonly requests: number;
  readonly whole: number;
  /** What the client got, one entry each time it asked. */
  readonly got: readonly string[];
  readonly phase: Upload['phase'];
}

/** `outcome-unknown`: our 503 (or 502), "not complete", that says so. */
const UNKNOWN = 'unknown';

/** What has to happen: the table of the documentation, and what the test holds against every cell. */
export function expectedCell(course: Course, guarantee: Guarantee, client: Client): Cell {
  switch (course.is) {
    case 'answer':
      return answered(1, course.whole ? 1 : 0, client, String(course.status));
    case 'never-sent':
      return answered(1, 1, client, '201');
    case 'refused':
      return answered(2, 2, client, '201');
    case 'gateways':
      return guarantee === 'at_least_once' ? answered(2, 2, client, '201') : unknown({ requests: 1, whole: 1 }, client);
    case 'challenge':
      return challenged(client);
    case 'unknown': {
      const first = { requests: course.seen ? 1 : 0, whole: course.whole ? 1 : 0 };
      const cell =
        guarantee === 'at_least_once'
          ? answered(first.requests + 1, first.whole + 1, client, '201')
          : unknown(first, client);
      const sawBeginning = course.shown && (client === 'waiting' || client === 'back during');
      return sawBeginning ? { ...cell, got: ['cut 201', ...cell.got] } : cell;
    }
  }
}

function answered(requests: number, whole: number, client: Client, status: string): Cell {
  return { requests, whole, got: client === 'gone' ? [] : [status], phase: 'answered' };
}

/** Repeated only for a client that was told and asks again. */
function unknown(first: Pick<Cell, 'requests' | 'whole'>, client: Client): Cell {
  if (client !== 'back after') return { ...first, got: client === 'gone' ? [] : [UNKNOWN], phase: 'undelivered' };
  return { requests: first.requests + 1, whole: first.whole + 1, got: [UNKNOWN, '201'], phase: 'answered' };
}

/** Repeated only for a client that brings other credentials. */
function challenged(client: Client): Cell {
  if (client !== 'back after')
    return { requests: 1, whole: 0, got: client === 'gone' ? [] : ['401'], phase: 'undelivered' };
  return { requests: 2, whole: 1, got: ['401', '201'], phase: 'answered' };
}

const GUARANTEES: readonly Guarantee[] = ['at_most_once', 'at_least_once'];

/** The matrix as Markdown, without the lines that are the same under both guarantees twice. */
export function matrixTable(faults: readonly OriginFault[]): string {
  const lines = faults.flatMap((fault) => {
    const [once, often] = GUARANTEES.map((guarantee) => rowOf(fault.course, guarantee));
    if (once === often) return [`| ${fault.name} | any | ${once} |`];
    return [`| ${fault.name} | at most once | ${once} |`, `| | at least once | ${often} |`];
  });
  const heads = ['the origin’s first response', 'guarantee', ...CLIENTS.map((client) => `client ${client}`)];
  return [`| ${heads.join(' | ')} |`, `| ${heads.map(() => '---').join(' | ')} |`, ...lines].join('\n');
}

function rowOf(course: Course, guarantee: Guarantee): string {
  return CLIENTS.map((client) => textOf(expectedCell(course, guarantee, client))).join(' | ');
}

function textOf({ requests, whole, got, phase }: Cell): string {
  const said = got.length === 0 ? '–' : got.join(', then ');
  return `${said} · ${requests}/${whole} · ${phase}`;
}

export interface MatrixCase {
  readonly fault: OriginFault;
  readonly guarantee: Guarantee;
  readonly method: string;
  readonly client: Client;
}

export interface MatrixResult extends Cell {
  /** Between the end of the first attempt and the second's beginning. */
  readonly pauseMs: number | undefined;
}

/** Bytes of the upload; half of it is more than anybody reads ahead. */
const UPLOAD_SIZE = 1024 * 1024;
const BYTES = randomBytes(UPLOAD_SIZE, 3);
const FRESH = [['Authorization', 'Bearer fresh']] as const;

/** Plays one cell of the matrix, with an origin, a store and a spool of its own. */
export async function runCase(cell: MatrixCase): Promise<MatrixResult> {
  const run = await MatrixRun.open(cell);
  try {
    const got = await run.playClient();
    return await run.seen(got);
  } finally {
    await run.close();
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

class MatrixRun {
  private id = '';
  private listening: Promise<void> | undefined;

  private constructor(
    private readonly cell: MatrixCase,
    private readonly gate: { readonly released: Promise<void>; readonly release: () => void },
    private readonly port: number,
    private readonly server: Server,
    private readonly origin: RawOrigin,
    private readonly harness: DeliveryHarness,
  ) {}

  static async open(cell: MatrixCase): Promise<MatrixRun> {
    const { fault, guarantee } = cell;
    // An origin that is not there yet comes to the port that was tried in vain: nobody else may take it meanwhile.
    const port = await serverPort();
    let release = (): void => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    const server = fault.before === 'closes' ? new ClosingOnce(released) : new Server();
    const origin = new RawOrigin(server, made);
    const harness = await DeliveryHarness.open(`http://127.0.0.1:${port}`, {
      rules: { guarantee, timeoutMs: fault.stalls ? 1500 : 30_000 },
      retry: { maxAttempts: 1000, firstDelayMs: 10, longestDelayMs: 20, inBackgroundMs: 30_000 },
    });
    const run = new MatrixRun(cell, { released, release }, port, server, origin, harness);
    await run.set();
    return run;
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

  async seen(got: string[]): Promise<MatrixResult> {
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
    await this.harness.close();
    await this.listening;
    await this.origin.close();
  }

  private async set(): Promise<void> {
    const { fault, method } = this.cell;
    this.origin.setScript((exchange) =>
      exchange.index === 0 && !fault.before ? fault.script(exchange, this.gate.released) : made(exchange),
    );
    if (fault.before !== 'refuses') await this.listen();
    this.id = (await this.harness.whole({ body: BYTES, request: { method } })).id;
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
    const waiting = this.harness.result(this.id, { to: client.signal }).catch(() => undefined);
    const { before } = this.cell.fault;
    if (before) await until(async () => (await this.harness.upload(this.id)).attemptCount > 0, 'the first attempt');
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
    return heard(await this.harness.result(this.id, { credentials, to: neverAborted() }));
  }

  private isOver() {
    return until(
      async () => {
        const upload = await this.harness.upload(this.id);
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

/** What becomes of a delivery whose first attempt met a fault; the origin is well from then on. */
export type Course =
  /** The origin's answer, whatever its status, is the answer. */
  | { readonly is: 'answer'; readonly status: number; readonly whole: boolean }
  /** Nothing reached the origin: tried again under any guarantee. */
  | { readonly is: 'never-sent' }
  /** The origin said "not now": tried again under any guarantee. */
  | { readonly is: 'refused'; readonly afterMs: number }
  /** A gateway before the origin lost sight of it: nobody knows what it did, and the guarantee decides. */
  | { readonly is: 'gateways'; readonly afterMs: number }
  /**
   * Nobody knows what the origin did: the guarantee decides. `seen`: it read the request's head. `shown`: its answer had
   * been under way for so long that clients were shown the beginning of it.
   */
  | { readonly is: 'unknown'; readonly seen: boolean; readonly whole: boolean; readonly shown?: true }
  /** The origin wants other credentials: parked. */
  | { readonly is: 'challenge' };

export interface OriginFault {
  readonly name: string;
  readonly course: Course;
  /** Only the proxy's patience ends it. */
  readonly stalls?: true;
  /** It costs so much that each guarantee is tried with one method only. */
  readonly isCostly?: true;
  /** The origin is not even there, or ends the connection before it reads. */
  readonly before?: 'refuses' | 'closes';
  /** How the first request is played. `released`: until then the attempt is under way, and no client has its answer. */
  readonly script: (exchange: RawExchange, released: Promise<void>) => Promise<void>;
}

const HALF = UPLOAD_SIZE / 2;
const LARGE_ANSWER_MEBIBYTES = 100;

export async function made(exchange: RawExchange): Promise<void> {
  await exchange.readBody();
  await exchange.respond({ status: 201, body: 'made' });
}

/** Reads the whole body before anything goes wrong. */
function afterBody(play: (exchange: RawExchange) => Promise<void> | void): OriginFault['script'] {
  return async (exchange, released) => {
    await exchange.readBody();
    await released;
    await play(exchange);
  };
}

/** Reads half of the body before anything goes wrong. */
function withinBody(play: (exchange: RawExchange) => Promise<void> | void): OriginFault['script'] {
  return async (exchange, released) => {
    await exchange.readBytes(HALF);
    await released;
    await play(exchange);
  };
}

function early(status: number): OriginFault['script'] {
  return withinBody(async (exchange) => {
    await exchange.respond({ status, headers: [['Connection', 'close']], body: 'no' });
    exchange.socket.destroy();
  });
}

function status(code: number, retryAfter: boolean): OriginFault {
  const headers = retryAfter ? [['Retry-After', '1'] as const] : [];
  const afterMs = retryAfter ? 1000 : 0;
  const isOrigins = code === 503 || (code === 429 && retryAfter);
  const isGateways = code === 502 || code === 504;
  return {
    name: `answers ${code}${retryAfter ? ' with `Retry-After: 1`' : ''}`,
    course:
      isOrigins || isGateways
        ? { is: isOrigins ? 'refused' : 'gateways', afterMs }
        : { is: 'answer', status: code, whole: true },
    script: afterBody((exchange) => exchange.respond({ status: code, headers, body: 'no' })),
  };
}

async function largeAnswer(exchange: RawExchange): Promise<void> {
  const piece = Buffer.alloc(1024 * 1024, 'x');
  await exchange.write(`HTTP/1.1 200 OK\r\nContent-Length: ${LARGE_ANSWER_MEBIBYTES * piece.length}\r\n\r\n`);
  for (let count = 0; count < LARGE_ANSWER_MEBIBYTES; count++) await exchange.write(piece);
}

/** Slower than what is held back until it is recorded, but never silent for long. */
async function slowAnswer(exchange: RawExchange): Promise<void> {
  await exchange.write('HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n');
  for (const letter of 'so slow.') {
    await new Promise((resolve) => setTimeout(resolve, 90));
    await exchange.write(letter);
  }
}

/** Everything an origin can do wrong, and some things it does right in an unusual way. */
export function originFaults(): OriginFault[] {
  const statuses = [408, 429, 500, 502, 503, 504];
  return [
    { name: 'refuses the connection', before: 'refuses', course: { is: 'never-sent' }, script: made },
    {
      name: 'accepts and closes',
      before: 'closes',
      course: { is: 'unknown', seen: false, whole: false },
      script: made,
    },
    {
      name: 'resets after the headers',
      course: { is: 'unknown', seen: true, whole: false },
      script: async (exchange, released) => {
        await released;
        exchange.reset();
      },
    },
    {
      name: 'resets after half the body',
      course: { is: 'unknown', seen: true, whole: false },
      script: withinBody((exchange) => exchange.reset()),
    },
    {
      name: 'stalls before its answer',
      stalls: true,
      course: { is: 'unknown', seen: true, whole: true },
      script: afterBody(() => undefined),
    },
    {
      name: 'stalls in its answer',
      stalls: true,
      course: { is: 'unknown', seen: true, whole: true, shown: true },
      script: afterBody((exchange) => exchange.write('HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nhalf')),
    },
    {
      name: 'cuts its answer',
      course: { is: 'unknown', seen: true, whole: true },
      script: afterBody(async (exchange) => {
        await exchange.write('HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nhalf');
        exchange.end();
      }),
    },
    {
      name: 'answers with garbage',
      course: { is: 'unknown', seen: true, whole: true },
      script: afterBody((exchange) => exchange.write('this is no HTTP at all\r\n\r\n')),
    },
    {
      name: 'answers and closes',
      course: { is: 'answer', status: 200, whole: true },
      script: afterBody(async (exchange) => {
        await exchange.respond({ status: 200, headers: [['Connection', 'close']], body: 'made' });
        exchange.end();
      }),
    },
    { name: 'answers slowly', course: { is: 'answer', status: 200, whole: true }, script: afterBody(slowAnswer) },
    {
      name: 'answers 100 MB',
      isCostly: true,
      course: { is: 'answer', status: 200, whole: true },
      script: afterBody(largeAnswer),
    },
    { name: 'refuses early with 413', course: { is: 'answer', status: 413, whole: false }, script: early(413) },
    { name: 'refuses early with 401', course: { is: 'challenge' }, script: early(401) },
    ...statuses.flatMap((code) => [status(code, false), status(code, true)]),
  ];
}
