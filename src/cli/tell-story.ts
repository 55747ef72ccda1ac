import type { StoryEvent } from '../model/story.js';
import { PLAIN_DIALECT, TUS_DIALECT } from '../model/upload.js';
import { formatBytes, formatDuration } from './format-uploads.js';

/** An entry of a story, as the admin listener sends it. */
type ToldEntry = StoryEvent & { readonly at: string };

/** An upload whose record is gone, as the admin listener sends it. */
export interface RemovedUpload {
  readonly tag: string;
  readonly phase: 'removed';
  readonly story: readonly ToldEntry[];
}

/** The part of an upload's details that tells what happened; missing if that is not kept. */
export interface WithStory {
  readonly story?: readonly ToldEntry[];
}

/** The story as the last part of an upload's details. */
export function storyPart({ story }: WithStory): string {
  return story ? `\nWhat happened (UTC, and since the beginning):\n${tellStory(story)}` : `\n${NOT_KEPT}\n`;
}

const NOT_KEPT = 'What happened is not kept here: `history.keep` is 0s, or the store is Redis. The log has it.';

/** The text for an upload without a record, of which only the story is left. */
export function removedUpload({ tag, story }: RemovedUpload, now: number): string {
  const last = Date.parse(story.at(-1)!.at);
  return `The upload ${tag} is gone; its last event was ${formatDuration(now - last)} ago.\n${storyPart({ story })}`;
}

/** The story of an upload, one line for each entry: its time, the time since the first entry, and what happened. */
function tellStory(entries: readonly ToldEntry[]): string {
  const [first] = entries;
  if (!first) return 'Nothing of what happened to this upload is known.\n';
  const beginsAt = Date.parse(first.at);
  const lines = entries.map((entry) => {
    const since = sinceBeginning(Date.parse(entry.at) - beginsAt);
    return `  ${entry.at.replace('T', ' ')}  ${since.padStart(8)}  ${sentence(entry)}\n`;
  });
  return lines.join('');
}

/** `+120ms`, `+2.1s`, `+5m 12s`. */
function sinceBeginning(ms: number): string {
  return `+${shortTime(Math.max(ms, 0))}`;
}

/** Exact below a minute. */
function shortTime(ms: number): string {
  if (ms < 1000) return `${ms}ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)}s` : formatDuration(ms);
}

function sentence(entry: ToldEntry): string {
  switch (entry.kind) {
    case 'created':
      return createdSentence(entry);
    case 'request':
      return requestSentence(entry);
    case 'takeover':
      return takeoverSentence(entry);
    case 'lease-ended':
      return LEASE_ENDS[entry.reason];
    case 'attempt':
      return attemptSentence(entry);
    case 'retry':
      return `Delivery is tried again in ${shortTime(entry.afterMs)}.`;
    case 'undelivered':
      return `Delivery was given up (${entry.reason}): ${entry.problem}. The bytes are kept.`;
    case 'answer':
      return `The answer of the ${entry.by} is ${entry.status} with ${formatBytes(entry.bytes)}; it is kept for the client.`;
    case 'end':
      return `${ENDS[entry.phase] ?? `The upload ended: ${entry.phase}`}${because(entry.problem)}.`;
    case 'removed':
      return 'The record and what was kept for the client were removed; only this history is left.';
    case 'admin':
      return adminSentence(entry);
    case 'left-out':
      return `(${entry.count} ${entry.count === 1 ? 'entry is' : 'entries are'} left out here)`;
  }
}

type Told<Kind extends StoryEvent['kind']> = Extract<StoryEvent, { readonly kind: Kind }>;

function createdSentence({ method, target, client, route, dialect, length }: Told<'created'>): string {
  const size = length === undefined ? 'its length was not announced' : `${bytes(length)} announced`;
  return `Created by ${client}: ${method} ${target}, route ${route}, ${versionOf(dialect)}; ${size}.`;
}

const ACTIONS: Readonly<Record<string, string>> = {
  create: 'to create it',
  append: 'to append',
  retrieve: 'asked for its state',
  cancel: 'to cancel it',
  discover: 'asked for its limits',
  spooled: 'with a body that was spooled',
};

function requestSentence(entry: Told<'request'>): string {
  const { method, action, client, dialect, http, ms } = entry;
  const version = [...(dialect === undefined ? [] : [versionOf(dialect)]), `HTTP/${http}`].join(', ');
  const who = `${method} from ${client} (${version}) ${ACTIONS[action] ?? ''}`.trimEnd();
  return `${who}${offsets(entry)}, ${shortTime(ms)}: ${endOfRequest(entry)}.`;
}

function offsets({ action, from, to }: Told<'request'>): string {
  if (from === undefined || to === undefined) return '';
  if (action === 'retrieve') return `, ${bytes(to)} are stored`;
  return to === from
    ? `, nothing new was stored at ${bytes(to)}`
    : `, stored ${bytes(to - from)}, from ${from} to ${to}`;
}

function endOfRequest({ status, interrupted }: Told<'request'>): string {
  const why = interrupted === undefined ? undefined : (INTERRUPTIONS[interrupted] ?? interrupted);
  if (status === undefined) return why ?? 'no response was sent';
  return why === undefined ? `answered ${status}` : `${why}, so it did not get the whole response (${status})`;
}

const INTERRUPTIONS: Readonly<Record<string, string>> = {
  'client-left': 'the connection of the client broke',
  cut: 'the response could not be completed',
  idle: 'it was ended because it sent nothing for too long',
  slow: 'it was ended because it was too slow',
  'taken-over': 'it was ended because a newer request came',
  draining: 'it was ended because the proxy was stopping',
  lost: 'it was ended because its lease was lost',
  unavailable: 'its connection was closed because the store could not be reached',
};

const PURPOSES = { 'to-write': 'to write', 'to-read': 'to read the offset', 'to-end': 'to end the upload' } as const;

function takeoverSentence({ lease, from, purpose, waitedMs }: Told<'takeover'>): string {
  return (
    `Taken over: a newer request ${PURPOSES[purpose]} has lease ${lease}, ${shortTime(waitedMs)} after it asked; ` +
    `the request with lease ${from} can store nothing more.`
  );
}

const LEASE_ENDS = {
  draining: 'The request that was writing was asked to end, because the proxy was stopping.',
  lost: 'The request that was writing lost its lease, because the store could not be reached in time.',
} as const;

const REACHED: Readonly<Record<Told<'attempt'>['reached'], string>> = {
  'never-sent': 'nothing was sent',
  'sent-in-part': 'only a part was sent',
  sent: 'sent, but not answered',
  answered: 'sent and answered',
};

function attemptSentence({ number, origin, ms, reached, status, problem }: Told<'attempt'>): string {
  const result = status === undefined ? REACHED[reached] : `${REACHED[reached]} ${status}`;
  const isSaid = problem === undefined || problem === `the origin answered ${status}`;
  return `Delivery attempt ${number} to ${origin}, ${shortTime(ms)}: ${result}${isSaid ? '' : ` (${problem})`}.`;
}

const ENDS: Readonly<Record<string, string>> = {
  cancelled: 'The upload was cancelled, and its bytes were removed',
  invalid: 'The upload was given up',
  expired: 'The upload expired, and its bytes were removed',
  undelivered: 'The upload expired without having been delivered, and its bytes were removed',
};

function because(problem: string | undefined): string {
  return problem === undefined ? '' : `: ${problem}`;
}

function adminSentence({ action, operator = 'Somebody', pastGate, status }: Told<'admin'>): string {
  const what = action === 'cancel' ? 'cancel it' : `deliver it again${pastGate ? ', past its gate' : ''}`;
  return `${operator} asked the admin API to ${what}: answered ${status}.`;
}

function versionOf(dialect: string): string {
  if (dialect === PLAIN_DIALECT) return 'an ordinary request';
  if (dialect === TUS_DIALECT) return 'tus 1.0.0';
  return dialect === 'final' ? 'no interop version' : `interop ${dialect}`;
}

/** Exact, and readable if it is large. */
function bytes(count: number): string {
  return count < 10_240 ? `${count} B` : `${count} B (${formatBytes(count)})`;
}
