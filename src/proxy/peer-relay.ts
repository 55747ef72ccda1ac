import type { Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import type { UnknownOutcome } from '../model/upload.js';
import type { Log } from '../observe/log.js';
import { fieldValue } from '../model/headers.js';
import type { OriginTls } from '../origin/endpoint.js';
import { CONNECT_TIMEOUT_MS, OriginClient, type OutgoingRequest } from '../origin/origin-client.js';
import type { ExchangeListener, OriginExchange } from '../origin/origin-exchange.js';
import type { ResponseHead } from '../origin/response-head.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import { clientOf } from '../server/client-connection.js';
import { onPeerEnded } from '../server/closing.js';
import type { Exchange } from '../server/exchange.js';
import { respondEarly } from '../server/response.js';
import { clientFactsOf, headersForOwner, PEER_FIELD, type PeerSignature, takeUnknownOutcome } from './peer-auth.js';
import { type ExchangeFailure, ProxiedExchange } from './proxied-exchange.js';

/** A request to relay. */
export interface RelayTask {
  readonly exchange: Exchange;
  readonly head: RequestHead;
  /** The node that has the bytes of the upload. */
  readonly node: string;
  /** Renders a refusal for this request; `cut` means that the connection should end instead. */
  readonly refusalReply: (refusal: Refusal) => Reply | 'cut';
}

/** Relays requests on uploads whose bytes are on another node. */
export interface Relay {
  /** Whether uploads of this node are served elsewhere; false for uploads without a node. */
  isRemote(node: string | undefined): node is string;
  /** Resolves when the exchange is over, whatever its outcome. Rejects with a `Fault` only before anything was sent. */
  relay(task: RelayTask): Promise<void>;
  /** Ends relayed requests that still send a body, so that their clients resume at another node. */
  drain(): void;
}

/** Finds the nodes that own uploads. */
export interface OwnerDirectory {
  /**
   * The node's internal URL, and how long it has been silent; undefined if no such node is known. Rejects with a
   * `Fault`.
   */
  find(node: string): Promise<{ readonly url: string; readonly silentMs: number } | undefined>;
}

export interface PeerRelayOptions {
  /** The name of this node. */
  readonly self: string;
  readonly owners: OwnerDirectory;
  readonly signature: PeerSignature;
  /** Verifies internal listeners, and identifies this node to them. */
  readonly tls?: OriginTls;
  /** An unreachable owner that has been silent for this long is considered lost. */
  readonly ownerTimeoutMs: number;
  /** Called after a client got the complete response that reports an unknown outcome. Never rejects. */
  readonly onUnknownOutcomeReported: (outcome: UnknownOutcome) => Promise<void>;
  readonly connectTimeoutMs?: number;
  /** Interval at which an owner that does not respond is checked for heartbeats. */
  readonly checkIntervalMs?: number;
  readonly log: Log;
}

const KEEP_ALIVE_MS = 5_000;
const RETRY_AFTER_SECONDS = 5;
const CHECK_INTERVAL_MS = 2_500;
/** Longer than a lease lasts without its store: an owner that is silent for this long can no longer commit anything. */
const OWNER_SILENT_MS = 20_000;

const UNREACHABLE = 'The bytes of this upload cannot be reached right now. What was acknowledged is kept.';

/**
 * Streams requests on uploads of other nodes to their owners, and the responses back, as if there were no node in
 * between. When the owner ends the connection, the client's connection ends too.
 * Reasons: docs/decisions/0015.
 */
export class PeerRelay implements Relay {
  private readonly client: OriginClient;
  private readonly exchanges = new Set<ProxiedExchange>();
  private readonly pendingReports = new Set<Promise<void>>();

  constructor(private readonly options: PeerRelayOptions) {
    this.client = new OriginClient(options.tls, KEEP_ALIVE_MS);
  }

  /** Open connections to other nodes, in use or idle. */
  get openConnections(): number {
    return this.client.openConnections;
  }

  isRemote(node: string | undefined): node is string {
    return node !== undefined && node !== this.options.self;
  }

  async relay(task: RelayTask): Promise<void> {
    const { exchange, head, node, refusalReply } = task;
    // The next request of a client that was just informed depends on these records.
    if (this.pendingReports.size > 0) await Promise.all(this.pendingReports);
    const owner = await this.options.owners.find(node);
    if (owner) return this.run(new PeerConnection(this.client, this.options.connectTimeoutMs), owner, task);
    const reply = refusalReply({ reason: 'unknown-upload' });
    if (reply === 'cut') clientOf(exchange).abort();
    else await respondEarly(exchange, reply);
    this.options.log.warn({ node, method: head.method }, 'upload belongs to an unknown node');
  }

  drain(): void {
    for (const exchange of this.exchanges) exchange.interrupt();
  }

  /** Closes every connection to other nodes. */
  close(): void {
    this.client.close();
  }

  private async run(
    connection: PeerConnection,
    owner: NonNullable<Awaited<ReturnType<OwnerDirectory['find']>>>,
    task: RelayTask,
  ): Promise<void> {
    const { exchange, head, node, refusalReply } = task;
    const { signature, ownerTimeoutMs } = this.options;
    const { method, target } = head;
    const claim = { kind: 'request', to: node, client: clientFactsOf(head) } as const;
    // Each attempt needs a signature of its own, because a signature is accepted only once.
    const signed = (outgoing: OutgoingRequest): OutgoingRequest => {
      return { ...outgoing, headers: [...outgoing.headers, [PEER_FIELD, signature.sign(claim, outgoing)]] };
    };
    const silence = new OwnerSilence(owner.silentMs);
    // Only the end of our connection shows the owner that the client may have left.
    const stopListening = onPeerEnded(exchange, (socket) => socket.end());
    const client = clientOf(exchange);
    let unknownOutcome: UnknownOutcome | undefined;
    void client.closed.then(() => {
      if (unknownOutcome && !client.hasLeft) this.reportUnknownOutcome(unknownOutcome);
    });
    const proxied = new ProxiedExchange({
      head,
      client,
      outgoing: { origin: owner.url, method, target, headers: headersForOwner(head) },
      open: (outgoing, listener) => connection.open(signed(outgoing), listener),
      // The owner applies both limits, because it knows how long an origin may take.
      stallLimits: { origin: undefined, client: undefined },
      fieldsForClient: (headers, kind) => {
        const response = takeUnknownOutcome(headers);
        if (kind === 'final') unknownOutcome = response.outcome;
        return response.headers;
      },
      onFailure: (failure) => {
        // The client does not get the owner's response.
        unknownOutcome = undefined;
        this.logFailure(failure, task);
      },
      checkAnswer: (answer) => connection.checkAnswer(answer),
      failureReply: ({ code, status, detail }) => {
        if (code === 'CODING') return problemReply({ status, detail });
        if (connection.isOpen && code !== OWNER_SILENT.code) return 'cut';
        if (silence.ms >= ownerTimeoutMs) return refusalReply({ reason: 'unknown-upload' });
        return refusalReply({ reason: 'unavailable', detail: UNREACHABLE, retryAfterSeconds: RETRY_AFTER_SECONDS });
      },
    });
    this.exchanges.add(proxied);
    const ownerTimer = setInterval(
      () => void this.checkOwner(proxied, node, silence),
      this.options.checkIntervalMs ?? CHECK_INTERVAL_MS,
    );
    await proxied.run();
    stopListening();
    clearInterval(ownerTimer);
    this.exchanges.delete(proxied);
  }

  /**
   * A suspended process keeps its connections, and its machine accepts new ones: only the missing heartbeats reveal it.
   */
  private async checkOwner(proxied: ProxiedExchange, node: string, silence: OwnerSilence): Promise<void> {
    silence.update(await this.silentMs(node));
    if (silence.isConfirmed) proxied.failUnlessAnswered(OWNER_SILENT);
  }

  private async silentMs(node: string): Promise<number> {
    try {
      const owner = await this.options.owners.find(node);
      // A node that is no longer known was silent for `ownerTimeoutMs`: its uploads are given up.
      return owner?.silentMs ?? Infinity;
    } catch {
      // While the store is unavailable, no heartbeat can be read.
      return 0;
    }
  }

  private reportUnknownOutcome(outcome: UnknownOutcome): void {
    const report = this.options.onUnknownOutcomeReported(outcome).finally(() => this.pendingReports.delete(report));
    this.pendingReports.add(report);
  }

  private logFailure({ code, cause }: ExchangeFailure, { node, head }: RelayTask): void {
    const problem = cause instanceof Error ? cause.message : undefined;
    const { method } = head;
    this.options.log.warn({ node, method, code, problem }, 'relaying a request to the node of its upload failed');
  }
}

const OWNER_SILENT: ExchangeFailure = { status: 504, code: 'OWNER_SILENT', detail: UNREACHABLE };

/** Measures the silence of an owner. */
class OwnerSilence {
  private silentChecks = 0;

  constructor(public ms: number) {}

  update(ms: number): void {
    this.ms = ms;
    this.silentChecks = ms >= OWNER_SILENT_MS ? this.silentChecks + 1 : 0;
  }

  /** Requires two checks in a row: when the store has just come back, no node has had time for a heartbeat. */
  get isConfirmed(): boolean {
    return this.silentChecks >= 2;
  }
}

/** The connection to an owner in one exchange. */
class PeerConnection {
  private exchange: OriginExchange | undefined;
  private hasRejected = false;

  constructor(
    private readonly client: OriginClient,
    private readonly connectTimeoutMs = CONNECT_TIMEOUT_MS,
  ) {}

  /** The owner has accepted the connection, and not rejected our signature. */
  get isOpen(): boolean {
    return !this.hasRejected && (this.exchange?.isConnected ?? false);
  }

  /** Sends the request. Called again, over a new connection, when a reused one broke before any response. */
  open(outgoing: OutgoingRequest, listener: ExchangeListener): OriginExchange {
    const { connectTimeoutMs } = this;
    this.exchange = this.client.open({ ...outgoing, connectTimeoutMs }, listener);
    return this.exchange;
  }

  /** The peer has rejected our signature, or is not the intended node. */
  checkAnswer({ status, headers }: ResponseHead): ExchangeFailure | undefined {
    const failure = fieldValue(headers, PEER_FIELD);
    if (status !== 403 || failure === undefined) return undefined;
    this.hasRejected = true;
    return { status: 502, code: `PEER_${failure.toUpperCase()}`, detail: UNREACHABLE };
  }
}

export interface MissingRelayOptions {
  /** The name of this node; missing if all nodes are configured to share one spool. */
  readonly node?: string;
  readonly log: Log;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
}

const MISSING_RELAY_RETRY_SECONDS = 30;
const LOG_INTERVAL_MS = 60_000;

const UNREACHABLE_FROM_HERE = 'The bytes of this upload cannot be reached from here. What was acknowledged is kept.';

/**
 * Refuses requests on uploads of other nodes where a missing setting makes those unreachable. Treating such an upload
 * as its own would lose it, because the bytes are not here.
 */
export class MissingRelay implements Relay {
  private loggedAt = -Infinity;

  constructor(private readonly options: MissingRelayOptions) {}

  isRemote(node: string | undefined): node is string {
    return node !== undefined && node !== this.options.node;
  }

  async relay({ exchange, node, refusalReply }: RelayTask): Promise<void> {
    this.logMisconfiguration(node);
    const reply = refusalReply({
      reason: 'unavailable',
      detail: UNREACHABLE_FROM_HERE,
      retryAfterSeconds: MISSING_RELAY_RETRY_SECONDS,
    });
    if (reply === 'cut') clientOf(exchange).abort();
    else await respondEarly(exchange, reply);
  }

  drain(): void {
    // There are no relayed exchanges.
  }

  /** Logs at most once per interval, because every request on such an upload meets the problem. */
  private logMisconfiguration(node: string): void {
    const { log, monotonic, node: ownNode } = this.options;
    if (monotonic() - this.loggedAt < LOG_INTERVAL_MS) return;
    this.loggedAt = monotonic();
    log.error({ node }, ownNode === undefined ? SPOOL_NOT_SHARED : CLUSTER_NOT_SET);
  }
}

const CLUSTER_NOT_SET =
  'the bytes of an upload are on another node, which cannot be reached: set `cluster` on every node (listen, ' +
  'advertise and a secret)';
const SPOOL_NOT_SHARED =
  'the bytes of an upload are on the disk of another node, but `spool.shared` is true on this one: set it to false, ' +
  'and `cluster` on every node (listen, advertise and a secret), until such uploads have ended';
