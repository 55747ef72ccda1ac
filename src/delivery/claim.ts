import type { Log } from '../observe/log.js';
import { uploadTag } from '../observe/log.js';
import type { UploadStore } from '../store/upload-store.js';

export interface ClaimRooms {
  readonly store: Pick<UploadStore, 'renewClaim'>;
  readonly worker: string;
  readonly clock: () => number;
  readonly log: Log;
  /** After this long without a renewal somebody else may take the delivery. */
  readonly claimMs: number;
  /** Aborted when attempts under way have to end. */
  readonly halted: AbortSignal;
}

/** Holds the claim on a delivery while it is under way. `signal` ends the attempt when the claim is lost or all work stops. */
export class HeldClaim {
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout;
  private readonly halt = (): void => this.controller.abort(this.rooms.halted.reason);

  constructor(
    private readonly id: string,
    private readonly rooms: ClaimRooms,
  ) {
    this.timer = setInterval(() => void this.renew(), rooms.claimMs / 3);
    this.timer.unref();
    rooms.halted.addEventListener('abort', this.halt, { once: true });
    if (rooms.halted.aborted) this.halt();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Stops renewing; the store forgets the claim with the next phase. */
  release(): void {
    clearInterval(this.timer);
    this.rooms.halted.removeEventListener('abort', this.halt);
  }

  private async renew(): Promise<void> {
    const { store, worker, clock, claimMs, log } = this.rooms;
    try {
      const isHeld = await store.renewClaim(this.id, worker, clock() + claimMs);
      if (!isHeld) this.controller.abort(new Error('the upload was cancelled, or another worker delivers it'));
    } catch (error) {
      // Until it runs out the claim holds, and the next renewal may get through.
      log.warn({ upload: uploadTag(this.id), err: error }, 'a claim could not be renewed');
    }
  }
}
