import { Fault } from '../model/fault.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { Spool, SpooledChunk } from '../spool/spool.js';
import type { SetAside } from '../store/upload-store.js';

export interface UnreadableBytesOptions {
  readonly spool: Pick<Spool, 'filesOf'>;
  readonly log: Log;
  /** The time of the wall. */
  readonly clock: () => number;
  /** How often the disk is asked again; every five seconds when it is missing. */
  readonly everyMs?: number;
}

/** Brings an upload and its files together after a start, once they can be read. */
export type LookAfter = (id: string, files: readonly SpooledChunk[]) => Promise<void>;

const EVERY_MS = 5000;

/**
 * Uploads whose bytes the disk does not list, or that could not be looked after for another fault of it. Nothing of them is
 * removed. Each is told once, when it begins and when it is over, and tried again until then.
 */
export class UnreadableBytes {
  private readonly known = new Map<string, SetAside>();
  /** Those of them that the start could not look after. */
  private readonly unrecovered = new Set<string>();
  private timer: NodeJS.Timeout | undefined;
  private trying: Promise<void> | undefined;

  constructor(private readonly options: UnreadableBytesOptions) {}

  /** From now on they are tried again. */
  start(lookAfter: LookAfter): void {
    this.timer = setInterval(() => {
      this.trying ??= this.tryAgain(lookAfter)
        .catch((error: unknown) => this.options.log.error({ err: error }, 'uploads could not be looked after again'))
        .finally(() => (this.trying = undefined));
    }, this.options.everyMs ?? EVERY_MS).unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.trying;
  }

  has(id: string): boolean {
    return this.known.has(id);
  }

  list(): readonly SetAside[] {
    return [...this.known.values()];
  }

  /** Found at the start: as soon as its files can be read, it is looked after as at a start. */
  readonly noteUnrecovered = (id: string, fault: Error): void => {
    this.unrecovered.add(id);
    this.note(id, fault);
  };

  /** Found since then: requests and deliveries may be at work on it, so its files are only listed again. */
  readonly note = (id: string, fault: Error): void => {
    if (this.known.has(id)) return;
    this.known.set(id, { id, state: 'unreadable', reason: fault.message, since: this.options.clock() });
    this.options.log.error({ upload: uploadTag(id), err: fault }, NOTED);
  };

  /** One round over all of them. */
  async tryAgain(lookAfter: LookAfter): Promise<void> {
    for (const id of [...this.known.keys()])
      try {
        const files = await this.options.spool.filesOf(id);
        if (this.unrecovered.has(id)) await lookAfter(id, files);
        this.unrecovered.delete(id);
        this.known.delete(id);
        this.options.log.info({ upload: uploadTag(id) }, 'the bytes of an upload can be read again');
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        // It has been told, and stays as it is.
      }
  }
}

const NOTED = 'an upload could not be looked after: nothing of it is removed, and it is tried again';
