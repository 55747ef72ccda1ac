import type { Upload } from '../model/upload.js';
import type { UploadStore } from '../store/upload-store.js';

/** What a node has to keep, `undefined`: the only one. What was cancelled or given up is about to be swept. */
export async function ownUploads(store: Pick<UploadStore, 'list'>, self: string | undefined): Promise<Upload[]> {
  const own: Upload[] = [];
  let after: string | undefined;
  do {
    const page = await store.list(after, 500);
    own.push(
      ...page.uploads.filter(({ node, phase }) => node === self && phase !== 'cancelled' && phase !== 'invalid'),
    );
    after = page.next;
  } while (after !== undefined);
  return own;
}
