import { Readable } from 'node:stream';
import type { Headers } from '../model/headers.js';
import type { Framing } from '../model/route.js';
import type { Upload } from '../model/upload.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';
import { Change } from './change.js';
import type { Framed } from './framing.js';
import { envelopeOf, framingFor } from './multipart.js';

export interface EagerBodyRooms {
  readonly store: Pick<UploadStore, 'chunks'>;
  readonly spool: Pick<Spool, 'read'>;
}

/** As much as is read ahead of an origin that is slower than its client: one read of the spool. */
const READ_AHEAD = 1024 * 1024;

/**
 * The body of an origin's request while its upload grows. It gives committed bytes only, because what is not committed can
 * still be taken back by a newer request, and it keeps its end back until it is let go: so nobody can have all of it by then.
 */
export class EagerBody {
  readonly framed: Framed;
  /** The end was handed out: the origin may have the whole. */
  gaveAll = false;
  private readonly changed = new Change();
  private readonly envelope;
  private readonly stream: Readable;
  private section: AsyncIterator<Uint8Array> | undefined;
  private source: Readable | undefined;
  private at = 0;
  private committed: number;
  private mayEnd = false;
  private trailers: Headers = [];

  constructor(
    private readonly upload: Upload,
    wanted: Framing,
    private readonly rooms: EagerBodyRooms,
  ) {
    const { length, offset } = upload;
    this.committed = offset;
    const framing = framingFor(upload, wanted);
    this.envelope = framing.kind === 'multipart' ? envelopeOf(upload, framing) : undefined;
    const { before, after } = this.envelope ?? { before: '', after: '' };
    this.stream = new Readable({
      highWaterMark: READ_AHEAD,
      read: () => void this.give(),
      destroy: (error, done) => {
        this.source?.destroy();
        this.changed.announce();
        done(error);
      },
    });
    if (this.envelope) this.stream.push(before);
    const size = length === undefined ? undefined : before.length + length + after.length;
    this.framed = { size, body: this.stream, trailers: () => this.trailers };
  }

  /** More is committed. */
  grew(offset: number): void {
    this.committed = Math.max(this.committed, offset);
    this.changed.announce();
  }

  /** The upload is whole with this offset, and its end may be given. */
  letGo({ offset, trailers = [] }: Pick<Upload, 'offset' | 'trailers'>): void {
    this.mayEnd = true;
    this.trailers = trailers;
    this.grew(offset);
  }

  private async give(): Promise<void> {
    const { stream } = this;
    try {
      const piece = await this.next();
      if (stream.destroyed) return;
      this.at += piece?.length ?? 0;
      const isEnd = this.mayEnd && this.at === this.committed;
      this.gaveAll ||= isEnd;
      if (piece) stream.push(piece);
      if (isEnd && this.envelope) stream.push(this.envelope.after);
      if (isEnd) stream.push(null);
    } catch (error) {
      stream.destroy(error as Error);
    }
  }

  /** The bytes that follow, as soon as there are any; undefined when there are none. */
  private async next(): Promise<Uint8Array | undefined> {
    for (;;) {
      const read = await this.section?.next();
      if (read?.done === false) return read.value;
      this.section = undefined;
      while (this.limit <= this.at && !this.stream.destroyed && !this.mayEnd) await this.changed.next();
      if (this.limit <= this.at || this.stream.destroyed) return undefined;
      await this.open(this.limit);
    }
  }

  /** With a length the last byte is what makes a body whole, without one it is the end of it. */
  private get limit(): number {
    const { length = Infinity } = this.upload;
    return this.mayEnd ? this.committed : Math.min(this.committed, length - 1);
  }

  private async open(end: number): Promise<void> {
    const { store, spool } = this.rooms;
    const { id } = this.upload;
    this.source = spool.read(id, await store.chunks(id), { start: this.at, end });
    this.section = (this.source as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
  }
}
