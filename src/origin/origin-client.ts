import { Agent as HttpAgent, type ClientRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Http2Session } from 'node:http2';
import { Agent as HttpsAgent } from 'node:https';
import { createRequire } from 'node:module';
import { Socket } from 'node:net';
import { type Duplex, Stream } from 'node:stream';
import util from 'node:util';
import type HttpProxy from 'http-proxy';
import { authenticatesConnection } from '../model/client-fields.js';
import { fromRawHeaders, type Headers } from '../model/headers.js';
import { toNodeHeaders, writeHeadsAsLatin1 } from '../streams/node-http.js';
import { keepReadingAfterWriteError } from './half-closed-socket.js';

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
  private readonly parsedOrigins = new Map<string, ParsedOrigin>();

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
    const place = this.parsed(origin);
    const isLogin = authenticatesConnection(headers);
    if (isLogin && client) this.agents.reserve(client);
    const isOwn = this.agents.isReserved(client);
    const agent = this.agents.for(place.protocol, isLogin ? 'fresh' : connection, client);
    const body = new RequestCapture();
    this.proxy.web(
      requestStub(method),
      RESPONSE_STUB,
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
      if (announcesForbiddenContent(method, answer)) request.shouldKeepAlive &&= isOwn;
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

  private parsed(origin: string): ParsedOrigin {
    const known = this.parsedOrigins.get(origin);
    if (known) return known;
    const place = parseOrigin(origin);
    this.parsedOrigins.set(origin, place);
    return place;
  }
}

/**
 * The answer announces content that it cannot have (RFC 9112 §6.3). Origins that send it nevertheless are known, and it
 * would be the answer to whatever request came next on the connection: somebody else's.
 */
function announcesForbiddenContent(method: string, { statusCode, headers }: IncomingMessage): boolean {
  const announced = headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
  return announced && (method === 'HEAD' || statusCode === 204 || statusCode === 304);
}

/** An origin taken apart. */
interface ParsedOrigin {
  readonly protocol: string;
  readonly target: HttpProxy.ServerOptions['target'];
  /** Stands before every target. */
  readonly path: string;
}

/** Stands in for the body that http-proxy would pipe: what it is piped into is the request we want. */
class RequestCapture extends Stream {
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
  const options = { setHost: false, maxHeaderSize: MAX_HEAD_BYTES };
  return Object.defineProperties(options, { path: keep(path), headers: keep(toNodeHeaders(headers)) });
}

/** As much as deliveries take (`undici-connections.ts`): what was kept of an answer must get through between nodes. */
const MAX_HEAD_BYTES = 256 * 1024;

/** The little that http-proxy reads of a client's request; nothing in it can change the outgoing one. */
function requestStub(method: string): IncomingMessage {
  const view = { method, url: '/', headers: {}, httpVersion: '1.1', socket: {}, on: () => undefined };
  return view as unknown as IncomingMessage;
}

/** For http-proxy the answer is given already, so that it has no hand in ours. */
const RESPONSE_STUB = { headersSent: true, finished: true } as unknown as ServerResponse;

function parseOrigin(origin: string): ParsedOrigin {
  const { protocol, hostname, port, pathname } = new URL(origin);
  const host = hostname.replace(/^\[|\]$/g, '');
  const target = { protocol, host, hostname: host, ...(port === '' ? {} : { port }) };
  return { protocol, target, path: pathname.replace(/\/$/, '') };
}

/** The asterisk of OPTIONS means the whole server, whatever path the origin lives under (RFC 9112 §3.2.4). */
function pathOf(place: ParsedOrigin, target: string): string {
  return target === '*' ? target : place.path + target;
}

/**
 * http-proxy without the deprecation warning DEP0060: it takes `util._extend` when it is loaded and calls it for every
 * request. For that moment the deprecated function is a plain one that does the same; afterwards `util` is as it was.
 * Ends when http-proxy uses Object.assign.
 */
export function loadHttpProxy(): typeof HttpProxy {
  const deprecated = Object.getOwnPropertyDescriptor(util, '_extend');
  Object.defineProperty(util, '_extend', { value: extend, configurable: true, writable: true });
  try {
    return createRequire(import.meta.url)('http-proxy') as typeof HttpProxy;
  } finally {
    if (deprecated) Object.defineProperty(util, '_extend', deprecated);
  }
}

function extend(target: object, source: object | null | undefined): object {
  return Object.assign(target, source);
}

/** How TLS origins are verified, beyond Node's defaults. */
export interface OriginTls {
  /** Certificates (PEM) that are trusted instead of the well-known ones. */
  readonly ca?: string | Buffer | readonly (string | Buffer)[];
  readonly rejectUnauthorized?: boolean;
  /** Our own certificate (PEM), for those who want to know who asks. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
}

/** An unused connection ends before most origins would end it, so that few requests meet a closing one. */
const IDLE_MS = 4_000;
const MOST_IDLE_CONNECTIONS = 256;

/** The connection of a client: a socket, or a session of HTTP/2. */
export type ClientConnection = Socket | Http2Session;

interface Agents {
  readonly http: HttpAgent;
  readonly https: HttpAgent;
}

/** The connections to the origins: kept alive for the next request, all of them patient. */
export class OriginAgents {
  private readonly kept: Agents;
  private readonly fresh: Agents;
  /** Of clients that log in by connection. */
  private readonly reserved = new Map<ClientConnection, Agents>();
  private readonly tlsOptions: object;

  constructor(tls: OriginTls = {}) {
    const keeping = {
      keepAlive: true,
      maxFreeSockets: MOST_IDLE_CONNECTIONS,
      scheduling: 'lifo',
      timeout: IDLE_MS,
    } as const;
    const { rejectUnauthorized = true, cert, key } = tls;
    const ca = tls.ca === undefined ? {} : { ca: [tls.ca].flat() };
    this.tlsOptions = { ...ca, ...(cert && { cert }), ...(key && { key }), rejectUnauthorized };
    this.kept = {
      http: new HalfClosedAgent(keeping),
      https: new HalfClosedTlsAgent({ ...keeping, ...this.tlsOptions }),
    };
    this.fresh = { http: new HalfClosedAgent({}), https: new HalfClosedTlsAgent(this.tlsOptions) };
  }

  /** `fresh`: a connection that was not used before and will not be used again. A client's own is preferred to both. */
  for(protocol: string, connection: 'kept' | 'fresh', client?: ClientConnection): HttpAgent {
    const agents = (client && this.reserved.get(client)) ?? this[connection];
    return protocol === 'https:' ? agents.https : agents.http;
  }

  /** The client has connections to origins of its own. */
  isReserved(client: ClientConnection | undefined): boolean {
    return client !== undefined && this.reserved.has(client);
  }

  /**
   * From now on this client's requests share one connection to each origin, which ends with the client's and carries
   * nobody else's. One, because each round of a login has to meet the one before.
   */
  reserve(client: ClientConnection): void {
    if (client.destroyed || this.reserved.has(client)) return;
    const options = { keepAlive: true, maxSockets: 1 };
    const agents = {
      http: new HalfClosedAgent(options),
      https: new HalfClosedTlsAgent({ ...options, ...this.tlsOptions }),
    };
    this.reserved.set(client, agents);
    client.once('close', () => {
      this.reserved.delete(client);
      agents.http.destroy();
      agents.https.destroy();
    });
  }

  /** Connections that are open now, in use or idle. */
  get openConnections(): number {
    return this.all.reduce((sum, agent) => sum + count(agent.sockets) + count(agent.freeSockets), 0);
  }

  /** Ends every connection. */
  close(): void {
    for (const agent of this.all) agent.destroy();
  }

  private get all(): HttpAgent[] {
    return [this.kept, this.fresh, ...this.reserved.values()].flatMap(({ http, https }) => [http, https]);
  }
}

type Created = (error: Error | null, socket: Duplex) => void;

class HalfClosedAgent extends HttpAgent {
  override createConnection(...[options, created]: Parameters<HttpAgent['createConnection']>) {
    return prepareSocket(super.createConnection(options, wrapCallback(created)));
  }
}

class HalfClosedTlsAgent extends HttpsAgent {
  override createConnection(...[options, created]: Parameters<HttpsAgent['createConnection']>) {
    return prepareSocket(super.createConnection(options, wrapCallback(created)));
  }
}

/** An agent may give its socket by return or by callback. */
function wrapCallback(created: Created | undefined): Created | undefined {
  return created && ((error, socket) => created(error, prepareSocket(socket)));
}

function prepareSocket<T>(socket: T): T {
  return socket instanceof Socket ? keepReadingAfterWriteError(writeHeadsAsLatin1(socket)) : socket;
}

function count(sockets: NodeJS.ReadOnlyDict<Socket[]>): number {
  return Object.values(sockets).reduce((sum, some) => sum + (some?.length ?? 0), 0);
}

/** A machine that is gone does not refuse a connection: it says nothing. */
export const CONNECT_TIMEOUT_MS = 2_000;

/** Ends a connection that does not come to be in time; tells when it has, which may be at once. */
export function enforceConnectTimeout(
  socket: Socket,
  timeoutMs: number,
  onConnected: () => void = () => undefined,
): void {
  if (!socket.connecting) return onConnected();
  const event = 'encrypted' in socket ? 'secureConnect' : 'connect';
  const late = Object.assign(new Error('no connection in time'), { code: 'ETIMEDOUT' });
  const timer = setTimeout(() => socket.destroy(late), timeoutMs);
  socket.once('close', () => clearTimeout(timer));
  socket.once(event, () => {
    clearTimeout(timer);
    onConnected();
  });
}
