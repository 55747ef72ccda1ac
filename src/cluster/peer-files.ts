import { createHash } from 'node:crypto';
import type { ClientRequest } from 'node:http';
import { Readable } from 'node:stream';
import { buffer as readBuffer } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { Fault } from '../model/fault.js';
import { type Log, uploadTag } from '../observe/log.js';
import { CONNECT_TIMEOUT_MS, connectInTime, OriginRequests, type OriginTls } from '../origin/origin-client.js';
import { PEER_FIELD, type PeerSignature } from '../proxy/peer-auth.js';
import { destroyExchange, type Exchange } from '../server/exchange.js';
import { respondEarly } from '../server/response.js';
import { ArrivingBlocks } from '../spool/block-sums.js';
import type { Spool } from '../spool/spool.js';
import type { NodeState } from '../store/nodes.js';
import type { UploadStore } from '../store/upload-store.js';
import { answerTo } from '../streams/node-http.js';
import { Body } from '../uploads/request-body.js';

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
      await respondEarly(exchange, { status, headers: [] });
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
    let isComplete = false;
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
      isComplete = body.ending === 'clean' && arriving.isComplete;
    } finally {
      body.stop();
      // Whoever sent it may have given it up long ago, and have sent it again: that file is not for us to remove.
      await (isComplete ? writer.close() : writer.discard());
    }
    return isComplete ? DONE : CONFLICT;
  }

  /** Everything of an upload is here, and survives a power cut; with it what its clients were promised. */
  private async confirm(id: string, { req }: Exchange): Promise<number> {
    const { spool } = this.options;
    const body = await readBuffer(req);
    if (digestOf(body) !== req.headers['content-digest']) return this.refuseDamaged(id);
    const { files, promised } = JSON.parse(body.toString()) as FileList;
    for (const { name, size } of files) if ((await spool.size(id, name)) !== size) return CONFLICT;
    if (promised > 0) await spool.noteAcknowledged(id, promised);
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

/** A file that moves with its upload, or all of the upload's when there is no name. */
export interface PeerPath {
  readonly id: string;
  readonly name?: string;
}

/** What has to be there before an upload may change its node. */
export interface FileList {
  readonly files: readonly { readonly name: string; readonly size: number }[];
  /** The offset its clients may have been shown; 0 when none was noted. */
  readonly promised: number;
}

/** The answer to a body that is not what was sent: a byte of it has changed on its way. */
const DAMAGED = 422;

const PATH = /^\/\.peer\/([A-Za-z0-9_-]{20,64})(?:\/([A-Za-z0-9_-][A-Za-z0-9._-]{0,127}))?$/;

/** Undefined when it names neither. */
function readPeerPath(target: string): PeerPath | undefined {
  const [, id, name] = PATH.exec(target) ?? [];
  return id === undefined ? undefined : { id, ...(name === undefined ? {} : { name }) };
}

export function writePeerPath({ id, name }: PeerPath): string {
  return name === undefined ? `/.peer/${id}` : `/.peer/${id}/${name}`;
}

/** `Content-Digest` of a short body (RFC 9530); the field is signed, and so the body is. */
function digestOf(body: Uint8Array): string {
  return `sha-256=:${createHash('sha256').update(body).digest('base64')}:`;
}

export interface PeerFilesClientOptions {
  readonly signature: PeerSignature;
  readonly tls?: OriginTls;
  /** A node that takes nothing for this long is given up. */
  readonly idleMs?: number;
  readonly connectTimeoutMs?: number;
}

/** The other node does not take what it is given; trying again may help, and so may another node. */
export class NotTaken extends Error {}
const TAKEN = 204;

/** Leaves files at other nodes. */
export class PeerFilesClient {
  private readonly requests: OriginRequests;

  constructor(private readonly options: PeerFilesClientOptions) {
    this.requests = new OriginRequests(options.tls);
  }

  /** The body has the checksums in it. Fulfilled when the other node has all of it, durably. Fails with `NotTaken`, and with what `body` fails with. */
  put(node: NodeState, path: PeerPath, size: number, body: Readable, signal: AbortSignal): Promise<void> {
    return this.send(node, 'PUT', path, { size, body }, signal);
  }

  /** Fulfilled when the other node has made sure that it has these files. */
  confirm(node: NodeState, id: string, files: FileList, signal: AbortSignal): Promise<void> {
    const body = Buffer.from(JSON.stringify(files));
    const told = { size: body.length, body: Readable.from([body]), digest: digestOf(body) };
    return this.send(node, 'PUT', { id }, told, signal);
  }

  /** Takes back everything of an upload that was left there. */
  remove(node: NodeState, id: string, signal: AbortSignal): Promise<void> {
    return this.send(node, 'DELETE', { id }, { size: 0, body: Readable.from([]) }, signal);
  }

  /** Ends every connection. */
  close(): void {
    this.requests.close();
  }

  private async send(
    { name, url }: NodeState,
    method: string,
    path: PeerPath,
    { size, body, digest }: { readonly size: number; readonly body: Readable; readonly digest?: string },
    signal: AbortSignal,
  ): Promise<void> {
    const target = writePeerPath(path);
    const lines = [
      ['Host', new URL(url).host],
      ['Content-Length', `${size}`],
      ...(digest === undefined ? [] : [['Content-Digest', digest] as const]),
    ] as const;
    const signed = this.options.signature.sign({ kind: 'files', to: name }, { method, target, headers: lines });
    const headers = [...lines, [PEER_FIELD, signed]] as const;
    const request = this.requests.open({ origin: url, method, target, headers, connection: 'kept' });
    const { idleMs = IDLE_MS, connectTimeoutMs = CONNECT_TIMEOUT_MS } = this.options;
    // The other time does not begin before there is a connection.
    request.once('socket', (socket) => connectInTime(socket, connectTimeoutMs));
    request.setTimeout(idleMs, () => request.destroy(new Error(`it took nothing for ${idleMs / 1000} s`)));
    const stop = (): void => void request.destroy(signal.reason as Error);
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    try {
      const status = await exchange(body, request);
      if (status !== TAKEN) throw new NotTaken(textOfStatus(status));
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }
}

/** The status it is answered with. Fails with `NotTaken`, or with the `Fault` of the body. */
async function exchange(body: Readable, request: ClientRequest): Promise<number> {
  const answered = statusFor(request);
  // What goes wrong with the body is told first: it may be our own disk. Nobody wants the rest of one that is refused, and
  // Node does not tell any more when the connection would take it.
  answered.then(
    (status) => status === TAKEN || request.destroy(),
    () => undefined,
  );
  try {
    await pipeline(body, request);
    return await answered;
  } catch (error) {
    if (error instanceof Fault) throw error;
    // An answer may say why the connection has ended.
    const status = await answered.catch(() => undefined);
    throw new NotTaken(status === undefined ? textOf(error) : textOfStatus(status), { cause: error });
  }
}

async function statusFor(request: ClientRequest): Promise<number> {
  const answer = await answerTo(request);
  answer.resume();
  return answer.statusCode!;
}

function textOfStatus(status: number): string {
  return status === DAMAGED ? 'a byte changed on its way there' : `it answered ${status}`;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
