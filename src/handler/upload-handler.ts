import { credentialsIn } from '../model/client-fields.js';
import { Fault } from '../model/fault.js';
import {
  fieldValue,
  forwardableHeaders,
  fromRawHeaders,
  type HeaderLine,
  type Headers,
  withoutUploadFields,
} from '../model/headers.js';
import type {
  AppendIntent,
  CreateIntent,
  Elsewhere,
  Intent,
  InterimUpdate,
  Interrupted,
  OriginInterim,
  Outcome,
  Refusal,
  RelayedAnswer,
  RetrieveIntent,
} from '../model/messages.js';
import { clientBaseUrl, type RequestHead } from '../model/request-head.js';
import type { Route } from '../model/route.js';
import {
  newestUnknownOutcome,
  shownOffset,
  type StoredRequest,
  TUS_DIALECT,
  type UnknownOutcome,
  type Upload,
} from '../model/upload.js';
import { isUploadToken, type UploadIdentity, uploadIdOf } from '../model/upload-id.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { answerFor, withoutAltSvc } from '../origin/headers.js';
import { plain } from '../protocol/plain.js';
import { answerLostProblem, NO_STORE, problemReply } from '../protocol/problem.js';
import { isRefusal, type Protocol, type Reply, type ReplyContext } from '../protocol/protocol.js';
import { readBoolean, valueOf } from '../protocol/structured-fields.js';
import type { UploadSecrets } from '../secrets/upload-secrets.js';
import { onPeerEnded } from '../server/closing.js';
import { type Exchange, isHttp2 } from '../server/exchange.js';
import { wasReset } from '../server/http2-reset.js';
import type { InterimResponses } from '../server/interim-responses.js';
import type { RequestRates } from '../server/slow-clients.js';
import type { TrustedProxies } from '../server/trusted-proxies.js';
import { sinceReadHeldMs } from '../streams/small-pieces.js';
import type { UploadCall } from '../uploads/answers.js';
import type { BodyMemory } from '../uploads/body-memory.js';
import { Body } from '../uploads/request-body.js';
import type { Creation, Uploads } from '../uploads/uploads.js';
import { type Admission, type Authorizer, problemAnswer } from './authorize.js';
import { clientKeyOf, countedClient } from './client-digests.js';
import { PlainReplies } from './plain-requests.js';
import { findByToken, type ResolvedTarget } from './upload-lookup.js';

export interface UploadRequestHandlerOptions {
  readonly uploads: Uploads;
  readonly authorizer: Authorizer;
  readonly secrets: UploadSecrets;
  readonly metrics: Metrics;
  readonly log: Log;
  /** Milliseconds since the epoch. */
  readonly clock: () => number;
  /** The clock by which uploads expire; `clock` by default. */
  readonly expiryClock?: () => number;
  /** Addresses of proxies stand for many clients; without it no address does. */
  readonly trust?: Pick<TrustedProxies, 'trusts'>;
  /** The memory of all bodies of the process. */
  readonly bodyMemory: BodyMemory;
  /** Ends a body that sends nothing for this long. */
  readonly idleMs: number;
  /** Ends bodies that arrive too slowly; without it there is no limit. */
  readonly requestRates?: RequestRates;
  /** Path prefix of upload resources: begins and ends with a slash. */
  readonly uploadsPath: string;
  /** The base URL that clients see instead of the request's scheme and authority; no trailing slash. */
  readonly publicUrl?: string;
  /** The Alt-Svc value sent with every answer of an origin. */
  readonly altSvc?: string;
}

/** A parsed request on a resumable target or an upload resource. */
export interface UploadRequest {
  readonly exchange: Exchange;
  readonly head: RequestHead;
  readonly route: Route;
  readonly protocol: Protocol;
  readonly request: Intent | Refusal;
  /** For a discovery, the route whose limits are announced. */
  readonly announced?: Route;
  /** The upload of the request as it was on arrival. */
  readonly upload?: Upload;
  /** That of the upload's URL; for a request on a target, that of the upload it may create. */
  readonly identity: UploadIdentity;
  /** The decision of the route's authorization service; missing if it was not asked yet. */
  readonly admission?: Admission;
  readonly interims: InterimResponses;
  /** Called with an upload that was created or found, and whenever its offset has moved. */
  readonly onUpload: (upload: Upload) => void;
  /** Called when the reply reports an attempt whose outcome is unknown. */
  readonly onUnknownOutcome: (outcome: UnknownOutcome) => void;
}

/** Carries out upload requests, and renders their outcomes as replies of the request's protocol. */
export class UploadRequestHandler {
  private readonly plainReplies: PlainReplies;

  constructor(private readonly options: UploadRequestHandlerOptions) {
    this.plainReplies = new PlainReplies(options);
  }

  /** Carries out the request; returns its reply, or the reason why there is none. Rejects with a `Fault`. */
  async replyTo(uploadRequest: UploadRequest): Promise<Reply | Interrupted | Elsewhere> {
    const result = await this.outcomeOf(uploadRequest);
    if (result.kind === 'elsewhere') return result;
    const outcome = this.withClientAnswer(result, uploadRequest);
    const reply = await this.renderOutcome(outcome, uploadRequest);
    // A creation with tus gets the URL first, and hears of the outcome with its next request.
    const isTold = outcome.kind === 'undelivered' && !('status' in reply && reply.status < 400);
    const unknownOutcome = isTold ? newestUnknownOutcome(outcome.upload) : undefined;
    if (unknownOutcome) uploadRequest.onUnknownOutcome(unknownOutcome);
    return reply;
  }

  private async renderOutcome(
    outcome: Outcome | Interrupted,
    uploadRequest: UploadRequest,
  ): Promise<Reply | Interrupted> {
    if (uploadRequest.protocol === plain) return this.plainReplies.replyTo(outcome, this.contextOf(uploadRequest));
    if (outcome.kind === 'interrupted') return outcome;
    return uploadRequest.protocol.render(this.revealed(outcome), this.contextOf(uploadRequest));
  }

  /** A client of tus that asks for its upload gets some fields of its creation back. */
  private revealed(outcome: Outcome): Outcome {
    if (outcome.kind !== 'retrieved') return outcome;
    return { ...outcome, upload: this.options.secrets.reveal(outcome.upload).upload };
  }

  /** Renders a refusal in the request's protocol. */
  refusalReply(uploadRequest: UploadRequest, refusal: Refusal): Reply {
    return uploadRequest.protocol.render({ kind: 'refused', refusal }, this.contextOf(uploadRequest));
  }

  private async outcomeOf(uploadRequest: UploadRequest): Promise<Outcome | Interrupted | Elsewhere> {
    const { request, upload, admission } = uploadRequest;
    if (admission?.kind === 'rejected') return { kind: 'turned-away', answer: admission.answer };
    if (isRefusal(request)) return { kind: 'refused', refusal: request };
    const { uploads } = this.options;
    const incrementalRefusal = this.refuseIncremental(uploadRequest, request);
    if (incrementalRefusal) return { kind: 'refused', refusal: incrementalRefusal };
    switch (request.kind) {
      case 'create':
        return this.create(uploadRequest, request);
      case 'append':
        return this.withCall(uploadRequest, request, (call) => uploads.append(request, call, upload));
      case 'retrieve':
        return this.retrieve(uploadRequest, request);
      case 'cancel':
        return uploads.cancel(request, upload);
      case 'discover':
        return { kind: 'discovered' };
    }
  }

  /** The upload may have more bytes than when the request came, because another request was still writing to it. */
  private async retrieve({ upload, onUpload }: UploadRequest, intent: RetrieveIntent): Promise<Outcome | Interrupted> {
    const outcome = await this.options.uploads.retrieve(intent, upload);
    if (outcome.kind === 'retrieved') onUpload(outcome.upload);
    return outcome;
  }

  private refuseIncremental({ head, route, upload }: UploadRequest, request: Intent): Refusal | undefined {
    if (request.kind !== 'create' && request.kind !== 'append') return undefined;
    if (valueOf(readBoolean(head.headers, 'Incremental')) !== true) return undefined;
    return this.options.uploads.refuseIncremental(request, route, upload);
  }

  /** The ids of the uploads that a creation is made of; undefined if one of the URLs is none of an upload. */
  private async idsOfParts(head: RequestHead, urls: readonly string[]): Promise<readonly string[] | undefined> {
    const { uploadsPath, uploads } = this.options;
    const base = withoutOrigin(this.publicUrlOf(head));
    const tokens = urls.map((url) => {
      const path = withoutOrigin(url);
      const prefix = path.startsWith(base + uploadsPath) ? base + uploadsPath : uploadsPath;
      return path.startsWith(prefix) ? path.slice(prefix.length) : '';
    });
    if (!tokens.every(isUploadToken)) return undefined;
    const ids = new Map<string, string>();
    for (const token of new Set(tokens)) ids.set(token, (await findByToken(uploads, token))?.id ?? uploadIdOf(token));
    return tokens.map((token) => ids.get(token)!);
  }

  /** No byte of a body is read before the route's authorization has admitted the client. */
  private async create(uploadRequest: UploadRequest, intent: CreateIntent): Promise<Outcome | Interrupted | Elsewhere> {
    const { head, route } = uploadRequest;
    const { authorizer, uploads } = this.options;
    const { complete, contentLength, declaredLength = complete ? contentLength : undefined, partUrls } = intent;
    const length = partUrls ? undefined : declaredLength;
    const admission = await authorizer.admitCreation(head, route, uploadRequest.admission, length);
    if (admission.kind === 'rejected') return { kind: 'turned-away', answer: admission.answer };
    const owner = await authorizer.ownerOf(head, route, admission);
    if (owner.kind === 'nobody') return { kind: 'turned-away', answer: problemAnswer(403, NO_PRINCIPAL) };
    const { addedHeaders } = admission;
    const principal = owner.kind === 'client' ? owner.digest : undefined;
    const client = countedClient(head, admission.principal, this.options.trust);
    const request = storedRequestOf(head);
    const keyOf = (key: string): string => clientKeyOf(key, head, route.name, principal ?? admission.principal);
    const parts = { id: uploadRequest.identity.id, request, addedHeaders, principal, client };
    if (partUrls) {
      const ids = await this.idsOfParts(head, partUrls);
      if (!ids) return { kind: 'refused', refusal: { reason: 'malformed', detail: NO_PARTS } };
      const creation = this.withoutSecrets({ ...parts, clientKey: keyOf(keyOfParts(ids, request)) }, uploadRequest);
      return this.withCall(uploadRequest, intent, (call) => uploads.join(intent, { ids, route, creation }, call));
    }
    const key = route.delivery.clientKeys ? fieldValue(head.headers, 'idempotency-key')?.trim() : undefined;
    const creation = this.withoutSecrets({ ...parts, ...(key && { clientKey: keyOf(key) }) }, uploadRequest);
    return this.withCall(uploadRequest, intent, async (call) => {
      // What is not stored is still here for an upload that this request completes.
      const added = this.options.secrets.areKept ? {} : { addedHeaders: () => addedHeaders };
      return uploads.create(intent, route, creation, { ...call, ...added });
    });
  }

  /** The token is kept for those creations that a client can repeat, because it gets the same `Location` then. */
  private withoutSecrets<C extends Creation>(creation: C, { route, identity, protocol }: UploadRequest): C {
    const canBeRepeated = creation.clientKey !== undefined && protocol !== plain;
    return this.options.secrets.withhold(
      creation,
      route.delivery.credentials,
      canBeRepeated ? identity.token : undefined,
    );
  }

  /**
   * Runs an upload operation with the exchange's body, interim responses, and abort signals for a client that leaves.
   */
  private async withCall<T>(
    uploadRequest: UploadRequest,
    intent: CreateIntent | AppendIntent,
    run: (call: UploadCall) => Promise<T>,
  ): Promise<T> {
    const { exchange, head, route } = uploadRequest;
    const clientLeft = new AbortController();
    const clientGone = new AbortController();
    const onPeerEnd = (): void => clientLeft.abort(new Error('the client has left'));
    const onClose = (): void => {
      onPeerEnd();
      clientGone.abort(clientLeft.signal.reason);
    };
    exchange.res.once('close', onClose);
    // A client that has ended its side may have left, so nothing may depend on its getting the response. Everything it
    // has sent counts.
    const stopListening = onPeerEnded(exchange, onPeerEnd);
    const body = this.bodyOf(uploadRequest, intent);
    try {
      return await run({
        body,
        sendInterim: (update) => this.sendUpdate(uploadRequest, update),
        onInterim: (interim) => this.relayInterim(uploadRequest, interim),
        onOffset: uploadRequest.onUpload,
        wantsProgress: () => hasInterims(uploadRequest.protocol) && uploadRequest.interims.isDue,
        credentials: credentialsIn(head.headers, route.delivery),
        secretLines: this.options.secrets.linesIn(head.headers, route.delivery.credentials),
        clientLeft: clientLeft.signal,
        clientGone: clientGone.signal,
        doesNotWait: doesNotWait(uploadRequest),
        ...((route.authorize.recheck || !this.options.secrets.areKept) && this.recheckOf(uploadRequest)),
      });
    } finally {
      body.close();
      stopListening();
      exchange.res.off('close', onClose);
    }
  }

  /** A permission may end between the creation and the completion of an upload (RUFH, security considerations). */
  private recheckOf({ head, route }: UploadRequest): Pick<UploadCall, 'mayComplete' | 'addedHeaders'> {
    let addedHeaders: Headers | undefined;
    const mayComplete = async ({ request: { method, target } }: Upload): Promise<RelayedAnswer | undefined> => {
      const admission = await this.options.authorizer.authorize({ ...head, method, target }, route);
      if (admission.kind === 'rejected') return admission.answer;
      addedHeaders = admission.addedHeaders;
      return undefined;
    };
    return { mayComplete, addedHeaders: () => addedHeaders };
  }

  private bodyOf({ exchange, interims, route }: UploadRequest, intent: CreateIntent | AppendIntent): Body {
    return new Body(exchange.req, {
      declaredLength: intent.contentLength,
      memory: this.options.bodyMemory,
      idleMs: this.options.idleMs,
      sinceHeldBackMs: () => sinceReadHeldMs(exchange.req),
      watch: (body) => this.options.requestRates?.watch(exchange, body) ?? NO_OP,
      onFirstRead: () => interims.continue(),
      trailers: () => this.withoutSecretLines(fromRawHeaders(exchange.req.rawTrailers), route),
      wasReset: () => isHttp2(exchange) && wasReset(exchange.req.stream),
    });
  }

  /** No origin gets credentials in trailers, so they need not be stored either. */
  private withoutSecretLines(trailers: Headers, { delivery }: Route): Headers {
    const secret = new Set(this.options.secrets.linesIn(trailers, delivery.credentials));
    return secret.size === 0 ? trailers : trailers.filter((line) => !secret.has(line));
  }

  private sendUpdate(uploadRequest: UploadRequest, update: InterimUpdate): boolean {
    const { interims, protocol, onUpload } = uploadRequest;
    if (update.kind === 'resumable') onUpload(update.upload);
    const reply = (): Reply | undefined => protocol.interim(update, this.contextOf(uploadRequest));
    const isSent = update.kind === 'resumable' ? interims.announce(reply) : interims.progress(reply);
    if (isSent) this.options.metrics.interimSent(update.kind);
    return isSent;
  }

  /**
   * Upload fields in an origin's interim response are not about this upload, so they are removed; only the proxy sends
   * 104.
   */
  private relayInterim({ interims }: UploadRequest, { status, reason, headers }: OriginInterim): void {
    const remaining = withoutUploadFields(withoutAltSvc(forwardableHeaders(headers, false)));
    if (status !== 104) interims.relay({ status, reason, headers: remaining });
  }

  /** In the response to an append, relative references are relative to the creation's target. */
  private withClientAnswer(
    outcome: Outcome | Interrupted,
    { head, route, request }: UploadRequest,
  ): Outcome | Interrupted {
    if (outcome.kind !== 'answered' && outcome.kind !== 'parked') return outcome;
    const { answer, upload } = outcome;
    const isAppend = !isRefusal(request) && request.kind === 'append';
    const context = { route, publicUrl: this.publicUrlOf(head), target: isAppend ? upload.request.target : undefined };
    return { ...outcome, answer: answerFor(answer, context, this.options.altSvc) };
  }

  private publicUrlOf(head: RequestHead): string {
    return this.options.publicUrl ?? clientBaseUrl(head);
  }

  private contextOf({ head, route, announced = route, upload, identity }: UploadRequest): ReplyContext {
    const { uploadsPath, clock, expiryClock = clock } = this.options;
    const publicUrl = this.publicUrlOf(head);
    return {
      uploadUrl: (upload) => publicUrl + uploadsPath + this.tokenOf(upload, identity),
      limits: announced.limits,
      nowMs: expiryClock(),
      ...(upload && { upload }),
    };
  }

  /** The token of the request's own upload, or of the one that an earlier creation with the same key has made. */
  private tokenOf(upload: Upload, { id, token }: UploadIdentity): string {
    const found = upload.id === id ? token : this.options.secrets.tokenOf(upload);
    if (found === undefined) throw new Fault('SECRET_UNREADABLE', TOKEN_UNREADABLE, false);
    return found;
  }
}

const NO_OP = (): void => undefined;

const TOKEN_UNREADABLE =
  'the URL of an upload that a creation with its key has found cannot be told: no key of `secrets` opens it';

/** Neither ordinary clients nor those of tus understand a 104. */
function hasInterims(protocol: Protocol): boolean {
  return protocol !== plain && protocol.name !== TUS_DIALECT;
}

/** The path of a URL, or of a reference that has only a path. */
function withoutOrigin(url: string): string {
  return url.replace(/^[A-Za-z][A-Za-z0-9+.-]*:\/\/[^/?#]*/, '');
}

/** The same parts, joined for the same target with the same metadata, are the same upload. */
function keyOfParts(ids: readonly string[], { method, target, headers }: StoredRequest): string {
  return JSON.stringify(['tus-concatenation', method, target, fieldValue(headers, 'upload-metadata') ?? null, ids]);
}

const NO_PARTS = 'Upload-Concat has to name uploads of this server by the URLs in their Location.';

const NO_PRINCIPAL = 'The authorization service named nobody to whom this upload could belong.';

/** The parts of the request that the upload's record keeps for its delivery. */
function storedRequestOf(head: RequestHead): StoredRequest {
  const { method, target, httpVersion, scheme, authority, headers, connection } = head;
  const { peerAddress, clientAddress, peerIsTrusted } = connection;
  return { method, target, httpVersion, scheme, authority, headers, peerAddress, clientAddress, peerIsTrusted };
}

/** Whether the client gets a 202 instead of waiting; an ordinary client has no URL to ask again, so it always waits. */
function doesNotWait({ protocol, route, head }: UploadRequest): boolean {
  return protocol !== plain && (route.delivery.respond === 'accepted' || prefersAsync(head.headers));
}

/** Whether the client prefers not to wait for the answer (RFC 7240 §4.1). */
function prefersAsync(headers: Headers): boolean {
  const preferences = (fieldValue(headers, 'prefer') ?? '').split(',');
  return preferences.some((preference) => /^\s*respond-async\s*(;|$)/i.test(preference));
}

/** Tells a client when to ask again. */
const RETRY_LATER: HeaderLine = ['Retry-After', '2'];

const UNREADABLE = 'The stored answer cannot be read right now. Try again later.';

const NOT_FOUND = { status: 404, detail: 'There is no such upload, or it is not yours.' };

export interface StatusPagesOptions {
  readonly uploads: Pick<Uploads, 'keptAnswer'>;
  /** The base URL that clients see instead of the request's scheme and authority; no trailing slash. */
  readonly publicUrl?: string;
  /** The Alt-Svc value sent with every answer of an origin. */
  readonly altSvc?: string;
}

/**
 * The resources that a client without a pending request can read: the state of the delivery, and in the end the answer.
 */
export class StatusPages {
  constructor(private readonly options: StatusPagesOptions) {}

  /** Renders the page. Rejects with the reason of `signal` when the client leaves first. */
  async reply({ upload, page, route }: ResolvedTarget, head: RequestHead, signal: AbortSignal): Promise<Reply> {
    const { method } = head;
    if (method !== 'GET' && method !== 'HEAD')
      return problemReply({ status: 405, detail: 'This can only be read.' }, [['Allow', 'GET, HEAD']]);
    if (!upload) return problemReply(NOT_FOUND);
    return page === 'answer' ? this.answer(upload, route, head, signal) : statusPage(upload);
  }

  private async answer(upload: Upload, route: Route, head: RequestHead, signal: AbortSignal): Promise<Reply> {
    const { uploads, publicUrl = clientBaseUrl(head), altSvc } = this.options;
    const answer = await uploads.keptAnswer(upload, signal).catch((fault: unknown) => {
      if (!(fault instanceof Fault)) throw fault;
      return 'unreadable' as const;
    });
    if (answer === 'unreadable') return problemReply({ status: 503, detail: UNREADABLE }, [RETRY_LATER]);
    if (answer === 'lost') return problemReply(answerLostProblem(upload));
    if (!answer) return problemReply({ status: 404, detail: 'The origin has not answered yet.' }, [RETRY_LATER]);
    const { target } = upload.request;
    return stripUploadFields(answerFor(answer, { route, publicUrl, target }, altSvc));
  }
}

/** Removes upload fields from the headers and trailers, as in the response to an append. */
function stripUploadFields(answer: RelayedAnswer): RelayedAnswer {
  const headers = withoutUploadFields(answer.headers);
  return { ...answer, headers, trailers: () => withoutUploadFields(answer.trailers()) };
}

/** The state of the delivery as JSON. */
function statusPage(upload: Upload): Reply {
  const { phase, length, attempts, attemptCount, answer } = upload;
  const lastAttempt = attempts.at(-1);
  const isOver = phase === 'answered' || phase === 'undelivered';
  const json = {
    phase,
    offset: shownOffset(upload),
    length,
    attempts: attemptCount,
    lastAttempt: lastAttempt && {
      startedAt: toIso(lastAttempt.startedAt),
      endedAt: lastAttempt.endedAt && toIso(lastAttempt.endedAt),
      reached: lastAttempt.reached,
      status: lastAttempt.status,
    },
    undelivered: upload.undelivered?.reason,
    answer: answer && { status: answer.status, at: 'answer' },
  };
  return {
    status: 200,
    headers: [...(isOver ? [] : [RETRY_LATER]), NO_STORE, ['Content-Type', 'application/json']],
    body: JSON.stringify(json),
  };
}

function toIso(timeMs: number): string {
  return new Date(timeMs).toISOString();
}
