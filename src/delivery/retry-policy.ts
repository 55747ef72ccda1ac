import { Notifier } from '../concurrency/waiting.js';
import { fieldValue, type Headers } from '../model/headers.js';
import { isIdempotent } from '../model/request-head.js';
import { type Guarantee, type RetryRules, type Route, routeFor, type Routes } from '../model/route.js';
import { type Attempt, PLAIN_DIALECT, type Undelivered, type Upload } from '../model/upload.js';
import { MAX_TIMER_MS } from '../model/timer.js';

/** The rules for retrying one upload's delivery. */
export interface RetryPolicy {
  /** The origin treats a repeated request like the first, so an attempt without an answer may be repeated. */
  readonly repeatable: boolean;
  readonly rules: RetryRules;
  /** Statuses that ask for other credentials. */
  readonly parkOn: readonly number[];
}

/**
 * The meaning of an origin's final response for a delivery. `refusal`: the origin did nothing, and the upload may be sent
 * again. `unknown`: a gateway does not know what the origin did. `challenge`: the origin wants other credentials.
 */
export type ResponseMeaning = 'answer' | 'refusal' | 'unknown' | 'challenge';

/** The decision after a failed attempt. `dueAt` is in wall-clock milliseconds, like the times of the attempt. */
export type RetryDecision =
  | { readonly kind: 'retry'; readonly dueAt: number; readonly failure: Undelivered }
  | { readonly kind: 'give-up'; readonly failure: Undelivered };

/** The decision before an attempt: make it, or give up. A retry budget limits the number and the time of attempts. */
export type StartDecision =
  | {
      readonly kind: 'send';
      readonly number: number;
      /** The number of the first attempt of the budget. */
      readonly budgetFrom: number;
      /** When the budget began, in wall-clock milliseconds; missing if this attempt begins it. */
      readonly budgetSince?: number;
    }
  | { readonly kind: 'give-up'; readonly failure: Undelivered };

/** The party that requests a retry of a delivery that was given up. */
export type RetryRequester = { readonly by: 'operator' } | { readonly by: 'client'; readonly hasCredentials: boolean };

/** Whether a request with an unknown outcome may be repeated: it is idempotent, or the operator guarantees that it may. */
export function isRepeatable(
  request: { readonly method: string; readonly headers: Headers },
  guarantee: Guarantee | undefined,
): boolean {
  return guarantee === undefined ? isIdempotent(request) : guarantee === 'at_least_once';
}

/**
 * The decision after an attempt without a recorded answer. Only the attempt's own times count, not the current time, so
 * that the decision is the same however long the proxy was stopped in between.
 * Reasons: docs/decisions/0009.
 */
export function afterAttempt(attempt: Attempt, policy: RetryPolicy, random: () => number): RetryDecision {
  const { rules, repeatable } = policy;
  const failure = toUndelivered(attempt, policy);
  // The origin would send an invalid answer again.
  const mayBeRepeated =
    failure.reason !== 'unauthorized' &&
    (failure.reason !== 'outcome-unknown' || (repeatable && !failure.invalidAnswer));
  if (!mayBeRepeated) return { kind: 'give-up', failure };
  const { startedAt, endedAt = startedAt, notBefore = 0 } = attempt;
  // A failed eager attempt causes no delay: the complete upload is sent immediately.
  const delay = isEagerAttempt(attempt) ? 0 : jittered(delayMs(failureCount(attempt), rules), random);
  const dueAt = Math.max(startedAt, endedAt) + delay;
  const lastAt = budgetEnd(attempt, rules);
  if (dueAt > lastAt) return { kind: 'give-up', failure };
  return { kind: 'retry', dueAt: Math.max(dueAt, Math.min(notBefore, lastAt)), failure };
}

/**
 * Whether an upload may be sent now. A permitted retry request (`isRetryRequested`) begins a new budget and allows even a
 * request with an unknown outcome to be repeated; otherwise the newest attempt decides.
 */
export function beforeAttempt(
  newest: Attempt | undefined,
  isRetryRequested: boolean,
  policy: RetryPolicy,
): StartDecision {
  const number = (newest?.number ?? 0) + 1;
  if (!newest || isRetryRequested || isEagerAttempt(newest)) return { kind: 'send', number, budgetFrom: number };
  const decision = afterAttempt(newest, policy, () => 0);
  if (decision.kind === 'give-up') return decision;
  const { budgetFrom = newest.number, budgetSince = newest.startedAt } = newest;
  return { kind: 'send', number, budgetFrom, budgetSince };
}

/**
 * Whether a request may restart a delivery that was given up. The operator always may. A client may not repeat a request
 * whose outcome is unknown before it has learned so, nor one that the origin refused for its credentials without new ones.
 */
export function mayRetry(failure: Undelivered, requester: RetryRequester, policy: RetryPolicy): boolean {
  if (requester.by === 'operator') return true;
  switch (failure.reason) {
    case 'unreachable':
    case 'refused':
      return true;
    case 'outcome-unknown':
      return policy.repeatable || failure.clientKnows === true;
    case 'unauthorized':
      // Without a kept challenge the client cannot learn that other credentials are needed, so the origin has to send it again.
      return requester.hasCredentials || failure.answer === undefined;
    case 'quarantined':
      return false;
  }
}

/** Seconds for the `Retry-After` of an upload whose delivery was given up. */
export function retryAfterSeconds(newest: Attempt | undefined, rules: RetryRules, now: number): number {
  const delay = delayMs(newest ? failureCount(newest) : 1, rules);
  // The origin asked for a length of time; a clock that was set back must not lengthen it.
  const { notBefore = 0, endedAt = now } = newest ?? {};
  return secondsUntil(now + Math.max(delay, Math.min(notBefore - now, notBefore - endedAt)), now);
}

/** Whole seconds for `Retry-After`, rounded up, at least 1. */
export function secondsUntil(at: number, now: number): number {
  // A monotonic clock has fractions, whose sums and differences are not exact: 30 s must not become 31.
  return Math.max(1, Math.ceil(Math.round(at - now) / 1000));
}

/**
 * The meaning of a final status. After 503 (RFC 9110 §15.6.4), 429 with `Retry-After` (RFC 6585 §4) and a challenge
 * (§15.5.2) the origin has done nothing. 502 and 504 (§15.6.3, §15.6.5) come from a gateway, behind which the origin may
 * still process the request.
 */
export function meaningOf(
  status: number,
  hasRetryAfter: boolean,
  { repeatable, rules, parkOn }: RetryPolicy,
): ResponseMeaning {
  const isFromGateway = status === 502 || status === 504;
  const isOriginRefusal = status === 503 || (status === 429 && hasRetryAfter);
  if (rules.retryOn?.includes(status) ?? (isOriginRefusal || (isFromGateway && repeatable))) return 'refusal';
  if (parkOn.includes(status)) return 'challenge';
  return rules.retryOn === undefined && isFromGateway ? 'unknown' : 'answer';
}

/** Whether the origin certainly did not get the complete upload with this attempt. */
export function isPartiallySent({ reached, inPart }: Attempt): boolean {
  return reached === 'sent-in-part' || inPart === true;
}

/**
 * Whether a failed attempt was eager. An eager attempt is always the first; a later partial attempt could not read the spool.
 */
function isEagerAttempt(attempt: Attempt): boolean {
  return isPartiallySent(attempt) && attempt.number === 1;
}

/** The problem of an attempt whose process died. */
export const PROCESS_STOPPED = 'the proxy stopped before it had recorded an answer';

/** The failure that an attempt leaves. Without a recorded end or answer its outcome is unknown: its process died. */
function toUndelivered(attempt: Attempt, policy: RetryPolicy): Undelivered {
  const { reached, status, problem, notBefore } = attempt;
  if (reached === 'never-sent' || isPartiallySent(attempt))
    return { reason: 'unreachable', problem: problem ?? 'the origin could not be reached' };
  const description = problem ?? `the origin answered ${status}`;
  const meaning = reached === 'answered' && status !== undefined && meaningOf(status, notBefore !== undefined, policy);
  if (meaning === 'refusal') return { reason: 'refused', status, problem: description };
  if (meaning === 'challenge') return { reason: 'unauthorized', status, problem: description };
  const { invalidAnswer } = attempt;
  return { reason: 'outcome-unknown', problem: problem ?? PROCESS_STOPPED, ...(invalidAnswer && { invalidAnswer }) };
}

/** Attempts for a waiting client are limited in number and time, background attempts only in time. */
function budgetEnd(attempt: Attempt, { maxAttempts, whileWaitingMs, inBackgroundMs }: RetryRules): number {
  const since = attempt.budgetSince ?? attempt.startedAt;
  return since + Math.max(inBackgroundMs, failureCount(attempt) < maxAttempts ? whileWaitingMs : 0, 0);
}

function failureCount({ number, budgetFrom = number }: Attempt): number {
  return number - budgetFrom + 1;
}

function delayMs(failedAttempts: number, { firstDelayMs, longestDelayMs }: RetryRules): number {
  return Math.min(firstDelayMs * 2 ** (failedAttempts - 1), longestDelayMs);
}

/** Between half and all of the delay, so that uploads that failed together are not retried together. */
function jittered(ms: number, random: () => number): number {
  return Math.round(ms / 2 + (ms / 2) * random());
}

/**
 * Milliseconds until an origin wants to be asked again, from its `Retry-After` (RFC 9110 §10.2.3); undefined without a valid
 * one. A date counts from the response's own `Date`, because the origin's clock may differ from ours.
 */
export function retryAfterMs(headers: Headers, now: number): number | undefined {
  const text = fieldValue(headers, 'retry-after')?.trim() ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const at = parseHttpDate(text);
  return at === undefined ? undefined : Math.max(at - (parseHttpDate(fieldValue(headers, 'date')) ?? now), 0);
}

/** Parses an HTTP-date in any of its three forms (RFC 9110 §5.6.7). */
function parseHttpDate(value = ''): number | undefined {
  const text = value.trim();
  if (!/^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text)) return undefined;
  // The obsolete asctime form is in UTC but does not name it.
  const at = Date.parse(text.endsWith('GMT') ? text : `${text} GMT`);
  return Number.isNaN(at) ? undefined : at;
}

type Clocks = { readonly clock: () => number; readonly monotonic: () => number };

/** The retry budget that an attempt belongs to: its first attempt's number, and when it began by the wall clock. */
export interface Budget {
  readonly budgetFrom: number;
  readonly budgetSince: number;
}

/**
 * Measures the age of a retry budget by the monotonic clock. The record holds wall clock times, which are wrong once
 * the clock is set, so each attempt's `budgetSince` is computed from the measured age.
 */
export class RetryBudget {
  private from: number | undefined;
  private beganAt = 0;

  constructor(private readonly clocks: Clocks) {}

  /** The budget of an attempt that is about to begin. `recordedSince` is missing for a new budget. */
  begin(budgetFrom: number, recordedSince?: number): Budget {
    const now = this.clocks.clock();
    const monotonic = this.clocks.monotonic();
    if (recordedSince === undefined || this.from !== budgetFrom) {
      // A budget cannot have begun in the future, even if the clock was set back.
      this.beganAt = monotonic - Math.max(now - (recordedSince ?? now), 0);
      this.from = budgetFrom;
    }
    return { budgetFrom, budgetSince: now - Math.round(monotonic - this.beganAt) };
  }
}

/** The delay between two attempts, which a client or the operator can shorten. */
export class RetryDelay {
  private readonly changed = new Notifier();
  private until: number | undefined;
  private notBefore = 0;
  private isSkipped = false;

  constructor(
    private readonly monotonic: () => number,
    private readonly draining: AbortSignal,
  ) {}

  /**
   * Waits until `until` (monotonic), or less when retried or draining. Clients cannot shorten it to before `notBefore`
   * (monotonic).
   */
  async pause(until: number, notBefore = 0): Promise<void> {
    this.until = this.isSkipped ? 0 : until;
    this.isSkipped = false;
    this.notBefore = notBefore;
    const measure = (): number => this.until! - this.monotonic();
    for (let remainingMs = measure(); remainingMs > 0 && !this.draining.aborted; remainingMs = measure()) {
      const timer = setTimeout(() => this.changed.notifyAll(), Math.min(remainingMs, MAX_TIMER_MS));
      // The loop condition handles draining.
      await this.changed.next(this.draining).catch(() => undefined);
      clearTimeout(timer);
    }
    this.until = undefined;
  }

  /** Ends the delay for a client. Returns false if there is none or the origin asked to wait longer. */
  retryNow(): boolean {
    return this.notBefore <= this.monotonic() && this.forceRetry();
  }

  /** Ends the delay for the operator, or skips the next one. Returns false if there is none now. */
  forceRetryNowOrNext(): boolean {
    this.isSkipped = this.until === undefined;
    return this.forceRetry();
  }

  /** Ends the delay even if the origin asked to wait longer. Returns false if there is none. */
  forceRetry(): boolean {
    if (this.until === undefined) return false;
    this.until = 0;
    this.changed.notifyAll();
    return true;
  }
}

/** The route on which an upload was created, or the route of its target if that one is no longer configured. */
export function routeOf({ route: name, request, dialect, clientKey }: Upload, routes: Routes): Route {
  const path = request.target.split('?', 1)[0]!;
  const route = routeFor(request.method, routes.byName(name) ?? routes.find(request.method, path));
  return dialect === PLAIN_DIALECT ? forPlainRequests(route, clientKey !== undefined) : route;
}

/** How long the answer to a request without a key is kept: longer than a waiting client needs to read it. */
const PLAIN_KEEP_ANSWER_MS = 60_000;

/**
 * The route for an ordinary request: its client waits as long as the origin may take. A client without an idempotency key
 * cannot repeat its request, so its answer is not kept for later.
 */
function forPlainRequests(route: Route, hasClientKey: boolean): Route {
  const { delivery } = route;
  const waitMs = Math.max(delivery.waitMs, delivery.timeoutMs);
  const keepAnswerMs = hasClientKey ? delivery.keepAnswerMs : Math.min(delivery.keepAnswerMs, PLAIN_KEEP_ANSWER_MS);
  return { ...route, delivery: { ...delivery, waitMs, keepAnswerMs } };
}

/** The retry policy for an upload on its route. */
export function policyOf({ request }: Upload, { delivery }: Route): RetryPolicy {
  const { retry: rules, parkOn, guarantee, method = request.method } = delivery;
  return { repeatable: isRepeatable({ method, headers: request.headers }, guarantee), rules, parkOn };
}
