import type { HistoryConfig } from '../config/config.js';
import type { Log } from '../observe/log.js';
import { uploadTag } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { DiskSpace } from '../spool/disk-space.js';
import { HistoryFiles } from '../store/embedded/history-files.js';
import type { History } from '../store/history.js';
import { StoryNotes } from '../store/story-notes.js';
import type { Totals } from '../store/upload-store.js';

export interface HistoryDeps {
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'historyDropped'>;
  readonly clock: () => number;
  /** The clock for expiry: setting the system clock forward expires no entry. */
  readonly expiryClock: () => number;
  /** The disk of the data. */
  readonly space: Pick<DiskSpace, 'free' | 'refresh'>;
  /** Closers run in reverse order. */
  readonly closers: (() => Promise<unknown>)[];
}

interface HistoryFilesPlace extends HistoryConfig {
  readonly directory: string;
  /** The room that unfinished uploads have reserved. */
  readonly totals: () => Promise<Totals>;
}

/** The stories of uploads in files of the data directory, which must be locked; undefined if none are kept. */
export function openHistoryFiles(place: HistoryFilesPlace, deps: HistoryDeps): StoryNotes | undefined {
  const { directory, keepMs, maxBytes, totals } = place;
  const { space } = deps;
  if (keepMs === 0) return undefined;
  const freeBytes = async (): Promise<number> => {
    await space.refresh();
    const { reservedBytes } = await totals();
    return (space.free?.bytes ?? Infinity) - reservedBytes;
  };
  return storyNotes(new HistoryFiles({ directory, keepMs, maxBytes, clock: deps.expiryClock, freeBytes }), deps);
}

/** Failures are logged at most this often. */
const LOG_INTERVAL_MS = 60_000;

function storyNotes(history: History, { log, metrics, clock, closers }: HistoryDeps): StoryNotes {
  let loggedAt = -Infinity;
  const onDropped = (count: number, error: unknown): void => {
    metrics.historyDropped(count);
    if (performance.now() - loggedAt < LOG_INTERVAL_MS) return;
    loggedAt = performance.now();
    const reason = error instanceof Error ? error.message : 'too many at a time';
    log.warn({ entries: count, reason }, 'what happened to uploads could not be kept in their histories');
  };
  const notes = new StoryNotes({ history, tagOf: uploadTag, clock, onDropped });
  closers.push(() => notes.close());
  return notes;
}
