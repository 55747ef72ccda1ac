import type { FieldRules } from '../model/client-fields.js';
import { originTrailers } from '../model/forwarded.js';
import { fieldValue, type Headers } from '../model/headers.js';
import type { RelayedAnswer } from '../model/messages.js';
import { clientBaseUrl, type RequestHead } from '../model/request-head.js';
import type { Log } from '../observe/log.js';
import { answerFields, headersForRoute, hostOf, withoutAltSvc } from '../origin/headers.js';
import type { OriginTls } from '../origin/endpoint.js';
import { OriginClient, type OutgoingRequest } from '../origin/origin-client.js';
import type { ExchangeListener } from '../origin/origin-exchange.js';
import { clientOf, DISCARD_LIMITS } from '../server/client-connection.js';
import type { DiscardLimits } from '../server/closing.js';
import { connectionOf, type Exchange, type HttpRequest } from '../server/exchange.js';
import { sendReply } from '../server/response.js';
import type { RequestRates } from '../server/slow-clients.js';
import { type ExchangeFailure, type ExchangeOptions, ProxiedExchange } from './proxied-exchange.js';
import { responseOn, type UpgradeRequest, Upgrades } from './upgrade.js';

/** The part of a `Route` that pass-through needs. */
export interface ProxyRoute extends FieldRules {
  /** Scheme, host and port, and a path prefix for every target; no trailing slash. */
  readonly origin: string;
  readonly limits?: { readonly maxSize?: number };
  readonly delivery: {
    readonly preserveHost: boolean;
    readonly rewriteLocation?: boolean;
    readonly credentials?: readonly string[];
    /** Maximum silence of the origin, before and within its answer. */
    readonly timeoutMs: number;
    /** Limits the time to the head of its answer; without it only silence is limited. */
    readonly answerTimeoutMs?: number;
  };
}

/** Settings for all routes, and the parts of the process that failures are reported to. */
export interface ReverseProxyOptions {
  readonly log: Log;
  readonly metrics?: { passThroughError(code: string): void };
  /** Ends a request whose body has been silent for this long; without it there is no limit. */
  readonly idleTimeoutMs?: number;
  /** Ends requests whose body arrives too slowly; without it there is no limit. */
  readonly requestRates?: RequestRates;
  /** Limits for reading the rest of a body after its response. */
  readonly discardLimits?: DiscardLimits;
  readonly tls?: OriginTls;
  /** The base URL that clients see instead of the request's scheme and authority; no trailing slash. */
  readonly publicUrl?: string;
  /** The Alt-Svc value sent with every answer of an origin. */
  readonly altSvc?: string;
  /** The name of this proxy in `Via`, by which it recognizes its own requests. */
  readonly via?: string;
}

/** A request to forward. */
interface ProxyRequest {
  readonly head: RequestHead;
  readonly route: ProxyRoute;
  /** Extra headers for the origin's request. */
  readonly addedHeaders?: Headers;
}

/** Changes the origin's answer, or the reply that the client gets when there is none. */
export type AnswerChanges = Pick<ExchangeOptions, 'rewrite' | 'failureReply'>;

/** The connections to origins, which several proxies can share. */
interface OriginLinks {
  readonly client: OriginClient;
  readonly upgrades: Upgrades;
}

/** Forwards requests that are not resumable uploads to the origin, and its answers to the client. */
export class ReverseProxy {
  private readonly client: OriginClient;
  private readonly upgrades: Upgrades;

  constructor(
    private readonly options: ReverseProxyOptions,
    { client, upgrades }: Partial<OriginLinks> = {},
  ) {
    this.client = client ?? new OriginClient(options.tls);
    this.upgrades = upgrades ?? new Upgrades(this.open);
  }

  /** A proxy with other settings and the same connections to origins. Closing one closes both. */
  withSettings(changes: Partial<ReverseProxyOptions>): ReverseProxy {
    const { client, upgrades } = this;
    return new ReverseProxy({ ...this.options, ...changes }, { client, upgrades });
  }

  /** Open connections to origins: in use, idle, or switched to another protocol. */
  get openConnections(): number {
    return this.client.openConnections + this.upgrades.size;
  }

  /** Forwards one request. Resolves when the exchange is over, whatever its outcome; never rejects. */
  forward(exchange: Exchange, request: ProxyRequest, changes?: AnswerChanges): Promise<void> {
    const { head, outgoing, trailersForOrigin, stallLimits, headTimeoutMs, onFailure, fieldsForClient } =
      this.exchangeOptions(exchange.req, request);
    return new ProxiedExchange({
      rewrite: changes?.rewrite,
      failureReply: changes?.failureReply,
      client: clientOf(exchange, this.options.discardLimits),
      head,
      outgoing,
      trailersForOrigin,
      stallLimits,
      headTimeoutMs,
      onFailure,
      fieldsForClient,
      open: this.open,
      maxBodyBytes: request.route.limits?.maxSize,
      watchBody: (body) => this.options.requestRates?.watch(exchange, body) ?? NO_OP,
    }).run();
  }

  /** Handles a server's `upgrade` event: the origin decides whether the connection switches protocols. */
  upgrade({ request, socket, early }: UpgradeRequest, proxyRequest: ProxyRequest): void {
    const limits = this.options.discardLimits ?? DISCARD_LIMITS;
    this.upgrades.start({ request, socket, early, limits, ...this.exchangeOptions(request, proxyRequest) });
  }

  /** Refuses an `upgrade` event; the connection ends after the answer. */
  async refuseUpgrade({ request, socket }: UpgradeRequest, answer: RelayedAnswer): Promise<void> {
    await sendReply({ req: request, res: responseOn(socket, request) }, answer);
  }

  /** Closes every connection to an origin. */
  async close(): Promise<void> {
    this.client.close();
    await this.upgrades.close();
  }

  private readonly open = (request: OutgoingRequest, listener: ExchangeListener) => this.client.open(request, listener);

  private exchangeOptions(
    request: HttpRequest,
    { head, route, addedHeaders }: ProxyRequest,
  ): Omit<ExchangeOptions, 'client' | 'open'> {
    return {
      head,
      outgoing: {
        origin: route.origin,
        method: head.method,
        target: head.target,
        headers: this.headersFor(head, route, addedHeaders),
        client: head.connection.isClientsOwn ? connectionOf(request) : undefined,
      },
      trailersForOrigin: (trailers: Headers) => originTrailers(trailers, route),
      stallLimits: { origin: route.delivery.timeoutMs, client: this.options.idleTimeoutMs },
      headTimeoutMs: route.delivery.answerTimeoutMs,
      onFailure: (failure: ExchangeFailure) => this.reportFailure(failure, head, route),
      fieldsForClient: (headers: Headers, kind: 'interim' | 'final' | 'trailers') =>
        kind === 'interim' ? withoutAltSvc(headers) : this.answerFields(headers, head, route, kind),
    };
  }

  private answerFields(headers: Headers, head: RequestHead, route: ProxyRoute, kind: 'final' | 'trailers'): Headers {
    const { publicUrl = clientBaseUrl(head), altSvc } = this.options;
    return answerFields(headers, { route, publicUrl }, kind === 'final' ? altSvc : undefined);
  }

  private headersFor(head: RequestHead, route: ProxyRoute, addedHeaders?: Headers): Headers {
    const { origin, delivery } = route;
    // HTTP/1.0 requests may have no Host.
    const requestedHost = fieldValue(head.headers, 'host') ?? head.authority;
    const host = delivery.preserveHost && requestedHost !== '' ? requestedHost : hostOf(origin);
    return headersForRoute(head, host, { route, addedHeaders, via: this.options.via });
  }

  private reportFailure(
    { status, code, cause }: ExchangeFailure,
    { method, path }: RequestHead,
    { origin }: ProxyRoute,
  ): void {
    this.options.metrics?.passThroughError(code);
    const problem = cause instanceof Error ? cause.message : undefined;
    this.options.log.warn({ method, path, origin, status, code, problem }, 'pass-through failed');
  }
}

const NO_OP = (): void => undefined;
