import type { Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';

export interface AcknowledgedOffsetsDeps {
  readonly store: Pick<UploadStore, 'canLoseConfirmedSteps'>;
  readonly spool: Pick<Spool, 'noteAcknowledged' | 'acknowledgedOffset'>;
}

/**
 * Keeps the offsets that clients were shown beside the bytes, for a store that may forget confirmed steps. So an offset
 * never goes down, and bytes that went to the origin are not received a second time.
 * Reasons: docs/decisions/0013.
 */
export class AcknowledgedOffsets {
  constructor(private readonly deps: AcknowledgedOffsetsDeps) {}

  /** Must resolve before a client is shown this offset. */
  async acknowledge(id: string, offset: number): Promise<void> {
    const { store, spool } = this.deps;
    if (store.canLoseConfirmedSteps && offset > 0) await spool.noteAcknowledged(id, offset);
  }

  /**
   * Must resolve before a client learns that the upload is complete: no record that still receives reaches this number.
   */
  acknowledgeComplete({ id, offset, length = 0 }: Upload): Promise<void> {
    return this.acknowledge(id, Math.max(offset, length) + 1);
  }

  /** Acknowledges the upload in its present state; `offset` is the one shown while it receives. */
  acknowledgeState(upload: Upload, offset = upload.offset): Promise<void> {
    return upload.phase === 'receiving' ? this.acknowledge(upload.id, offset) : this.acknowledgeComplete(upload);
  }

  /**
   * Whether the record of a receiving upload, read under a lease, reaches every offset that was shown. Its own offset
   * may then be shown too.
   */
  async coversAcknowledged({ id, offset }: Upload): Promise<boolean> {
    const { store, spool } = this.deps;
    if (!store.canLoseConfirmedSteps) return true;
    const acknowledged = await spool.acknowledgedOffset(id);
    // An equal number is written again: the process that wrote it may have been killed before it was durable.
    if (offset >= acknowledged) await this.acknowledge(id, offset);
    return offset >= acknowledged;
  }
}
