import { setImmediate as yieldToEventLoop } from 'node:timers/promises';
import type { Upload } from '../../model/upload.js';
import type { NewestFirstOptions, UploadIndex } from '../upload-store.js';
import type { CreationPlace } from './creation-order.js';
import type { Records } from './records.js';

/** As many rows as are looked at before other work gets its turn. */
const ROWS_PER_PIECE = 256;

/** Above each id, which has ASCII characters only. */
const ABOVE_ALL_IDS = '\uffff';

/** Finds uploads by their rows in memory, and reads only the records that are asked for. */
export class EmbeddedIndex implements UploadIndex {
  constructor(private readonly records: Records) {}

  async *ids(): AsyncGenerator<string> {
    let count = 0;
    for (const id of this.records.index.ids()) {
      yield id;
      if (++count % ROWS_PER_PIECE === 0) await yieldToEventLoop();
    }
  }

  async *newestFirst({ phase, createdUpTo }: NewestFirstOptions = {}): AsyncGenerator<Upload> {
    let place = createdUpTo === undefined ? undefined : { createdAt: createdUpTo, id: ABOVE_ALL_IDS };
    for (;;) {
      const rows = this.records.index.before(place, ROWS_PER_PIECE);
      if (rows.length === 0) return;
      place = rows.at(-1);
      yield* this.records.readEach(phase === undefined ? rows : rows.filter((row) => row.phase === phase));
      await yieldToEventLoop();
    }
  }

  read(id: string): Promise<Upload | undefined> {
    return this.records.readOnce(id);
  }

  /** A page for `UploadStore.list`: by the time of the creation, so that new and removed uploads do not shift it. */
  async page(after: string | undefined, limit: number): Promise<{ uploads: Upload[]; next?: string }> {
    const rows = this.records.index.before(after === undefined ? undefined : placeIn(after), limit + 1);
    const shown = rows.slice(0, limit);
    const uploads: Upload[] = [];
    for await (const upload of this.records.readEach(shown)) uploads.push(upload);
    const last = shown.at(-1);
    return last && rows.length > limit ? { uploads, next: `${last.createdAt}.${last.id}` } : { uploads };
  }
}

/** The place that a page ended at. */
function placeIn(next: string): CreationPlace {
  const dot = next.indexOf('.');
  return { createdAt: Number(next.slice(0, dot)), id: next.slice(dot + 1) };
}
