import type { Upload } from '../model/upload.js';
import type { UploadStore } from '../store/upload-store.js';

/** How another worker's delivery came out, or `late` when that takes longer. Rejects with the signal's reason. */
export async function settledWithin(
  store: Pick<UploadStore, 'settled'>,
  id: string,
  signal: AbortSignal,
  waitMs: number,
): Promise<Upload | undefined | 'late'> {
  const waiting = new AbortController();
  const leave = (): void => waiting.abort(signal.reason);
  const timer = setTimeout(() => waiting.abort(), waitMs);
  signal.addEventListener('abort', leave, { once: true });
  if (signal.aborted) leave();
  try {
    return await store.settled(id, waiting.signal);
  } catch (error) {
    if (waiting.signal.aborted && !signal.aborted) return 'late';
    throw error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', leave);
  }
}
