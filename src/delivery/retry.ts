import type { Headers } from '../model/headers.js';
import { isIdempotent } from '../model/request-head.js';
import type { Guarantee, RetryRules } from '../model/route.js';
import type { Attempt, Undelivered } from '../model/upload.js';

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
export type Meaning = 'answer' | 'refusal' | 'unknown' | 'challenge';

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
export type Asker = { readonly by: 'operator' } | { readonly by: 'client'; readonly hasCredentials: boolean };

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
  const delay = isEarly(attempt) ? 0 : jittered(delayMs(failures(attempt), rules), random);
  const dueAt = Math.max(startedAt, endedAt) + delay;
  const lastAt = budgetEnd(attempt, rules);
  if (dueAt > lastAt) return { kind: 'give-up', why };
  return { kind: 'again', dueAt: Math.max(dueAt, Math.min(notBefore, lastAt)), why };
}

/**
 * Whether an upload may be sent now. `asked`: trying had ended and somebody who may asks again, which begins a new budget
 * and permits even what may have been taken already. Otherwise the newest attempt decides.
 */
export function beforeAttempt(newest: Attempt | undefined, asked: boolean, policy: RetryPolicy): Start {
  const number = (newest?.number ?? 0) + 1;
  if (!newest || asked || isEarly(newest)) return { kind: 'send', number, budgetFrom: number };
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
export function mayAskAgain(why: Undelivered, asker: Asker, policy: RetryPolicy): boolean {
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
  const delay = delayMs(newest ? failures(newest) : 1, rules);
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
export function meaningOf(status: number, saysWhen: boolean, { repeatable, rules, parkOn }: RetryPolicy): Meaning {
  const isGateways = status === 502 || status === 504;
  const isOrigins = status === 503 || (status === 429 && saysWhen);
  if (rules.retryOn?.includes(status) ?? (isOrigins || (isGateways && repeatable))) return 'refusal';
  if (parkOn.includes(status)) return 'challenge';
  return rules.retryOn === undefined && isGateways ? 'unknown' : 'answer';
}

/** The origin certainly does not have all of it, whatever became of the attempt, or of the process it was made by. */
export function isPartly({ reached, inPart }: Attempt): boolean {
  return reached === 'sent-in-part' || inPart === true;
}

/** The first attempt may have begun with the upload; one from a spool that cannot be read is no reason to hurry. */
function isEarly(attempt: Attempt): boolean {
  return isPartly(attempt) && attempt.number === 1;
}

export const LOST_WITH_PROCESS = 'the proxy stopped before it had recorded an answer';

/** One that never ended, or whose answer was not recorded, may have been taken by the origin: its process was lost. */
function whyUndelivered(attempt: Attempt, policy: RetryPolicy): Undelivered {
  const { reached, status, problem, notBefore } = attempt;
  if (reached === 'never-sent' || isPartly(attempt))
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
  return since + Math.max(inBackgroundMs, failures(attempt) < maxAttempts ? whileWaitingMs : 0, 0);
}

function failures({ number, budgetFrom = number }: Attempt): number {
  return number - budgetFrom + 1;
}

function delayMs(failed: number, { firstDelayMs, longestDelayMs }: RetryRules): number {
  return Math.min(firstDelayMs * 2 ** (failed - 1), longestDelayMs);
}

/** Between half and all of it, or many uploads that failed together would all come back together. */
function jittered(ms: number, random: () => number): number {
  return Math.round(ms / 2 + (ms / 2) * random());
}
