import type { Spool, SpooledChunk } from '../spool/spool.js';

/** Everything a spool has of one upload. */
export interface SpooledUpload {
  readonly id: string;
  readonly files: readonly SpooledChunk[];
}

/** What a spool lists, upload by upload. */
export async function* spooledUploads(spool: Pick<Spool, 'list'>): AsyncGenerator<SpooledUpload> {
  let files: SpooledChunk[] = [];
  for await (const file of spool.list()) {
    const before = files[0];
    if (before && before.id !== file.id) {
      yield { id: before.id, files };
      files = [];
    }
    files.push(file);
  }
  if (files[0]) yield { id: files[0].id, files };
}
