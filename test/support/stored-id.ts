import { uploadIdOf } from '../../src/model/upload-id.js';

/** The id under which the upload with this URL or path is stored. */
export function storedIdOf(target: string): string {
  return uploadIdOf(target.split('/').at(-1)!);
}
