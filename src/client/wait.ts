import { browser } from './browser.js';

const LONGEST_DELAY_MS = 30_000;
const LONGEST_RETRY_AFTER_MS = 3_600_000;
const MOST_FAILURES = 12;

/**
 * The delay in milliseconds before the next attempt, after so many failures without progress in between; undefined to
 * give up. `cause` is the last response or error.
 */
export type Retry = (failures: number, cause: unknown) => number | undefined;

/** The default: twelve failures end the upload. */
export const retryWithBackoff: Retry = (failures) => (failures > MOST_FAILURES ? undefined : backoffMs(failures));

/** Delays that double up to half a minute, with jitter, so that the clients of a restarted server do not come at once. */
export function backoffMs(failures: number): number {
  return Math.min(LONGEST_DELAY_MS, 250 * 2 ** failures) * (0.5 + Math.random() / 2);
}

/** True while the browser knows that it has no network. */
export function isOffline(): boolean {
  return browser.navigator?.onLine === false;
}

/**
 * Waits this long, or until the signal is aborted. Without a network it waits for one, and a network that comes back
 * ends the delay.
 */
export function wait(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = isOffline() ? undefined : setTimeout(end, delayMs);
    function end(): void {
      clearTimeout(timer);
      browser.removeEventListener?.('online', end);
      signal?.removeEventListener('abort', end);
      resolve();
    }
    browser.addEventListener?.('online', end);
    signal?.addEventListener('abort', end);
  });
}

/** The delay that `Retry-After` asks for (RFC 9110 §10.2.3), in milliseconds; 0 without one. */
export function retryAfterMs(headers: Headers): number {
  const value = headers.get('retry-after') ?? '';
  return Math.min(Number(value) * 1000 || Date.parse(value) - Date.now() || 0, LONGEST_RETRY_AFTER_MS);
}
