import type { HeaderLine } from '../../src/model/headers.js';
import type { CampaignClient } from './campaign.js';
import { type DialectName, DIALECTS } from './resumable-client.js';
import { randomBytes, seededRandom, sha256 } from './temporary.js';
import { type OriginAnswer, type OriginRequest, startTestOrigin, type TestOrigin } from './test-origin.js';

/** One file and how its client sends it. */
export interface UploadPlan {
  readonly name: string;
  readonly dialect: DialectName;
  readonly method: 'POST' | 'PUT';
  /** Its route feeds the origin while the upload grows. */
  readonly isEager: boolean;
  readonly bytes: Buffer;
  readonly sha256: string;
  /** The creation carries so many bytes; all of them: it is the whole upload. */
  readonly firstPart: number;
  readonly pieceSize: number;
  /** Without Content-Length, in chunks. */
  readonly chunked: boolean;
  /** Tells the length at the creation. */
  readonly tellsLength: boolean;
  /** Between two writes: slow clients live through several commits. */
  readonly pauseMs: number;
  /** Completes with an empty append of its own. */
  readonly emptyEnd: boolean;
  /** How often it goes away without waiting for what it is told, and how often it goes on without asking for the offset. */
  readonly leaving: number;
  readonly hasty: number;
  /** Leaves a request that is not over by then, and tries another; stays to its end when not given. */
  readonly tryMs?: number;
  /** Cancels the upload after so many requests, if it is not over by then. */
  readonly patience: number;
  /** Digest fields (RFC 9530): of the whole at the creation, of each body, and the wish to be told that of what has arrived. */
  readonly reprDigest: boolean;
  readonly contentDigest: boolean;
  readonly wantsDigest: boolean;
  /** The origin's answer. */
  readonly status: number;
  readonly answerSize: number;
}

/** What the campaign can watch; a kill is aimed at one of them. */
export type CampaignEvent = 'bytes' | 'announced' | 'acknowledged' | 'last-byte' | 'at-origin' | 'answered' | 'spawned';

/** Kill when `event` has happened so many times since the proxy listens (`bytes`: so many bytes), and so much later. */
export interface Moment {
  readonly event: CampaignEvent;
  readonly count: number;
  readonly delayMs: number;
}

export type Sync = 'always' | 'group' | 'none';

const MEBIBYTE = 1024 * 1024;
const LARGEST = 40 * MEBIBYTE;
const STATUSES = [200, 200, 201, 204, 422, 500];

/** Everything that is left to chance in a campaign, the same for the same seed. */
export class Chance {
  private readonly random: () => number;
  private readonly pool = randomBytes(LARGEST + MEBIBYTE, 7);
  private uploads = 0;

  constructor(
    seed: number,
    private readonly options: { readonly largest?: number; readonly tryMs?: readonly number[] } = {},
  ) {
    this.random = seededRandom(seed);
  }

  upload(): UploadPlan {
    const size = this.size();
    const start = this.below(MEBIBYTE);
    const bytes = this.pool.subarray(start, start + size);
    return {
      name: `upload-${this.uploads++}`,
      dialect: this.of(DIALECTS),
      method: this.of(['POST', 'POST', 'PUT']),
      isEager: this.random() < 0.3,
      bytes,
      sha256: sha256(bytes),
      firstPart: this.of([0, this.below(size + 1), size, size]),
      pieceSize: this.of([size, size, Math.ceil(size / 3)]) || 1,
      chunked: this.random() < 0.3,
      tellsLength: this.random() < 0.5,
      pauseMs: this.of([0, 0, 0, 30]),
      emptyEnd: this.random() < 0.2,
      leaving: this.of([0, 0, 0.3]),
      hasty: this.of([0, 0.5]),
      ...(this.options.tryMs && { tryMs: this.of(this.options.tryMs) }),
      patience: this.random() < 0.1 ? 1 + this.below(3) : Infinity,
      reprDigest: this.random() < 0.3,
      contentDigest: this.random() < 0.2,
      wantsDigest: this.random() < 0.2,
      status: this.of(STATUSES),
      answerSize: this.of([0, 100, 100_000]),
    };
  }

  moment(): Moment {
    const event = this.of(EVENTS);
    const count = event === 'bytes' ? this.below(48 * MEBIBYTE) : 1 + this.below(3);
    return { event, count: event === 'spawned' ? 1 : count, delayMs: this.delayMs(event) };
  }

  sync(): Sync {
    return this.of(['group', 'group', 'always', 'none']);
  }

  happens(probability: number): boolean {
    return this.random() < probability;
  }

  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  of<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }

  private size(): number {
    const { largest = LARGEST } = this.options;
    return this.of([
      this.of([0, 1, 2, 1000]),
      this.below(Math.min(largest, MEBIBYTE)),
      this.below(Math.min(largest, 4 * MEBIBYTE)),
      this.below(Math.min(largest, 16 * MEBIBYTE)),
      this.below(largest),
    ]);
  }

  /** Right at the event as often as some time later: what follows it takes milliseconds. A start takes longer. */
  private delayMs(event: CampaignEvent): number {
    if (event === 'spawned') return this.below(600);
    return this.of([0, 0, this.below(5), this.below(30), this.below(300)]);
  }
}

const EVENTS: readonly CampaignEvent[] = [
  'bytes',
  'bytes',
  'announced',
  'acknowledged',
  'last-byte',
  'last-byte',
  'at-origin',
  'at-origin',
  'answered',
  'spawned',
];

/** Of a body or a representation, as a client sends it and expects it (RFC 9530). */
export function digestField(bytes: Uint8Array): string {
  return `sha-256=:${Buffer.from(sha256(bytes), 'hex').toString('base64')}:`;
}

/** What a client knows of the campaign around it. */
export interface CampaignContext {
  /** Grows with every kill, and with every look while anything is broken: what fails without is a fault of the proxy. */
  readonly disturbances: number;
  /** The proxy needs others, and may turn a client away, with `Retry-After`, while one of them is broken. */
  readonly hasParts: boolean;
  /** Where the proxy is, as soon as it listens; of many nodes any. */
  url(): Promise<string>;
  readonly chance: Chance;
  notice(event: CampaignEvent, count?: number): void;
}

/** One creation of an upload: a client that was never told a URL has to create again. */
export interface Creation {
  readonly marker: string;
  /** How often its client was told that nobody knows whether the origin has taken it: each permits one more request. */
  toldUnknown: number;
  /** How often it completed the upload and heard nothing: it may have been told into the void. */
  unheard: number;
}

/** An origin that answers each upload as its plan says, and knows at last what it should not have been sent. */
export class CampaignOrigin {
  readonly clients: CampaignClient[] = [];
  /** Asked before each answer: whether there is one. */
  isWell: () => boolean | Promise<boolean> = () => true;
  private readonly markers = new Map<string, CampaignClient>();
  private answers = 0;

  private constructor(private readonly origin: TestOrigin) {
    origin.answerWith((request) => this.answerTo(request));
  }

  static async start(): Promise<CampaignOrigin> {
    return new CampaignOrigin(await startTestOrigin());
  }

  get url(): string {
    return this.origin.url;
  }

  get requests(): number {
    return this.origin.requests.length;
  }

  /** From now on it knows this client's upload. */
  expect(client: CampaignClient): void {
    this.clients.push(client);
    this.markers.set(client.plan.name, client);
  }

  /** Whether this client's upload is on its way to it, or waits for its answer. */
  hasBefore({ creations }: CampaignClient): boolean {
    const marker = creations.at(-1)?.marker;
    return this.origin.requests.some((request) => !request.finished && request.header('X-Creation') === marker);
  }

  /** A second request for one POST is right only when its client knew that there might have been a first. */
  check(isKnown: (client: CampaignClient, creation: Creation) => number): void {
    for (const client of this.clients)
      for (const creation of client.creations) this.checkCreation(client, creation, isKnown(client, creation));
  }

  close(): Promise<void> {
    return this.origin.close();
  }

  private async answerTo(request: OriginRequest): Promise<OriginAnswer> {
    // Thousands of bodies would be too much to remember.
    request.body = Buffer.alloc(0);
    const isWell = await this.isWell();
    const marker = request.header('X-Creation') ?? '';
    const client = this.markers.get(marker.split('.')[0]!);
    if (!client) return { status: 500, body: 'no such upload' };
    if (!isWell) return { hangUp: true };
    const { status, answerSize } = client.plan;
    const headers: HeaderLine[] = [
      ['X-Got', `${marker} ${request.sha256}`],
      ['X-Serial', `${this.answers++}`],
    ];
    return { status, headers, body: Buffer.alloc(answerSize, marker) };
  }

  private checkCreation(client: CampaignClient, { marker }: Creation, repeats: number): void {
    const { plan } = client;
    const all = this.origin.requests.filter((request) => request.header('X-Creation') === marker);
    const whole = all.filter(({ ended }) => ended === 'whole');
    const wrong = whole.find((request) => request.sha256 !== plan.sha256 || request.method !== plan.method);
    if (wrong) throw new Error(`wrong bytes at the origin: ${marker} ${wrong.size}`);
    const keys = new Set(all.map((request) => request.header('Idempotency-Key')));
    if (keys.size > 1) throw new Error(`${marker} came under ${keys.size} keys`);
    if (plan.method === 'POST' && whole.length > 1 + repeats)
      throw client.broken(`${marker} was sent ${whole.length} times, its client permitted ${repeats} repetitions`);
  }
}

/** A moment that does not come is a fault of the campaign: uploads go on all the time. */
const DEADLINE_MS = 60_000;

/** Waits for the moment to kill. */
export class Trigger {
  private moment: Moment | undefined;
  private left = 0;
  private delay: NodeJS.Timeout | undefined;
  private deadline: NodeJS.Timeout | undefined;
  private pull: () => void = () => undefined;

  /** Kills at this moment. Fulfilled when it has come. */
  arm(moment: Moment, kill: () => void): Promise<void> {
    this.moment = moment;
    this.left = moment.count;
    return new Promise((resolve, reject) => {
      const late = (): void => reject(new Error(`the moment to kill never came: ${JSON.stringify(moment)}`));
      this.deadline = setTimeout(late, DEADLINE_MS);
      this.pull = () => {
        this.disarm();
        kill();
        resolve();
      };
    });
  }

  notice(event: CampaignEvent, count = 1): void {
    if (event !== this.moment?.event) return;
    this.left -= count;
    if (this.left > 0) return;
    const { delayMs } = this.moment;
    this.moment = undefined;
    if (delayMs === 0) this.pull();
    else this.delay = setTimeout(() => this.pull(), delayMs);
  }

  disarm(): void {
    this.moment = undefined;
    clearTimeout(this.delay);
    clearTimeout(this.deadline);
  }
}
