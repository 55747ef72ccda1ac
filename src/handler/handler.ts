import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { Fault } from '../model/fault.js';
import { isForwardingLoop } from '../model/forwarded.js';
import type { Headers } from '../model/headers.js';
import type { Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import type { Route, Routes } from '../model/route.js';
import type { StoryWriter } from '../model/story.js';
import { identifiersOf, type UnknownOutcome, type Upload } from '../model/upload.js';
import { type UploadIdentity, uploadIdOf } from '../model/upload-id.js';
import { type Log, logRequest } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { detect, type Detected } from '../protocol/detect.js';
import { plain } from '../protocol/plain.js';
import { type Problem, problemReply } from '../protocol/problem.js';
import { isRefusal, type Reply } from '../protocol/protocol.js';
import { type ClientFacts, readPeerHead, withUnknownOutcome } from '../proxy/peer-auth.js';
import type { Relay } from '../proxy/peer-relay.js';
import type { ReverseProxy } from '../proxy/reverse-proxy.js';
import { clientHasLeft, destroyExchange, type Exchange, whileConnected } from '../server/exchange.js';
import { type InterimOptions, InterimResponses } from '../server/interim-responses.js';
import { refuseConnection } from '../server/refuse-connection.js';
import { InvalidHead, readHead } from '../server/request-head.js';
import { respondEarly, sendReply } from '../server/response.js';
import type { TrustedProxies } from '../server/trusted-proxies.js';
import type { Admission, Authorizer } from './authorize.js';
import type { Cors } from './cors.js';
import type { Discovery } from './discovery.js';
import { noteRequest, type RequestRecord } from './request-record.js';
import type { StatusPages, UploadRequest, UploadRequestHandler } from './upload-handler.js';
import { locate, type ResolvedTarget, type UploadLookup } from './upload-lookup.js';

/** The parts that requests are passed to, and the settings of the handler itself. */
export interface HandlerOptions {
  readonly authorizer: Authorizer;
  readonly uploadLookup: UploadLookup;
  readonly statusPages: StatusPages;
  readonly uploadRequests: UploadRequestHandler;
  readonly discovery: Discovery;
  readonly reverseProxy: ReverseProxy;
  /** Relays requests to the nodes that own other uploads; missing if there can be none. */
  readonly relay?: Relay;
  readonly routes: Routes;
  readonly trust: TrustedProxies;
  readonly cors: Cors;
  /** Path prefix of upload resources: begins and ends with a slash. */
  readonly uploadsPath: string;
  readonly interimMode: InterimOptions['mode'];
  /** Sends 104 also to requests without an interop version, which only the final RFC allows. */
  readonly rfcInterim: boolean;
  /** Whether uploads can be made of parts: every node can read the bytes of every upload. */
  readonly joinsParts: boolean;
  /** Returns an unguessable token for a new upload: at least 128 random bits. */
  readonly newToken: () => string;
  /** Called after a client got the complete response that reports an unknown outcome. Never rejects. */
  readonly onUnknownOutcomeReported: (outcome: UnknownOutcome) => Promise<void>;
  /** The largest head of a request; missing: no limit but those of the parsers. */
  readonly maxHeadBytes?: number;
  readonly metrics: Metrics;
  readonly log: Log;
  /** Missing if no histories are kept. */
  readonly story?: StoryWriter;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
  /** The name of this proxy in `Via`, by which it recognizes its own requests. */
  readonly via?: string;
  /** New work that this process refuses; changes while it runs. */
  readonly refused?: Readonly<RefusedWork>;
}

/** New work that a process refuses, whatever its configuration says. */
export interface RefusedWork {
  /** New uploads: other processes should take them. */
  uploads: boolean;
  /** Bodies of creations and appends: the process is stopping. */
  bodies: boolean;
}

/** A received request. `isRelayed`: another node has relayed it. */
interface ReceivedRequest {
  readonly exchange: Exchange;
  readonly record: RequestRecord;
  readonly isRelayed: boolean;
  /** The unknown outcome that the reply reports. */
  unknownOutcome?: UnknownOutcome;
}

type Resumable = Extract<Detected, { kind: 'resumable' }>;

/** The connection ends without a response. */
interface ConnectionEnd {
  readonly kind: 'interrupted';
  readonly reason: string;
}

/** There is no reply to send: the connection must end, or another node or the origin has answered the client. */
type NoReply = ConnectionEnd | 'relayed' | 'answered';

/**
 * The entry point of every request: finds route and protocol, then calls uploads or pass-through. Unexpected errors are
 * caught only here.
 */
export class HttpHandler {
  constructor(private readonly options: HandlerOptions) {}

  /**
   * Handles one request; `client` is set for one relayed by another node. Resolves when the exchange is over; never
   * rejects.
   */
  async handle(exchange: Exchange, client?: ClientFacts): Promise<void> {
    const startedAtMs = this.options.monotonic();
    const record: RequestRecord = { kind: 'other' };
    const head = client ? readPeerHead(exchange.req, client) : readHead(exchange.req, this.options.trust);
    try {
      const problem = head instanceof InvalidHead ? head : (this.headProblem(head) ?? this.loopProblem(head));
      const { cors } = this.options;
      if (problem) await respondEarly(exchange, cors.applyEarly(problemReply(problem), exchange.req));
      else await this.serve(exchange, head as RequestHead, record, client !== undefined);
    } catch (error) {
      this.options.log.error({ err: error }, 'request failed unexpectedly');
      destroyExchange(exchange);
    }
    if (!(head instanceof InvalidHead)) this.recordRequest(exchange, head, record, startedAtMs);
  }

  /**
   * Handles a request to switch protocols, which is never an upload. Paths below the uploads path never reach an
   * origin.
   */
  upgrade(request: IncomingMessage, socket: Socket, early: Buffer): void {
    const { trust, routes, uploadsPath } = this.options;
    const received = readHead(request, trust);
    if (received instanceof InvalidHead) return refuseConnection(socket, received);
    const problem = this.loopProblem(received);
    if (problem) return refuseConnection(socket, problem);
    const located = locate(received, routes, uploadsPath);
    if (located.kind === 'refused') refuseConnection(socket, { status: 400, detail: located.detail });
    else if (located.kind === 'upload') refuseConnection(socket, { status: 400, detail: NO_UPGRADE });
    else void this.switchProtocols(request, socket, early, located.head);
  }

  private async switchProtocols(request: IncomingMessage, socket: Socket, early: Buffer, head: RequestHead) {
    const { authorizer, routes, reverseProxy, log } = this.options;
    const route = routes.find(head.method, head.path);
    try {
      const admission = needsAuthorization(route) ? await authorizer.authorize(head, route) : ADMITTED;
      if (socket.destroyed) return;
      if (admission.kind === 'rejected') await reverseProxy.refuseUpgrade({ request, socket, early }, admission.answer);
      else reverseProxy.upgrade({ request, socket, early }, { head, route, addedHeaders: admission.addedHeaders });
    } catch (error) {
      log.error({ err: error }, 'request failed unexpectedly');
      socket.destroy();
    }
  }

  /** The parser of HTTP/1.1 has refused a longer head already. */
  private headProblem({ httpVersion, headers, target }: RequestHead): Problem | undefined {
    const { maxHeadBytes = Infinity } = this.options;
    if (httpVersion !== '2.0') return undefined;
    const bytes = headers.reduce((sum, [name, value]) => sum + name.length + value.length, target.length);
    return bytes > maxHeadBytes ? { status: 431, detail: HEAD_TOO_LARGE } : undefined;
  }

  /** Refuses a request that this proxy has sent itself, which would loop until no connections are left (RFC 9110 §7.6.3). */
  private loopProblem({ headers, method, path }: RequestHead): Problem | undefined {
    const { via, log, routes } = this.options;
    if (via === undefined || !isForwardingLoop(headers, via)) return undefined;
    const { name, origin } = routes.find(method, path);
    log.error({ route: name, origin, path }, 'forwarding loop: the origin leads back to this proxy');
    return { status: 508, detail: LOOP_DETAIL };
  }

  private async serve(
    exchange: Exchange,
    received: RequestHead,
    record: RequestRecord,
    isRelayed: boolean,
  ): Promise<void> {
    const { uploadLookup, cors } = this.options;
    const found = uploadLookup.find(received);
    const resolved = found instanceof Promise ? await found : found;
    if (resolved instanceof InvalidHead)
      await respondEarly(exchange, cors.applyEarly(problemReply(resolved), exchange.req));
    else await this.serveResolved(exchange, resolved, record, isRelayed);
  }

  /** Not an async function, because every request comes through here. */
  private serveResolved(
    exchange: Exchange,
    resolved: ResolvedTarget,
    record: RequestRecord,
    isRelayed: boolean,
  ): Promise<void> {
    const { rfcInterim, joinsParts, relay } = this.options;
    const { head } = resolved;
    record.route = resolved.route.name;
    record.before = resolved.upload;
    record.after = resolved.upload;
    const isLocal = !resolved.fault && !relay?.isRemote(resolved.upload?.node);
    if (resolved.page && isLocal && head.method !== 'OPTIONS') {
      record.kind = 'retrieve';
      return this.servePage(exchange, resolved);
    }
    const detected = detect(head, resolved.target, { finalInterim: rfcInterim, joinsParts });
    switch (detected.kind) {
      case 'pass-through':
        return this.passThrough(exchange, resolved, record);
      case 'preflight':
        return this.preflight(exchange, resolved, record);
      case 'resumable':
        return this.serveResumable({ exchange, record, isRelayed }, resolved, detected);
    }
  }

  private async servePage(exchange: Exchange, resolved: ResolvedTarget): Promise<void> {
    const { statusPages, cors } = this.options;
    const reply = await whileConnected(exchange, (signal) => statusPages.reply(resolved, resolved.head, signal));
    if (reply) await respondEarly(exchange, withUnknownOutcome(cors.apply(reply, resolved), undefined));
  }

  private passThrough(exchange: Exchange, resolved: ResolvedTarget, record: RequestRecord): Promise<void> {
    record.kind = 'pass-through';
    if (needsAuthorization(resolved.route)) return this.passAuthorized(exchange, resolved);
    return clientHasLeft(exchange) ? Promise.resolve() : this.forward(exchange, resolved);
  }

  private async passAuthorized(exchange: Exchange, resolved: ResolvedTarget): Promise<void> {
    const { authorizer, cors } = this.options;
    const admission = await authorizer.authorize(resolved.head, resolved.route);
    if (clientHasLeft(exchange)) return;
    if (admission.kind === 'rejected') await respondEarly(exchange, cors.apply(admission.answer, resolved));
    else await this.forward(exchange, resolved, admission.addedHeaders);
  }

  private forward(exchange: Exchange, resolved: ResolvedTarget, addedHeaders?: Headers): Promise<void> {
    const { reverseProxy, cors } = this.options;
    const { head, route } = resolved;
    return reverseProxy.forward(exchange, { head, route, addedHeaders }, cors.passThroughChanges(resolved));
  }

  /** Our own answers need no authorization, because browsers send a preflight without credentials. */
  private async preflight(exchange: Exchange, resolved: ResolvedTarget, record: RequestRecord): Promise<void> {
    const reply = this.options.cors.preflight(resolved);
    if (!reply && resolved.target.kind === 'target') return this.passThrough(exchange, resolved, record);
    record.kind = 'preflight';
    await sendReply(exchange, reply ?? { status: 204, headers: [] });
  }

  /** Authorizes every upload request on a target; an upload's own URL is a permission by itself. */
  private async serveResumable(
    received: ReceivedRequest,
    resolved: ResolvedTarget,
    detected: Resumable,
  ): Promise<void> {
    const needsAdmission = resolved.target.kind === 'target' && needsAuthorization(resolved.route);
    const admission = needsAdmission
      ? await this.options.authorizer.authorize(resolved.head, resolved.route)
      : undefined;
    if (clientHasLeft(received.exchange)) return;
    await this.serveUpload({ ...this.uploadRequestOf(received, resolved, detected), admission }, resolved, received);
  }

  private uploadRequestOf(
    received: ReceivedRequest,
    { head, route, announced, upload, identity = this.newIdentity() }: ResolvedTarget,
    { protocol, request }: Resumable,
  ): UploadRequest {
    const { exchange, record } = received;
    const { interimMode, monotonic } = this.options;
    const interims = new InterimResponses(exchange, head, { mode: interimMode, monotonic });
    let hasBegun = false;
    const onUpload = (upload: Upload): void => {
      // Another request may have written to the upload until this one began.
      if (!hasBegun) record.before = upload;
      hasBegun = true;
      record.after = upload;
    };
    const onUnknownOutcome = (outcome: UnknownOutcome): void => void (received.unknownOutcome = outcome);
    return {
      exchange,
      head,
      route,
      announced,
      protocol,
      request,
      upload,
      identity,
      interims,
      onUpload,
      onUnknownOutcome,
    };
  }

  private newIdentity(): UploadIdentity {
    const token = this.options.newToken();
    return { token, id: uploadIdOf(token) };
  }

  private async serveUpload(
    uploadRequest: UploadRequest,
    resolved: ResolvedTarget,
    received: ReceivedRequest,
  ): Promise<void> {
    const { record, isRelayed } = received;
    const { exchange, request } = uploadRequest;
    record.kind = isRefusal(request) ? 'other' : uploadRequest.protocol === plain ? 'spooled' : request.kind;
    record.dialect = uploadRequest.protocol.name;
    const reply = await this.replyTo(uploadRequest, resolved, isRelayed);
    if (reply === 'answered') return;
    if (reply === 'relayed') {
      record.kind = 'relayed';
    } else if ('kind' in reply) {
      record.interrupted = reply.reason;
      if (reply.reason === 'taken-over') this.options.metrics.takeover();
      destroyExchange(exchange);
    } else await this.respond(received, this.options.cors.apply(reply, resolved));
  }

  /**
   * A response that did not reach the client has not informed it; for a relayed request the relaying node records it.
   */
  private async respond(received: ReceivedRequest, reply: Reply): Promise<void> {
    const { exchange, record, isRelayed, unknownOutcome } = received;
    const result = await respondEarly(exchange, withUnknownOutcome(reply, isRelayed ? unknownOutcome : undefined));
    record.sent = result;
    if (result === 'complete' && unknownOutcome && !isRelayed)
      void this.options.onUnknownOutcomeReported(unknownOutcome);
  }

  private async replyTo(
    uploadRequest: UploadRequest,
    resolved: ResolvedTarget,
    isRelayed: boolean,
  ): Promise<Reply | NoReply> {
    const { uploadRequests, discovery, relay } = this.options;
    const { head, route, request } = uploadRequest;
    const node = resolved.upload?.node;
    try {
      if (resolved.fault) throw resolved.fault;
      const reason = this.unavailableReason(request);
      if (reason) return this.refusalReply(uploadRequest, unavailable(reason));
      if (relay?.isRemote(node)) {
        // Two nodes that consider each other the owner must not relay a request back and forth.
        if (isRelayed) return this.refusalReply(uploadRequest, unavailable(MOVING));
        await this.relay(uploadRequest, node, relay, resolved);
        return 'relayed';
      }
      const reply = await uploadRequests.replyTo(uploadRequest);
      if ('kind' in reply && reply.kind === 'elsewhere') {
        if (isRelayed || !relay?.isRemote(reply.node)) return this.refusalReply(uploadRequest, unavailable(MOVING));
        await this.relay(uploadRequest, reply.node, relay, resolved);
        return 'relayed';
      }
      const isDiscovery = !isRefusal(request) && request.kind === 'discover' && request.id === undefined;
      const { exchange, admission = ADMITTED } = uploadRequest;
      if (!isDiscovery || 'kind' in reply || admission.kind === 'rejected') return reply;
      await discovery.answer(
        { exchange, head, route, announced: resolved.announced, addedHeaders: admission.addedHeaders },
        reply,
      );
      return 'answered';
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.reportFault(fault, route);
      return this.refusalReply(uploadRequest, refusalOf(fault));
    }
  }

  /**
   * The store and the authorization service log their own outages, so the requests that fail during one need only debug
   * lines.
   */
  private reportFault(fault: Fault, route: Route): void {
    const { log, metrics } = this.options;
    const isStoreUnavailable = fault.code === 'STORE_UNAVAILABLE';
    if (isStoreUnavailable) metrics.storeUnavailable();
    log[isStoreUnavailable || fault.code === 'AUTHORIZATION_UNAVAILABLE' ? 'debug' : 'error'](
      { err: fault, path: route.name },
      'upload request failed',
    );
  }

  /** The reason why this process no longer accepts such a request. */
  private unavailableReason(request: UploadRequest['request']): string | undefined {
    if (isRefusal(request)) return undefined;
    const { refused } = this.options;
    if (refused?.bodies && (request.kind === 'create' || request.kind === 'append')) return STOPPING;
    return refused?.uploads && request.kind === 'create' ? NO_NEW_UPLOADS : undefined;
  }

  private relay(uploadRequest: UploadRequest, node: string, relay: Relay, resolved: ResolvedTarget): Promise<void> {
    const { exchange, head } = uploadRequest;
    const refusalReply = (refusal: Refusal): Reply | 'cut' => {
      const reply = this.refusalReply(uploadRequest, refusal);
      return 'kind' in reply ? 'cut' : this.options.cors.apply(reply, resolved);
    };
    return relay.relay({ exchange, head, node, refusalReply });
  }

  /**
   * URLSession resumes after a lost connection, but a 5xx ends its task. Its connection is closed instead where trying
   * again can help.
   */
  private refusalReply(uploadRequest: UploadRequest, refusal: Refusal): Reply | ConnectionEnd {
    if (refusal.reason === 'unavailable' && uploadRequest.protocol !== plain && isUrlSession(uploadRequest.head))
      return { kind: 'interrupted', reason: 'unavailable' };
    return this.options.uploadRequests.refusalReply(uploadRequest, refusal);
  }

  private recordRequest({ res }: Exchange, head: RequestHead, record: RequestRecord, startedAtMs: number): void {
    const { metrics, log, uploadsPath, monotonic } = this.options;
    const seconds = (monotonic() - startedAtMs) / 1000;
    const status = res.headersSent ? res.statusCode : undefined;
    metrics.requestEnded({ kind: record.kind, method: head.method, status, seconds });
    const { method, target, path, httpVersion, connection } = head;
    const { kind, route, before, after, interrupted } = record;
    noteRequest(this.options.story, { head, record, status, seconds });
    // For a relayed request the owner logs the offsets.
    const showsOffsets = before !== undefined && after !== undefined && kind !== 'relayed';
    logRequest(log, uploadsPath, {
      kind,
      route,
      interrupted,
      upload: after && identifiersOf(after),
      offsets: showsOffsets ? { before: before.offset, after: after.offset } : undefined,
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

const HEAD_TOO_LARGE = 'The header section of this request is larger than is accepted here.';
const LOOP_DETAIL = 'The request has come through this proxy before: its origin leads back to it.';
const NO_UPGRADE = 'An upload resource cannot change to another protocol.';

const STOPPING = 'This server is being restarted; the upload can be resumed.';
const NO_NEW_UPLOADS = 'This server takes no new uploads.';
const MOVING = 'The bytes of this upload are on their way to another server.';

function unavailable(detail: string): Refusal {
  return { reason: 'unavailable', detail, retryAfterSeconds: 1 };
}

const NOT_STORED = 'The upload cannot be stored right now. What was acknowledged is kept.';

/** A store operation without a response may have been carried out, so the client has to ask for the offset. */
const STORE_UNAVAILABLE =
  'The state of uploads cannot be reached right now. What was acknowledged is kept; ask for the offset first.';

function refusalOf({ code }: Fault): Refusal {
  if (code === 'STORAGE_FULL') return { reason: 'storage-full' };
  return { reason: 'unavailable', detail: DETAILS[code] ?? NOT_STORED, retryAfterSeconds: 5 };
}

const DETAILS: Readonly<Partial<Record<Fault['code'], string>>> = {
  STORE_UNAVAILABLE,
  AUTHORIZATION_UNAVAILABLE: 'Nobody can say right now whose upload this is. What was acknowledged is kept.',
};

/** Whether the entire route needs authorization, not only its uploads. */
function needsAuthorization({ authorize: { forwardAuth } }: Route): boolean {
  return forwardAuth?.scope === 'all';
}

const ADMITTED: Admission = { kind: 'admitted' };

function isUrlSession({ headers }: RequestHead): boolean {
  return headers.some(
    ([name, value]) => name.toLowerCase() === 'user-agent' && /\bCFNetwork\/.*\bDarwin\//.test(value),
  );
}
