import type { Upload } from '../../src/model/upload.js';
import type { ChunkWriter, Spool } from '../../src/spool/spool.js';
import type { TokenSource } from '../../src/store/embedded/embedded-store.js';
import type { UploadStore } from '../../src/store/upload-store.js';

/** Holds steps of store and spool back, before they are done or before anybody hears of it, until they are let go. */
export class StorageGate {
  private toHold = 0;
  private isBroken = false;
  private readonly held: (() => void)[] = [];
  private running = 0;

  /** The next ones that come by stop here; those after them pass. */
  hold(count = Infinity): void {
    this.toHold = count;
  }

  /** One of those that wait goes on, up to its next stop. */
  letGo(which: number): void {
    this.held.splice(which % Math.max(this.held.length, 1), 1)[0]?.();
  }

  /** All go on, and nobody is held any more. */
  open(): void {
    this.toHold = 0;
    for (const go of this.held.splice(0)) go();
  }

  /** Those that wait never get any further, and nobody else does. */
  break(): void {
    this.isBroken = true;
    this.open();
  }

  async pass<T>(step: () => Promise<T>): Promise<T> {
    await this.stop();
    this.running += 1;
    try {
      return await step();
    } finally {
      this.running -= 1;
      await this.stop();
    }
  }

  /** Fulfilled when nothing moves any more: every step is done, or held. */
  async quiet(): Promise<void> {
    for (let turns = 0; turns < 3; turns = this.running > 0 ? 0 : turns + 1)
      await new Promise((resolve) => setImmediate(resolve));
  }

  private async stop(): Promise<void> {
    if (this.toHold-- > 0) await new Promise<void>((resolve) => this.held.push(resolve));
    if (this.isBroken) throw new Error('the process of this step is dead');
  }
}

/** The store as seen by who writes; `onRecord` hears of every record at once, when the writer may still be held. */
export function gatedStore<S extends UploadStore & TokenSource>(
  store: S,
  gate: StorageGate,
  onRecord: (upload: Upload) => void,
): S {
  const seen = Object.create(store) as S;
  seen.commit = (id, commit) =>
    gate.pass(async () => {
      const result = await store.commit(id, commit);
      if (typeof result === 'object') onRecord(result);
      return result;
    });
  return seen;
}

export function gatedSpool(spool: Spool, gate: StorageGate): Spool {
  const seen = Object.create(spool) as Spool;
  seen.create = (id, name) => gate.pass(async () => gatedWriter(await spool.create(id, name), gate));
  seen.removeChunk = (id, name) => gate.pass(() => spool.removeChunk(id, name));
  return seen;
}

/** Also holds its user to the contract: one write at a time, and no close before everything is done. */
function gatedWriter(writer: ChunkWriter, gate: StorageGate): ChunkWriter {
  const underWay = { write: 0, sync: 0 };
  const alone = async (kind: 'write' | 'sync', step: () => Promise<void>): Promise<void> => {
    if (underWay[kind] > 0) throw new Error(`a second ${kind} before the first is done`);
    underWay[kind] += 1;
    await gate.pass(step).finally(() => (underWay[kind] -= 1));
  };
  return {
    get size() {
      return writer.size;
    },
    get extent() {
      return writer.extent;
    },
    get extentWithoutLastByte() {
      return writer.extentWithoutLastByte;
    },
    write: (buffers) => alone('write', () => writer.write(buffers)),
    sync: () => alone('sync', () => writer.sync()),
    close: () => {
      if (underWay.write + underWay.sync > 0) throw new Error('closed while it was written');
      return writer.close();
    },
    discard: () => writer.discard(),
  };
}
