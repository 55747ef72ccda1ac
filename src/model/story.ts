import type { Phase, Reached, Undelivered } from './upload.js';

/** An event in the life of an upload, as operators read it. It never has a token, an id, credentials or query values. */
export type StoryEvent =
  | {
      readonly kind: 'created';
      readonly route: string;
      readonly dialect: string;
      readonly method: string;
      /** Without its query values. */
      readonly target: string;
      readonly client: string;
      readonly length?: number;
    }
  | RequestEvent
  /** A request got the lease that another one still held. */
  | {
      readonly kind: 'takeover';
      readonly lease: number;
      readonly from: number;
      readonly purpose: 'to-write' | 'to-read' | 'to-end';
      readonly waitedMs: number;
    }
  | { readonly kind: 'lease-ended'; readonly lease: number; readonly reason: 'draining' | 'lost' }
  | {
      readonly kind: 'attempt';
      readonly number: number;
      readonly origin: string;
      readonly ms: number;
      readonly reached: Reached;
      readonly status?: number;
      readonly problem?: string;
    }
  | { readonly kind: 'retry'; readonly afterMs: number }
  | {
      readonly kind: 'undelivered';
      readonly reason: Undelivered['reason'];
      readonly status?: number;
      readonly problem: string;
    }
  | { readonly kind: 'answer'; readonly by: 'origin' | 'gate'; readonly status: number; readonly bytes: number }
  | { readonly kind: 'end'; readonly phase: Phase | 'expired'; readonly problem?: string }
  /** The record and the kept answer are gone; only the story is left. */
  | { readonly kind: 'removed' }
  | {
      readonly kind: 'admin';
      readonly action: 'cancel' | 'redeliver';
      readonly operator?: string;
      readonly pastGate?: true;
      /** The status of the admin API's response. */
      readonly status: number;
    }
  /** So many entries between the one before and the one after are not kept. */
  | { readonly kind: 'left-out'; readonly count: number };

/** A finished request for an upload, however it ended. */
interface RequestEvent {
  readonly kind: 'request';
  /** The meaning of the request: `create`, `append`, `retrieve` and others. */
  readonly action: string;
  readonly method: string;
  readonly client: string;
  /** The protocol version that the request spoke. */
  readonly dialect?: string;
  readonly http: string;
  /** The committed bytes before and after it; missing if the request cannot change them. */
  readonly from?: number;
  readonly to?: number;
  readonly ms: number;
  /** Missing if no final response was sent. */
  readonly status?: number;
  /** The reason why the request ended without a complete response. */
  readonly interrupted?: string;
}

/** An event with its time, in milliseconds since the epoch. */
export type StoryEntry = StoryEvent & { readonly at: number };

/** Takes notes of what happens to uploads. It never fails and is never waited for. */
export interface StoryWriter {
  /** `msAgo`: how long ago the event began; it begins now by default. */
  note(id: string, event: StoryEvent, msAgo?: number): void;
}

/** The stories of all uploads, also of those whose records are gone. */
export interface Stories extends StoryWriter {
  /** The kept entries of the upload with this tag, oldest first; empty if there are none. */
  read(tag: string): Promise<readonly StoryEntry[]>;
}

/** A story keeps its beginning and its end. */
export const FIRST_KEPT = 20;
export const LAST_KEPT = 80;

/** At most the first 20 and the last 80 entries, with the number of those left out between them. */
export function thinned(entries: readonly StoryEntry[]): readonly StoryEntry[] {
  if (entries.length <= FIRST_KEPT + LAST_KEPT + 1) return entries;
  const end = entries.length - LAST_KEPT;
  const between = entries.slice(FIRST_KEPT, end);
  const leftOut: StoryEntry = { kind: 'left-out', count: countOf(between), at: between[0]!.at };
  return [...entries.slice(0, FIRST_KEPT), leftOut, ...entries.slice(end)];
}

/** How many entries these stand for. */
function countOf(entries: readonly StoryEntry[]): number {
  return entries.reduce((sum, entry) => sum + (entry.kind === 'left-out' ? entry.count : 1), 0);
}

/** Sorts by time. The creation comes first and with the request that made it, which began a moment earlier. */
export function inOrder(entries: readonly StoryEntry[]): readonly StoryEntry[] {
  const beginsAt = entries.reduce((first, { at }) => Math.min(first, at), Infinity);
  const moved = entries.map((entry) => (entry.kind === 'created' ? { ...entry, at: beginsAt } : entry));
  return moved.sort((a, b) => a.at - b.at || rankOf(a) - rankOf(b));
}

/** Within one millisecond, what was asked for comes before what followed from it. */
function rankOf({ kind }: StoryEntry): number {
  if (kind === 'created') return 0;
  return kind === 'request' || kind === 'admin' ? 1 : 2;
}

const MAX_TEXT = 300;

/** A text of a client or an origin, short enough for a story. */
export function shortText(text: string): string {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT - 1)}…` : text;
}
