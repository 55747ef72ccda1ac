import type { ResponseHead, WireResponse } from './wire-response.js';

/** All that a response tells, for one comparison: its status, every line, and its body as text. */
export interface Told {
  readonly status: number;
  /** `Name: value`, in their order and case on the wire. */
  readonly lines: readonly string[];
  /** A problem's (RFC 9457) as an object. */
  readonly body?: string | Readonly<Record<string, unknown>>;
}

const DAY_SECONDS = 86_400;

/**
 * What changes with the clock is checked here and named instead: `Date` is now, and an upload that was just dealt with
 * has the whole of `maxAgeSeconds` before it. So are the words of a problem, its size, and when to come again.
 */
export function told(response: ResponseHead | WireResponse, { maxAgeSeconds = DAY_SECONDS } = {}): Told {
  const { status, headerLines } = response;
  const isProblem = response.header('Content-Type') === 'application/problem+json';
  // A response to HEAD tells the size of the body that it does not have.
  const size = 'body' in response && response.body.length > 0 ? `${response.body.length}` : /^[1-9]\d*$/;
  const lines = headerLines.map(([name, value]) => {
    if (/^date$/i.test(name)) return `${name}: ${dateOf(value)}`;
    if (/^upload-limit$/i.test(name)) return `${name}: ${limitsOf(value, maxAgeSeconds)}`;
    if (/^retry-after$/i.test(name) && /^[1-9]\d*$/.test(value)) return `${name}: <seconds>`;
    if (isProblem && /^content-length$/i.test(name) && value.match(size)?.[0] === value) return `${name}: <body>`;
    return `${name}: ${value}`;
  });
  if (!('body' in response)) return { status, lines };
  return { status, lines, body: isProblem ? problemIn(response.body) : response.body.toString('latin1') };
}

/** What was wrong and what to do stands in whole sentences. */
function problemIn(body: Buffer): Told['body'] {
  if (body.length === 0) return '';
  const problem = JSON.parse(body.toString()) as Record<string, unknown>;
  const { detail } = problem;
  const isSentence = typeof detail === 'string' && /^[A-Z].{20,}\.$/.test(detail);
  return isSentence ? { ...problem, detail: '<sentences>' } : problem;
}

function dateOf(value: string): string {
  const isNow = Math.abs(Date.parse(value) - Date.now()) < 60_000;
  return isNow && new Date(value).toUTCString() === value ? '<now>' : value;
}

function limitsOf(value: string, maxAgeSeconds: number): string {
  return value.replace(/(?<=\b(?:expires|max-age)=)\d+/, (seconds) => {
    const isComplete = Number(seconds) <= maxAgeSeconds && Number(seconds) > maxAgeSeconds - 60;
    return isComplete ? '<all>' : seconds;
  });
}
