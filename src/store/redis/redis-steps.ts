import { Fault } from '../../model/fault.js';
import type { Upload } from '../../model/upload.js';
import type { RedisConnection, ScriptArgument } from './redis-connection.js';
import type { UploadKeys } from './redis-keys.js';
import { uploadOf } from './redis-record.js';

export interface Step {
  readonly script: string;
  readonly id: string;
  /** The node we think the bytes are with. */
  readonly node: string;
  readonly args?: readonly ScriptArgument[];
  /** Keys beyond those every step has. */
  readonly keys?: (keys: UploadKeys) => readonly string[];
  /** What is answered in place of the step where the bytes are with another node: only who has them may take it. */
  readonly elsewhere?: string | undefined;
}

/** Uploads move seldom: one that is elsewhere again each time we ask has something wrong with it. */
const MOST_MOVES = 5;

/** One verb as one script. Where the upload is with another node than thought, it is asked again with that one's keys. */
export async function takeStep<T extends string>(
  connection: RedisConnection,
  { script, id, node, args = [], keys: more, elsewhere }: Step,
): Promise<Upload | T> {
  const known = connection.keys.upload(id);
  const bucket = connection.keys.bucketOf(id);
  let believed = node;
  for (let asked = 0; asked <= MOST_MOVES; asked++) {
    const indexes = [connection.keys.due(bucket, believed), connection.keys.expires(bucket, believed)];
    const keys = [known.record, ...indexes, known.totals, known.news, ...(more?.(known) ?? [])];
    const [word, what] = (await connection.runDurably(script, keys, [id, believed, ...args])) as [string, unknown];
    if (word === 'upload') return uploadOf(what as string[], connection.clock);
    if (word === 'broken') throw new Fault('CONTRACT_BROKEN', `${script} refused: ${what as string}`, false);
    if (word !== 'moved') return word as T;
    if (elsewhere !== undefined) return elsewhere as T;
    believed = what as string;
  }
  throw new Fault('STORE_UNAVAILABLE', 'an upload moves from node to node faster than it can be asked for', true);
}
