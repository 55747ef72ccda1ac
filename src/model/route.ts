/** The limits of an upload, announced in `Upload-Limit` (RUFH §4.1.4). Sizes in bytes. */
export interface Limits {
  readonly maxSize?: number;
  readonly minSize: number;
  readonly maxAppendSize?: number;
  readonly minAppendSize?: number;
  /** An upload is removed when nothing was appended to it for this long. */
  readonly maxAgeSeconds: number;
  /** The same for an upload that has no bytes yet, if that is shorter; missing in records of older versions. */
  readonly maxEmptyAgeSeconds?: number;
}

/** The rules for retrying failed deliveries. */
export interface RetryRules {
  /** Maximum number of attempts while a client waits. */
  readonly maxAttempts: number;
  readonly firstDelayMs: number;
  readonly longestDelayMs: number;
  /**
   * Origin statuses that count as failures to retry, not as the answer. Missing: the statuses that the guarantee
   * allows, and a gateway's 502 or 504 leaves the outcome of a request that may not be repeated unknown.
   */
  readonly retryOn?: readonly number[];
  /** A waiting client is asked to return later when the attempts have taken this long. */
  readonly whileWaitingMs: number;
  /** Attempts without a waiting client end this long after the upload was complete. */
  readonly inBackgroundMs: number;
}

/**
 * `at_most_once`: a request is repeated only if it provably never reached the origin, or was refused with a status of
 * `retryOn`. `at_least_once`: it is repeated after any failure, because the origin honours `Idempotency-Key` or the
 * method is idempotent.
 */
export type Guarantee = 'at_most_once' | 'at_least_once';

/** The form of the origin's request body. */
export type Framing =
  | { readonly kind: 'raw' }
  /** multipart/form-data (RFC 7578): the representation as one file field among others. */
  | {
      readonly kind: 'multipart';
      /** Name of the file's field. */
      readonly field: string;
      /** Fields with fixed values, sent before the file. */
      readonly fields: readonly (readonly [name: string, value: string])[];
      /** Fields whose values come from headers of the creation request. */
      readonly fieldsFromHeaders: readonly (readonly [name: string, header: string])[];
      /** Fields whose values come from pairs of the creation's `Upload-Metadata`. */
      readonly fieldsFromMetadata: readonly (readonly [name: string, key: string])[];
    };

/** The service or command that must approve a complete upload before it is delivered. */
export type Gate =
  | { readonly kind: 'http'; readonly url: string; readonly timeoutMs: number }
  | { readonly kind: 'command'; readonly command: readonly string[]; readonly timeoutMs: number };

/** The rules for delivering a route's uploads to its origin. */
export interface DeliveryRules {
  /** `eager`: the origin's request begins with the upload and gets its bytes as they are committed. */
  readonly mode: 'spool' | 'eager';
  readonly eager: {
    /** A longer pause ends the eager request; the upload is delivered from the spool later. */
    readonly idleMs: number;
    /** An upload of unknown length is sent in chunks immediately, or delivered when it is complete. */
    readonly unknownLength: 'chunked' | 'wait';
  };
  /** Undefined: `at_least_once` for idempotent methods (RFC 9110 §9.2.2), else `at_most_once`. */
  readonly guarantee?: Guarantee;
  /** Maximum silence of the origin before and within its answer. */
  readonly timeoutMs: number;
  /** Maximum total time for interim responses, head and body of the answer; missing: no limit. */
  readonly answerTimeoutMs?: number;
  /** Maximum size of an answer body in bytes; missing: no limit. */
  readonly maxAnswerSize?: number;
  /** Maximum time that a client's connection waits for the origin's answer. */
  readonly waitMs: number;
  /** `accepted`: the response to a complete upload is 202 with a status URL, sent immediately. */
  readonly respond: 'answer' | 'accepted';
  /** Time that an answer is kept for a client that did not get it. */
  readonly keepAnswerMs: number;
  /** Answer bodies up to this many bytes are kept in the record, larger ones in the spool. */
  readonly keepAnswerSize: number;
  /** The origin gets the client's own `Host`; otherwise the origin's. */
  readonly preserveHost: boolean;
  /** Absolute references to the origin's host in its answers are rewritten to this proxy. */
  readonly rewriteLocation: boolean;
  /**
   * Method and target of the origin's request, if they differ from the creation's; a target may have `{placeholders}`.
   */
  readonly method?: string;
  readonly target?: string;
  readonly framing: Framing;
  readonly gate?: Gate;
  /** Maximum number of concurrent requests to this origin; more wait in a fair queue. */
  readonly concurrency: number;
  /** After this many failures in a row the origin gets no requests for `pauseMs`. */
  readonly breaker: { readonly failures: number; readonly pauseMs: number };
  readonly retry: RetryRules;
  /** A creation that repeats a client's `Idempotency-Key` refers to the upload of the first one. */
  readonly clientKeys?: boolean;
  /** Lower-case names of the fields that carry credentials; missing: `Authorization` and `Cookie`. */
  readonly credentials?: readonly string[];
  /** Statuses with which the origin asks for other credentials: the upload is kept for a client that has them. */
  readonly parkOn: readonly number[];
}

/** The checks that a request must pass before any byte of its body is read. */
export interface Authorize {
  /** An external authorization service. */
  readonly forwardAuth?: {
    readonly url: string;
    /** `all`: every request of the route is checked. `uploads`: only those that begin an upload. */
    readonly scope: 'all' | 'uploads';
    readonly timeoutMs: number;
    /** Headers of the service's response that are copied to the origin's request; clients cannot set them. */
    readonly copyHeaders: readonly string[];
    /** The header of the service's response that names the principal. */
    readonly principalHeader: string;
  };
  /** The origin itself is asked with the creation's head and `Expect: 100-continue`. */
  readonly preflight: boolean;
  /** The check is repeated before delivery (time of check, time of use). */
  readonly recheck: boolean;
}

/**
 * How request bodies that are not uploads are handled. `spool`: they are stored in the spool, then checked by the gate,
 * framed and delivered like uploads that cannot be resumed. `refuse`: the client gets 428.
 */
export type PlainBodies = 'pass' | 'refuse' | 'spool';

/** The web pages of other origins that may use a route's uploads from a browser (Fetch standard, CORS protocol). */
export interface CorsRules {
  /**
   * Origins as browsers send them. `*` within one stands for characters of one label of a host, or for any port;
   * `*` alone is every origin.
   */
  readonly allowOrigins: readonly string[];
  /** Pages may send cookies and credentials. */
  readonly allowCredentials: boolean;
  /** Time that a browser may cache the response to a preflight. */
  readonly maxAgeSeconds: number;
}

/** The upload protocols that a route may offer: the IETF's Resumable Uploads for HTTP, and tus 1.0.0. */
export type UploadProtocol = 'rufh' | 'tus';

/** The origin for a set of targets, and the rules for uploads to it. */
export interface Route {
  readonly name: string;
  /** Scheme, host and port, with a path to prepend to every target; no trailing slash. */
  readonly origin: string;
  readonly resumable: boolean;
  readonly limits: Limits;
  /** The uploads that the route may have at the same time, and the bytes that they may take; missing: no limit. */
  readonly capacity?: { readonly uploads?: number; readonly bytes?: number };
  readonly delivery: DeliveryRules;
  readonly authorize: Authorize;
  /** Binds an upload to its creator by the values of these headers, or by the principal from `forwardAuth`. */
  readonly bindTo: readonly string[] | 'principal';
  readonly plainBodies: PlainBodies;
  /** Missing: CORS is left to the origin. */
  readonly cors?: CorsRules;
  /** The upload protocols that are accepted. */
  readonly protocols: readonly UploadProtocol[];
  /**
   * Keys (`fieldKey`) of the fields that only authorization services may set, collected from all routes: the
   * applications behind the routes may trust each other. Missing: no route has an authorization service.
   */
  readonly reservedNames?: readonly string[];
  /** Client fields with `_` in their names reach the origin; otherwise they are dropped. */
  readonly passesUnderscores?: boolean;
  /** Fields with which a trusted proxy overrides the target reach the origin; otherwise they are dropped. */
  readonly trustsTargetOverrides?: boolean;
}

/** Maximum number of concurrent eager deliveries to an origin: half of its requests, none if it takes only one. */
export function maxEagerDeliveries({ concurrency }: Pick<DeliveryRules, 'concurrency'>): number {
  return Math.floor(concurrency / 2);
}

/** The origin's request differs from the client's, so the client's must not be passed through unchanged. */
export function reshapesRequest({ framing, target, method }: DeliveryRules): boolean {
  return framing.kind !== 'raw' || target !== undefined || method !== undefined;
}

/** The framing adds form fields that only the route may set. */
export function addsFormFields(framing: Framing): boolean {
  if (framing.kind === 'raw') return false;
  return [framing.fields, framing.fieldsFromHeaders, framing.fieldsFromMetadata].some(({ length }) => length > 0);
}

/** Methods whose requests are reshaped. Other methods are about existing resources and would change their meaning. */
const RESHAPED_METHODS: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH']);

/** The route as it applies to this method: without framing, method and target for methods that are not reshaped. */
export function routeFor(method: string, route: Route): Route {
  if (RESHAPED_METHODS.has(method) || !reshapesRequest(route.delivery)) return route;
  const framing = { kind: 'raw' } as const;
  return { ...route, delivery: { ...route.delivery, framing, target: undefined, method: undefined } };
}

/** The treatment of ordinary bodies of this method: without a gate, only methods that are reshaped need the spool. */
export function plainBodiesFor(method: string, { plainBodies, delivery }: Route): PlainBodies {
  const passes = plainBodies === 'spool' && !RESHAPED_METHODS.has(method) && !delivery.gate;
  return passes ? 'pass' : plainBodies;
}

/** Uploads that are too small to need resumption may pass through, because the origin gets the same request. */
export function passesSmallUploads({ plainBodies, delivery, authorize }: Route): boolean {
  return plainBodies === 'pass' && !reshapesRequest(delivery) && !delivery.gate && !authorize.recheck;
}

/** A check or the origin's target depends on the path, so it must be exactly the path that the origin gets. */
export function dependsOnPath({ authorize, delivery }: Route): boolean {
  return authorize.forwardAuth !== undefined || delivery.gate !== undefined || delivery.target !== undefined;
}

/** The route refuses or changes something, so its origin must not be reachable through another route. */
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

/** A key that is equal for routes with the same protection. */
export function protectionKey({ authorize, bindTo, limits: { maxSize }, delivery }: Route): string {
  const { gate, framing, target, method } = delivery;
  return JSON.stringify([authorize, bindTo, maxSize, gate, framing, target, method]);
}

/** All routes of the configuration. Paths are in the form of `normalizePath`. */
export interface Routes {
  /** The route of a request; every request has one, resumable or not. */
  find(method: string, path: string): Route;
  /** The route that a case-insensitive server would choose; routes configured as case-sensitive still match exactly. */
  findIgnoringCase(method: string, path: string): Route;
  /** Any route is protected; only then other readings of a path matter. */
  readonly hasProtected: boolean;
  /** The route that makes this path resumable for any method, for OPTIONS (RUFH §4.1.4). */
  findResumable(path: string): Route | undefined;
  byName(name: string): Route | undefined;
  /** Every route, the default route last. */
  readonly all: readonly Route[];
}
