/** What an upload must keep to; announced in `Upload-Limit` (RUFH §4.1.4). Sizes in bytes. */
export interface Limits {
  readonly maxSize?: number;
  readonly minSize: number;
  readonly maxAppendSize?: number;
  readonly minAppendSize?: number;
  /** An upload that nothing was added to for this long is removed. */
  readonly maxAgeSeconds: number;
}

/** How failures on the way to the origin are repeated. */
export interface RetryRules {
  readonly maxAttempts: number;
  readonly firstDelayMs: number;
  readonly longestDelayMs: number;
  /** Statuses of the origin that count as a failure to be repeated, not as its answer. */
  readonly retryOn: readonly number[];
}

export interface DeliveryRules {
  /** The origin may be silent for this long, before and within its answer. */
  readonly timeoutMs: number;
  /** How long an answer is kept for a client that did not get it. */
  readonly keepAnswerMs: number;
  /** Answer bodies up to this many bytes are kept in the record, larger ones in the spool. */
  readonly keepAnswerSize: number;
  /** The origin honours `Idempotency-Key`: a request without an answer may be sent again whatever its method. */
  readonly idempotent: boolean;
  /** The origin gets the client's own `Host`; otherwise the origin's. */
  readonly preserveHost: boolean;
  readonly retry: RetryRules;
}

/** Which origin a target has, and what holds for uploads to it. */
export interface Route {
  readonly name: string;
  /** Scheme, host and port, and a path that is put before every target; no trailing slash. */
  readonly origin: string;
  readonly resumable: boolean;
  readonly limits: Limits;
  readonly delivery: DeliveryRules;
}

export interface Routes {
  /** The route of a request; every request has one, resumable or not. `path` has its dot segments resolved. */
  find(method: string, path: string): Route;
  /** Whether any method makes this path resumable: what discovery asks (RUFH §4.1.4, OPTIONS). */
  findResumable(path: string): Route | undefined;
  byName(name: string): Route | undefined;
}
