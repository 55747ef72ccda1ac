import type { Chance } from './crash-plan.js';

/** How nodes keep their bytes. */
export const SPOOLS = ['shared', 'node-local'] as const;
export type SpoolKind = (typeof SPOOLS)[number];

const BLOWS = [
  'stop-node',
  'kill-node',
  'kill-redis',
  'stop-redis',
  'cut-network',
  'hang-network',
  'cut-clients',
] as const;
export type BlowKind = (typeof BLOWS)[number];

/** One thing that goes wrong, and is mended. */
export interface Blow {
  readonly kind: BlowKind;
  /** Which node it hits, or whose network; of Redis and the clients there is no choice. */
  readonly node: number;
  readonly forMs: number;
  /** Others may follow before it is mended. */
  readonly isLong: boolean;
  /** Quiet before the next one. */
  readonly thenMs: number;
}

/** How long each may last when it is short: some are over before anybody notices, some make commands fail. */
const LONGEST_MS: Readonly<Record<BlowKind, number>> = {
  'stop-node': 5000,
  'kill-node': 1000,
  'kill-redis': 2000,
  'stop-redis': 3000,
  'cut-network': 3000,
  'hang-network': 4000,
  'cut-clients': 0,
};

/** Leases and claims last 15 s: nobody may believe in one for longer. */
const LONG_MS = { least: 16_000, most: 30_000 };

/** Of node stops and broken networks. */
const LONG_SHARE = 0.2;

export interface BlowOptions {
  readonly nodes: number;
  /** Some outlast leases and claims. */
  readonly hasLongOnes: boolean;
}

/** What goes wrong next, the same for the same seed. Every kind has its turn before one comes again. */
export class BlowPlan {
  private bag: BlowKind[] = [];

  constructor(
    private readonly chance: Chance,
    private readonly options: BlowOptions,
  ) {}

  next(): Blow {
    const { chance, options } = this;
    const kind = this.draw();
    const canLast = kind === 'stop-node' || kind === 'cut-network' || kind === 'hang-network';
    const isLong = canLast && options.hasLongOnes && chance.happens(LONG_SHARE);
    return {
      kind,
      node: chance.below(options.nodes),
      isLong,
      forMs: isLong
        ? LONG_MS.least + chance.below(LONG_MS.most - LONG_MS.least)
        : chance.below(chance.of([LONGEST_MS[kind] / 5, LONGEST_MS[kind]])),
      thenMs: chance.of([0, chance.below(300), chance.below(1500)]),
    };
  }

  private draw(): BlowKind {
    if (this.bag.length === 0) this.bag = [...BLOWS];
    return this.bag.splice(this.chance.below(this.bag.length), 1)[0]!;
  }
}
