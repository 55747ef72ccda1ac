import type { Guarantee, RetryRules } from '../model/route.js';
import type { Attempt, Undelivered } from '../model/upload.js';

/** What a delivery may do when an attempt brought no answer. */
export interface RetryPolicy {
  /** The origin takes a second request for the same as the first: what was sent without an answer may be sent again. */
  readonly repeatable: boolean;
  readonly rules: RetryRules;
}

export type Verdict =
  { readonly kind: 'again'; readonly afterMs: number } | { readonly kind: 'give-up'; readonly why: Undelivered };

export type Start =
  | { readonly kind: 'send'; readonly number: number; readonly budgetFrom: number }
  | { readonly kind: 'give-up'; readonly why: Undelivered };

const IDEMPOTENT_METHODS = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);

/** RFC 9110 §9.2.2: only these may be repeated when nobody knows what became of the first, or what the operator vouches for. */
export function isRepeatable(method: string, guarantee: Guarantee | undefined): boolean {
  return guarantee === undefined ? IDEMPOTENT_METHODS.has(method) : guarantee === 'at_least_once';
}

/** What follows an attempt that left us without an answer, or of which nobody knows how it ended. */
export function afterAttempt(attempt: Attempt, policy: RetryPolicy, random: () => number): Verdict {
  const why = whyUndelivered(attempt, policy.rules);
  if (why.reason === 'outcome-unknown' && !policy.repeatable) return { kind: 'give-up', why };
  if (failures(attempt) >= policy.rules.maxAttempts) return { kind: 'give-up', why };
  return { kind: 'again', afterMs: jittered(delayMs(failures(attempt), policy.rules), random) };
}

/**
 * Whether an upload that was just claimed may be sent. `asked`: trying had ended and a client asks again, which begins a
 * new budget and permits even what may have been taken already. Otherwise the newest attempt decides.
 */
export function beforeAttempt(newest: Attempt | undefined, asked: boolean, policy: RetryPolicy): Start {
  const number = (newest?.number ?? 0) + 1;
  if (!newest || asked) return { kind: 'send', number, budgetFrom: number };
  const verdict = afterAttempt(newest, policy, () => 0);
  if (verdict.kind === 'give-up') return verdict;
  return { kind: 'send', number, budgetFrom: newest.budgetFrom ?? newest.number };
}

/**
 * Whether a client that asks can begin a new budget. Not when the origin may have taken the upload and its client was never
 * told so, because the process died: it only wants the answer it lost, and would have its request sent twice unknowingly.
 */
export function mayAskAgain(why: Undelivered | undefined, policy: RetryPolicy): boolean {
  return why?.reason !== 'outcome-unknown' || policy.repeatable || why.clientKnows === true;
}

/** When a client may sensibly ask again, for `Retry-After`. */
export function retryAfterSeconds(newest: Attempt | undefined, rules: RetryRules): number {
  return Math.max(1, Math.ceil(delayMs(newest ? failures(newest) : 1, rules) / 1000));
}

/** One that never ended, or whose answer was not recorded, may have been taken by the origin: its process was lost. */
function whyUndelivered({ reached, status, problem }: Attempt, rules: RetryRules): Undelivered {
  if (reached === 'never-sent') return { reason: 'unreachable', problem: problem ?? 'the origin could not be reached' };
  if (reached === 'answered' && isRefusal(status, rules))
    return { reason: 'refused', status, problem: problem ?? `the origin answered ${status}` };
  return { reason: 'outcome-unknown', problem: problem ?? LOST_WITH_PROCESS };
}

export const LOST_WITH_PROCESS = 'the proxy stopped before it had recorded an answer';

/** A status that the route counts as a failure to be repeated, not as the origin's answer. */
export function isRefusal(status: number | undefined, { retryOn }: RetryRules): status is number {
  return status !== undefined && retryOn.includes(status);
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
