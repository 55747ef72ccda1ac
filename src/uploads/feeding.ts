import type { EarlyAnswer, Feed } from '../delivery/eager.js';
import type { AppendIntent, CreateIntent } from '../model/intent.js';
import type { Interrupted, Outcome } from '../model/outcome.js';
import type { Route } from '../model/route.js';
import type { Upload } from '../model/upload.js';
import { isAway } from '../store/until-available.js';
import type { UploadStore } from '../store/upload-store.js';
import type { CommitPace } from './growing-chunk.js';
import type { Promises } from './promises.js';
import type { TakeIn, TakeInTask, Whole } from './take-in.js';

/** Who wants an upload's bytes while it is received. */
export interface Feeds {
  /** Undefined when nobody does. */
  follow(upload: Upload): Feed | undefined;
  /** Whether uploads of this length are wanted so on this route: never, or not now. */
  follows(route: Route, length: number | undefined): 'yes' | 'never' | 'busy';
  /** The upload has no future. */
  unfollow(id: string): void;
}

export interface FeedingRooms {
  readonly store: Pick<UploadStore, 'get'>;
  readonly takeIn: TakeIn;
  readonly promises: Promises;
  readonly pace: CommitPace;
  /** Missing: nothing is delivered before it is whole. */
  readonly feeds?: Feeds;
}

/** An origin gets what is committed, so that the usual pace would keep it waiting. */
const FEEDING_PACE: CommitPace = { bytes: 4 * 1024 * 1024, everyMs: 100, firstAtOnce: true };

/** Receives a body while its origin is fed, and stops when that has heard enough. */
export class Feeding {
  private readonly pace: CommitPace;

  constructor(private readonly rooms: FeedingRooms) {
    this.pace = rooms.pace.bytes < FEEDING_PACE.bytes ? rooms.pace : FEEDING_PACE;
  }

  async take(task: TakeInTask): Promise<Outcome | Interrupted | Whole> {
    const { takeIn, feeds } = this.rooms;
    const { intent, upload, lease } = task;
    const feed = feeds?.follow(upload);
    const untold = feed?.takeEarlyAnswer();
    if (untold) return this.outcomeOf(untold, intent);
    const taken = await this.takeWhileFeeding(task, takeIn, feed);
    if (taken.kind === 'whole') return taken;
    const early = feed?.takeEarlyAnswer();
    if (early) return this.outcomeOf(early, intent);
    if (!feed && taken.kind !== 'interrupted') return taken;
    const now = await this.asItIs(upload.id);
    if (now?.phase === 'invalid') feeds?.unfollow(upload.id);
    // Its origin has answered on another way: nobody has taken anything from this request.
    if (now?.phase === 'answered' && taken.kind === 'interrupted' && !lease.signal.aborted)
      return { kind: 'whole', upload: now };
    return taken;
  }

  private async takeWhileFeeding(
    task: TakeInTask,
    takeIn: TakeIn,
    feed: Feed | undefined,
  ): Promise<Outcome | Interrupted | Whole> {
    if (!feed) return takeIn.take(task);
    const { body, upload, onInterim } = task;
    const stop = (): void => body.stop();
    feed.hearInterims(onInterim);
    feed.grew(upload);
    feed.heardEnough.addEventListener('abort', stop, { once: true });
    if (feed.heardEnough.aborted) stop();
    try {
      return await takeIn.take({ ...task, pace: this.pace, onCommitted: (now) => feed.grew(now) });
    } finally {
      feed.heardEnough.removeEventListener('abort', stop);
    }
  }

  /** As far as the store can be asked. */
  private async asItIs(id: string): Promise<Upload | undefined> {
    try {
      return await this.rooms.store.get(id);
    } catch (fault) {
      if (!isAway(fault)) throw fault;
      return undefined;
    }
  }

  private async outcomeOf(
    { kind, upload: asAnswered, answer }: EarlyAnswer,
    intent: CreateIntent | AppendIntent,
  ): Promise<Outcome> {
    // With what was committed since.
    const upload = (await this.asItIs(asAnswered.id)) ?? asAnswered;
    // An answer that is not recorded yet may break off: then the upload goes on.
    await this.rooms.promises.makeFor(upload);
    return kind === 'parked' ? { kind, upload, answer } : { kind, to: intent.kind, upload, answer };
  }
}
