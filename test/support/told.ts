import type { ResponseHead, WireResponse } from './wire-response.js';

/** All that a response tells, for one comparison: its status, every line, and its body as text. */
export interface Told {
  readonly status: number;
  /** `Name: value`, in their order and case on the wire. */
  readonly lines: readonly string[];
  readonly body?: string;
}

const DAY_SECONDS = 86_400;

/**
 * What changes with the clock is checked here and named instead: `Date` is now, and an upload that was just dealt with
 * has the whole of `maxAgeSeconds` before it.
 */
export function told(response: ResponseHead | WireResponse, { maxAgeSeconds = DAY_SECONDS } = {}): Told {
  const { status, headerLines } = response;
  const lines = headerLines.map(([name, value]) => {
    if (/^date$/i.test(name)) return `${name}: ${dateOf(value)}`;
    if (/^upload-limit$/i.test(name)) return `${name}: ${limitsOf(value, maxAgeSeconds)}`;
    return `${name}: ${value}`;
  });
  return 'body' in response ? { status, lines, body: response.body.toString('latin1') } : { status, lines };
}

function dateOf(value: string): string {
  const isNow = Math.abs(Date.parse(value) - Date.now()) < 60_000;
  return isNow && new Date(value).toUTCString() === value ? '<now>' : value;
}

function limitsOf(value: string, maxAgeSeconds: number): string {
  return value.replace(/(?<=\b(?:expires|max-age)=)\d+/, (seconds) => {
    const isWhole = Number(seconds) <= maxAgeSeconds && Number(seconds) > maxAgeSeconds - 60;
    return isWhole ? '<all>' : seconds;
  });
}
