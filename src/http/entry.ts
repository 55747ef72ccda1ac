import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { Fault } from '../model/fault.js';
import type { Refusal } from '../model/outcome.js';
import type { RequestHead } from '../model/request-head.js';
import type { Route, Routes } from '../model/route.js';
import type { Log } from '../observe/log.js';
import { logRequest } from '../observe/log-lines.js';
import type { Metrics, RequestKind } from '../observe/metrics.js';
import { type Detected, detect } from '../protocol/detect.js';
import { problemReply } from '../protocol/problem.js';
import { type Reply, isRefusal } from '../protocol/protocol.js';
import type { Trust } from './client-address.js';
import type { Cors } from './cors.js';
import type { Discovery } from './discovery.js';
import { type Exchange, destroyExchange } from './exchange.js';
import { type InterimOptions, Interims } from './interim.js';
import type { PassThrough } from './pass-through.js';
import type { Places } from './places.js';
import { answerEarly, sendReply } from './reply.js';
import { refuseConnection } from './refused-connection.js';
import { BadHead, readHead } from './request-head.js';
import type { UploadPages } from './upload-pages.js';
import type { UploadRequest, UploadRequests } from './upload-requests.js';

export interface EntryOptions {
  readonly places: Places;
  readonly pages: UploadPages;
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

  /** A request to change protocols is never an upload, and what is below the path of uploads never reaches an origin. */
  upgrade(request: IncomingMessage, socket: Socket, early: Buffer): void {
    const { trust, routes, passThrough, uploadsPath } = this.options;
    const head = readHead(request, trust);
    if (head instanceof BadHead) refuseConnection(socket, head);
    else if (head.path.startsWith(uploadsPath)) refuseConnection(socket, { status: 400, detail: NO_UPGRADE });
    else passThrough.upgrade(request, socket, early, head, routes.find(head.method, head.path));
  }

  private async serve(exchange: Exchange, head: RequestHead, noted: Noted): Promise<void> {
    const { places, pages, cors, finalInterim } = this.options;
    const found = await places.find(head);
    noted.route = found.route.name;
    noted.uploadId = found.upload?.id;
    if (found.page && head.method !== 'OPTIONS') {
      noted.kind = 'retrieve';
      await answerEarly(exchange, cors.apply(pages.reply(found, head.method), head));
      return;
    }
    const detected = detect(head, found.place, { finalInterim });
    switch (detected.kind) {
      case 'pass-through':
        return this.passThrough(exchange, head, noted);
      case 'preflight':
        return this.preflight(exchange, head, noted);
      case 'resumable':
        return this.serveUpload(exchange, head, found.route, detected, noted);
    }
  }

  private async passThrough({ req, res }: Exchange, head: RequestHead, noted: Noted): Promise<void> {
    const { routes, passThrough } = this.options;
    noted.kind = 'pass-through';
    return passThrough.web(req, res, head, routes.find(head.method, head.path));
  }

  private async preflight(exchange: Exchange, head: RequestHead, noted: Noted): Promise<void> {
    const { cors, uploadsPath } = this.options;
    const reply = cors.preflight(head);
    if (!reply && !head.path.startsWith(uploadsPath)) return this.passThrough(exchange, head, noted);
    noted.kind = 'preflight';
    await sendReply(exchange, reply ?? { status: 204, headers: [] });
  }

  private async serveUpload(
    exchange: Exchange,
    head: RequestHead,
    route: Route,
    { protocol, request }: Resumable,
    noted: Noted,
  ): Promise<void> {
    const { interimMode, clock, metrics } = this.options;
    const interims = new Interims(exchange, head, { mode: interimMode, clock });
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

const NO_UPGRADE = 'An upload resource cannot change to another protocol.';

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
