import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { Fault } from '../model/fault.js';
import { isForwardingLoop } from '../model/forwarded.js';
import type { Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import type { Route, Routes } from '../model/route.js';
import { identifiersOf, type UnknownOutcome, type Upload } from '../model/upload.js';
import { type Log, logRequest } from '../observe/log.js';
import type { Metrics, RequestKind } from '../observe/metrics.js';
import { detect, type Detected } from '../protocol/detect.js';
import { plain } from '../protocol/plain.js';
import { type Problem, problemReply } from '../protocol/problem.js';
import { isRefusal, type Reply } from '../protocol/protocol.js';
import { type ClientFacts, readPeerHead, withUnknownEnd } from '../proxy/peer-auth.js';
import type { Relay } from '../proxy/peer-relay.js';
import type { PassThrough } from '../proxy/reverse-proxy.js';
import { destroyExchange, type Exchange, hasLeft, whileHere } from '../server/exchange.js';
import { type InterimOptions, Interims } from '../server/interim-responses.js';
import { refuseConnection } from '../server/refuse-connection.js';
import { BadHead, readHead } from '../server/request-head.js';
import { respondEarly, sendReply } from '../server/response.js';
import type { TrustedProxies } from '../server/trusted-proxies.js';
import type { Authorizer, Admission } from './authorize.js';
import type { Cors } from './cors.js';
import type { Discovery } from './discovery.js';
import type { UploadPages, UploadRequest, UploadRequests } from './upload-handler.js';
import { type Found, locate, type UploadLookup } from './upload-lookup.js';

export interface HandlerOptions {
  readonly access: Authorizer;
  readonly places: UploadLookup;
  readonly pages: UploadPages;
  readonly uploadRequests: UploadRequests;
  readonly discovery: Discovery;
  readonly passThrough: PassThrough;
  /** To the nodes that have the bytes of other uploads; missing where there can be none. */
  readonly relay?: Relay;
  readonly routes: Routes;
  readonly trust: TrustedProxies;
  readonly cors: Cors;
  /** Path of upload resources: begins and ends with a slash. */
  readonly uploadsPath: string;
  readonly interimMode: InterimOptions['mode'];
  /** 104 also for requests without a version: not before the RFC. */
  readonly finalInterim: boolean;
  /** Told after a client was sent the whole response that says so. Never fails. */
  readonly clientKnows: (end: UnknownOutcome) => Promise<void>;
  readonly metrics: Metrics;
  readonly log: Log;
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
  /** The name by which this proxy knows itself again, in `Via`. */
  readonly via?: string;
}

/** What is noted of a request for its line in the log. */
interface RequestRecord {
  kind: RequestKind;
  route?: string;
  /** As it was when the request came, or began. */
  before?: Upload;
  /** As it was when its offset moved last. */
  after?: Upload;
  interrupted?: string;
}

/** A request as it came in. `isRelayed`: by way of another node. */
interface Received {
  readonly exchange: Exchange;
  readonly noted: RequestRecord;
  readonly isRelayed: boolean;
  /** What the reply tells of an attempt. */
  unknown?: UnknownOutcome;
}

type Resumable = Extract<Detected, { kind: 'resumable' }>;

/** Nobody is answered: the connection ends. */
interface Ended {
  readonly kind: 'interrupted';
  readonly why: string;
}

/** No reply is left to give: the connection is to end, or the client has its answer, from another node or together with the origin's. */
type Answered = Ended | 'relayed' | 'answered';

/** Every request comes in here: route, protocol, then uploads or pass-through. The one place that catches everything. */
export class HttpHandler {
  private draining = false;
  private leaving = false;

  constructor(private readonly options: HandlerOptions) {}

  /** Takes no new uploads: others should. Those that are here go on. */
  leave(): void {
    this.leaving = true;
  }

  /** Takes no more bodies: what comes in from now on is told to come again. */
  drain(): void {
    this.draining = true;
    this.options.relay?.drain();
  }

  /** `client`: the request was passed on by another node, which tells of its client. Fulfilled when the exchange is over. Never fails. */
  async handle(exchange: Exchange, client?: ClientFacts): Promise<void> {
    const startedAt = this.options.monotonic();
    const noted: RequestRecord = { kind: 'other' };
    const head = client ? readPeerHead(exchange.req, client) : readHead(exchange.req, this.options.trust);
    try {
      const refused = head instanceof BadHead ? head : this.loopOf(head);
      if (refused) await respondEarly(exchange, problemReply(refused));
      else await this.serve(exchange, head as RequestHead, noted, client !== undefined);
    } catch (error) {
      this.options.log.error({ err: error }, 'request failed unexpectedly');
      destroyExchange(exchange);
    }
    if (!(head instanceof BadHead)) this.note(exchange, head, noted, startedAt);
  }

  /** A request to change protocols is never an upload, and what is below the path of uploads never reaches an origin. */
  upgrade(request: IncomingMessage, socket: Socket, early: Buffer): void {
    const { trust, routes, uploadsPath } = this.options;
    const received = readHead(request, trust);
    if (received instanceof BadHead) return refuseConnection(socket, received);
    const loop = this.loopOf(received);
    if (loop) return refuseConnection(socket, loop);
    const located = locate(received, routes, uploadsPath);
    if (located.kind === 'refused') refuseConnection(socket, { status: 400, detail: located.detail });
    else if (located.kind === 'upload') refuseConnection(socket, { status: 400, detail: NO_UPGRADE });
    else void this.switchProtocols(request, socket, early, located.head);
  }

  private async switchProtocols(request: IncomingMessage, socket: Socket, early: Buffer, head: RequestHead) {
    const { access, routes, passThrough, log } = this.options;
    const route = routes.find(head.method, head.path);
    try {
      const admission = isAskedFor(route) ? await access.ask(head, route) : LET_IN;
      if (socket.destroyed) return;
      if (admission.kind === 'out') await passThrough.refuseUpgrade(request, socket, admission.answer);
      else passThrough.upgrade(request, socket, early, head, route, admission.addedHeaders);
    } catch (error) {
      log.error({ err: error }, 'request failed unexpectedly');
      socket.destroy();
    }
  }

  /** RFC 9110 §7.6.3: a request that this proxy has sent itself would go round until no connections are left. */
  private loopOf({ headers, method, path }: RequestHead): Problem | undefined {
    const { via, log, routes } = this.options;
    if (via === undefined || !isForwardingLoop(headers, via)) return undefined;
    const { name, origin } = routes.find(method, path);
    log.error({ route: name, origin, path }, 'a request came back: the origin leads to this proxy');
    return { status: 508, detail: LOOP };
  }

  private async serve(
    exchange: Exchange,
    received: RequestHead,
    noted: RequestRecord,
    isRelayed: boolean,
  ): Promise<void> {
    const { places, pages, cors, finalInterim, relay } = this.options;
    const found = await places.find(received);
    if (found instanceof BadHead) {
      await respondEarly(exchange, cors.apply(problemReply(found), received));
      return;
    }
    const { head } = found;
    noted.route = found.route.name;
    noted.before = found.upload;
    noted.after = found.upload;
    const isHere = !found.fault && !relay?.isElsewhere(found.upload?.node);
    if (found.page && isHere && head.method !== 'OPTIONS') {
      noted.kind = 'retrieve';
      const reply = await whileHere(exchange, (left) => pages.reply(found, head, left));
      if (reply) await respondEarly(exchange, withUnknownEnd(cors.apply(reply, head), undefined));
      return;
    }
    const detected = detect(head, found.place, { finalInterim });
    switch (detected.kind) {
      case 'pass-through':
        return this.passThrough(exchange, found, noted);
      case 'preflight':
        return this.preflight(exchange, found, noted);
      case 'resumable':
        return this.resumable({ exchange, noted, isRelayed }, found, detected);
    }
  }

  private async passThrough(exchange: Exchange, { head, route }: Found, noted: RequestRecord): Promise<void> {
    const { access, passThrough, cors } = this.options;
    noted.kind = 'pass-through';
    const admission = isAskedFor(route) ? await access.ask(head, route) : LET_IN;
    if (hasLeft(exchange)) return;
    if (admission.kind === 'out') await respondEarly(exchange, cors.apply(admission.answer, head));
    else await passThrough.web(exchange, head, route, admission.addedHeaders);
  }

  /** What we answer ourselves needs nobody's leave: browsers send a preflight without credentials. */
  private async preflight(exchange: Exchange, found: Found, noted: RequestRecord): Promise<void> {
    const reply = this.options.cors.preflight(found.head);
    if (!reply && found.place.kind === 'target') return this.passThrough(exchange, found, noted);
    noted.kind = 'preflight';
    await sendReply(exchange, reply ?? { status: 204, headers: [] });
  }

  /** On a target the service is asked whatever the request is about: an upload's own URL is a right by itself. */
  private async resumable(received: Received, found: Found, detected: Resumable): Promise<void> {
    const isAsked = found.place.kind === 'target' && isAskedFor(found.route);
    const admission = isAsked ? await this.options.access.ask(found.head, found.route) : undefined;
    if (hasLeft(received.exchange)) return;
    await this.serveUpload({ ...this.askedOf(received, found, detected), admission }, found, received);
  }

  private askedOf(
    received: Received,
    { head, route, announced, upload }: Found,
    { protocol, request }: Resumable,
  ): UploadRequest {
    const { exchange, noted } = received;
    const { interimMode, monotonic } = this.options;
    const interims = new Interims(exchange, head, { mode: interimMode, monotonic });
    let isBegun = false;
    const onUpload = (seen: Upload): void => {
      // Another request may have fed it until this one began.
      if (!isBegun) noted.before = seen;
      isBegun = true;
      noted.after = seen;
    };
    const onUnknown = (end: UnknownOutcome): void => void (received.unknown = end);
    return { exchange, head, route, announced, protocol, request, upload, interims, onUpload, onUnknown };
  }

  private async serveUpload(asked: UploadRequest, found: Found, received: Received): Promise<void> {
    const { noted, isRelayed } = received;
    const { exchange, head, request } = asked;
    noted.kind = isRefusal(request) ? 'other' : asked.protocol === plain ? 'spooled' : request.kind;
    const reply = await this.replyTo(asked, found, isRelayed);
    if (reply === 'answered') return;
    if (reply === 'relayed') {
      noted.kind = 'relayed';
    } else if ('kind' in reply) {
      noted.interrupted = reply.why;
      if (reply.why === 'taken-over') this.options.metrics.takeover();
      destroyExchange(exchange);
    } else await this.answer(received, this.options.cors.apply(reply, head));
  }

  /** A response that never reached its client has told it nothing; one that another node passes on is for that node to note. */
  private async answer({ exchange, isRelayed, unknown }: Received, reply: Reply): Promise<void> {
    const sent = await respondEarly(exchange, withUnknownEnd(reply, isRelayed ? unknown : undefined));
    if (sent === 'whole' && unknown && !isRelayed) void this.options.clientKnows(unknown);
  }

  private async replyTo(asked: UploadRequest, found: Found, isRelayed: boolean): Promise<Reply | Answered> {
    const { uploadRequests, discovery, relay } = this.options;
    const { head, route, request } = asked;
    const node = found.upload?.node;
    try {
      if (found.fault) throw found.fault;
      const notNow = this.notNow(request);
      if (notNow) return this.turnedDown(asked, unavailable(notNow));
      if (relay?.isElsewhere(node)) {
        // Two nodes that take each other for the owner must not play ball with it.
        if (isRelayed) return this.turnedDown(asked, unavailable(MOVING));
        await this.relay(asked, node, relay);
        return 'relayed';
      }
      const reply = await uploadRequests.answer(asked);
      if ('kind' in reply && reply.kind === 'elsewhere') {
        if (isRelayed || !relay?.isElsewhere(reply.node)) return this.turnedDown(asked, unavailable(MOVING));
        await this.relay(asked, reply.node, relay);
        return 'relayed';
      }
      const isDiscovery = !isRefusal(request) && request.kind === 'discover' && request.id === undefined;
      const { exchange, admission = LET_IN } = asked;
      if (!isDiscovery || 'kind' in reply || admission.kind === 'out') return reply;
      await discovery.answer({ exchange, head, route, addedHeaders: admission.addedHeaders }, reply);
      return 'answered';
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.noteFault(fault, route);
      return this.turnedDown(asked, refusalOf(fault));
    }
  }

  /** The store and the authorization service say once that they are away: not every request that meets it says so again. */
  private noteFault(fault: Fault, route: Route): void {
    const { log, metrics } = this.options;
    const isStoreUnavailable = fault.code === 'STORE_UNAVAILABLE';
    if (isStoreUnavailable) metrics.storeUnavailable();
    log[isStoreUnavailable || fault.code === 'AUTHORIZATION_UNAVAILABLE' ? 'debug' : 'error'](
      { err: fault, path: route.name },
      'an upload request met a fault',
    );
  }

  /** Why this process takes no such request any more. */
  private notNow(request: UploadRequest['request']): string | undefined {
    if (isRefusal(request)) return undefined;
    if (this.draining && (request.kind === 'create' || request.kind === 'append')) return STOPPING;
    return this.leaving && request.kind === 'create' ? LEAVING : undefined;
  }

  private relay(asked: UploadRequest, node: string, relay: Relay): Promise<void> {
    const { exchange, head } = asked;
    const refuse = (refusal: Refusal): Reply | 'cut' => {
      const reply = this.turnedDown(asked, refusal);
      return 'kind' in reply ? 'cut' : this.options.cors.apply(reply, head);
    };
    return relay.relay({ exchange, head, node, refuse });
  }

  /**
   * URLSession resumes after a lost connection, but takes a 5xx for the end of its task: where trying again can help, its
   * connection is closed instead.
   */
  private turnedDown(asked: UploadRequest, refusal: Refusal): Reply | Ended {
    if (refusal.reason === 'unavailable' && asked.protocol !== plain && isUrlSession(asked.head))
      return { kind: 'interrupted', why: 'unavailable' };
    return this.options.uploadRequests.refuse(asked, refusal);
  }

  private note({ res }: Exchange, head: RequestHead, noted: RequestRecord, startedAt: number): void {
    const { metrics, log, uploadsPath, monotonic } = this.options;
    const seconds = (monotonic() - startedAt) / 1000;
    const status = res.headersSent ? res.statusCode : undefined;
    metrics.requestEnded({ kind: noted.kind, method: head.method, status, seconds });
    const { method, target, path, httpVersion, connection } = head;
    const { before, after, ...rest } = noted;
    logRequest(log, uploadsPath, {
      ...rest,
      ...(after ? { upload: identifiersOf(after) } : {}),
      // A node that has the bytes writes a line of its own about what it took.
      ...(before && after && noted.kind !== 'relayed'
        ? { offsets: { before: before.offset, after: after.offset } }
        : {}),
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

const LOOP = 'The request has come through this proxy before: its origin leads back to it.';
const NO_UPGRADE = 'An upload resource cannot change to another protocol.';

const STOPPING = 'This server is being restarted; the upload can be resumed.';
const LEAVING = 'This server takes no new uploads.';
const MOVING = 'The bytes of this upload are on their way to another server.';

function unavailable(detail: string): Refusal {
  return { reason: 'unavailable', detail, retryAfterSeconds: 1 };
}

const NOT_STORED = 'The upload cannot be stored right now. What was acknowledged is kept.';

/** A step that was not answered may have been done: it is for the next request to find out. */
const STORE_AWAY =
  'The state of uploads cannot be reached right now. What was acknowledged is kept; ask for the offset first.';

function refusalOf({ code }: Fault): Refusal {
  if (code === 'STORAGE_FULL') return { reason: 'storage-full' };
  return { reason: 'unavailable', detail: DETAILS[code] ?? NOT_STORED, retryAfterSeconds: 5 };
}

const DETAILS: Readonly<Partial<Record<Fault['code'], string>>> = {
  STORE_UNAVAILABLE: STORE_AWAY,
  AUTHORIZATION_UNAVAILABLE: 'Nobody can say right now whose upload this is. What was acknowledged is kept.',
};

/** The whole route is protected, not only its uploads. */
function isAskedFor({ authorize: { forwardAuth } }: Route): boolean {
  return forwardAuth?.scope === 'all';
}

const LET_IN: Admission = { kind: 'in' };

function isUrlSession({ headers }: RequestHead): boolean {
  return headers.some(
    ([name, value]) => name.toLowerCase() === 'user-agent' && /\bCFNetwork\/.*\bDarwin\//.test(value),
  );
}
