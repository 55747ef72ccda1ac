import { buffer as readBuffer } from 'node:stream/consumers';
import { type Exchange, destroyExchange } from '../http/exchange.js';
import { answerEarly } from '../http/reply.js';
import { Fault } from '../model/fault.js';
import { uploadTag, type Log } from '../observe/log.js';
import { ArrivingBlocks } from '../spool/blocks.js';
import type { Spool } from '../spool/spool.js';
import type { UploadStore } from '../store/upload-store.js';
import { Body } from '../uploads/body.js';
import { DAMAGED, digestOf, type FileList, readPeerPath } from './peer-paths.js';

export interface PeerFilesOptions {
  /** The name of this node. */
  readonly self: string;
  readonly store: Pick<UploadStore, 'get'>;
  readonly spool: Spool;
  /** Whoever empties its own disk takes nothing from others. */
  readonly isLeaving: () => boolean;
  readonly log: Log;
}

/** A node that says nothing within a file is given up. */
const IDLE_MS = 30_000;

/** What a disk has in no time: with all of a large file at its end, whoever sends it would give up waiting for that. */
const SYNC_BYTES = 16 * 1024 * 1024;

/** Why something is not done, in a status for the node that asked. */
const DONE = 204;
const UNKNOWN = 404;
const NO_SUCH_METHOD = 405;
/** It stands in the way of what is asked: a file that exists, an upload that is ours, files that are not all there. */
const CONFLICT = 409;
const NO_ROOM = 507;
const NOT_NOW = 503;

/** What other nodes leave here while they are being emptied. Only of uploads that are not ours (yet): ours nobody touches. */
export class PeerFiles {
  constructor(private readonly options: PeerFilesOptions) {}

  /** Fulfilled when the exchange is over. Never fails. */
  async answer(exchange: Exchange): Promise<void> {
    try {
      const status = await this.statusOf(exchange);
      await answerEarly(exchange, { status, headers: [] });
    } catch (error) {
      this.options.log.error({ err: error }, 'files of another node could not be taken');
      destroyExchange(exchange);
    }
  }

  private async statusOf(exchange: Exchange): Promise<number> {
    const { method = '', url = '' } = exchange.req;
    const path = readPeerPath(url);
    if (!path) return UNKNOWN;
    try {
      const upload = await this.options.store.get(path.id);
      if (!upload && method !== 'DELETE') return UNKNOWN;
      if (upload?.node === this.options.self) return CONFLICT;
      return await this.act(method, path, exchange);
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.options.log.warn({ upload: uploadTag(path.id), err: fault }, 'a file of another node was not taken');
      return statusOf(fault);
    }
  }

  private async act(method: string, { id, name }: { id: string; name?: string }, exchange: Exchange): Promise<number> {
    if (method === 'DELETE' && name === undefined) {
      await this.options.spool.remove(id);
      return DONE;
    }
    if (method !== 'PUT') return NO_SUCH_METHOD;
    if (this.options.isLeaving()) return NOT_NOW;
    return name === undefined ? this.confirm(id, exchange) : this.take(id, name, exchange);
  }

  /** A file counts as a whole or not at all, and only with the checksums that its bytes had where they come from. */
  private async take(id: string, name: string, { req }: Exchange): Promise<number> {
    const { spool } = this.options;
    const size = Number(req.headers['content-length']);
    const body = new Body(req, { declaredLength: size, idleMs: IDLE_MS, onWanted: () => undefined });
    const arriving = new ArrivingBlocks(`${id}/${name}`, size);
    const writer = await spool.create(id, name);
    let isWhole = false;
    try {
      for (let batch = await body.next(), synced = 0; batch; batch = await body.next()) {
        const bytes = arriving.take(batch);
        if (bytes === 'damaged') return this.refuseDamaged(id);
        if (bytes.length > 0) await writer.write(bytes);
        if (writer.size - synced < SYNC_BYTES) continue;
        await writer.sync();
        synced = writer.size;
      }
      await writer.sync();
      isWhole = body.ending === 'clean' && arriving.isWhole;
    } finally {
      body.stop();
      // Whoever sent it may have given it up long ago, and have sent it again: that file is not for us to remove.
      await (isWhole ? writer.close() : writer.discard());
    }
    return isWhole ? DONE : CONFLICT;
  }

  /** Everything of an upload is here, and survives a power cut; with it what its clients were promised. */
  private async confirm(id: string, { req }: Exchange): Promise<number> {
    const { spool } = this.options;
    const body = await readBuffer(req);
    if (digestOf(body) !== req.headers['content-digest']) return this.refuseDamaged(id);
    const { files, promised } = JSON.parse(body.toString()) as FileList;
    for (const { name, size } of files) if ((await spool.size(id, name)) !== size) return CONFLICT;
    if (promised > 0) await spool.promise(id, promised);
    return DONE;
  }

  /** It is sent again: where it comes from it was right a moment ago. */
  private refuseDamaged(id: string): number {
    this.options.log.warn(
      { upload: uploadTag(id) },
      'bytes of another node were damaged on their way, and are not kept',
    );
    return DAMAGED;
  }
}

function statusOf({ code }: Fault): number {
  if (code === 'STORAGE_FULL') return NO_ROOM;
  return code === 'CHUNK_EXISTS' ? CONFLICT : NOT_NOW;
}
