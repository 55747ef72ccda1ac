import type { Bench } from './workbench.js';

/** One thing that every run of a contestant is measured by. */
export interface Figure {
  readonly key: string;
  /** With its unit. */
  readonly label: string;
  readonly digits: number;
  /** Less is better otherwise. */
  readonly isMoreBetter?: boolean;
}

/** What a figure of ours has to reach: a number, or a multiple of a peer's figure. Medians are compared. */
export interface Bar {
  readonly contestant: string;
  readonly figure: string;
  readonly is: 'at most' | 'at least';
  /** The limit itself where no peer is named, else the multiple of the peer's figure. */
  readonly value: number;
  readonly peer?: string;
}

/** The figures of one run, by their keys. */
export type Figures = Readonly<Record<string, number>>;

/** A server with its settings that takes part, ready to be measured; or the reason why it cannot be here. */
export type Contestant =
  { readonly name: string; readonly run: () => Promise<Figures> } | { readonly name: string; readonly missing: string };

/** Servers that do the same for the same client, side by side. */
export interface Contest {
  readonly name: string;
  readonly title: string;
  /** What is sent and what is measured; for the page of the results. */
  readonly method: string;
  readonly figures: readonly Figure[];
  readonly bars: readonly Bar[];
  /** Every run starts a process of its own, so that no round has to warm one up. */
  readonly isFresh?: boolean;
  /** Free memory that is made ready before every run, see `readyMemory`: at least what the servers write in a run. */
  readonly readyBytes?: (bench: Bench) => number;
  /** Starts the contestants; what they start is registered with the bench, which ends it. */
  readonly prepare: (bench: Bench) => Promise<readonly Contestant[]>;
}
