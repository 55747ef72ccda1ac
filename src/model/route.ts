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
  /** Most attempts while a client waits. */
  readonly maxAttempts: number;
  readonly firstDelayMs: number;
  readonly longestDelayMs: number;
  /**
   * Statuses of the origin that count as a failure to be repeated, not as its answer. Missing: what the guarantee permits,
   * and a gateway's 502 or 504 to a request that may not be repeated leaves its outcome unknown.
   */
  readonly retryOn?: readonly number[];
  /** A waiting client is told to come again when trying has taken this long. */
  readonly whileWaitingMs: number;
  /** Trying goes on without a client until this long after the upload was whole. */
  readonly inBackgroundMs: number;
}

/**
 * `at_most_once`: repeated only what provably never reached the origin, or what it refused itself with a status of
 * `retryOn`. `at_least_once`: repeated through anything, because the origin honours `Idempotency-Key` or the method is
 * idempotent.
 */
export type Guarantee = 'at_most_once' | 'at_least_once';

/** What the origin's request body is. */
export type Framing =
  | { readonly kind: 'raw' }
  /** multipart/form-data (RFC 7578): the representation as one file field among others. */
  | {
      readonly kind: 'multipart';
      /** Name of the file's field. */
      readonly field: string;
      /** Fields with fixed values, before the file. */
      readonly fields: readonly (readonly [name: string, value: string])[];
      /** Fields whose values are taken from headers of the creation. */
      readonly fieldsFromHeaders: readonly (readonly [name: string, header: string])[];
    };

/** Who has to agree before a whole upload is delivered. */
export type Gate =
  | { readonly kind: 'http'; readonly url: string; readonly timeoutMs: number }
  | { readonly kind: 'command'; readonly command: readonly string[]; readonly timeoutMs: number };

export interface DeliveryRules {
  /** `eager`: the origin's request starts with the upload and is fed as it grows. */
  readonly mode: 'spool' | 'eager';
  readonly eager: {
    /** A pause longer than this ends the eager request; the whole is delivered from the spool later. */
    readonly idleMs: number;
    /** What becomes of an upload whose length is not known: chunked at once, or delivered when it is whole. */
    readonly unknownLength: 'chunked' | 'wait';
  };
  /** Undefined: by the method, `at_least_once` for idempotent ones (RFC 9110 §9.2.2). */
  readonly guarantee?: Guarantee;
  /** The origin may be silent for this long, before and within its answer. */
  readonly timeoutMs: number;
  /** Head, interim responses and body of its answer take at most this long in all; missing: as long as they come. */
  readonly answerTimeoutMs?: number;
  /** Larger answer bodies are not taken; missing: any size is. */
  readonly maxAnswerSize?: number;
  /** A client is held open at most this long for the origin's answer. */
  readonly waitMs: number;
  /** `accepted`: a complete upload is answered with 202 and a status URL at once. */
  readonly respond: 'answer' | 'accepted';
  /** How long an answer is kept for a client that did not get it. */
  readonly keepAnswerMs: number;
  /** Answer bodies up to this many bytes are kept in the record, larger ones in the spool. */
  readonly keepAnswerSize: number;
  /** The origin gets the client's own `Host`; otherwise the origin's. */
  readonly preserveHost: boolean;
  /** Absolute references in its answers to the origin's own host lead clients to us. */
  readonly rewriteLocation: boolean;
  /** Method and target of the origin's request where they are not the creation's; a target may have `{placeholders}`. */
  readonly method?: string;
  readonly target?: string;
  readonly framing: Framing;
  readonly gate?: Gate;
  /** Most requests to this origin at a time; more wait in a fair queue. */
  readonly concurrency: number;
  /** After so many failures in a row the origin is left alone for a while. */
  readonly breaker: { readonly failures: number; readonly pauseMs: number };
  readonly retry: RetryRules;
  /** A creation that repeats a client's own `Idempotency-Key` is about the upload that the first one made. */
  readonly clientKeys?: boolean;
  /** Names, in lower case, of the fields by which clients say who they are; missing: `Authorization` and `Cookie`. */
  readonly credentials?: readonly string[];
  /** Statuses by which the origin asks for other credentials: the upload is kept for a client that brings them. */
  readonly parkOn: readonly number[];
}

/** Who is asked whether a request may come in, before a byte of its body is taken. */
export interface Authorize {
  readonly forwardAuth?: {
    readonly url: string;
    /** `all`: every request of the route is asked for. `uploads`: only those that begin an upload. */
    readonly scope: 'all' | 'uploads';
    readonly timeoutMs: number;
    /** Response headers of it that the origin's request gets, and that no client can say. */
    readonly copyHeaders: readonly string[];
    /** Response header of it that names the principal. */
    readonly principalHeader: string;
  };
  /** The origin itself is asked with the creation's head and `Expect: 100-continue`. */
  readonly preflight: boolean;
  /** Asked again before delivery (time of check, time of use). */
  readonly recheck: boolean;
}

/**
 * What becomes of a request body that is no upload. `spool`: it is taken into the spool, then gated, framed and delivered
 * like an upload that nobody can resume. `refuse`: its client is told to upload.
 */
export type PlainBodies = 'pass' | 'refuse' | 'spool';

/** Which origin a target has, and what holds for uploads to it. */
export interface Route {
  readonly name: string;
  /** Scheme, host and port, and a path that is put before every target; no trailing slash. */
  readonly origin: string;
  readonly resumable: boolean;
  readonly limits: Limits;
  readonly delivery: DeliveryRules;
  readonly authorize: Authorize;
  /** Ties an upload to its creator: by the values of these headers, or by the principal that `forwardAuth` named. */
  readonly bindTo: readonly string[] | 'principal';
  readonly plainBodies: PlainBodies;
  /**
   * Names of fields, in the form of `fieldKey`, that the authorization services of all routes speak by: the routes have
   * one application behind them, or several that believe each other. Missing: no route asks a service.
   */
  readonly reservedNames?: readonly string[];
  /** Client fields with `_` in their names go on to the origin; they are dropped when this is missing. */
  readonly passesUnderscores?: boolean;
  /** Fields by which a trusted proxy says that the request was for another target go on; dropped when this is missing. */
  readonly trustsOtherTargets?: boolean;
}

/** How many eager deliveries an origin has at a time: none where it takes one request only. */
export function maxEagerDeliveries({ concurrency }: Pick<DeliveryRules, 'concurrency'>): number {
  return Math.floor(concurrency / 2);
}

/** The origin's request is another one than the client's: passed on as it came, it would reach the wrong place or form. */
export function reshapesRequest({ framing, target, method }: DeliveryRules): boolean {
  return framing.kind !== 'raw' || target !== undefined || method !== undefined;
}

/** The form that this makes has fields besides the file, and the origin hears them from nobody but the route. */
export function addsFormFields(framing: Framing): boolean {
  return framing.kind === 'multipart' && framing.fields.length + framing.fieldsFromHeaders.length > 0;
}

/** Methods that bring something new. By any other a request is about what is there, and would mean something else. */
const RESHAPED_METHODS: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH']);

/** The route as it holds for requests of this method: those that are not reshaped reach the origin as they are. */
export function routeFor(method: string, route: Route): Route {
  if (RESHAPED_METHODS.has(method) || !reshapesRequest(route.delivery)) return route;
  const framing = { kind: 'raw' } as const;
  return { ...route, delivery: { ...route.delivery, framing, target: undefined, method: undefined } };
}

/** What becomes of ordinary bodies by this method. A gate sees them all; into the spool goes else only what is reshaped. */
export function plainBodiesFor(method: string, { plainBodies, delivery }: Route): PlainBodies {
  const passes = plainBodies === 'spool' && !RESHAPED_METHODS.has(method) && !delivery.gate;
  return passes ? 'pass' : plainBodies;
}

/** Whether a request that is too small to be resumed may be passed on as it came, and is still what the route promises. */
export function passesSmallUploads({ plainBodies, delivery, authorize }: Route): boolean {
  return plainBodies === 'pass' && !reshapesRequest(delivery) && !delivery.gate && !authorize.recheck;
}

/** What the route asks of others depends on the path: they must be told the very one that the origin gets. */
export function dependsOnPath({ authorize, delivery }: Route): boolean {
  return authorize.forwardAuth !== undefined || delivery.gate !== undefined || delivery.target !== undefined;
}

/** The route refuses or changes something: whoever reaches its origin by another route gets around that. */
export function isProtected(route: Route): boolean {
  const { limits, delivery, bindTo } = route;
  return (
    dependsOnPath(route) ||
    limits.maxSize !== undefined ||
    delivery.framing.kind !== 'raw' ||
    delivery.method !== undefined ||
    bindTo.length > 0
  );
}

/** The same for routes that protect alike. */
export function protectionKey({ authorize, bindTo, limits: { maxSize }, delivery }: Route): string {
  const { gate, framing, target, method } = delivery;
  return JSON.stringify([authorize, bindTo, maxSize, gate, framing, target, method]);
}

export interface Routes {
  /** The route of a request; every request has one, resumable or not. `path` is in its normal form. */
  find(method: string, path: string): Route;
  /** The route for a server that ignores the case of letters, where nobody has said that it matters. */
  findIgnoringCase(method: string, path: string): Route;
  /** Whether any route is protected: only then it matters how else a path could be read. */
  readonly hasProtected: boolean;
  /** Whether any method makes this path resumable: what discovery asks (RUFH §4.1.4, OPTIONS). */
  findResumable(path: string): Route | undefined;
  byName(name: string): Route | undefined;
  /** Every route, the one for everything else last. */
  readonly all: readonly Route[];
}
