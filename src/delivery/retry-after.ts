import { fieldValue, type Headers } from '../model/headers.js';

/**
 * In how many milliseconds an origin wants to be asked again, from its `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
 * A date is the origin's: it counts from the response's own `Date`, because the origin's clock may be set otherwise than ours.
 * Undefined when it said nothing that can be understood.
 */
export function retryAfterMs(headers: Headers, now: number): number | undefined {
  const text = fieldValue(headers, 'retry-after')?.trim() ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const at = readDate(text);
  return at === undefined ? undefined : Math.max(at - (readDate(fieldValue(headers, 'date')) ?? now), 0);
}

/** An HTTP-date in any of its three forms (RFC 9110 §5.6.7). */
function readDate(value = ''): number | undefined {
  const text = value.trim();
  if (!/^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text)) return undefined;
  // The obsolete asctime form means UTC without saying so.
  const at = Date.parse(text.endsWith('GMT') ? text : `${text} GMT`);
  return Number.isNaN(at) ? undefined : at;
}
