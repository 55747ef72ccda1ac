/**
 * In how many milliseconds an origin wants to be asked again, from its `Retry-After` (RFC 9110 §10.2.3): seconds, or an HTTP-date in any of
 * its three forms. Undefined when it said nothing that can be understood.
 */
export function retryAfterMs(value: string | undefined, now: number): number | undefined {
  const text = value?.trim() ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  if (!/^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(text)) return undefined;
  // RFC 9110 §5.6.7: the obsolete asctime form means UTC without saying so.
  const at = Date.parse(text.endsWith('GMT') ? text : `${text} GMT`);
  return Number.isNaN(at) ? undefined : Math.max(at - now, 0);
}
