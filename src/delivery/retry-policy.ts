import { Notifier } from '../concurrency/waiting.js';
import { fieldValue, type Headers } from '../model/headers.js';
import { isIdempotent } from '../model/request-head.js';
import { type Guarantee, type RetryRules, type Route, routeFor, type Routes } from '../model/route.js';
import { type Attempt, PLAIN_DIALECT, type Undelivered, type Upload } from '../model/upload.js';

/** What a delivery may do when an attempt brought no answer. */
export interface RetryPolicy {
  /** The origin takes a second request for the same as the first: what was sent without an answer may be sent again. */
  readonly repeatable: boolean;
  readonly rules: RetryRules;
  readonly parkOn: readonly number[];
}

/**
 * What an origin's final response is to a delivery. `refusal`: nothing was done, and it may be sent again. `unknown`: a
 * gateway lost sight of the origin. `challenge`: it wants other credentials.
 */
export type ResponseMeaning = 'answer' | 'refusal' | 'unknown' | 'challenge';

export type Verdict =
  | { readonly kind: 'again'; readonly dueAt: number; readonly why: Undelivered }
  | { readonly kind: 'give-up'; readonly why: Undelivered };

export type Start =
  | {
      readonly kind: 'send';
      readonly number: number;
      readonly budgetFrom: number;
      /** Missing when this attempt begins the budget. */
      readonly budgetSince?: number;
    }
  | { readonly kind: 'give-up'; readonly why: Undelivered };

/** Who wants an upload tried again whose trying had ended. */
export type RetryRequester = { readonly by: 'operator' } | { readonly by: 'client'; readonly hasCredentials: boolean };

/** Whether a request may be repeated when nobody knows what became of the first: by its meaning, or because the operator vouches for it. */
export function isRepeatable(
  request: { readonly method: string; readonly headers: Headers },
  guarantee: Guarantee | undefined,
): boolean {
  return guarantee === undefined ? isIdempotent(request) : guarantee === 'at_least_once';
}

/**
 * What follows an attempt that left us without an answer, or of which nobody knows how it ended. Its own times decide, not
 * the clock: however long the proxy was stopped in between, the verdict is the same.
 */
export function afterAttempt(attempt: Attempt, policy: RetryPolicy, random: () => number): Verdict {
  const { rules, repeatable } = policy;
  const why = whyUndelivered(attempt, policy);
  // An answer that cannot be taken would come again.
  const mayBeRepeated =
    why.reason !== 'unauthorized' && (why.reason !== 'outcome-unknown' || (repeatable && !why.invalidAnswer));
  if (!mayBeRepeated) return { kind: 'give-up', why };
  const { startedAt, endedAt = startedAt, notBefore = 0 } = attempt;
  // An early attempt that broke off costs nothing: the whole follows at once.
  const delay = isEarly(attempt) ? 0 : jittered(delayMs(failureCount(attempt), rules), random);
  const dueAt = Math.max(startedAt, endedAt) + delay;
  const lastAt = budgetEnd(attempt, rules);
  if (dueAt > lastAt) return { kind: 'give-up', why };
  return { kind: 'again', dueAt: Math.max(dueAt, Math.min(notBefore, lastAt)), why };
}

/**
 * Whether an upload may be sent now. `asked`: trying had ended and somebody who may asks again, which begins a new budget
 * and permits even what may have been taken already. Otherwise the newest attempt decides.
 */
export function beforeAttempt(newest: Attempt | undefined, isRetryRequested: boolean, policy: RetryPolicy): Start {
  const number = (newest?.number ?? 0) + 1;
  if (!newest || isRetryRequested || isEarly(newest)) return { kind: 'send', number, budgetFrom: number };
  const verdict = afterAttempt(newest, policy, () => 0);
  if (verdict.kind === 'give-up') return verdict;
  const { budgetFrom = newest.number, budgetSince = newest.startedAt } = newest;
  return { kind: 'send', number, budgetFrom, budgetSince };
}

/**
 * Whether trying that has ended may begin again. Not when the origin may have taken the upload and its client was never
 * told so: it only wants the answer it lost, and would have its request sent twice unknowingly. Not with the credentials that
 * the origin has refused. The operator knows what he does.
 */
export function mayRetry(why: Undelivered, asker: RetryRequester, policy: RetryPolicy): boolean {
  if (asker.by === 'operator') return true;
  switch (why.reason) {
    case 'unreachable':
    case 'refused':
      return true;
    case 'outcome-unknown':
      return policy.repeatable || why.clientKnows === true;
    case 'unauthorized':
      return asker.hasCredentials || why.answer === undefined;
    case 'quarantined':
      return false;
  }
}

/** When a client may sensibly ask again after trying has ended, for `Retry-After`. */
export function retryAfterSeconds(newest: Attempt | undefined, rules: RetryRules, now: number): number {
  const delay = delayMs(newest ? failureCount(newest) : 1, rules);
  // The origin said a length of time, and not more is left of it, whatever became of the clock.
  const { notBefore = 0, endedAt = now } = newest ?? {};
  return secondsUntil(now + Math.max(delay, Math.min(notBefore - now, notBefore - endedAt)), now);
}

/** For `Retry-After`: whole seconds, never too early. */
export function secondsUntil(at: number, now: number): number {
  return Math.max(1, Math.ceil((at - now) / 1000));
}

/**
 * RFC 9110 §15.6.4 and RFC 6585 §4: by 503, and by 429 with a time, the origin itself refuses. RFC 9110 §15.6.3, §15.6.5:
 * 502 and 504 are a gateway's, and the origin behind it may be at work. RFC 9110 §15.5.2: with a challenge nothing was done.
 * `saysWhen`: the response has a `Retry-After`.
 */
export function meaningOf(
  status: number,
  hasRetryAfter: boolean,
  { repeatable, rules, parkOn }: RetryPolicy,
): ResponseMeaning {
  const isGateways = status === 502 || status === 504;
  const isOrigins = status === 503 || (status === 429 && hasRetryAfter);
  if (rules.retryOn?.includes(status) ?? (isOrigins || (isGateways && repeatable))) return 'refusal';
  if (parkOn.includes(status)) return 'challenge';
  return rules.retryOn === undefined && isGateways ? 'unknown' : 'answer';
}

/** The origin certainly does not have all of it, whatever became of the attempt, or of the process it was made by. */
export function isPartiallySent({ reached, inPart }: Attempt): boolean {
  return reached === 'sent-in-part' || inPart === true;
}

/** The first attempt may have begun with the upload; one from a spool that cannot be read is no reason to hurry. */
function isEarly(attempt: Attempt): boolean {
  return isPartiallySent(attempt) && attempt.number === 1;
}

export const LOST_WITH_PROCESS = 'the proxy stopped before it had recorded an answer';

/** One that never ended, or whose answer was not recorded, may have been taken by the origin: its process was lost. */
function whyUndelivered(attempt: Attempt, policy: RetryPolicy): Undelivered {
  const { reached, status, problem, notBefore } = attempt;
  if (reached === 'never-sent' || isPartiallySent(attempt))
    return { reason: 'unreachable', problem: problem ?? 'the origin could not be reached' };
  const says = problem ?? `the origin answered ${status}`;
  const meaning = reached === 'answered' && status !== undefined && meaningOf(status, notBefore !== undefined, policy);
  if (meaning === 'refusal') return { reason: 'refused', status, problem: says };
  if (meaning === 'challenge') return { reason: 'unauthorized', status, problem: says };
  const { invalidAnswer } = attempt;
  return { reason: 'outcome-unknown', problem: problem ?? LOST_WITH_PROCESS, ...(invalidAnswer && { invalidAnswer }) };
}

/** Trying for a waiting client is bounded in number and time, trying in the background in time alone. */
function budgetEnd(attempt: Attempt, { maxAttempts, whileWaitingMs, inBackgroundMs }: RetryRules): number {
  const since = attempt.budgetSince ?? attempt.startedAt;
  return since + Math.max(inBackgroundMs, failureCount(attempt) < maxAttempts ? whileWaitingMs : 0, 0);
}

function failureCount({ number, budgetFrom = number }: Attempt): number {
  return number - budgetFrom + 1;
}

function delayMs(failed: number, { firstDelayMs, longestDelayMs }: RetryRules): number {
  return Math.min(firstDelayMs * 2 ** (failed - 1), longestDelayMs);
}

/** Between half and all of it, or many uploads that failed together would all come back together. */
function jittered(ms: number, random: () => number): number {
  return Math.round(ms / 2 + (ms / 2) * random());
}

/**
 * In how many milliseconds an origin wants to be asked again, from its `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
 * A date is the origin's: it counts from the response's own `Date`, because the origin's clock may be set otherwise than ours.
 * Undefined when it said nothing that can be understood.
 */
export function retryAfterMs(headers: Headers, now: number): number | undefined {
  const text = fieldValue(headers, 'retry-after')?.trim() ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const at = parseHttpDate(text);
  return at === undefined ? undefined : Math.max(at - (parseHttpDate(fieldValue(headers, 'date')) ?? now), 0);
}

/** An HTTP-date in any of its three forms (RFC 9110 §5.6.7). */
function parseHttpDate(value = ''): number | undefined {
  const text = value.trim();
  if (!/^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text)) return undefined;
  // The obsolete asctime form means UTC without saying so.
  const at = Date.parse(text.endsWith('GMT') ? text : `${text} GMT`);
  return Number.isNaN(at) ? undefined : at;
}

type Clocks = { readonly clock: () => number; readonly monotonic: () => number };

/** The fields by which an attempt names the budget it belongs to. */
export interface Budget {
  readonly budgetFrom: number;
  readonly budgetSince: number;
}

/**
 * Since when trying goes on, as one run measures it: the record has a time of the wall, which means less with each step of
 * that clock. So each attempt is told anew how long ago its budget began, by the time of the wall that is now.
 */
export class RetryBudget {
  private from: number | undefined;
  private beganAt = 0;

  constructor(private readonly clocks: Clocks) {}

  /** The budget of an attempt that is about to begin. `since`: as the record says it; missing for a new one. */
  begin(budgetFrom: number, since?: number): Budget {
    const now = this.clocks.clock();
    if (since === undefined || this.from !== budgetFrom) {
      // Nothing began later than now, whatever clock said so.
      this.beganAt = this.clocks.monotonic() - Math.max(now - (since ?? now), 0);
      this.from = budgetFrom;
    }
    return { budgetFrom, budgetSince: now - Math.round(this.clocks.monotonic() - this.beganAt) };
  }
}

/** A timer of Node cannot be set farther than this. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The time between two attempts, which somebody may want to be over sooner. */
export class RetryDelay {
  private readonly changed = new Notifier();
  private until: number | undefined;
  private notBefore = 0;
  private isSkipped = false;

  constructor(
    private readonly monotonic: () => number,
    private readonly draining: AbortSignal,
  ) {}

  /** Over at `until` (monotonic), or when somebody hurries it, or when nothing new may begin. `notBefore`: no client can hurry it more. */
  async pause(until: number, notBefore = 0): Promise<void> {
    this.until = this.isSkipped ? 0 : until;
    this.isSkipped = false;
    this.notBefore = notBefore;
    const remaining = (): number => this.until! - this.monotonic();
    for (let remainingMs = remaining(); remainingMs > 0 && !this.draining.aborted; remainingMs = remaining()) {
      const timer = setTimeout(() => this.changed.notifyAll(), Math.min(remainingMs, LONGEST_TIMER_MS));
      // Draining ends the pause, as the loop sees.
      await this.changed.next(this.draining).catch(() => undefined);
      clearTimeout(timer);
    }
    this.until = undefined;
  }

  /** Ends it now; false when it is not to be ended, or there is none. */
  retryNow(): boolean {
    return this.notBefore <= this.monotonic() && this.forceRetry();
  }

  /** Ends it, or else the next one before it begins. */
  forceRetryNowOrNext(): boolean {
    this.isSkipped = this.until === undefined;
    return this.forceRetry();
  }

  /** Ends it, whatever was asked for. */
  forceRetry(): boolean {
    if (this.until === undefined) return false;
    this.until = 0;
    this.changed.notifyAll();
    return true;
  }
}

/** The route an upload was created on; the one its target has now when the configuration was changed in between. */
export function routeOf({ route, request, dialect, clientKey }: Upload, routes: Routes): Route {
  const path = request.target.split('?', 1)[0]!;
  const found = routeFor(request.method, routes.byName(route) ?? routes.find(request.method, path));
  return dialect === PLAIN_DIALECT ? forPlainRequests(found, clientKey !== undefined) : found;
}

/** Longer than any client needs to read an answer that it waits for. */
const PLAIN_KEEP_ANSWER_MS = 60_000;

/**
 * An ordinary client is held open as long as the origin may take. Without a key of its own it cannot come back, and its
 * answer is not kept for later.
 */
function forPlainRequests(route: Route, mayComeBack: boolean): Route {
  const { delivery } = route;
  const waitMs = Math.max(delivery.waitMs, delivery.timeoutMs);
  const keepAnswerMs = mayComeBack ? delivery.keepAnswerMs : Math.min(delivery.keepAnswerMs, PLAIN_KEEP_ANSWER_MS);
  return { ...route, delivery: { ...delivery, waitMs, keepAnswerMs } };
}

export function policyOf({ request }: Upload, { delivery }: Route): RetryPolicy {
  const { retry: rules, parkOn, guarantee, method = request.method } = delivery;
  return { repeatable: isRepeatable({ method, headers: request.headers }, guarantee), rules, parkOn };
}
