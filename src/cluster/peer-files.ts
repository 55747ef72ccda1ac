import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer as readBuffer } from 'node:stream/consumers';
import { Fault } from '../model/fault.js';
import { type Log, uploadTag } from '../observe/log.js';
import type { OriginTls } from '../origin/endpoint.js';
import { CONNECT_TIMEOUT_MS, OriginClient } from '../origin/origin-client.js';
import { NoResponse, StreamedExchange, type StreamedRequest } from '../origin/streamed-request.js';
import { PEER_FIELD, type PeerSignature } from '../proxy/peer-auth.js';
import { destroyExchange, type Exchange } from '../server/exchange.js';
import { respondEarly } from '../server/response.js';
import { ArrivingBlocks } from '../spool/block-sums.js';
import type { Spool } from '../spool/spool.js';
import type { NodeState } from '../store/nodes.js';
import type { UploadStore } from '../store/upload-store.js';
import { Body } from '../uploads/request-body.js';

export interface PeerFilesOptions {
  /** The name of this node. */
  readonly self: string;
  readonly store: Pick<UploadStore, 'get'>;
  readonly spool: Spool;
  /** Whether this node is leaving the cluster; it then accepts no files. */
  readonly isLeaving: () => boolean;
  readonly log: Log;
}

/** A connection on which nothing arrives for this long is given up. */
const IDLE_MS = 30_000;

/** Bytes between two syncs. A single sync at the end of a large file could take longer than the sender waits. */
const SYNC_BYTES = 16 * 1024 * 1024;

// The statuses with which nodes respond to each other.
const DONE = 204;
const NOT_FOUND = 404;
const METHOD_NOT_ALLOWED = 405;
/** The file exists, files are missing or incomplete, or the upload belongs to this node. */
const CONFLICT = 409;
/** The body does not match its checksum. */
const DAMAGED = 422;
const STORAGE_FULL = 507;
const UNAVAILABLE = 503;

/**
 * Receives the files of uploads that another node moves here. Refuses files of uploads that already belong to this
 * node.
 */
export class PeerFiles {
  constructor(private readonly options: PeerFilesOptions) {}

  /** Resolves when the exchange is over; never rejects. */
  async respond(exchange: Exchange): Promise<void> {
    try {
      const status = await this.dispatch(exchange);
      await respondEarly(exchange, { status, headers: [] });
    } catch (error) {
      this.options.log.error({ err: error }, 'a request for files from another node failed');
      destroyExchange(exchange);
    }
  }

  private async dispatch(exchange: Exchange): Promise<number> {
    const { method = '', url = '' } = exchange.req;
    const path = parsePeerPath(url);
    if (!path) return NOT_FOUND;
    try {
      const upload = await this.options.store.get(path.id);
      if (!upload && method !== 'DELETE') return NOT_FOUND;
      if (upload?.node === this.options.self) return CONFLICT;
      return await this.perform(method, path, exchange);
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.options.log.warn({ upload: uploadTag(path.id), err: fault }, 'a file from another node was not accepted');
      return faultStatus(fault);
    }
  }

  private async perform(
    method: string,
    { id, name }: { id: string; name?: string },
    exchange: Exchange,
  ): Promise<number> {
    if (method === 'DELETE' && name === undefined) {
      await this.options.spool.remove(id);
      return DONE;
    }
    if (method !== 'PUT') return METHOD_NOT_ALLOWED;
    if (this.options.isLeaving()) return UNAVAILABLE;
    return name === undefined ? this.confirm(id, exchange) : this.receiveFile(id, name, exchange);
  }

  /** Receives one file, and keeps it only if it is complete and matches the checksums of the sender. */
  private async receiveFile(id: string, name: string, { req }: Exchange): Promise<number> {
    const { spool } = this.options;
    const size = Number(req.headers['content-length']);
    const body = new Body(req, { declaredLength: size, idleMs: IDLE_MS, onFirstRead: () => undefined });
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
      // `discard` removes only our own file: the sender may have given up on this one and sent it again.
      await (isComplete ? writer.close() : writer.discard());
    }
    return isComplete ? DONE : CONFLICT;
  }

  /** Confirms that this node has every file of an upload, and records the offset that its clients were shown. */
  private async confirm(id: string, { req }: Exchange): Promise<number> {
    const { spool } = this.options;
    const body = await readBuffer(req);
    if (digestOf(body) !== req.headers['content-digest']) return this.refuseDamaged(id);
    const { files, promised } = JSON.parse(body.toString()) as FileList;
    for (const { name, size } of files) if ((await spool.size(id, name)) !== size) return CONFLICT;
    if (promised > 0) await spool.noteAcknowledged(id, promised);
    return DONE;
  }

  /** Refuses a body that was damaged in transit. The sender tries again, because it checked the bytes before it sent them. */
  private refuseDamaged(id: string): number {
    this.options.log.warn({ upload: uploadTag(id) }, 'data from another node was damaged in transit and was not kept');
    return DAMAGED;
  }
}

function faultStatus({ code }: Fault): number {
  if (code === 'STORAGE_FULL') return STORAGE_FULL;
  return code === 'CHUNK_EXISTS' ? CONFLICT : UNAVAILABLE;
}

/** A file of an upload, or all of its files when there is no name. */
export interface PeerPath {
  readonly id: string;
  readonly name?: string;
}

/** The files that must be present before an upload may change its node. */
export interface FileList {
  readonly files: readonly { readonly name: string; readonly size: number }[];
  /** The acknowledged offset, plus one for a complete upload; 0 if none was recorded. */
  readonly promised: number;
}

const PATH = /^\/\.peer\/([A-Za-z0-9_-]{20,64})(?:\/([A-Za-z0-9_-][A-Za-z0-9._-]{0,127}))?$/;

/** Parses the request target; undefined if it is not a path of peer files. */
function parsePeerPath(target: string): PeerPath | undefined {
  const [, id, name] = PATH.exec(target) ?? [];
  return id === undefined ? undefined : { id, ...(name === undefined ? {} : { name }) };
}

/** The request target of a file, or of all files of an upload. */
export function formatPeerPath({ id, name }: PeerPath): string {
  return name === undefined ? `/.peer/${id}` : `/.peer/${id}/${name}`;
}

/** `Content-Digest` of a short body (RFC 9530). The signature covers the field, and so the body. */
function digestOf(body: Uint8Array): string {
  return `sha-256=:${createHash('sha256').update(body).digest('base64')}:`;
}

export interface PeerFilesClientOptions {
  readonly signature: PeerSignature;
  readonly tls?: OriginTls;
  /** A node that accepts no bytes for this long is given up. */
  readonly idleMs?: number;
  readonly connectTimeoutMs?: number;
}

/** The other node did not accept a request. Another attempt, or another node, may succeed. */
export class FileRefused extends Error {}

interface PeerRequest {
  readonly method: 'PUT' | 'DELETE';
  readonly path: PeerPath;
  /** Length of the body in bytes. */
  readonly size: number;
  readonly body: Readable;
  /** `Content-Digest` of the body. */
  readonly digest?: string;
}

/** Sends the files of uploads to other nodes. */
export class PeerFilesClient {
  private readonly client: OriginClient;

  constructor(private readonly options: PeerFilesClientOptions) {
    this.client = new OriginClient(options.tls);
  }

  /**
   * Sends one file; `body` contains its checksums, and `size` includes them. Resolves when the other node has stored
   * all of it durably; rejects with `FileRefused`, or with the error of `body`.
   */
  put(node: NodeState, path: PeerPath, size: number, body: Readable, signal: AbortSignal): Promise<void> {
    return this.send(node, { method: 'PUT', path, size, body }, signal);
  }

  /** Resolves when the other node has verified that it has these files. */
  confirm(node: NodeState, id: string, files: FileList, signal: AbortSignal): Promise<void> {
    const body = Buffer.from(JSON.stringify(files));
    const content = { size: body.length, body: Readable.from([body]), digest: digestOf(body) };
    return this.send(node, { method: 'PUT', path: { id }, ...content }, signal);
  }

  /** Removes all files of an upload from the other node. */
  remove(node: NodeState, id: string, signal: AbortSignal): Promise<void> {
    return this.send(node, { method: 'DELETE', path: { id }, size: 0, body: Readable.from([]) }, signal);
  }

  close(): void {
    this.client.close();
  }

  private async send(
    { name, url }: NodeState,
    { method, path, size, body, digest }: PeerRequest,
    signal: AbortSignal,
  ): Promise<void> {
    const target = formatPeerPath(path);
    const lines = [
      ['Host', new URL(url).host],
      ['Content-Length', `${size}`],
      ...(digest === undefined ? [] : [['Content-Digest', digest] as const]),
    ] as const;
    const signed = this.options.signature.sign({ kind: 'files', to: name }, { method, target, headers: lines });
    const headers = [...lines, [PEER_FIELD, signed]] as const;
    const { idleMs = IDLE_MS, connectTimeoutMs = CONNECT_TIMEOUT_MS } = this.options;
    const content = { body, bodySize: size, maxSilenceMs: idleMs };
    const request = { origin: url, method, target, headers, connection: 'kept', connectTimeoutMs, ...content } as const;
    try {
      const status = await statusOf(this.client, request, signal);
      if (status !== DONE) throw new FileRefused(statusMessage(status));
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    }
  }
}

/** Returns the status of the response. Rejects with `FileRefused`, or with the `Fault` of the body. */
async function statusOf(client: OriginClient, request: StreamedRequest, signal: AbortSignal): Promise<number> {
  const exchange = new StreamedExchange(client, request);
  const stop = (): void => exchange.end(signal.reason as Error);
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  try {
    const { status, body } = await exchange.response;
    body.resume();
    if (status === DONE && !exchange.hasSentBody) throw new Error('it answered before it had the whole file');
    return status;
  } catch (error) {
    const reason = error instanceof NoResponse ? error.cause : error;
    // A `Fault` comes from reading our own disk; another node could not do better.
    if (reason instanceof Fault) throw reason;
    throw new FileRefused(errorMessage(reason), { cause: reason });
  } finally {
    signal.removeEventListener('abort', stop);
    // After a refusal the rest of the body is useless.
    if (!exchange.hasSentBody) exchange.end(new Error('the file is refused'));
  }
}

function statusMessage(status: number): string {
  return status === DAMAGED ? 'the data was damaged in transit' : `it answered ${status}`;
}

function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
