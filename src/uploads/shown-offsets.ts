import type { Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';

export interface AcknowledgedOffsetsDeps {
  readonly store: Pick<UploadStore, 'canLoseConfirmedSteps'>;
  readonly spool: Pick<Spool, 'noteAcknowledged' | 'acknowledgedOffset'>;
}

/**
 * What clients were shown, kept beside the bytes where the store may forget what it had confirmed: an offset never goes
 * down, and what went to its origin is not received a second time.
 */
export class AcknowledgedOffsets {
  constructor(private readonly deps: AcknowledgedOffsetsDeps) {}

  /** To be fulfilled before anybody is shown this offset. */
  async acknowledge(id: string, offset: number): Promise<void> {
    const { store, spool } = this.deps;
    if (store.canLoseConfirmedSteps && offset > 0) await spool.noteAcknowledged(id, offset);
  }

  /** To be fulfilled before anybody hears that it is whole: no record that still receives can be as far as that. */
  acknowledgeComplete({ id, offset, length = 0 }: Upload): Promise<void> {
    return this.acknowledge(id, Math.max(offset, length) + 1);
  }

  /** One or the other, as the upload is; `offset`: what is shown of one that still receives. */
  acknowledgeState(upload: Upload, offset = upload.offset): Promise<void> {
    return upload.phase === 'receiving' ? this.acknowledge(upload.id, offset) : this.acknowledgeComplete(upload);
  }

  /**
   * Whether an upload that receives, as it is under a lease, is as far as anybody was shown. If so, it may be shown from
   * now on.
   */
  async coverAcknowledged({ id, offset }: Upload): Promise<boolean> {
    const { store, spool } = this.deps;
    if (!store.canLoseConfirmedSteps) return true;
    const promised = await spool.acknowledgedOffset(id);
    // Also where it is noted: by a process that may have been killed before that was durable.
    if (offset >= promised) await this.acknowledge(id, offset);
    return offset >= promised;
  }
}
