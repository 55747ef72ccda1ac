import type { AppendIntent } from '../model/intent.js';
import type { Interrupted } from '../model/outcome.js';
import type { Upload } from '../model/upload.js';
import type { Body } from './body.js';

/**
 * Whether an append to a whole upload repeats its end: nothing at the full offset, or the held-back last byte just before
 * it. The repeated byte must be the stored one, otherwise this is another file.
 */
export async function repeatsTheEnd(intent: AppendIntent, upload: Upload, body: Body): Promise<boolean | Interrupted> {
  const expected = intent.offset === upload.offset ? undefined : upload.heldBack?.lastByte;
  const expectedSize = expected === undefined ? 0 : 1;
  if (intent.declaredLength !== undefined && intent.declaredLength !== upload.offset) return false;
  if (intent.contentLength !== undefined && intent.contentLength !== expectedSize) return false;
  const bytes: number[] = [];
  for (let batch = await body.next(); batch; batch = await body.next()) {
    for (const buffer of batch) bytes.push(...buffer.subarray(0, 2));
    if (bytes.length > expectedSize) {
      body.stop();
      return false;
    }
  }
  const { ending } = body;
  if (ending !== 'clean')
    return { kind: 'interrupted', why: ending === 'idle' || ending === 'slow' ? ending : 'client-left' };
  return bytes.length === expectedSize && bytes[0] === expected;
}
