import { Readable } from 'node:stream';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import { type Origin, type OriginAnswer, type OriginRequest, Unanswered } from '../../src/delivery/origin.js';
import { Fault } from '../../src/model/fault.js';
import type { Guarantee } from '../../src/model/route.js';
import { newestUnknownOutcome } from '../../src/model/upload.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { bodyOf, DeliveryHarness } from './delivery-harness.js';
import { until } from './temporary.js';

/** What happens at one call of a store's verb: it fails, or the process dies, before or after it took effect. */
export const EDGES = ['well', 'fails before', 'fails after', 'dies before', 'dies after'] as const;
export type Edge = (typeof EDGES)[number];

/** What an origin does with one request. */
export const ORIGIN_ACTS = [
  'answers',
  'refuses',
  'is not there',
  'breaks off in the body',
  'takes all and breaks off',
  'breaks off its answer',
  'takes all and the proxy dies',
] as const;
export type OriginAct = (typeof ORIGIN_ACTS)[number];

export interface FaultPlan {
  readonly guarantee: Guarantee;
  /** Used up call by call; everything is well when there is none left. */
  readonly edges: readonly Edge[];
  readonly acts: readonly OriginAct[];
}

const VERBS = new Set([
  'claimDelivery',
  'beginAttempt',
  'endAttempt',
  'recordAnswer',
  'postpone',
  'giveUp',
  'recordClientInformed',
]);

/** Each start makes another: steps of a process that has died go on asking their own, and come to nothing. */
interface Process {
  alive: boolean;
}

/** A delivery whose store, origin and process fail as planned, and what came of it. */
export class FaultyDelivery implements Origin {
  /** Whole bodies the origin may have acted on: it got them and did not refuse. */
  accepted = 0;
  requests = 0;
  /** Of how many of them somebody knew what they asked for: the client was told, or it was the operator. */
  permitted = 0;
  recordingFailed = false;
  readonly answersSeen: string[] = [];
  private readonly edges: Edge[];
  private readonly acts: OriginAct[];
  private process: Process = { alive: true };
  private harness: DeliveryHarness | undefined;
  private id = '';
  /** The newest attempt of which its client was told that the outcome is unknown. */
  private heardOf: number | undefined;

  private constructor(plan: FaultPlan) {
    this.edges = [...plan.edges];
    this.acts = [...plan.acts];
  }

  static async open(plan: FaultPlan): Promise<FaultyDelivery> {
    const faulty = new FaultyDelivery(plan);
    faulty.harness = await DeliveryHarness.open('http://origin.example', {
      rules: { guarantee: plan.guarantee, waitMs: 60, breaker: { failures: 3, pauseMs: 5 } },
      retry: { maxAttempts: 3, firstDelayMs: 1, longestDelayMs: 2, whileWaitingMs: 60, inBackgroundMs: 60_000 },
      delivery: { origin: faulty, claimMs: 25, pollMs: 5 },
      storeSeenAs: (store) => faulty.seenBy(faulty.process, store),
    });
    faulty.id = (await faulty.harness.whole({ body: 'hello' })).id;
    faulty.harness.delivery.start();
    return faulty;
  }

  async end(): Promise<void> {
    await this.harness!.close();
  }

  /** As an origin. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  /** From now on nothing goes wrong. */
  heal(): void {
    this.edges.length = 0;
    this.acts.length = 0;
  }

  /** A client asks, and says what it got; undefined when it left or lost its connection. */
  async ask(leaves = false): Promise<string | undefined> {
    await this.reviveIfDead();
    const { attempts } = await this.harness!.upload(this.id);
    // Only a client that has heard of the newest attempt knows what it asks for.
    if (attempts.at(-1) && attempts.at(-1)!.number === this.heardOf) this.permitted++;
    const { process } = this;
    const { delivery } = this.harness!;
    const client = new AbortController();
    if (leaves) setImmediate(() => client.abort(new Error('left')));
    try {
      const result = await delivery.result(this.id, { signal: client.signal });
      const text = result.kind === 'answered' ? (await bodyOf(result.answer)).toString() : undefined;
      // What a dead process says is heard by nobody.
      if (!process.alive) return undefined;
      const end = result.kind === 'undelivered' ? newestUnknownOutcome(result.upload) : undefined;
      this.heardOf = end?.attempt ?? this.heardOf;
      if (end) await delivery.recordClientInformed(end);
      return this.hear(result, text);
    } catch {
      return undefined;
    }
  }

  async redeliver(): Promise<void> {
    await this.reviveIfDead();
    const said = await this.harness!.delivery.redeliver(this.id).catch(() => 'lost');
    if (said === 'begun') this.permitted++;
  }

  /** `kill -9`, and a new process. */
  async restart(): Promise<void> {
    this.process.alive = false;
    this.process = { alive: true };
    await this.harness!.restart();
    this.harness!.delivery.start();
  }

  async phase(): Promise<string> {
    return (await this.harness!.upload(this.id)).phase;
  }

  /** Waits until the delivery has come to an end by itself. */
  async settled(): Promise<string> {
    return until(
      async () => {
        await this.reviveIfDead();
        const phase = await this.phase();
        return (phase === 'answered' || phase === 'undelivered') && phase;
      },
      () => 'an end of the delivery',
    );
  }

  async send({ content }: OriginRequest): Promise<OriginAnswer> {
    const { process } = this;
    if (!process.alive) throw new Unanswered('never-sent', 'dead', undefined);
    const act = this.acts.shift() ?? 'answers';
    if (act === 'is not there') return this.breakOff(content.body, 'never-sent');
    const number = ++this.requests;
    if (act === 'breaks off in the body') return this.breakOff(content.body, 'sent');
    await content.body!.toArray();
    if (act === 'refuses') return answerOf(503, Readable.from([Buffer.from('not now')]));
    this.accepted++;
    if (act === 'takes all and the proxy dies') process.alive = false;
    if (act !== 'answers' && act !== 'breaks off its answer') throw new Unanswered('sent', act, undefined);
    return answerOf(201, Readable.from(act === 'answers' ? [Buffer.from(`answer ${number}`)] : breaking()));
  }

  private breakOff(body: Readable | undefined, reached: 'never-sent' | 'sent'): Promise<never> {
    body?.destroy();
    return Promise.reject(new Unanswered(reached, 'as planned', undefined));
  }

  private hear(result: DeliveryResult, text: string | undefined): string {
    if (text !== undefined) this.answersSeen.push(text);
    return text ?? result.kind;
  }

  private async reviveIfDead(): Promise<void> {
    if (!this.process.alive) await this.restart();
  }

  private seenBy(process: Process, store: UploadStore): UploadStore {
    return new Proxy(store, {
      get: (target, name) => {
        const verb = Reflect.get(target, name) as unknown;
        if (typeof verb !== 'function') return verb;
        return async (...given: unknown[]): Promise<unknown> => {
          const take = (): Promise<unknown> => Promise.resolve(Reflect.apply(verb, target, given));
          return this.call(process, String(name), take);
        };
      },
    });
  }

  private async call(process: Process, verb: string, take: () => Promise<unknown>): Promise<unknown> {
    if (!process.alive) throw new Error('this process is dead');
    const edge = VERBS.has(verb) ? (this.edges.shift() ?? 'well') : 'well';
    const isRecording = verb === 'recordAnswer' || verb === 'endAttempt';
    if (isRecording && edge.startsWith('fails')) this.recordingFailed = true;
    if (edge === 'dies before') process.alive = false;
    if (edge.endsWith('before')) throw new Fault('STORAGE_UNAVAILABLE', edge, true);
    const result = await take();
    if (edge === 'dies after') process.alive = false;
    if (edge.endsWith('after')) throw new Fault('STORAGE_UNAVAILABLE', edge, true);
    return result;
  }
}

function answerOf(status: number, body: Readable): OriginAnswer {
  return { status, reason: '', headers: [], body, trailers: () => [] };
}

async function* breaking(): AsyncGenerator<Uint8Array> {
  yield Buffer.from('half an ans');
  await Promise.reject(new Error('broken off as planned'));
}
