/** Why a holder is asked to give its lease back. */
export type GiveBack = 'taken-over' | 'draining' | 'lost';

/** The right to write one upload. */
export interface Lease {
  /** Larger than every token of this upload before it. */
  readonly token: number;
  /** Aborted, with a `GiveBack` as its reason, when the holder should commit what it has and release. */
  readonly signal: AbortSignal;
  /** Lets the next one in. May be called more than once. */
  release(): Promise<void>;
}

/** What it is wanted for. To look at an upload or to end it: given also where nothing that grows has room any more. */
export type LeasePurpose = 'to-write' | 'to-look' | 'to-end';

/**
 * At most one holder an upload is asked to write; the newest request wins. A holder that does not answer is passed
 * over after a grace time: what keeps it harmless is the store's fence, not this interface.
 */
export interface Leases {
  /** Asks the holder to give back, waits for it a moment, then takes over anyway. Those who wait come in order. */
  take(id: string, purpose?: LeasePurpose): Promise<Lease>;
  /** Asks every holder of this node to give back; who comes later gets a lease that is asked back at once. */
  drain(): void;
}
