import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http';
import { Stream } from 'node:stream';
import type HttpProxy from 'http-proxy';
import { authenticatesConnection } from '../model/connection-auth.js';
import { fromRawHeaders, type Headers } from '../model/headers.js';
import { loadHttpProxy } from './load-http-proxy.js';
import { toNodeLines } from './octets.js';
import { type ClientConnection, OriginAgents, type OriginTls } from './origin-agents.js';

/** One request as the origin shall get it, to the letter. */
export interface OutgoingRequest {
  /** As in `Route.origin`. */
  readonly origin: string;
  readonly method: string;
  /** Without the origin's own path, which is put before it. */
  readonly target: string;
  /** Every line, with those that frame the body. */
  readonly headers: Headers;
  readonly connection: 'kept' | 'fresh';
  /** Where the request came from, for logins that hold for a whole connection; missing where others share it. */
  readonly client?: ClientConnection;
}

/**
 * Opens requests to origins with http-proxy. Its hooks are used so that it adds, drops and reorders nothing, and leaves
 * body, answer and errors to us: docs/decisions/0001-pass-through.md tells why.
 */
export class OriginRequests {
  private readonly proxy: HttpProxy;
  private readonly agents: OriginAgents;
  private readonly places = new Map<string, Place>();

  constructor(tls?: OriginTls) {
    this.proxy = loadHttpProxy().createProxyServer({});
    this.agents = new OriginAgents(tls);
  }

  /** Connections to origins that are open now, in use or idle. */
  get openConnections(): number {
    return this.agents.openConnections;
  }

  /** A request whose head is on its way; its body is the caller's to write, its events are the caller's to hear. */
  open({ origin, method, target, headers, connection, client }: OutgoingRequest): ClientRequest {
    const place = this.placeOf(origin);
    const isLogin = authenticatesConnection(headers);
    if (isLogin && client) this.agents.reserve(client);
    const isOwn = this.agents.isReserved(client);
    const agent = this.agents.for(place.protocol, isLogin ? 'fresh' : connection, client);
    const body = new HandedOverBody();
    this.proxy.web(
      requestView(method),
      ANSWER_VIEW,
      {
        target: place.target,
        agent,
        ssl: requestOptions(pathOf(place, target), headers),
        buffer: body,
        toProxy: true,
        selfHandleResponse: true,
      },
      () => undefined,
    );
    const request = body.request!;
    request.on('response', (answer) => {
      if (mayBeFollowedByContent(method, answer)) request.shouldKeepAlive &&= isOwn;
      if (!authenticatesConnection(fromRawHeaders(answer.rawHeaders))) return;
      // The login begins with the client's next request; the connection of this one may have heard of one already.
      if (client) this.agents.reserve(client);
      if (!isOwn) request.shouldKeepAlive = false;
    });
    return request;
  }

  close(): void {
    this.agents.close();
  }

  private placeOf(origin: string): Place {
    const known = this.places.get(origin);
    if (known) return known;
    const place = parseOrigin(origin);
    this.places.set(origin, place);
    return place;
  }
}

/**
 * The answer announces content that it cannot have (RFC 9112 §6.3). Origins that send it nevertheless are known, and it
 * would be the answer to whatever request came next on the connection: somebody else's.
 */
function mayBeFollowedByContent(method: string, { statusCode, headers }: IncomingMessage): boolean {
  const announced = headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
  return announced && (method === 'HEAD' || statusCode === 204 || statusCode === 304);
}

/** An origin taken apart. */
interface Place {
  readonly protocol: string;
  readonly target: HttpProxy.ServerOptions['target'];
  /** Stands before every target. */
  readonly path: string;
}

/** Stands in for the body that http-proxy would pipe: what it is piped into is the request we want. */
class HandedOverBody extends Stream {
  request: ClientRequest | undefined;

  override pipe<T extends NodeJS.WritableStream>(request: T): T {
    this.request = request as unknown as ClientRequest;
    return request;
  }
}

/**
 * http-proxy fills in this object and gives it to http.request(). It would take headers from an object, which loses
 * their order and repetitions, and would clean up the path, which changes what the origin is asked for: these stay.
 */
function requestOptions(path: string, headers: Headers): object {
  const keep = (value: unknown): PropertyDescriptor => ({ enumerable: true, get: () => value, set: () => undefined });
  const options = { setHost: false, maxHeaderSize: LARGEST_HEAD };
  return Object.defineProperties(options, { path: keep(path), headers: keep(toNodeLines(headers)) });
}

/** As much as deliveries take (`undici-connections.ts`): what was kept of an answer must get through between nodes. */
const LARGEST_HEAD = 256 * 1024;

/** The little that http-proxy reads of a client's request; nothing in it can change the outgoing one. */
function requestView(method: string): IncomingMessage {
  const view = { method, url: '/', headers: {}, httpVersion: '1.1', socket: {}, on: () => undefined };
  return view as unknown as IncomingMessage;
}

/** For http-proxy the answer is given already, so that it has no hand in ours. */
const ANSWER_VIEW = { headersSent: true, finished: true } as unknown as ServerResponse;

function parseOrigin(origin: string): Place {
  const { protocol, hostname, port, pathname } = new URL(origin);
  const host = hostname.replace(/^\[|\]$/g, '');
  const target = { protocol, host, hostname: host, ...(port === '' ? {} : { port }) };
  return { protocol, target, path: pathname.replace(/\/$/, '') };
}

/** The asterisk of OPTIONS means the whole server, whatever path the origin lives under (RFC 9112 §3.2.4). */
function pathOf(place: Place, target: string): string {
  return target === '*' ? target : place.path + target;
}
