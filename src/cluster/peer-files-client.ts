import type { ClientRequest } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { answerTo } from '../streams/answer-to.js';
import { CONNECT_TIMEOUT_MS, connectInTime } from '../http/connect-in-time.js';
import type { OriginTls } from '../http/origin-agents.js';
import { OriginRequests } from '../http/origin-requests.js';
import { PEER_FIELD, type PeerSignature } from '../http/peer-signature.js';
import { Fault } from '../model/fault.js';
import type { NodeState } from '../store/nodes.js';
import { DAMAGED, digestOf, type FileList, type PeerPath, writePeerPath } from './peer-paths.js';

export interface PeerFilesClientOptions {
  readonly signature: PeerSignature;
  readonly tls?: OriginTls;
  /** A node that takes nothing for this long is given up. */
  readonly idleMs?: number;
  readonly connectTimeoutMs?: number;
}

/** The other node does not take what it is given; trying again may help, and so may another node. */
export class NotTaken extends Error {}

const IDLE_MS = 30_000;

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
