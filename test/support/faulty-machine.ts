import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { Delivery } from '../../src/delivery/delivery.js';
import { type Origin, type OriginRequest, Unanswered } from '../../src/delivery/origin.js';
import { Fault } from '../../src/model/fault.js';
import type { CreateIntent } from '../../src/model/intent.js';
import type { Interrupted, News, Outcome } from '../../src/model/outcome.js';
import type { Route } from '../../src/model/route.js';
import { shownOffset } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { LocalSpool } from '../../src/spool/local-spool.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import { EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { Body } from '../../src/uploads/body.js';
import { recover } from '../../src/uploads/recovery.js';
import { Sweep } from '../../src/uploads/sweep.js';
import { UnreadableBytes } from '../../src/uploads/unreadable-bytes.js';
import { type UploadCall, Uploads } from '../../src/uploads/uploads.js';
import { REQUEST, routeTo } from './delivery-room.js';
import type { MemoryDisk } from './memory-disk.js';

const HOUR = 3_600_000;
const BYTES = 'the first part and the second';
const PART = 15;

/** One for all machines, which are many: it is only written to. */
class SharedMetrics extends Metrics {
  override countQueuedDeliveries(): void {
    // A figure that is asked for can belong to one delivery only.
  }
}
const metrics = new SharedMetrics();

const route: Route = routeTo('http://origin.test', { retry: { firstDelayMs: 1, longestDelayMs: 2 } });
const routes = {
  find: () => route,
  findIgnoringCase: () => route,
  hasProtected: false,
  findResumable: () => route,
  byName: () => route,
  all: [route],
};

/** The origin takes every request that is whole, and says so with a number of its own. */
export class CountingOrigin implements Origin {
  readonly got: string[] = [];

  async send({ content }: OriginRequest): ReturnType<Origin['send']> {
    const pieces: Buffer[] = [];
    try {
      for await (const piece of content.body ?? []) pieces.push(piece as Buffer);
    } catch (error) {
      throw new Unanswered(pieces.length === 0 ? 'never-sent' : 'sent', 'the body broke off', error);
    }
    const number = this.got.push(Buffer.concat(pieces).toString());
    const body = Readable.from([Buffer.from(`this is answer ${number}`)]);
    return { status: 201, reason: 'Created', headers: [], body, trailers: () => [] };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** One process: the store, the spool, the receiving side and the delivery over a disk. */
export class Machine {
  private constructor(
    readonly uploads: Uploads,
    private readonly parts: { store: EmbeddedStore; spool: LocalSpool; delivery: Delivery; aheadMs: number },
  ) {}

  /** As a process starts; its clock, and the time that passed, are so far ahead. */
  static async boot(disk: MemoryDisk, origin: Origin, aheadMs = 0): Promise<Machine> {
    const directory = disk.path;
    const log = silentLog();
    const clock = (): number => Date.now() + aheadMs;
    const store = await EmbeddedStore.open({ directory, sync: 'group', log, clock });
    try {
      const spool = new LocalSpool({ directory, sync: 'group' });
      await spool.open();
      const leases = new EmbeddedLeases(store, { graceMs: 50 });
      const unreadable = new UnreadableBytes({ spool, log, clock });
      const giveUpLost = (id: string): Promise<void> => store.giveUpLost(id);
      await recover({ store, leases, spool, log, metrics, clock, unreadable, giveUpLost });
      const worker = randomBytes(8).toString('hex');
      const shared = { store, spool, log, metrics, clock };
      const random = (): number => 0.5;
      // A claim of a run that failed has to run out, which is to take no time here.
      const times = { claimMs: 300, pollMs: 5, stopGraceMs: 0 };
      const delivery = new Delivery({ ...shared, ...times, origin, routes, worker, random });
      const uploads = new Uploads({
        ...shared,
        leases,
        delivery,
        newId: () => randomBytes(24).toString('base64url'),
        newDeliveryKey: () => 'key',
        pace: { bytes: 1_000_000, everyMs: 1000 },
      });
      delivery.start();
      return new Machine(uploads, { store, spool, delivery, aheadMs });
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  async sweep(): Promise<void> {
    const { store, spool, aheadMs } = this.parts;
    const leases = new EmbeddedLeases(store);
    const clock = (): number => Date.now() + aheadMs;
    const log = silentLog();
    const shared = {
      store,
      spool,
      leases,
      metrics,
      log,
      clock,
      unreadable: new UnreadableBytes({ spool, log, clock }),
    };
    await new Sweep({ ...shared, everyMs: HOUR, orphanAgeMs: 0 }).sweep();
  }

  /** After a crash of its disk: has everything in it end. */
  async end(): Promise<void> {
    await this.parts.delivery.stop();
    await this.parts.store.close();
  }
}

class ConnectionLost extends Error {}

/** What one client was told, from the first process to the last; throws at the first word that contradicts another. */
export class FaithfulClient {
  private id: string | undefined;
  private shown = 0;
  private answer: string | undefined;
  private second: string | undefined;
  private secondIsCancelled = false;
  private session = {};
  toldUnknown = false;

  /** Everything that is still coming from the process before is lost. */
  hangUp(): void {
    this.session = {};
  }

  /** Brings the upload to its answer and cancels another; asks again, as clients do, where a machine failed. */
  async work(machine: Machine): Promise<void> {
    await this.again(() => this.upload(machine));
    if (this.answer === undefined && !this.toldUnknown) throw new Error('no answer');
    await this.again(() => this.cancelAnother(machine));
    if (!this.secondIsCancelled) throw new Error('not cancelled');
  }

  /** Asks for what it knows, and says nothing new. */
  async look(machine: Machine): Promise<void> {
    await this.again(async () => {
      if (this.id !== undefined) await this.retrieve(machine, this.id);
      if (this.answer !== undefined) await this.send(machine, this.shown);
      await this.expectCancelled(machine);
    });
  }

  private async again(task: () => Promise<void>): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        return await task();
      } catch (error) {
        if (!(error instanceof Fault) || tries === 8) throw error;
      }
    }
  }

  private async upload(machine: Machine): Promise<void> {
    for (let rounds = 0; rounds < 50; rounds++) {
      if (this.id === undefined) await this.create(machine, BYTES.slice(0, PART), (id) => (this.id = id));
      else if (this.toldUnknown) return;
      else if (this.answer === undefined) await this.send(machine, await this.retrieve(machine, this.id));
      else return await this.send(machine, this.shown);
    }
    throw new Error('the upload does not come to its end');
  }

  private async cancelAnother(machine: Machine): Promise<void> {
    if (this.second === undefined) await this.create(machine, 'never mind', (id) => (this.second = id));
    const { second } = this;
    if (second === undefined || this.secondIsCancelled) return this.expectCancelled(machine);
    const outcome = await this.hear(machine.uploads.cancel({ kind: 'cancel', id: second }));
    // It may have been done, although we were told of a failure.
    const isUnknown = outcome.kind === 'refused' && outcome.refusal.reason === 'unknown-upload';
    if (outcome.kind !== 'cancelled' && !isUnknown) throw unexpected(outcome);
    this.secondIsCancelled = true;
    await this.expectCancelled(machine);
  }

  private async expectCancelled(machine: Machine): Promise<void> {
    if (!this.secondIsCancelled) return;
    const outcome = await this.hear(machine.uploads.retrieve({ kind: 'retrieve', id: this.second! }));
    if (outcome.kind !== 'refused') throw new Error('an upload that was cancelled is there again');
  }

  private async create(machine: Machine, bytes: string, know: (id: string) => void): Promise<void> {
    const { session } = this;
    const tell = (news: News): boolean => {
      if (this.session !== session) return false;
      if (news.kind === 'resumable') know(news.upload.id);
      else if (news.upload.id === this.id) this.show(news.offset);
      return true;
    };
    const intent: CreateIntent = {
      kind: 'create',
      dialect: 'final',
      complete: false,
      appendLimitsApply: false,
      contentDigests: [],
      reprDigests: [],
    };
    const outcome = await this.hear(machine.uploads.create(intent, route, REQUEST, callOf(bytes, tell)));
    // Without a client's key it is never elsewhere.
    if (outcome.kind === 'elsewhere') throw new Error('a creation is elsewhere');
    if (outcome.kind !== 'created') throw unexpected(outcome);
    know(outcome.upload.id);
    if (outcome.upload.id === this.id) this.show(shownOffset(outcome.upload));
  }

  private async retrieve(machine: Machine, id: string): Promise<number> {
    const outcome = await this.hear(machine.uploads.retrieve({ kind: 'retrieve', id }));
    if (outcome.kind !== 'retrieved') throw unexpected(outcome);
    this.show(shownOffset(outcome.upload));
    return shownOffset(outcome.upload);
  }

  /** The next part; the last one again when there is nothing more. */
  private async send(machine: Machine, offset: number): Promise<void> {
    const start = Math.min(offset, BYTES.length - 1);
    const end = Math.min(start + PART, BYTES.length);
    const intent = {
      kind: 'append',
      id: this.id!,
      offset: offset === BYTES.length ? offset : start,
      complete: end === BYTES.length,
      contentDigests: [],
      reprDigests: [],
    } as const;
    const { session } = this;
    const tell = (news: News): boolean => {
      if (this.session !== session) return false;
      if (news.kind === 'progress') this.show(news.offset);
      return true;
    };
    const outcome = await this.hear(machine.uploads.append(intent, callOf(BYTES.slice(intent.offset, end), tell)));
    if (outcome.kind === 'appended') this.show(shownOffset(outcome.upload));
    else if (outcome.kind === 'answered') await this.take(outcome);
    else if (outcome.kind === 'undelivered' && outcome.why.reason === 'outcome-unknown') this.hearUnknown();
    else if (outcome.kind !== 'pending') throw unexpected(outcome);
  }

  private async take({ answer, upload }: Outcome & { kind: 'answered' }): Promise<void> {
    const pieces: Uint8Array[] = [];
    const reading = (async () => {
      for await (const piece of answer.body) pieces.push(piece);
    })();
    await this.hear(reading);
    const got = `${answer.status} ${Buffer.concat(pieces).toString()}`;
    if (this.answer !== undefined && this.answer !== got) throw new Error(`${got}, after ${this.answer} was given`);
    this.answer = got;
    this.show(shownOffset(upload));
  }

  private hearUnknown(): void {
    if (this.answer !== undefined) throw new Error(`an unknown outcome, after ${this.answer} was given`);
    this.toldUnknown = true;
  }

  private show(offset: number): void {
    if (offset < this.shown) throw new Error(`offset ${offset}, after ${this.shown} was shown`);
    this.shown = offset;
  }

  private async hear<T>(told: Promise<T>): Promise<T> {
    const { session } = this;
    const result = await told.finally(() => {
      if (this.session !== session) throw new ConnectionLost();
    });
    return result;
  }
}

/** The whole of what the origin may have got. */
export function assertRight(origin: CountingOrigin, client: FaithfulClient): void {
  if (origin.got.some((got) => got !== BYTES)) throw new Error(`the origin got ${JSON.stringify(origin.got)}`);
  if (origin.got.length > 1 && !client.toldUnknown) throw new Error('the origin got it twice');
  if (origin.got.length === 0 && !client.toldUnknown) throw new Error('the origin never got it');
}

export function isConnectionLost(error: unknown): boolean {
  return error instanceof ConnectionLost;
}

function callOf(bytes: string, tell: (news: News) => boolean): UploadCall {
  const body = new Body(Readable.from([Buffer.from(bytes)].filter(({ length }) => length > 0)), {
    idleMs: HOUR,
    onWanted: () => undefined,
  });
  return { body, tell, hears: () => true, credentials: [], left: new AbortController().signal };
}

function unexpected(outcome: Outcome | Interrupted): Error {
  const why = outcome.kind === 'refused' ? outcome.refusal.reason : JSON.stringify(outcome);
  return new Error(`unexpected: ${outcome.kind} ${why}`);
}
