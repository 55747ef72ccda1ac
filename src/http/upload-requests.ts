import { fieldValue, fromRawHeaders, passedOn, withoutUploadFields, type Headers } from '../model/headers.js';
import { credentialsIn } from '../model/client-fields.js';
import type { AppendIntent, CreateIntent, Intent } from '../model/intent.js';
import type { Elsewhere, Interrupted, News, OriginInterim, Outcome, Refusal, RelayedAnswer } from '../model/outcome.js';
import { calledUrl, type RequestHead } from '../model/request-head.js';
import type { Route } from '../model/route.js';
import { newestUnknownEnd, type StoredRequest, type UnknownEnd, type Upload } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { readBoolean, valueOf } from '../protocol/fields.js';
import { plain } from '../protocol/plain.js';
import { type Protocol, type Reply, type ReplyContext, isRefusal } from '../protocol/protocol.js';
import { Body } from '../uploads/body.js';
import type { Uploads } from '../uploads/uploads.js';
import type { UploadCall } from '../uploads/answers.js';
import { type Access, type Admission, problemAnswer } from './access.js';
import { answerFor, withoutAltSvc } from './answer-fields.js';
import { clientKeyOf } from './client-key.js';
import { type Exchange, isHttp2 } from './exchange.js';
import { onPeerEnded } from './half-closed.js';
import type { Interims } from './interim.js';
import type { RequestRates } from './min-rate.js';
import { PlainRequests } from './plain-requests.js';
import { sinceHeldBackMs } from './small-piece-pace.js';

export interface UploadRequestsOptions {
  readonly uploads: Uploads;
  readonly access: Access;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
  /** The time by which uploads expire; the same as `clock` when it is missing. */
  readonly expiryClock?: () => number;
  /** A body that sends nothing for this long is given up. */
  readonly idleMs: number;
  /** Ends bodies that come too slowly; without it they may. */
  readonly requestRates?: RequestRates;
  /** Path of upload resources: begins and ends with a slash. */
  readonly uploadsPath: string;
  /** What clients see in place of the request's own scheme and authority; without a trailing slash. */
  readonly publicUrl?: string;
  /** Sent with every answer of an origin. */
  readonly altSvc?: string;
}

/** A request on a resumable target or an upload resource, taken apart. */
export interface UploadRequest {
  readonly exchange: Exchange;
  readonly head: RequestHead;
  readonly route: Route;
  readonly protocol: Protocol;
  readonly request: Intent | Refusal;
  /** For a discovery, the route whose limits are told. */
  readonly announced?: Route;
  /** The one it is about, as it was when the request came. */
  readonly upload?: Upload;
  /** What the authorization service of the route has said; missing where it was not asked yet. */
  readonly admission?: Admission;
  readonly interims: Interims;
  /** Told of the upload that a creation has made or found, and of any whenever its offset has moved. */
  readonly onUpload: (upload: Upload) => void;
  /** Told when the reply says that nobody knows what came of an attempt. */
  readonly onUnknown: (end: UnknownEnd) => void;
}

/** Between the wire and the uploads: what a request means goes in, how its outcome looks comes out. */
export class UploadRequests {
  private readonly plainRequests: PlainRequests;

  constructor(private readonly options: UploadRequestsOptions) {
    this.plainRequests = new PlainRequests(options);
  }

  /** The reply, or why there is nobody to give it to. Fails with a `Fault`. */
  async answer(asked: UploadRequest): Promise<Reply | Interrupted | Elsewhere> {
    const found = await this.outcomeOf(asked);
    if (found.kind === 'elsewhere') return found;
    const outcome = this.forClient(found, asked);
    const reply = await this.replyTo(outcome, asked);
    const end = outcome.kind === 'undelivered' ? newestUnknownEnd(outcome.upload) : undefined;
    if (end) asked.onUnknown(end);
    return reply;
  }

  private async replyTo(outcome: Outcome | Interrupted, asked: UploadRequest): Promise<Reply | Interrupted> {
    if (asked.protocol === plain) return this.plainRequests.replyTo(outcome, this.contextOf(asked));
    return outcome.kind === 'interrupted' ? outcome : asked.protocol.render(outcome, this.contextOf(asked));
  }

  /** How a refusal looks to this request. */
  refuse(asked: UploadRequest, refusal: Refusal): Reply {
    return asked.protocol.render({ kind: 'refused', refusal }, this.contextOf(asked));
  }

  private async outcomeOf(asked: UploadRequest): Promise<Outcome | Interrupted | Elsewhere> {
    const { request, upload, admission } = asked;
    if (admission?.kind === 'out') return { kind: 'turned-away', answer: admission.answer };
    if (isRefusal(request)) return { kind: 'refused', refusal: request };
    const { uploads } = this.options;
    const unwanted = this.refuseIncremental(asked, request);
    if (unwanted) return { kind: 'refused', refusal: unwanted };
    switch (request.kind) {
      case 'create':
        return this.create(asked, request);
      case 'append':
        return this.during(asked, request, (call) => uploads.append(request, call, upload));
      case 'retrieve':
        return uploads.retrieve(request, upload);
      case 'cancel':
        return uploads.cancel(request, upload);
      case 'discover':
        return { kind: 'discovered' };
    }
  }

  private refuseIncremental({ head, route, upload }: UploadRequest, request: Intent): Refusal | undefined {
    if (request.kind !== 'create' && request.kind !== 'append') return undefined;
    if (valueOf(readBoolean(head.headers, 'Incremental')) !== true) return undefined;
    return this.options.uploads.refuseIncremental(request, route, upload);
  }

  /** Nobody's body is taken before whoever the route names has let them in. */
  private async create(asked: UploadRequest, intent: CreateIntent): Promise<Outcome | Interrupted | Elsewhere> {
    const { head, route } = asked;
    const { access, uploads } = this.options;
    const { complete, contentLength, declaredLength = complete ? contentLength : undefined } = intent;
    const admission = await access.admit(head, route, asked.admission, declaredLength);
    if (admission.kind === 'out') return { kind: 'turned-away', answer: admission.answer };
    const owner = await access.ownerOf(head, route, admission);
    if (owner.kind === 'nobody') return { kind: 'turned-away', answer: problemAnswer(403, 'Forbidden', NO_PRINCIPAL) };
    const { addedHeaders } = admission;
    const principal = owner.kind === 'one' ? owner.digest : undefined;
    const clientKey = route.delivery.clientKeys
      ? clientKeyOf(head, route.name, principal ?? admission.principal)
      : undefined;
    const creator = { addedHeaders, principal, ...(clientKey !== undefined && { clientKey }) };
    return this.during(asked, intent, (call) => uploads.create(intent, route, stored(head), { ...call, creator }));
  }

  /** Ties an upload's call to its exchange: the body, interim responses, and the moment the client leaves. */
  private async during<T>(
    asked: UploadRequest,
    intent: CreateIntent | AppendIntent,
    run: (call: UploadCall) => Promise<T>,
  ): Promise<T> {
    const { exchange, head } = asked;
    const left = new AbortController();
    const gone = new AbortController();
    const leave = (): void => left.abort(new Error('the client has left'));
    const go = (): void => {
      leave();
      gone.abort(left.signal.reason);
    };
    exchange.res.once('close', go);
    // It may have left: nobody is to rely on its having been told what became of the upload. All it has sent counts.
    const stopListening = onPeerEnded(exchange, leave);
    try {
      return await run({
        body: this.bodyOf(asked, intent),
        tell: (news) => this.tell(asked, news),
        onInterim: (interim) => this.relayInterim(asked, interim),
        onOffset: asked.onUpload,
        hears: () => asked.protocol !== plain && asked.interims.isDue,
        credentials: credentialsIn(head.headers, asked.route.delivery),
        left: left.signal,
        gone: gone.signal,
        doesNotWait: doesNotWait(asked),
        ...(asked.route.authorize.recheck && this.recheckOf(asked)),
      });
    } finally {
      stopListening();
      exchange.res.off('close', go);
    }
  }

  /** Time of check, time of use: what was allowed when the upload began may not be when it ends (RUFH, security). */
  private recheckOf({ head, route }: UploadRequest): Pick<UploadCall, 'mayComplete' | 'addedHeaders'> {
    let addedHeaders: Headers | undefined;
    const mayComplete = async ({ request: { method, target } }: Upload): Promise<RelayedAnswer | undefined> => {
      const admission = await this.options.access.ask({ ...head, method, target }, route);
      if (admission.kind === 'out') return admission.answer;
      addedHeaders = admission.addedHeaders;
      return undefined;
    };
    return { mayComplete, addedHeaders: () => addedHeaders };
  }

  private bodyOf({ exchange, interims }: UploadRequest, intent: CreateIntent | AppendIntent): Body {
    return new Body(exchange.req, {
      declaredLength: intent.contentLength,
      idleMs: this.options.idleMs,
      sinceHeldBackMs: () => sinceHeldBackMs(exchange.req),
      watch: (body) => this.options.requestRates?.watch(exchange, body) ?? NOTHING_TO_STOP,
      onWanted: () => interims.continue(),
      trailers: () => fromRawHeaders(exchange.req.rawTrailers),
      wasReset: () => isHttp2(exchange) && exchange.req.stream.rstCode !== 0,
    });
  }

  private tell(asked: UploadRequest, news: News): boolean {
    if (news.kind === 'resumable') asked.onUpload(news.upload);
    const reply = (): Reply | undefined => asked.protocol.interim(news, this.contextOf(asked));
    const isSent = news.kind === 'resumable' ? asked.interims.announce(reply) : asked.interims.progress(reply);
    if (isSent) this.options.metrics.interimSent(news.kind);
    return isSent;
  }

  /** What an origin says in the fields of an upload protocol is not about this upload: 104 and these are ours. */
  private relayInterim({ interims }: UploadRequest, { status, reason, headers }: OriginInterim): void {
    const kept = withoutUploadFields(withoutAltSvc(passedOn(headers, false)));
    if (status !== 104) interims.relay({ status, reason, headers: kept });
  }

  /** To an append, relative references are of another target than the one it asked. */
  private forClient(outcome: Outcome | Interrupted, { head, route, request }: UploadRequest): Outcome | Interrupted {
    if (outcome.kind !== 'answered' && outcome.kind !== 'parked') return outcome;
    const { answer, upload } = outcome;
    const isElsewhere = !isRefusal(request) && request.kind === 'append';
    const place = { route, publicUrl: this.publicUrlOf(head), target: isElsewhere ? upload.request.target : undefined };
    return { ...outcome, answer: answerFor(answer, place, this.options.altSvc) };
  }

  private publicUrlOf(head: RequestHead): string {
    return this.options.publicUrl ?? calledUrl(head);
  }

  private contextOf({ head, route, announced = route }: UploadRequest): ReplyContext {
    const { uploadsPath, clock, expiryClock = clock } = this.options;
    const publicUrl = this.publicUrlOf(head);
    return { uploadUrl: (id) => publicUrl + uploadsPath + id, limits: announced.limits, nowMs: expiryClock() };
  }
}

const NOTHING_TO_STOP = (): void => undefined;

const NO_PRINCIPAL = 'The authorization service named nobody to whom this upload could belong.';

function stored(head: RequestHead): StoredRequest {
  const { method, target, httpVersion, scheme, authority, headers, connection } = head;
  const { peerAddress, clientAddress, peerIsTrusted } = connection;
  return { method, target, httpVersion, scheme, authority, headers, peerAddress, clientAddress, peerIsTrusted };
}

/** An ordinary client is told of no upload, and so of no place where the answer will be. */
function doesNotWait({ protocol, route, head }: UploadRequest): boolean {
  return protocol !== plain && (route.delivery.respond === 'accepted' || prefersAsync(head.headers));
}

/** RFC 7240 §4.1. */
function prefersAsync(headers: Headers): boolean {
  const preferences = (fieldValue(headers, 'prefer') ?? '').split(',');
  return preferences.some((preference) => /^\s*respond-async\s*(;|$)/i.test(preference));
}
