import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { Fault } from '../model/fault.js';
import type { Refusal } from '../model/outcome.js';
import type { RequestHead } from '../model/request-head.js';
import type { Routes } from '../model/route.js';
import type { Log } from '../observe/log.js';
import { logRequest } from '../observe/log-lines.js';
import type { Metrics, RequestKind } from '../observe/metrics.js';
import { type Detected, type Place, detect } from '../protocol/detect.js';
import { problemReply } from '../protocol/problem.js';
import { type Reply, isRefusal } from '../protocol/protocol.js';
import type { Uploads } from '../uploads/uploads.js';
import type { Trust } from './client-address.js';
import type { Cors } from './cors.js';
import type { Discovery } from './discovery.js';
import { type Exchange, destroyExchange } from './exchange.js';
import { type InterimOptions, Interims } from './interim.js';
import type { PassThrough } from './pass-through.js';
import { answerEarly, sendReply } from './reply.js';
import { BadHead, readHead } from './request-head.js';
import type { UploadRequest, UploadRequests } from './upload-requests.js';

export interface EntryOptions {
  readonly uploads: Pick<Uploads, 'find'>;
  readonly uploadRequests: UploadRequests;
  readonly discovery: Discovery;
  readonly passThrough: PassThrough;
  readonly routes: Routes;
  readonly trust: Trust;
  readonly cors: Cors;
  /** Path of upload resources: begins and ends with a slash. */
  readonly uploadsPath: string;
  readonly interimMode: InterimOptions['mode'];
  /** 104 also for requests without a version: not before the RFC. */
  readonly finalInterim: boolean;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
}

/** What is noted of a request for its line in the log. */
interface Noted {
  kind: RequestKind;
  route?: string;
  uploadId?: string;
  interrupted?: string;
}

type Resumable = Extract<Detected, { kind: 'resumable' }>;

/** Every request comes in here: route, protocol, then uploads or pass-through. The one place that catches everything. */
export class Entry {
  private draining = false;

  constructor(private readonly options: EntryOptions) {}

  /** Takes no more bodies: what comes in from now on is told to come again. */
  drain(): void {
    this.draining = true;
  }

  /** Fulfilled when the exchange is over. Never fails. */
  async handle(exchange: Exchange): Promise<void> {
    const startedAt = this.options.clock();
    const noted: Noted = { kind: 'other' };
    const head = readHead(exchange.req, this.options.trust);
    try {
      if (head instanceof BadHead) await answerEarly(exchange, problemReply(head));
      else await this.serve(exchange, head, noted);
    } catch (error) {
      this.options.log.error({ err: error }, 'request failed unexpectedly');
      destroyExchange(exchange);
    }
    if (!(head instanceof BadHead)) this.note(exchange, head, noted, startedAt);
  }

  /** A request to change protocols is never an upload. */
  upgrade(request: IncomingMessage, socket: Socket, early: Buffer): void {
    const { trust, routes, passThrough } = this.options;
    const head = readHead(request, trust);
    if (head instanceof BadHead) socket.destroy();
    else passThrough.upgrade(request, socket, early, head, routes.find(head.method, head.path));
  }

  private async serve(exchange: Exchange, head: RequestHead, noted: Noted): Promise<void> {
    const { routes, passThrough, finalInterim } = this.options;
    const route = this.routeOf(head);
    const detected = detect(head, await this.placeOf(head, noted), { finalInterim });
    noted.route = route.name;
    switch (detected.kind) {
      case 'pass-through':
        noted.kind = 'pass-through';
        return passThrough.web(exchange.req, exchange.res, head, routes.find(head.method, head.path));
      case 'preflight':
        return this.preflight(exchange, head, noted);
      case 'resumable':
        return this.serveUpload(exchange, head, detected, noted);
    }
  }

  /** For OPTIONS, what any method on this path could have (RUFH §4.1.4). */
  private routeOf(head: RequestHead): ReturnType<Routes['find']> {
    const { routes } = this.options;
    const forDiscovery = head.method === 'OPTIONS' ? routes.findResumable(head.path) : undefined;
    return forDiscovery ?? routes.find(head.method, head.path);
  }

  private async placeOf(head: RequestHead, noted: Noted): Promise<Place> {
    const { uploadsPath, uploads } = this.options;
    if (!head.path.startsWith(uploadsPath)) {
      const route = this.routeOf(head);
      return { kind: 'target', resumable: route.resumable, minSize: route.limits.minSize };
    }
    const id = head.path.slice(uploadsPath.length);
    const upload = WELL_FORMED_ID.test(id) ? await uploads.find(id) : undefined;
    if (upload) noted.uploadId = id;
    return { kind: 'upload', id, dialect: upload?.dialect };
  }

  private async preflight(exchange: Exchange, head: RequestHead, noted: Noted): Promise<void> {
    const { cors, passThrough, routes, uploadsPath } = this.options;
    const reply = cors.preflight(head);
    noted.kind = 'preflight';
    if (reply || head.path.startsWith(uploadsPath)) {
      await sendReply(exchange, reply ?? { status: 204, headers: [] });
      return;
    }
    return passThrough.web(exchange.req, exchange.res, head, routes.find(head.method, head.path));
  }

  private async serveUpload(
    exchange: Exchange,
    head: RequestHead,
    { protocol, request }: Resumable,
    noted: Noted,
  ): Promise<void> {
    const { interimMode, clock, metrics } = this.options;
    const interims = new Interims(exchange, head, { mode: interimMode, clock });
    const route = this.routeOf(head);
    const onCreated = (id: string): void => void (noted.uploadId = id);
    const asked: UploadRequest = { exchange, head, route, protocol, request, interims, onCreated };
    noted.kind = isRefusal(request) ? 'other' : request.kind;
    const reply = await this.replyTo(asked);
    if ('kind' in reply) {
      noted.interrupted = reply.why;
      if (reply.why === 'taken-over') metrics.takeover();
      return destroyExchange(exchange);
    }
    await answerEarly(exchange, this.options.cors.apply(reply, head));
  }

  private async replyTo(asked: UploadRequest): Promise<Reply | { kind: 'interrupted'; why: string }> {
    const { uploadRequests, discovery } = this.options;
    const { head, route, request } = asked;
    const brings = !isRefusal(request) && (request.kind === 'create' || request.kind === 'append');
    if (brings && this.draining)
      return this.turnedDown(asked, { reason: 'unavailable', detail: STOPPING, retryAfterSeconds: 1 });
    try {
      const reply = await uploadRequests.answer(asked);
      const isDiscovery = !isRefusal(request) && request.kind === 'discover' && request.id === undefined;
      return isDiscovery && !('kind' in reply) ? await discovery.merge(head, route, reply) : reply;
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.options.log.error({ err: fault, path: route.name }, 'an upload request met a fault');
      return this.turnedDown(asked, refusalOf(fault));
    }
  }

  /**
   * URLSession resumes after a lost connection, but takes a 5xx for the end of its task: where trying again can help, its
   * connection is closed instead.
   */
  private turnedDown(asked: UploadRequest, refusal: Refusal): Reply | { kind: 'interrupted'; why: string } {
    if (refusal.reason === 'unavailable' && isUrlSession(asked.head))
      return { kind: 'interrupted', why: 'unavailable' };
    return this.options.uploadRequests.refuse(asked, refusal);
  }

  private note({ res }: Exchange, head: RequestHead, noted: Noted, startedAt: number): void {
    const { metrics, log, uploadsPath, clock } = this.options;
    const seconds = (clock() - startedAt) / 1000;
    const status = res.headersSent ? res.statusCode : undefined;
    metrics.requestEnded({ kind: noted.kind, method: head.method, status, seconds });
    const { method, target, path, httpVersion, connection } = head;
    logRequest(log, uploadsPath, {
      ...noted,
      method,
      target,
      path,
      httpVersion,
      status,
      seconds,
      client: connection.clientAddress,
    });
  }
}

/** What ids look like: anything else names no upload and reaches neither store nor disk. */
const WELL_FORMED_ID = /^[A-Za-z0-9_-]{32}$/;

const STOPPING = 'This server is being restarted. Resume the upload in a moment.';

function refusalOf(fault: Fault): Refusal {
  if (fault.code === 'STORAGE_FULL') return { reason: 'storage-full' };
  const detail = 'The upload cannot be stored right now. What was acknowledged is kept; resume it in a moment.';
  return { reason: 'unavailable', detail, retryAfterSeconds: 5 };
}

function isUrlSession({ headers }: RequestHead): boolean {
  return headers.some(
    ([name, value]) => name.toLowerCase() === 'user-agent' && /\bCFNetwork\/.*\bDarwin\//.test(value),
  );
}
