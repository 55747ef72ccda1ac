import type { Upload } from '../model/upload.js';
import { everyUpload } from '../store/every-upload.js';
import type { UploadStore } from '../store/upload-store.js';

/** What a node has to keep, `undefined`: the only one. What was cancelled or given up is about to be swept. */
export async function ownUploads(store: Pick<UploadStore, 'list'>, self: string | undefined): Promise<Upload[]> {
  const own: Upload[] = [];
  for await (const upload of everyUpload(store)) {
    const { node, phase } = upload;
    if (node === self && phase !== 'cancelled' && phase !== 'invalid') own.push(upload);
  }
  return own;
}
