import type { Spool, SpooledChunk } from '../spool/spool.js';

/** Everything a spool has of one upload. */
export interface SpooledUpload {
  readonly id: string;
  readonly files: readonly SpooledChunk[];
}

/** All that a spool lists, upload by upload; `unlisted` is told of those that it cannot list. */
export async function* spooledUploads(
  spool: Pick<Spool, 'list'>,
  unlisted: (id: string, fault: Error) => void,
): AsyncGenerator<SpooledUpload> {
  let files: SpooledChunk[] = [];
  for await (const file of spool.list(unlisted)) {
    const before = files[0];
    if (before && before.id !== file.id) {
      yield { id: before.id, files };
      files = [];
    }
    files.push(file);
  }
  if (files[0]) yield { id: files[0].id, files };
}
