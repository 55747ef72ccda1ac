import type { Chance, CrashEvent } from './crash-plan.js';

/** What a client knows of the world around it. */
export interface CrashWorld {
  /** Grows with every kill, and with every look while anything is broken: what fails without is a fault of the proxy. */
  readonly disturbances: number;
  /** The proxy needs others, and may turn a client away, with `Retry-After`, while one of them is broken. */
  readonly hasParts: boolean;
  /** Where the proxy is, as soon as it listens; of many nodes any. */
  url(): Promise<string>;
  readonly chance: Chance;
  notice(event: CrashEvent, count?: number): void;
}

/** One creation of an upload: a client that was never told a URL has to create again. */
export interface Creation {
  readonly marker: string;
  /** How often its client was told that nobody knows whether the origin has taken it: each permits one more request. */
  toldUnknown: number;
  /** How often it completed the upload and heard nothing: it may have been told into the void. */
  unheard: number;
}
