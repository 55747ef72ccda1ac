import { newestUnknownEnd, type UnknownEnd, type Upload } from '../model/upload.js';
import { uploadTag } from '../observe/log.js';
import type { Rooms } from './rooms.js';

/**
 * Notes which clients were told that the outcome of an attempt is unknown. Only the note lets their next request send the
 * upload once more, so it is made after the response was sent: without it they are told again, which does no harm.
 */
export class ToldClients {
  private readonly noting = new Map<string, Promise<void>>();

  constructor(private readonly rooms: Pick<Rooms, 'store' | 'log'>) {}

  /** Fulfilled when the note is made, or is known not to be. Never fails. */
  note(end: UnknownEnd): Promise<void> {
    const { id } = end;
    const before = this.noting.get(id) ?? Promise.resolve();
    const noting: Promise<void> = before
      .then(() => this.noteNow(end))
      .catch((error: unknown) => {
        this.rooms.log.warn({ upload: uploadTag(id), err: error }, NOT_NOTED);
      })
      .finally(() => {
        if (this.noting.get(id) === noting) this.noting.delete(id);
      });
    this.noting.set(id, noting);
    return noting;
  }

  /** The next request of a client may come before the note of its last response is made. */
  noted(id: string): Promise<void> | undefined {
    return this.noting.get(id);
  }

  /**
   * A client asks as one does that lost a response: what it was sent proves nothing, and the first time it is to be told
   * once more. Clients that ask before each request would never come to their next attempt if every time counted.
   */
  async asks(upload: Upload): Promise<Upload> {
    const { undelivered: why } = upload;
    const end = newestUnknownEnd(upload);
    if (!end || !why?.clientKnows || why.hasAskedAgain) return upload;
    const noted = await this.rooms.store.atOnce.noteClientAsks(end.id, end.attempt, why);
    return noted === 'stale' ? upload : noted;
  }

  private async noteNow({ id, attempt }: UnknownEnd): Promise<void> {
    const { atOnce } = this.rooms.store;
    const upload = await atOnce.get(id);
    const why = upload?.undelivered;
    if (!upload || !why || why.clientKnows || newestUnknownEnd(upload)?.attempt !== attempt) return;
    await atOnce.noteClientKnows(id, attempt, why);
  }
}

const NOT_NOTED = 'that a client was told of an unknown outcome could not be noted: it will be told once more';
