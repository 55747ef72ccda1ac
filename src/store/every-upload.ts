import { setImmediate as breath } from 'node:timers/promises';
import type { Upload } from '../model/upload.js';
import type { UploadStore } from './upload-store.js';

const PAGE = 500;

/** Every upload the store knows, a page at a time; between two of them requests have their turn. */
export async function* everyUpload(store: Pick<UploadStore, 'list'>): AsyncGenerator<Upload> {
  let after: string | undefined;
  do {
    const page = await store.list(after, PAGE);
    yield* page.uploads;
    after = page.next;
    await breath();
  } while (after !== undefined);
}
