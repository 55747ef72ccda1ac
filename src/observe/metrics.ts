import {
  AggregatorRegistry,
  collectDefaultMetrics,
  Counter,
  Gauge,
  Histogram,
  type MetricObjectWithValues,
  type MetricValue,
  Registry,
} from 'prom-client';

/** All figures of one process as values, to be added up with those of others. */
export type MetricValues = readonly MetricObjectWithValues<MetricValue<string>>[];

/** What a request was to us. */
export type RequestKind =
  | 'pass-through'
  | 'create'
  | 'append'
  | 'retrieve'
  | 'cancel'
  | 'discover'
  | 'preflight'
  | 'relayed'
  | 'spooled'
  | 'other';

export interface EndedRequest {
  readonly kind: RequestKind;
  readonly method: string;
  /** Undefined when no final response was sent. */
  readonly status?: number;
  readonly seconds: number;
}

/** Uploads take from milliseconds to hours. */
const REQUEST_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200];
const COMMIT_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/** A client chooses these freely: only those we know become label values, so that the number of series has a bound. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'CONNECT', 'TRACE']);
const ERROR_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'BODY_STOPPED',
  'BODY_TOO_SLOW',
  'BODY_TOO_LARGE',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'CERT_HAS_EXPIRED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'HPE_INVALID_CONSTANT',
]);

/** The figures of one process, one method for each thing that can happen. Labels have few values, all known before. */
export class Metrics {
  private readonly registry = new Registry();
  private readonly metered = { registers: [this.registry] };

  private readonly requests = new Counter({
    name: 'rufh_requests_total',
    help: 'Requests that ended, by what they were to us; status is "none" where no final response was sent.',
    labelNames: ['kind', 'method', 'status'],
    ...this.metered,
  });
  private readonly requestSeconds = new Histogram({
    name: 'rufh_request_duration_seconds',
    help: 'From a request’s head to the end of its response.',
    labelNames: ['kind'],
    buckets: REQUEST_SECONDS,
    ...this.metered,
  });
  private readonly received = new Counter({
    name: 'rufh_received_bytes_total',
    help: 'Bytes of representations written to the spool.',
    ...this.metered,
  });
  private readonly created = new Counter({
    name: 'rufh_uploads_created_total',
    help: 'Uploads created, by the draft’s interop version; "plain": an ordinary request whose body was spooled.',
    labelNames: ['dialect'],
    ...this.metered,
  });
  private readonly ended = new Counter({
    name: 'rufh_uploads_ended_total',
    help: 'Uploads that came to an end, each once, by how; "undelivered": they expired after they were given up.',
    labelNames: ['phase'],
    ...this.metered,
  });
  private readonly takeovers = new Counter({
    name: 'rufh_takeovers_total',
    help: 'Requests ended because a newer one for the same upload came in.',
    ...this.metered,
  });
  private readonly commitSeconds = new Histogram({
    name: 'rufh_commit_duration_seconds',
    help: 'Making received bytes durable and moving the offset.',
    buckets: COMMIT_SECONDS,
    ...this.metered,
  });
  private readonly attempts = new Counter({
    name: 'rufh_delivery_attempts_total',
    help: 'Attempts to give an upload to its origin, by how far they got and the class of the status.',
    labelNames: ['reached', 'status'],
    ...this.metered,
  });
  private readonly deliverySeconds = new Histogram({
    name: 'rufh_delivery_duration_seconds',
    help: 'From the first attempt to the end of a delivery, by how it ended.',
    labelNames: ['outcome'],
    buckets: REQUEST_SECONDS,
    ...this.metered,
  });
  private readonly breakerOpenings = new Counter({
    name: 'rufh_breaker_opened_total',
    help: 'How often an origin that had failed too many times in a row was left alone for a while.',
    ...this.metered,
  });
  private readonly interims = new Counter({
    name: 'rufh_interim_responses_total',
    help: '104 responses sent, by what they told.',
    labelNames: ['kind'],
    ...this.metered,
  });
  private readonly losses = new Counter({
    name: 'rufh_bytes_lost_total',
    help: 'Uploads and kept answers whose stored bytes were found damaged or missing; nothing wrong of them was given on.',
    labelNames: ['what'],
    ...this.metered,
  });
  private readonly refusedConnections = refusedConnections(this.registry);
  private readonly slowClients = new Counter({
    name: 'rufh_slow_clients_total',
    help: 'Request bodies and answers that were ended because their client was slower than limits.min_rate.',
    labelNames: ['what'],
    ...this.metered,
  });
  private readonly storeAbsences = new Counter({
    name: 'rufh_store_unavailable_total',
    help: 'Steps that the store did not answer; each was tried again later, or its client was told to come back.',
    ...this.metered,
  });
  private readonly passThroughErrors = new Counter({
    name: 'rufh_pass_through_errors_total',
    help: 'Requests passed through that failed on the way to the origin or back.',
    labelNames: ['code'],
    ...this.metered,
  });

  /** Request bodies being written to the spool. */
  readonly activeReceives = this.gauge('rufh_active_receives', 'Request bodies being written to the spool.');
  readonly activeDeliveries = this.gauge('rufh_active_deliveries', 'Uploads being given to their origin.');

  /** `version` of the program, for `rufh_build_info`. */
  constructor(version = 'unknown') {
    collectDefaultMetrics({ register: this.registry });
    new Gauge({
      name: 'rufh_build_info',
      help: 'Always 1; its labels tell which program this is.',
      labelNames: ['version', 'node'],
      aggregator: 'first',
      ...this.metered,
    }).set({ version, node: process.version }, 1);
  }

  requestEnded({ kind, method, status, seconds }: EndedRequest): void {
    const known = METHODS.has(method) ? method : 'other';
    this.requests.inc({ kind, method: known, status: status === undefined ? 'none' : statusLabel(status) });
    this.requestSeconds.observe({ kind }, seconds);
  }

  bytesReceived(bytes: number): void {
    this.received.inc(bytes);
  }

  uploadCreated(dialect: string): void {
    this.created.inc({ dialect });
  }

  uploadEnded(phase: 'answered' | 'undelivered' | 'cancelled' | 'invalid' | 'expired'): void {
    this.ended.inc({ phase });
  }

  takeover(): void {
    this.takeovers.inc();
  }

  commit(seconds: number): void {
    this.commitSeconds.observe(seconds);
  }

  storeUnavailable(): void {
    this.storeAbsences.inc();
  }

  connectionRefused(limit: RefusedBy): void {
    this.refusedConnections.inc({ limit });
  }

  slowClient(what: 'request' | 'response'): void {
    this.slowClients.inc({ what });
  }

  bytesLost(what: 'upload' | 'answer'): void {
    this.losses.inc({ what });
  }

  deliveryAttempt(reached: 'never-sent' | 'sent-in-part' | 'sent' | 'answered', status?: number): void {
    this.attempts.inc({ reached, status: status === undefined ? 'none' : `${Math.floor(status / 100)}xx` });
  }

  deliveryEnded(seconds: number, outcome: 'answered' | 'undelivered' | 'postponed'): void {
    this.deliverySeconds.observe({ outcome }, seconds);
  }

  breakerOpened(): void {
    this.breakerOpenings.inc();
  }

  interimSent(kind: 'resumable' | 'progress'): void {
    this.interims.inc({ kind });
  }

  passThroughError(code: string): void {
    this.passThroughErrors.inc({ code: ERROR_CODES.has(code) ? code : 'other' });
  }

  /** Asked at every scrape: how many connections of clients are open. */
  countConnections(count: () => number): void {
    new Gauge({
      name: 'rufh_open_connections',
      help: 'Client connections that are open.',
      ...this.metered,
      collect() {
        this.set(count());
      },
    });
  }

  /** Asked at every scrape: how many deliveries wait for a turn at their origin. */
  countQueuedDeliveries(count: () => number): void {
    new Gauge({
      name: 'rufh_queued_deliveries',
      help: 'Deliveries that wait for a turn at their origin.',
      ...this.metered,
      collect() {
        this.set(count());
      },
    });
  }

  /** Asked at every scrape: how many uploads there are in each phase; nothing is said while nobody knows. */
  countUploads(byPhase: () => Promise<Readonly<Record<string, number>> | undefined>): void {
    new Gauge({
      name: 'rufh_uploads',
      help: 'Uploads that are known, by phase.',
      labelNames: ['phase'],
      // Every process that shares the store sees all of them.
      aggregator: 'max',
      ...this.metered,
      async collect() {
        const counts = await byPhase();
        this.reset();
        for (const [phase, count] of Object.entries(counts ?? {})) this.set({ phase }, count);
      },
    });
  }

  /** Asked at every scrape: how many uploads have a record, or bytes, that cannot be read. */
  countUnreadable(count: () => Promise<number>): void {
    new Gauge({
      name: 'rufh_uploads_unreadable',
      help: 'Uploads whose record or bytes are there but cannot be read; nothing of them is removed.',
      aggregator: 'max',
      ...this.metered,
      async collect() {
        this.set(await count());
      },
    });
  }

  /** Asked at every scrape: what is in the spool of uploads that the store does not know. */
  countUnknown(known: () => { readonly uploads: number; readonly bytes: number } | undefined): void {
    for (const [what, help] of [
      ['uploads', 'Uploads in the spool that the store does not know: of a Redis that was lost, or without records.'],
      ['bytes', 'Bytes in the spool of uploads that the store does not know.'],
    ] as const)
      new Gauge({
        name: `rufh_spool_unknown_${what}`,
        help,
        aggregator: 'max',
        ...this.metered,
        collect() {
          this.set(known()?.[what] ?? 0);
        },
      });
  }

  /** Asked at every scrape: how many bytes uploads hold; nothing is said while nobody knows. */
  countSpoolBytes(bytes: () => Promise<number | undefined>): void {
    new Gauge({
      name: 'rufh_spool_bytes',
      help: 'Committed bytes of uploads that are not answered yet.',
      aggregator: 'max',
      ...this.metered,
      async collect() {
        const count = await bytes();
        if (count === undefined) this.remove();
        else this.set(count);
      },
    });
  }

  /** Everything in the text format of Prometheus. */
  text(): Promise<string> {
    return this.registry.metrics();
  }

  /** The same as values. */
  values(): Promise<MetricValues> {
    return this.registry.getMetricsAsJSON();
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  private gauge(name: string, help: string): Gauge {
    return new Gauge({ name, help, ...this.metered });
  }
}

/** The limit that a connection has met. */
type RefusedBy = 'total' | 'address';

function refusedConnections(registry: Registry): Counter<'limit'> {
  return new Counter({
    name: 'rufh_connections_refused_total',
    help: 'Connections of clients that were refused, by the limit they met: "total" or "address".',
    labelNames: ['limit'],
    registers: [registry],
  });
}

/** The one figure of a process that takes connections for others to serve. */
export class ConnectionMetrics {
  private readonly registry = new Registry();
  private readonly refused = refusedConnections(this.registry);

  connectionRefused(limit: RefusedBy): void {
    this.refused.inc({ limit });
  }

  values(): Promise<MetricValues> {
    return this.registry.getMetricsAsJSON();
  }
}

/** Statuses are 100 to 599; anything else an origin may say is one value. */
function statusLabel(status: number): string {
  return Number.isInteger(status) && status >= 100 && status <= 599 ? String(status) : 'other';
}

/** The figures of several processes as one, in the text format of Prometheus: added up where that means something. */
export async function sumMetrics(all: readonly MetricValues[]): Promise<{ type: string; text: string }> {
  const sum = AggregatorRegistry.aggregate(all.map((figures) => [...figures]));
  return { type: sum.contentType, text: await sum.metrics() };
}

/** Of figures that are no more, what still counts: totals never go down, what is the case now does not remain. */
export function cumulativeMetrics(all: readonly MetricValues[]): Promise<MetricValues> {
  const totals = all.map((figures) => figures.filter(({ type }) => LASTING.has(String(type))));
  return AggregatorRegistry.aggregate(totals).getMetricsAsJSON();
}

const LASTING = new Set(['counter', 'histogram']);
