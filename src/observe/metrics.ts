import { AggregatorRegistry, collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { DurationHistogram } from './duration-histogram.js';
import {
  type MetricValues,
  type RefusedBy,
  refusedConnections,
  type ReloadOutcome,
  reloads,
} from './process-metrics.js';

/** The kind of a request from the proxy's point of view. */
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

/** A finished request, for the request metrics. */
export interface EndedRequest {
  readonly kind: RequestKind;
  readonly method: string;
  /** Undefined if no final response was sent. */
  readonly status?: number;
  readonly seconds: number;
}

/** Uploads take between milliseconds and hours. */
const REQUEST_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200];
const COMMIT_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5];

/**
 * Clients and origins choose these values freely; only known ones become labels, so that the number of series is
 * limited.
 */
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

/** A gauge with a value for each value of its label, or one value without a label. Infinite values are omitted. */
export interface WatchedGauge {
  readonly name: string;
  readonly help: string;
  readonly label?: string;
  /** How the values of several processes become one. */
  readonly aggregator: 'min' | 'max';
  readonly read: () => Iterable<readonly [of: string, value: number]>;
}

/** The metrics of one process, with one method per event. Labels only have values from fixed sets. */
export class Metrics {
  private readonly registry = new Registry();
  private readonly registered = { registers: [this.registry] };

  private readonly requestCounts = new LabelCounts();
  private readonly requestSeconds = new DurationHistogram(
    'rufh_request_duration_seconds',
    'Time from a request’s head to the end of its response.',
    { label: 'kind', limits: REQUEST_SECONDS },
    this.registry,
  );
  private readonly received = new Counter({
    name: 'rufh_received_bytes_total',
    help: 'Bytes of representations written to the spool.',
    ...this.registered,
  });
  private readonly created = new Counter({
    name: 'rufh_uploads_created_total',
    help: 'Uploads created, by interop version of the draft; "plain": ordinary requests whose body was spooled.',
    labelNames: ['dialect'],
    ...this.registered,
  });
  private readonly refused = new Counter({
    name: 'rufh_uploads_refused_total',
    help: 'Uploads that were not let in, by the limit that left no room for them.',
    labelNames: ['limit'],
    ...this.registered,
  });
  private readonly ended = new Counter({
    name: 'rufh_uploads_ended_total',
    help: 'Uploads that ended, each counted once, by final phase; "undelivered": expired after delivery was given up.',
    labelNames: ['phase'],
    ...this.registered,
  });
  private readonly takeovers = new Counter({
    name: 'rufh_takeovers_total',
    help: 'Requests ended because a newer one for the same upload arrived.',
    ...this.registered,
  });
  private readonly commitSeconds = new Histogram({
    name: 'rufh_commit_duration_seconds',
    help: 'Time to make received bytes durable and advance the offset.',
    buckets: COMMIT_SECONDS,
    ...this.registered,
  });
  private readonly attempts = new Counter({
    name: 'rufh_delivery_attempts_total',
    help: 'Attempts to deliver an upload to its origin, by how far they got and the class of the status.',
    labelNames: ['reached', 'status'],
    ...this.registered,
  });
  private readonly deliverySeconds = new Histogram({
    name: 'rufh_delivery_duration_seconds',
    help: 'Time from the first attempt to the end of a delivery, by outcome.',
    labelNames: ['outcome'],
    buckets: REQUEST_SECONDS,
    ...this.registered,
  });
  private readonly breakerOpenings = new Counter({
    name: 'rufh_breaker_opened_total',
    help: 'How often requests to an origin were paused after too many failures in a row.',
    ...this.registered,
  });
  private readonly interims = new Counter({
    name: 'rufh_interim_responses_total',
    help: '104 responses sent, by kind.',
    labelNames: ['kind'],
    ...this.registered,
  });
  private readonly losses = new Counter({
    name: 'rufh_bytes_lost_total',
    help: 'Uploads and kept answers whose stored bytes were damaged or missing; no damaged byte was sent to anyone.',
    labelNames: ['what'],
    ...this.registered,
  });
  private readonly refusedConnections = refusedConnections(this.registry);
  private readonly slowClients = new Counter({
    name: 'rufh_slow_clients_total',
    help: 'Request bodies and answers aborted because their client was slower than limits.min_rate.',
    labelNames: ['what'],
    ...this.registered,
  });
  private readonly storeFailures = new Counter({
    name: 'rufh_store_unavailable_total',
    help: 'Store operations without a response; each was retried later, or its client was asked to retry.',
    ...this.registered,
  });
  private readonly droppedEntries = new Counter({
    name: 'rufh_history_dropped_total',
    help: 'Entries of the histories of uploads that could not be kept.',
    ...this.registered,
  });
  private readonly passThroughErrors = new Counter({
    name: 'rufh_pass_through_errors_total',
    help: 'Passed-through requests that failed on the way to the origin or back.',
    labelNames: ['code'],
    ...this.registered,
  });

  readonly activeReceives = this.gauge('rufh_active_receives', 'Request bodies being written to the spool.');
  readonly activeDeliveries = this.gauge('rufh_active_deliveries', 'Uploads being delivered to their origin.');

  /** `version` of the program, for `rufh_build_info`. */
  constructor(version = 'unknown') {
    collectDefaultMetrics({ register: this.registry });
    const { requestCounts } = this;
    // `increase` in Prometheus does not see a counter that begins with 1.
    for (const what of ['upload', 'answer']) this.losses.inc({ what }, 0);
    new Counter({
      name: 'rufh_requests_total',
      help: 'Finished requests, by their kind for the proxy; status is "none" if no final response was sent.',
      labelNames: ['kind', 'method', 'status'],
      ...this.registered,
      collect() {
        requestCounts.moveTo(this);
      },
    });
    new Gauge({
      name: 'rufh_build_info',
      help: 'Always 1; the labels are the versions of the proxy and of Node.',
      labelNames: ['version', 'node'],
      aggregator: 'first',
      ...this.registered,
    }).set({ version, node: process.version }, 1);
  }

  requestEnded({ kind, method, status, seconds }: EndedRequest): void {
    const methodLabel = METHODS.has(method) ? method : 'other';
    const statusOrNone = status === undefined ? 'none' : statusLabel(status);
    this.requestCounts.add(kind, methodLabel, statusOrNone);
    this.requestSeconds.observe(kind, seconds);
  }

  bytesReceived(bytes: number): void {
    this.received.inc(bytes);
  }

  uploadCreated(dialect: string): void {
    this.created.inc({ dialect });
  }

  uploadRefused(limit: string): void {
    this.refused.inc({ limit });
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
    this.storeFailures.inc();
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

  historyDropped(entries: number): void {
    this.droppedEntries.inc(entries);
  }

  passThroughError(code: string): void {
    this.passThroughErrors.inc({ code: ERROR_CODES.has(code) ? code : 'other' });
  }

  /** Calls `count` at every scrape for the number of open client connections. */
  countConnections(count: () => number): void {
    new Gauge({
      name: 'rufh_open_connections',
      help: 'Open client connections.',
      ...this.registered,
      collect() {
        this.set(count());
      },
    });
  }

  /** Counts the reloads of the configuration; returns the function to call after each. */
  countReloads(): (result: ReloadOutcome) => void {
    return reloads(this.registry);
  }

  /** Calls `bytes` at every scrape for the received bytes that are not written yet. */
  countBodyMemory(bytes: () => number): void {
    new Gauge({
      name: 'rufh_body_memory_bytes',
      help: 'Received bytes of uploads that wait in memory to be written to the spool.',
      ...this.registered,
      collect() {
        this.set(bytes());
      },
    });
  }

  /** Calls `count` at every scrape for the number of deliveries that wait for their origin's concurrency limit. */
  countQueuedDeliveries(count: () => number): void {
    new Gauge({
      name: 'rufh_queued_deliveries',
      help: 'Deliveries waiting for their origin’s concurrency limit.',
      ...this.registered,
      collect() {
        this.set(count());
      },
    });
  }

  /** Calls `byPhase` at every scrape for the number of uploads in each phase; undefined omits the values. */
  countUploads(byPhase: () => Promise<Readonly<Record<string, number>> | undefined>): void {
    new Gauge({
      name: 'rufh_uploads',
      help: 'Uploads in the store, by phase.',
      labelNames: ['phase'],
      // Every process that shares the store sees all of them.
      aggregator: 'max',
      ...this.registered,
      async collect() {
        const counts = await byPhase();
        this.reset();
        for (const [phase, count] of Object.entries(counts ?? {})) this.set({ phase }, count);
      },
    });
  }

  /** Calls `count` at every scrape for the number of uploads whose record or bytes cannot be read. */
  countUnreadable(count: () => Promise<number>): void {
    new Gauge({
      name: 'rufh_uploads_unreadable',
      help: 'Uploads whose record or bytes exist but cannot be read; nothing of them is removed.',
      aggregator: 'max',
      ...this.registered,
      async collect() {
        this.set(await count());
      },
    });
  }

  /**
   * Calls `unknown` at every scrape for the uploads in the spool that the store does not know; undefined means none.
   */
  countUnknown(unknown: () => { readonly uploads: number; readonly bytes: number } | undefined): void {
    for (const [what, help] of [
      ['uploads', 'Uploads in the spool that the store does not know: from a lost Redis, or without records.'],
      ['bytes', 'Bytes in the spool that belong to uploads the store does not know.'],
    ] as const)
      new Gauge({
        name: `rufh_spool_unknown_${what}`,
        help,
        aggregator: 'max',
        ...this.registered,
        collect() {
          this.set(unknown()?.[what] ?? 0);
        },
      });
  }

  /** A gauge whose values are read at every scrape. */
  watch({ name, help, label, aggregator, read }: WatchedGauge): void {
    new Gauge({
      name,
      help,
      labelNames: label === undefined ? [] : [label],
      aggregator,
      ...this.registered,
      collect() {
        this.reset();
        if (label === undefined) this.remove();
        for (const [of, value] of read())
          if (Number.isFinite(value)) this.set(label === undefined ? {} : { [label]: of }, value);
      },
    });
  }

  /** Calls `bytes` at every scrape for the committed bytes of unanswered uploads; undefined omits the value. */
  countSpoolBytes(bytes: () => Promise<number | undefined>): void {
    this.countBytes('rufh_spool_bytes', 'Committed bytes of uploads that are not answered yet.', bytes);
  }

  /** Calls `bytes` at every scrape for the bytes that unfinished uploads may still bring; undefined omits the value. */
  countReservedBytes(bytes: () => Promise<number | undefined>): void {
    const help = 'Bytes that the spool keeps room for, because unfinished uploads may still bring them.';
    this.countBytes('rufh_spool_reserved_bytes', help, bytes);
  }

  /** A gauge of the store, which all workers share; undefined omits the value. */
  private countBytes(name: string, help: string, bytes: () => Promise<number | undefined>): void {
    new Gauge({
      name,
      help,
      aggregator: 'max',
      ...this.registered,
      async collect() {
        const count = await bytes();
        if (count === undefined) this.remove();
        else this.set(count);
      },
    });
  }

  /** All metrics in the text format of Prometheus. */
  text(): Promise<string> {
    return this.registry.metrics();
  }

  /** All metrics as values. */
  values(): Promise<MetricValues> {
    return this.registry.getMetricsAsJSON();
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  private gauge(name: string, help: string): Gauge {
    return new Gauge({ name, help, ...this.registered });
  }
}

/** Counts requests by their labels between two scrapes, because prom-client checks and sorts the labels of each one. */
class LabelCounts {
  private readonly counts = new Map<string, { readonly labels: Record<string, string>; count: number }>();

  add(kind: string, method: string, status: string): void {
    const key = `${kind} ${method} ${status}`;
    const known = this.counts.get(key);
    if (known) known.count++;
    else this.counts.set(key, { labels: { kind, method, status }, count: 1 });
  }

  moveTo(counter: Counter): void {
    for (const { labels, count } of this.counts.values()) counter.inc(labels, count);
    this.counts.clear();
  }
}

/** One label for all invalid statuses that an origin may send. */
function statusLabel(status: number): string {
  return Number.isInteger(status) && status >= 100 && status <= 599 ? String(status) : 'other';
}

/** Aggregates the metrics of several processes by each metric's `aggregator`, in the text format of Prometheus. */
export async function sumMetrics(all: readonly MetricValues[]): Promise<{ type: string; text: string }> {
  const sum = AggregatorRegistry.aggregate(all.map((values) => [...values]));
  return { type: sum.contentType, text: await sum.metrics() };
}

/** Sums the counters and histograms of ended processes, which must never go down; gauges end with their process. */
export function cumulativeMetrics(all: readonly MetricValues[]): Promise<MetricValues> {
  const cumulative = all.map((values) => values.filter(({ type }) => CUMULATIVE_TYPES.has(String(type))));
  return AggregatorRegistry.aggregate(cumulative).getMetricsAsJSON();
}

const CUMULATIVE_TYPES = new Set(['counter', 'histogram']);
