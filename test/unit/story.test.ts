import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { removedUpload, storyPart, type WithStory } from '../../src/cli/tell-story.js';
import { inOrder, shortText, type StoryEntry, thinned } from '../../src/model/story.js';
import { EmbeddedLeases } from '../../src/store/embedded/embedded-leases.js';
import type { History, TaggedEntry } from '../../src/store/history.js';
import { NotedLeases } from '../../src/store/noted-leases.js';
import { StoryNotes } from '../../src/store/story-notes.js';
import { until } from '../support/temporary.js';

const retry = (at: number): StoryEntry => ({ kind: 'retry', afterMs: 1, at });
const created = (at: number): StoryEntry => ({
  kind: 'created',
  ...{ route: 'default', dialect: '10', method: 'POST', target: '/x', client: '10.0.0.1', at },
});

describe('a story', () => {
  test('of up to 101 entries is kept as it is; a longer one keeps its first 20 and last 80', () => {
    const entries = Array.from({ length: 300 }, (_, at) => retry(at));
    expect(thinned(entries.slice(0, 101))).toEqual(entries.slice(0, 101));
    const leftOut: StoryEntry = { kind: 'left-out', count: 2, at: 20 };
    expect(thinned(entries.slice(0, 102))).toEqual([...entries.slice(0, 20), leftOut, ...entries.slice(22, 102)]);
  });

  test('that is thinned again says how many entries are missing in all', () => {
    const once = thinned(Array.from({ length: 300 }, (_, at) => retry(at)));
    const again = thinned([...once, ...Array.from({ length: 50 }, (_, at) => retry(300 + at))]);
    expect(again[20]).toEqual({ kind: 'left-out', count: 250, at: 20 });
    expect(again.length).toBe(101);
  });

  test('is sorted by time, and begins with the creation at the time of its request', () => {
    expect(inOrder([retry(9), retry(3), created(5)])).toEqual([created(3), retry(3), retry(9)]);
  });

  test('has what was asked for before what followed within the same millisecond', () => {
    const end: StoryEntry = { kind: 'end', phase: 'cancelled', at: 7 };
    const asked: StoryEntry = { kind: 'admin', action: 'cancel', status: 204, at: 7 };
    expect(inOrder([end, asked])).toEqual([asked, end]);
  });

  test('has no long texts', () => {
    expect(shortText('x'.repeat(300))).toBe('x'.repeat(300));
    expect(shortText('x'.repeat(301))).toBe(`${'x'.repeat(299)}…`);
  });
});

/** A history in memory, which can fail and can take its time. */
class FakeHistory implements History {
  readonly batches: TaggedEntry[][] = [];
  failure: Error | undefined;
  pause: Promise<void> | undefined;

  async append(entries: readonly TaggedEntry[]): Promise<void> {
    await this.pause;
    if (this.failure) throw this.failure;
    this.batches.push([...entries]);
  }

  read(tag: string): Promise<readonly StoryEntry[]> {
    return Promise.resolve(this.batches.flat().flatMap((each) => (each.tag === tag ? [each.entry] : [])));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

describe('notes', () => {
  let history: FakeHistory;
  let dropped: unknown[];
  let notes: StoryNotes;
  let now = 1000;
  beforeEach(() => {
    history = new FakeHistory();
    dropped = [];
    now = 1000;
    notes = new StoryNotes({
      history,
      tagOf: (id) => `tag of ${id}`,
      clock: () => now,
      onDropped: (...what) => dropped.push(what),
      everyMs: 1,
      maxPending: 3,
      closeMs: 10,
    });
  });
  afterEach(() => notes.close());

  test('of several uploads are written together, by their tags, with the times at which they began', async () => {
    notes.note('a', { kind: 'removed' });
    notes.note('b', { kind: 'retry', afterMs: 5 }, 300);
    await until(() => history.batches.length > 0, 'a batch');
    expect(history.batches).toEqual([
      [
        { tag: 'tag of a', entry: { at: 1000, kind: 'removed' } },
        { tag: 'tag of b', entry: { at: 700, kind: 'retry', afterMs: 5 } },
      ],
    ]);
  });

  test('can be read at once', async () => {
    notes.note('a', { kind: 'removed' });
    expect(await notes.read('tag of a')).toEqual([{ at: 1000, kind: 'removed' }]);
  });

  test('that cannot be written are dropped and counted, and later ones are written', async () => {
    history.failure = new Error('no room');
    notes.note('a', { kind: 'removed' });
    notes.note('b', { kind: 'removed' });
    await notes.flush();
    expect(dropped).toEqual([[2, history.failure]]);
    history.failure = undefined;
    notes.note('c', { kind: 'removed' });
    await notes.flush();
    expect(history.batches.flat().map(({ tag }) => tag)).toEqual(['tag of c']);
  });

  test('hold up no end while a write hangs, and none is taken after it', async () => {
    history.pause = new Promise(() => undefined);
    notes.note('a', { kind: 'removed' });
    await notes.close();
    notes.note('b', { kind: 'removed' });
    history.pause = undefined;
    expect([history.batches, dropped]).toEqual([[], []]);
  });

  test('beyond what may wait are dropped while a write hangs', async () => {
    let end = (): void => undefined;
    history.pause = new Promise((resolve) => (end = resolve));
    notes.note('first', { kind: 'removed' });
    const flushed = notes.flush();
    await Promise.resolve();
    for (const id of ['a', 'b', 'c', 'd', 'e']) notes.note(id, { kind: 'removed' });
    expect(dropped).toEqual([[1], [1]]);
    end();
    await flushed;
    await notes.flush();
    expect(history.batches.flat().map(({ tag }) => tag)).toEqual(['first', 'a', 'b', 'c'].map((id) => `tag of ${id}`));
  });

  test('of a lease that changes hands name both, and none is made of one that was free', async () => {
    let token = 0;
    const leases = new NotedLeases(new EmbeddedLeases({ nextToken: () => Promise.resolve(++token) }), notes);
    await (await leases.take('a')).release();
    const first = await leases.take('a');
    const second = leases.take('a', 'to-read');
    expect(first.signal.aborted).toBe(true);
    await first.release();
    await (await second).release();
    const told = { kind: 'takeover', lease: 3, from: 2, purpose: 'to-read', waitedMs: expect.any(Number), at: 1000 };
    expect(await notes.read('tag of a')).toEqual([told]);
  });

  test('of a lease that ends because the proxy stops say so', async () => {
    const leases = new NotedLeases(new EmbeddedLeases({ nextToken: () => Promise.resolve(7) }), notes);
    const lease = await leases.take('a');
    leases.drain();
    await lease.release();
    expect(await notes.read('tag of a')).toEqual([{ kind: 'lease-ended', lease: 7, reason: 'draining', at: 1000 }]);
  });
});

type Told = NonNullable<WithStory['story']>[number];

const AT = '2026-12-01T12:00:00.000Z';
const request = (more: object): Told => ({
  kind: 'request',
  ...{ at: AT, action: 'append', method: 'PATCH', client: '10.0.0.1', dialect: 'tus', http: '2.0', ms: 61_000 },
  ...more,
});
const attempt = (more: object): Told => ({
  kind: 'attempt',
  ...{ at: AT, number: 2, origin: 'http://api', ms: 1500, reached: 'sent' },
  ...more,
});

const SENTENCES: readonly (readonly [Told, string])[] = [
  [{ ...created(0), at: AT }, 'Created by 10.0.0.1: POST /x, route default, interop 10; its length was not announced.'],
  [
    request({ from: 5, to: 9, status: 204 }),
    'PATCH from 10.0.0.1 (tus 1.0.0, HTTP/2.0) to append, stored 4 B, from 5 to 9, 1m 1s: answered 204.',
  ],
  [
    request({ interrupted: 'idle' }),
    'PATCH from 10.0.0.1 (tus 1.0.0, HTTP/2.0) to append, 1m 1s: it was ended because it sent nothing for too long.',
  ],
  [
    request({ status: 201, interrupted: 'cut' }),
    'PATCH from 10.0.0.1 (tus 1.0.0, HTTP/2.0) to append, 1m 1s: the response could not be completed, so it did not get the whole response (201).',
  ],
  [
    request({ dialect: undefined, action: 'other', ms: 3 }),
    'PATCH from 10.0.0.1 (HTTP/2.0), 3ms: no response was sent.',
  ],
  [
    { kind: 'lease-ended', at: AT, lease: 3, reason: 'lost' },
    'The request that was writing lost its lease, because the store could not be reached in time.',
  ],
  [attempt({}), 'Delivery attempt 2 to http://api, 1.5s: sent, but not answered.'],
  [
    attempt({ reached: 'never-sent', problem: 'connect ECONNREFUSED' }),
    'Delivery attempt 2 to http://api, 1.5s: nothing was sent (connect ECONNREFUSED).',
  ],
  [
    attempt({ reached: 'answered', status: 503, problem: 'the origin answered 503' }),
    'Delivery attempt 2 to http://api, 1.5s: sent and answered 503.',
  ],
  [
    { kind: 'undelivered', at: AT, reason: 'refused', status: 503, problem: 'the origin answered 503' },
    'Delivery was given up (refused): the origin answered 503. The bytes are kept.',
  ],
  [
    { kind: 'answer', at: AT, by: 'gate', status: 403, bytes: 2048 },
    'The answer of the gate is 403 with 2.0 KiB; it is kept for the client.',
  ],
  [{ kind: 'end', at: AT, phase: 'invalid', problem: 'too much' }, 'The upload was given up: too much.'],
  [{ kind: 'end', at: AT, phase: 'expired' }, 'The upload expired, and its bytes were removed.'],
  [{ kind: 'removed', at: AT }, 'The record and what was kept for the client were removed; only this history is left.'],
  [
    { kind: 'admin', at: AT, action: 'redeliver', operator: 'Ada', pastGate: true, status: 202 },
    'Ada asked the admin API to deliver it again, past its gate: answered 202.',
  ],
  [{ kind: 'left-out', at: AT, count: 1 }, '(1 entry is left out here)'],
  [{ kind: 'left-out', at: AT, count: 7 }, '(7 entries are left out here)'],
];

describe('the told story', () => {
  test.each(SENTENCES)('%j', (entry, sentence) => {
    const [, line] = storyPart({ story: [entry] })
      .trimStart()
      .split('\n');
    expect(line).toBe(`  2026-12-01 12:00:00.000Z      +0ms  ${sentence}`);
  });

  test('has the time since the beginning in every line', () => {
    const times = ['12:00:00.000', '12:00:00.120', '12:00:02.150', '12:05:12.000', '15:01:01.000'];
    const story = times.map((time): Told => ({ kind: 'retry', afterMs: 90_000, at: `2026-12-01T${time}Z` }));
    expect(storyPart({ story })).toBe(`
What happened (UTC, and since the beginning):
  2026-12-01 12:00:00.000Z      +0ms  Delivery is tried again in 1m 30s.
  2026-12-01 12:00:00.120Z    +120ms  Delivery is tried again in 1m 30s.
  2026-12-01 12:00:02.150Z     +2.1s  Delivery is tried again in 1m 30s.
  2026-12-01 12:05:12.000Z   +5m 12s  Delivery is tried again in 1m 30s.
  2026-12-01 15:01:01.000Z    +3h 1m  Delivery is tried again in 1m 30s.
`);
  });

  test('of an upload that is gone begins with that', () => {
    const removed = { tag: '3f0c9a17be', phase: 'removed', story: [{ kind: 'removed', at: AT }] } as const;
    const now = Date.parse(AT) + 3_600_000;
    expect(removedUpload(removed, now)).toMatch(
      /^The upload 3f0c9a17be is gone; its last event was 1h ago\.\n\nWhat h/,
    );
  });

  test('says so when stories are not kept, or when this one has no entries', () => {
    expect(storyPart({})).toContain('What happened is not kept here');
    expect(storyPart({ story: [] })).toContain('Nothing of what happened to this upload is known.');
  });
});
