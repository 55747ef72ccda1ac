import type { ClientRequest, IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import type { UnknownOutcome } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import {
  CONNECT_TIMEOUT_MS,
  enforceConnectTimeout,
  OriginRequests,
  type OriginTls,
  type OutgoingRequest,
} from '../origin/origin-client.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import { clientOf } from '../server/client-connection.js';
import { onPeerEnded } from '../server/closing.js';
import type { Exchange } from '../server/exchange.js';
import { respondEarly } from '../server/response.js';
import { clientFactsOf, headersForOwner, PEER_FIELD, type PeerSignature, takeUnknownOutcome } from './peer-auth.js';
import { type ExchangeFailure, ProxiedExchange } from './proxied-exchange.js';

export interface RelayTask {
  readonly exchange: Exchange;
  readonly head: RequestHead;
  /** Whose the upload is. */
  readonly node: string;
  /** How a refusal looks to this request; `cut`: it is better told by the end of the connection. */
  readonly refusalReply: (refusal: Refusal) => Reply | 'cut';
}

/** What becomes of requests on uploads whose bytes are with another node. */
export interface Relay {
  isRemote(node: string | undefined): node is string;
  /** Fulfilled when the exchange is over, whatever came of it. Fails with a `Fault` before anything was said. */
  relay(task: RelayTask): Promise<void>;
  /** Ends what still brings a body: its client goes on by another node. */
  drain(): void;
}

/** The nodes that have uploads. */
export interface OwnerDirectory {
  /** Undefined: nobody knows it any more. Fails with a `Fault`. */
  find(node: string): Promise<{ readonly url: string; readonly silentMs: number } | undefined>;
}

export interface PeerRelayOptions {
  /** The name of this node. */
  readonly self: string;
  readonly owners: OwnerDirectory;
  readonly signature: PeerSignature;
  /** How internal listeners are verified, and what they are shown of us. */
  readonly tls?: OriginTls;
  /** An owner that cannot be reached and has been silent for this long will not come back. */
  readonly ownerTimeoutMs: number;
  /** Told after a client was sent the whole answer in which its owner says so. Never fails. */
  readonly onUnknownOutcomeReported: (end: UnknownOutcome) => Promise<void>;
  readonly connectTimeoutMs?: number;
  /** How often it is looked whether an owner that does not answer is still heard of. */
  readonly checkIntervalMs?: number;
  readonly log: Log;
}

const KEEP_ALIVE_MS = 5_000;
const RETRY_AFTER_SECONDS = 5;
const CHECK_INTERVAL_MS = 2_500;
/** Longer than a lease lasts without its store: who says nothing for so long can take nothing in any more. */
const OWNER_SILENT_MS = 20_000;

const UNREACHABLE = 'The bytes of this upload cannot be reached right now. What was acknowledged is kept.';

/**
 * Requests on uploads whose bytes are with another node: given to it as they come, and what it says to the client, as if
 * there was nothing in between. An owner that ends the connection ends it for the client.
 */
export class PeerRelay implements Relay {
  private readonly requests: OriginRequests;
  private readonly exchanges = new Set<ProxiedExchange>();
  private readonly pendingReports = new Set<Promise<void>>();

  constructor(private readonly options: PeerRelayOptions) {
    this.requests = new OriginRequests(options.tls);
  }

  /** Connections to other nodes that are open now, in use or idle. */
  get openConnections(): number {
    return this.requests.openConnections;
  }

  isRemote(node: string | undefined): node is string {
    return node !== undefined && node !== this.options.self;
  }

  async relay(task: RelayTask): Promise<void> {
    const { exchange, head, node, refusalReply: refuse } = task;
    // The next request of a client that was just told counts on it.
    if (this.pendingReports.size > 0) await Promise.all(this.pendingReports);
    const owner = await this.options.owners.find(node);
    if (owner) return this.run(new PeerConnection(this.requests, this.options.connectTimeoutMs), owner, task);
    const reply = refuse({ reason: 'unknown-upload' });
    if (reply === 'cut') clientOf(exchange).abort();
    else await respondEarly(exchange, reply);
    this.options.log.warn({ node, method: head.method }, 'an upload is with a node that nobody knows');
  }

  drain(): void {
    for (const relayed of this.exchanges) relayed.interrupt();
  }

  /** Ends every connection to other nodes. */
  close(): void {
    this.requests.close();
  }

  private async run(
    connection: PeerConnection,
    owner: NonNullable<Awaited<ReturnType<OwnerDirectory['find']>>>,
    task: RelayTask,
  ): Promise<void> {
    const { exchange, head, node, refusalReply: refuse } = task;
    const { signature, ownerTimeoutMs } = this.options;
    const { method, target } = head;
    const claim = { kind: 'request', to: node, client: clientFactsOf(head) } as const;
    // A signature is good once, and a request may have to be made a second time.
    const signed = (outgoing: OutgoingRequest): OutgoingRequest => {
      return { ...outgoing, headers: [...outgoing.headers, [PEER_FIELD, signature.sign(claim, outgoing)]] };
    };
    const silence = new OwnerSilence(owner.silentMs);
    // The owner hears that the client may have left by the end of our connection alone.
    const stopListening = onPeerEnded(exchange, (connection) => connection.end());
    const client = clientOf(exchange);
    let unknownOutcome: UnknownOutcome | undefined;
    void client.closed.then(() => {
      if (unknownOutcome && !client.hasLeft) this.reportUnknownOutcome(unknownOutcome);
    });
    const proxied = new ProxiedExchange({
      head,
      client,
      outgoing: { origin: owner.url, method, target, headers: headersForOwner(head) },
      open: (outgoing) => connection.open(signed(outgoing)),
      // Both are for the owner to judge: it knows how long an origin may take.
      stallLimits: { origin: undefined, client: undefined },
      fieldsForClient: (headers, kind) => {
        const taken = takeUnknownOutcome(headers);
        if (kind === 'final') unknownOutcome = taken.end;
        return taken.headers;
      },
      onFailure: (failure) => {
        // The client gets something else than the owner's answer.
        unknownOutcome = undefined;
        this.logFailure(failure, task);
      },
      rejectAnswer: (answer) => connection.rejectAnswer(answer),
      failureReply: ({ code, status, detail }) => {
        if (code === 'CODING') return problemReply({ status, detail });
        if (connection.isOpen && code !== OWNER_SILENT.code) return 'cut';
        if (silence.ms >= ownerTimeoutMs) return refuse({ reason: 'unknown-upload' });
        return refuse({ reason: 'unavailable', detail: UNREACHABLE, retryAfterSeconds: RETRY_AFTER_SECONDS });
      },
    });
    this.exchanges.add(proxied);
    const watch = setInterval(
      () => void this.checkOwner(proxied, node, silence),
      this.options.checkIntervalMs ?? CHECK_INTERVAL_MS,
    );
    await proxied.run();
    stopListening();
    clearInterval(watch);
    this.exchanges.delete(proxied);
  }

  /** A process that stands still keeps its connections, and its machine takes new ones: only its silence tells. */
  private async checkOwner(proxied: ProxiedExchange, node: string, silence: OwnerSilence): Promise<void> {
    silence.update(await this.silentMs(node));
    if (silence.isConfirmed) proxied.failUnlessAnswered(OWNER_SILENT);
  }

  private async silentMs(node: string): Promise<number> {
    try {
      const owner = await this.options.owners.find(node);
      // One that nobody knows any more was silent for `ownerTimeoutMs`: its uploads are given up.
      return owner?.silentMs ?? Infinity;
    } catch {
      // With the store away nobody can be heard.
      return 0;
    }
  }

  private reportUnknownOutcome(end: UnknownOutcome): void {
    const noting = this.options.onUnknownOutcomeReported(end).finally(() => this.pendingReports.delete(noting));
    this.pendingReports.add(noting);
  }

  private logFailure({ code, cause }: ExchangeFailure, { node, head }: RelayTask): void {
    const problem = cause instanceof Error ? cause.message : undefined;
    const { method } = head;
    this.options.log.warn({ node, method, code, problem }, 'a request did not get through to the node of its upload');
  }
}

const OWNER_SILENT: ExchangeFailure = { status: 504, code: 'OWNER_SILENT', detail: UNREACHABLE };

/** How long an owner has not been heard of. */
class OwnerSilence {
  private silentChecks = 0;

  constructor(public ms: number) {}

  update(ms: number): void {
    this.ms = ms;
    this.silentChecks = ms >= OWNER_SILENT_MS ? this.silentChecks + 1 : 0;
  }

  /** Not at the first look: when the store has just come back, nobody has had the time to say anything. */
  get isConfirmed(): boolean {
    return this.silentChecks >= 2;
  }
}

/** The way to an owner in one exchange: open as soon as the one at its end is known to be there. */
class PeerConnection {
  isOpen = false;

  constructor(
    private readonly requests: OriginRequests,
    private readonly connectTimeoutMs = CONNECT_TIMEOUT_MS,
  ) {}

  /** A second time for a request that nothing has come of yet, over a new connection. */
  open(outgoing: OutgoingRequest): ClientRequest {
    this.isOpen = false;
    const request = this.requests.open(outgoing);
    request.once('socket', (socket: Socket) => this.watch(socket));
    return request;
  }

  /** What answers there takes us for a stranger, or is not the one we mean. */
  rejectAnswer({ statusCode, headers }: IncomingMessage): ExchangeFailure | undefined {
    const failure = headers[PEER_FIELD.toLowerCase()];
    if (statusCode !== 403 || failure === undefined) return undefined;
    this.isOpen = false;
    return { status: 502, code: `PEER_${String(failure).toUpperCase()}`, detail: UNREACHABLE };
  }

  private watch(socket: Socket): void {
    const isNew = socket.connecting;
    enforceConnectTimeout(socket, this.connectTimeoutMs, () => {
      this.isOpen = true;
      if (isNew) socket.setKeepAlive(true, KEEP_ALIVE_MS);
    });
  }
}

export interface MissingRelayOptions {
  /** The name of this node; missing where all nodes are meant to share one spool. */
  readonly node?: string;
  readonly log: Log;
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
}

const MISSING_RELAY_RETRY_SECONDS = 30;
const LOG_INTERVAL_MS = 60_000;

const UNREACHABLE_FROM_HERE = 'The bytes of this upload cannot be reached from here. What was acknowledged is kept.';

/**
 * A node that has no way to the others, where an upload names one of them: a setting is missing, and taking the upload for
 * its own would be to give it up for the bytes that are not here.
 */
export class MissingRelay implements Relay {
  private loggedAt = -Infinity;

  constructor(private readonly options: MissingRelayOptions) {}

  isRemote(node: string | undefined): node is string {
    return node !== undefined && node !== this.options.node;
  }

  async relay({ exchange, node, refusalReply: refuse }: RelayTask): Promise<void> {
    this.logMisconfiguration(node);
    const reply = refuse({
      reason: 'unavailable',
      detail: UNREACHABLE_FROM_HERE,
      retryAfterSeconds: MISSING_RELAY_RETRY_SECONDS,
    });
    if (reply === 'cut') clientOf(exchange).abort();
    else await respondEarly(exchange, reply);
  }

  drain(): void {
    // Nothing is under way.
  }

  /** Once in a while: every request on such an upload meets it. */
  private logMisconfiguration(node: string): void {
    const { log, monotonic, node: own } = this.options;
    if (monotonic() - this.loggedAt < LOG_INTERVAL_MS) return;
    this.loggedAt = monotonic();
    log.error({ node }, own === undefined ? SPOOL_NOT_SHARED : CLUSTER_NOT_SET);
  }
}

const CLUSTER_NOT_SET =
  'the bytes of an upload are with another node, and there is no way to it: set `cluster` at every node (listen, ' +
  'advertise and a secret)';
const SPOOL_NOT_SHARED =
  'the bytes of an upload are on the disk of another node, but here `spool.shared` is true: set it to false, and ' +
  '`cluster` at every node (listen, advertise and a secret), until such uploads have ended';
