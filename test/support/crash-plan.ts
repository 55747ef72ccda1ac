import { DIALECTS, type DialectName } from './resumable-client.js';
import { randomBytes, seededRandom, sha256 } from './temporary.js';

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
export type CrashEvent = 'bytes' | 'announced' | 'acknowledged' | 'last-byte' | 'at-origin' | 'answered' | 'spawned';

/** Kill when `event` has happened so many times since the proxy listens (`bytes`: so many bytes), and so much later. */
export interface Moment {
  readonly event: CrashEvent;
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
  private delayMs(event: CrashEvent): number {
    if (event === 'spawned') return this.below(600);
    return this.of([0, 0, this.below(5), this.below(30), this.below(300)]);
  }
}

const EVENTS: readonly CrashEvent[] = [
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
