import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { type Origin, type OriginRequest, Unanswered } from '../../src/delivery/origin.js';
import { Fault } from '../../src/model/fault.js';
import type { CreateIntent, InterimUpdate, Interrupted, Outcome } from '../../src/model/messages.js';
import { shownOffset } from '../../src/model/upload.js';
import type { UploadCall } from '../../src/uploads/answers.js';
import { REQUEST } from './delivery-harness.js';
import { type Machine, route, SHORT_ANSWER, streamOf } from './faulty-machine.js';
import { callOf, newId } from './upload-harness.js';

const TRIES = 8;
/** Checksums are kept for blocks of this size. */
const BLOCK = 512 * 1024;

/** How an upload comes: the ends of its parts. The first goes with the creation. */
const PLANS = {
  /** Its first chunk goes beyond the end of a block, and the chunks after it begin in the middle of one. */
  large: { bytes: Buffer.concat([randomBytes(64 * 1024), Buffer.alloc(BLOCK, 'large')]), ends: [BLOCK + 3, BLOCK + 9] },
  small: { bytes: Buffer.from('a small one, in one request'), ends: [] as number[] },
};
type Plan = keyof typeof PLANS;

/** Takes every request that is whole, and says so with a number of its own; to large ones it says little, and much to small ones. */
export class CountingOrigin implements Origin {
  readonly got: Record<Plan, number> = { large: 0, small: 0 };
  /** Bodies that are none of an upload. */
  readonly wrong: string[] = [];
  private readonly refused = new Set<Plan>();

  constructor(private readonly refusesFirst = false) {}

  async send({ content }: OriginRequest): ReturnType<Origin['send']> {
    const plan = content.size === PLANS.small.bytes.length ? 'small' : 'large';
    if (this.refusesFirst && !this.refused.has(plan)) {
      this.refused.add(plan);
      throw new Unanswered('never-sent', 'connection refused', undefined);
    }
    const pieces: Buffer[] = [];
    try {
      for await (const piece of content.body ?? []) pieces.push(piece as Buffer);
    } catch (error) {
      throw new Unanswered(pieces.length === 0 ? 'never-sent' : 'sent', 'the body broke off', error);
    }
    const bytes = Buffer.concat(pieces);
    if (!bytes.equals(PLANS[plan].bytes)) this.wrong.push(`${bytes.length} bytes`);
    const number = ++this.got[plan];
    const body = Readable.from([Buffer.from(answerOf(plan, number))]);
    return { status: 201, reason: 'Created', headers: [['X-Number', String(number)]], body, trailers: () => [] };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function answerOf(plan: Plan, number: number): string {
  const text = `this is answer ${number}`;
  return plan === 'small' ? text.padEnd(SHORT_ANSWER * 3, '.') : text;
}

/** The machine has died under its client. */
export class ConnectionLost extends Error {}

/** The connection ended although the machine lives: its client asks again. */
class Interruption extends Error {}

/** What was said does not agree with what was said before. */
export class CrossCheck extends Error {}

export interface Circumstances {
  /** A disk has failed: an answer may have lost its body. */
  readonly hasFailed: () => boolean;
  /** It goes on failing: an answer that is heard now may be one that cannot be recorded. */
  readonly isSick: () => boolean;
}

/** What one client was told, from the first process to the last; throws at the first word that contradicts another. */
export class FaithfulClient {
  private readonly uploads: readonly FaithfulUpload[];
  private readonly cancelled = new CancelledUpload();
  private node: string | undefined;

  constructor(circumstances: Circumstances) {
    this.uploads = (['large', 'small'] as const).map((plan) => new FaithfulUpload(plan, circumstances));
  }

  /** Some delivery's outcome was told as unknown. */
  get toldUnknown(): boolean {
    return this.uploads.some(({ toldUnknown }) => toldUnknown);
  }

  /** Brings both uploads to their answers and cancels another; asks again, as clients do, where a machine failed. */
  async work(machine: Machine): Promise<void> {
    this.noteNode(machine);
    await all([...this.uploads.map((upload) => upload.work(machine)), this.cancelled.work(machine)]);
  }

  /** As far as it comes before the last part of the large one. */
  async begin(machine: Machine): Promise<void> {
    this.noteNode(machine);
    await all([
      ...this.uploads.map((upload) => upload.work(machine, { untilLastPart: true })),
      this.cancelled.work(machine),
    ]);
  }

  /** Asks for what it knows, and says nothing new. */
  async look(machine: Machine): Promise<void> {
    this.noteNode(machine);
    await all([...this.uploads.map((upload) => upload.look(machine)), this.cancelled.look(machine)]);
  }

  /** What the origin may have got of it. */
  assertRight(origin: CountingOrigin): void {
    if (origin.wrong.length > 0) throw new CrossCheck(`the origin got ${origin.wrong.join()} that are wrong`);
    for (const { plan, toldUnknown } of this.uploads) {
      if (origin.got[plan] > 1) throw new CrossCheck(`the origin got the ${plan} one ${origin.got[plan]} times`);
      if (origin.got[plan] === 0 && !toldUnknown) throw new CrossCheck(`the origin never got the ${plan} one`);
    }
  }

  private noteNode({ node }: Machine): void {
    this.node ??= node;
    if (this.node !== node) throw new CrossCheck('the node has another name');
  }
}

/** Fulfilled when all are; else all have ended before the first failure is told, a contradiction rather than another. */
async function all(tasks: readonly Promise<void>[]): Promise<void> {
  const ends = await Promise.allSettled(tasks);
  const failures = ends.flatMap((end): Error[] => (end.status === 'rejected' ? [end.reason as Error] : []));
  const [worst] = failures.toSorted((one, other) => weightOf(other) - weightOf(one));
  if (worst) throw worst;
}

function weightOf(error: Error): number {
  return error instanceof CrossCheck ? 1 : 0;
}

async function again(task: () => Promise<void>): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      return await task();
    } catch (error) {
      const isPassing = error instanceof Fault || error instanceof Interruption;
      if (!isPassing || tries === TRIES) throw error;
    }
  }
}

class FaithfulUpload {
  toldUnknown = false;
  private id: string | undefined;
  private shown = 0;
  private answer: string | undefined;
  private answerIsCertain = false;
  private readonly bytes: Buffer;

  constructor(
    readonly plan: Plan,
    private readonly circumstances: Circumstances,
  ) {
    this.bytes = PLANS[plan].bytes;
  }

  async work(machine: Machine, { untilLastPart = false } = {}): Promise<void> {
    const until = untilLastPart ? PLANS[this.plan].ends.at(-1) : undefined;
    await again(() => this.upload(machine, until));
  }

  async look(machine: Machine): Promise<void> {
    await again(async () => {
      if (this.id !== undefined) await this.retrieve(machine, this.id);
      if (this.answer !== undefined) await this.send(machine, this.bytes.length);
    });
  }

  private async upload(machine: Machine, until = Infinity): Promise<void> {
    for (let rounds = 0; rounds < 50; rounds++) {
      if (this.id === undefined) await this.create(machine);
      else if (this.toldUnknown) return;
      else if (this.answer !== undefined) return await this.send(machine, this.bytes.length);
      else if ((await this.retrieve(machine, this.id)) >= until) return;
      else await this.send(machine, this.shown);
    }
    throw new CrossCheck('the upload does not come to its end');
  }

  private async create(machine: Machine): Promise<void> {
    const end = this.endOf(0);
    const tell = (news: InterimUpdate): boolean => {
      if (machine.isGone) return false;
      if (news.kind === 'resumable') this.id = news.upload.id;
      else this.show(news.offset);
      return true;
    };
    const intent = { ...CREATION, complete: end === this.bytes.length };
    const call = requestOf(this.bytes.subarray(0, end), tell);
    const outcome = await hear(machine, machine.uploads.create(intent, route, { id: newId(), request: REQUEST }, call));
    // Without a client's key it is never elsewhere.
    if (outcome.kind === 'elsewhere') throw new CrossCheck('a creation is elsewhere');
    if ('upload' in outcome) this.id = outcome.upload.id;
    await this.understand(machine, outcome);
  }

  private async retrieve(machine: Machine, id: string): Promise<number> {
    const outcome = await hear(machine, machine.uploads.retrieve({ kind: 'retrieve', id }));
    if (outcome.kind !== 'retrieved') throw unexpected(outcome);
    this.show(shownOffset(outcome.upload));
    return shownOffset(outcome.upload);
  }

  /** The next part; nothing, to hear the answer, when there is nothing more. */
  private async send(machine: Machine, offset: number): Promise<void> {
    const end = this.endOf(offset);
    const complete = end === this.bytes.length;
    const intent = { kind: 'append', id: this.id!, offset, complete, contentDigests: [], reprDigests: [] } as const;
    const tell = (news: InterimUpdate): boolean => {
      if (machine.isGone) return false;
      if (news.kind === 'progress') this.show(news.offset);
      return true;
    };
    const call = requestOf(this.bytes.subarray(offset, end), tell);
    await this.understand(machine, await hear(machine, machine.uploads.append(intent, call)));
  }

  private endOf(offset: number): number {
    return PLANS[this.plan].ends.find((end) => end > offset) ?? this.bytes.length;
  }

  private async understand(machine: Machine, outcome: Outcome | Interrupted): Promise<void> {
    if (outcome.kind === 'created' || outcome.kind === 'appended') this.show(shownOffset(outcome.upload));
    else if (outcome.kind === 'answered') await this.take(machine, outcome);
    else if (outcome.kind === 'interrupted') throw new Interruption(outcome.reason);
    else if (outcome.kind === 'undelivered' && outcome.failure.reason === 'outcome-unknown') this.hearUnknown();
    else if (outcome.kind !== 'pending' && outcome.kind !== 'undelivered') throw unexpected(outcome);
  }

  private async take(machine: Machine, { answer, upload }: Outcome & { kind: 'answered' }): Promise<void> {
    const pieces: Uint8Array[] = [];
    const reading = (async () => {
      for await (const piece of answer.body) pieces.push(piece);
    })();
    await hear(machine, reading);
    const number = answer.headers.find(([name]) => name === 'X-Number')?.[1];
    const got = `${answer.status} ${number}`;
    if (this.answer !== undefined && this.answer !== got)
      throw new CrossCheck(`${got}, after ${this.answer} was given`);
    const body = Buffer.concat(pieces).toString();
    const isBare = this.circumstances.hasFailed() && body.includes('could not be kept');
    if (body !== answerOf(this.plan, Number(number)) && !isBare) throw new CrossCheck(`the answer's body is ${body}`);
    this.answer = got;
    this.answerIsCertain ||= !this.circumstances.isSick();
    this.show(shownOffset(upload));
  }

  private hearUnknown(): void {
    if (this.answerIsCertain) throw new CrossCheck(`an unknown outcome, after ${this.answer} was given`);
    this.answer = undefined;
    this.toldUnknown = true;
  }

  private show(offset: number): void {
    if (offset < this.shown) throw new CrossCheck(`offset ${offset}, after ${this.shown} was shown`);
    this.shown = offset;
  }
}

class CancelledUpload {
  private id: string | undefined;
  private isCancelled = false;

  async work(machine: Machine): Promise<void> {
    await again(async () => {
      if (this.id === undefined) await this.create(machine);
      if (this.isCancelled) return await this.expectCancelled(machine);
      const outcome = await hear(machine, machine.uploads.cancel({ kind: 'cancel', id: this.id! }));
      // It may have been done, although we were told of a failure.
      const isUnknown = outcome.kind === 'refused' && outcome.refusal.reason === 'unknown-upload';
      if (outcome.kind !== 'cancelled' && !isUnknown) throw unexpected(outcome);
      this.isCancelled = true;
      await this.expectCancelled(machine);
    });
  }

  async look(machine: Machine): Promise<void> {
    await again(() => this.expectCancelled(machine));
  }

  private async create(machine: Machine): Promise<void> {
    const tell = (news: InterimUpdate): boolean => {
      if (!machine.isGone && news.kind === 'resumable') this.id = news.upload.id;
      return !machine.isGone;
    };
    const creating = machine.uploads.create(
      CREATION,
      route,
      { id: newId(), request: REQUEST },
      requestOf(Buffer.from('never mind'), tell),
    );
    const outcome = await hear(machine, creating);
    if (outcome.kind !== 'created') throw unexpected(outcome as Outcome);
    this.id = outcome.upload.id;
  }

  private async expectCancelled(machine: Machine): Promise<void> {
    if (!this.isCancelled) return;
    const outcome = await hear(machine, machine.uploads.retrieve({ kind: 'retrieve', id: this.id! }));
    if (outcome.kind !== 'refused') throw new CrossCheck('an upload that was cancelled is there again');
  }
}

const CREATION: CreateIntent = {
  kind: 'create',
  dialect: 'final',
  complete: false,
  appendLimitsApply: false,
  contentDigests: [],
  reprDigests: [],
};

/** Everything that still comes from a process that is gone is lost. */
async function hear<T>(machine: Machine, told: Promise<T>): Promise<T> {
  return told.finally(() => {
    if (machine.isGone) throw new ConnectionLost();
  });
}

function requestOf(bytes: Buffer, sendInterim: (news: InterimUpdate) => boolean): UploadCall {
  return { ...callOf(streamOf(bytes), sendInterim), wantsProgress: () => true };
}

function unexpected(outcome: Outcome | Interrupted): Error {
  const why = outcome.kind === 'refused' ? outcome.refusal.reason : JSON.stringify(outcome);
  return new CrossCheck(`unexpected: ${outcome.kind} ${why}`);
}
