import { readFileSync } from 'node:fs';
import ipaddr from 'ipaddr.js';
import type { Log } from '../observe/log.js';
import type { TrustedProxies } from './trusted-proxies.js';

/** The limit that a refused connection exceeds. */
export type ConnectionLimit = 'total' | 'address';

/** Decides which client connections are accepted. */
export interface ConnectionGate {
  /**
   * Undefined: the connection is refused. Otherwise the caller calls the returned function once, when the connection
   * has ended. `address` is empty for a Unix socket.
   */
  admit(address: string): (() => void) | undefined;
}

/** The limits of open connections. They can change. */
interface Limits {
  /** In all, and for one address. */
  readonly total: number;
  readonly perAddress: number;
  /** Peers that represent many clients, such as proxies; the limit per address does not apply to them. */
  readonly isExempt: (address: string) => boolean;
}

export interface ConnectionLimitsOptions extends Limits {
  readonly onRefused: (limit: ConnectionLimit) => void;
  /** Called at most once a second while few connections are left, so that unused ones can be ended. */
  readonly onNearlyFull: () => void;
  readonly log: Log;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
}

/** The configured limits and the parts of the process that they concern. */
export interface ClientLimitsOptions extends LimitsOptions {
  readonly metrics: { connectionRefused(limit: ConnectionLimit): void };
  readonly endIdle: () => void;
  readonly monotonic: () => number;
}

/** The part of the options that the limits themselves depend on. */
export interface LimitsOptions {
  readonly settings: { readonly total?: number; readonly perAddress?: number };
  /** The number of processes that share the limits, each with descriptors of its own. */
  readonly processes?: number;
  readonly trust: Pick<TrustedProxies, 'trusts'>;
  readonly log: Log;
  /** File descriptors of each process; the limit of this process by default. */
  readonly openFiles?: number;
}

/** Builds the limits of client connections; `limitsFrom` decides what they are. */
export function clientLimits(options: ClientLimitsOptions): ConnectionLimits {
  const { metrics, endIdle, log, monotonic } = options;
  return new ConnectionLimits({
    ...limitsFrom(options),
    onRefused: (limit) => metrics.connectionRefused(limit),
    onNearlyFull: endIdle,
    log,
    monotonic,
  });
}

/**
 * The limits from the configuration, or else from the number of file descriptors; never more than the descriptors
 * allow.
 */
export function limitsFrom({ settings, processes = 1, trust, log, openFiles }: LimitsOptions): Limits {
  const max = maxConnections(openFiles) * processes;
  const requested = settings.total ?? defaultMaxConnections(openFiles) * processes;
  const total = Math.min(requested, max);
  if (requested > max) log.warn({ wanted: requested, most: max }, TOO_FEW_DESCRIPTORS);
  return {
    total,
    perAddress: settings.perAddress ?? Math.ceil(total / 2),
    isExempt: (address) => trust.trusts(address),
  };
}

const TOO_FEW_DESCRIPTORS =
  'limits.connections.total exceeds the file descriptor limit of this process: raise that limit (ulimit -n, LimitNOFILE)';

/** From this share of `total` on, unused connections are ended to make room for others. */
const NEARLY_FULL_SHARE = 0.9;
const NEARLY_FULL_INTERVAL_MS = 1000;

/** A flood of refused connections makes one log line in this time. */
const LOG_INTERVAL_MS = 10_000;

/**
 * Counts client connections, in total and by address, and refuses those beyond the limits.
 * Reasons: docs/decisions/0025.
 */
export class ConnectionLimits implements ConnectionGate {
  private readonly byAddress = new Map<string, number>();
  private openCount = 0;
  private reportedFullAt = -Infinity;
  private readonly refused = { total: new RefusalCounter(), address: new RefusalCounter() };
  private limits: Limits;

  constructor(private readonly options: ConnectionLimitsOptions) {
    this.limits = options;
  }

  /** Changes the limits. Open connections count, and stay even where they are more than the new limits allow. */
  setLimits(limits: Limits): void {
    this.limits = limits;
  }

  admit(address: string): (() => void) | undefined {
    const { total, perAddress, isExempt } = this.limits;
    const key = isExempt(address) ? undefined : limitKeyOf(address);
    const addressCount = key === undefined ? 0 : (this.byAddress.get(key) ?? 0);
    if (this.openCount >= total) return this.refuse('total', address);
    if (addressCount >= perAddress) return this.refuse('address', address);
    this.openCount++;
    if (key !== undefined) this.byAddress.set(key, addressCount + 1);
    if (this.openCount >= total * NEARLY_FULL_SHARE) this.reportNearlyFull();
    return () => this.release(key);
  }

  private release(key: string | undefined): void {
    this.openCount--;
    if (key === undefined) return;
    const remaining = this.byAddress.get(key)! - 1;
    if (remaining > 0) this.byAddress.set(key, remaining);
    else this.byAddress.delete(key);
  }

  private refuse(limit: ConnectionLimit, client: string): undefined {
    const { onRefused, monotonic, log } = this.options;
    const { total, perAddress } = this.limits;
    onRefused(limit);
    if (limit === 'total') this.reportNearlyFull();
    const refused = this.refused[limit].count(monotonic());
    if (refused === undefined) return;
    const max = limit === 'total' ? total : perAddress;
    log.warn({ limit, most: max, client, open: this.openCount, refused }, REFUSED[limit]);
  }

  private reportNearlyFull(): void {
    const now = this.options.monotonic();
    if (now - this.reportedFullAt < NEARLY_FULL_INTERVAL_MS) return;
    this.reportedFullAt = now;
    this.options.onNearlyFull();
  }
}

const REFUSED: Readonly<Record<ConnectionLimit, string>> = {
  total: 'connection refused: clients have as many connections as limits.connections.total allows',
  address: 'connection refused: its address has as many connections as limits.connections.per_address allows',
};

/** Counts refused connections between log lines. */
class RefusalCounter {
  private sinceLastLog = 0;
  private loggedAt = -Infinity;

  /** Counts one more; returns the number since the last log line, or undefined while the next line is not due. */
  count(now: number): number | undefined {
    this.sinceLastLog++;
    if (now - this.loggedAt < LOG_INTERVAL_MS) return undefined;
    const count = this.sinceLastLog;
    this.loggedAt = now;
    this.sinceLastLog = 0;
    return count;
  }
}

/**
 * Numbers connections from 1 on, refused ones too. A process that passes connections on in this order then knows which
 * of them have ended.
 */
export class NumberedConnections implements ConnectionGate {
  private lastNumber = 0;
  private readonly open = new Set<number>();
  private listener: ((number: number) => void) | undefined;

  constructor(private readonly gate: ConnectionGate) {}

  admit(address: string): (() => void) | undefined {
    const number = ++this.lastNumber;
    const release = this.gate.admit(address);
    if (!release) {
      this.listener?.(number);
      return undefined;
    }
    this.open.add(number);
    return () => {
      release();
      this.open.delete(number);
      this.listener?.(number);
    };
  }

  /** Calls `listener` for each connection that ends, and immediately for those that have ended already. */
  onEnded(listener: (number: number) => void): void {
    this.listener = listener;
    for (let number = 1; number <= this.lastNumber; number++) if (!this.open.has(number)) listener(number);
  }
}

/** The unit that counts as one client: an IPv4 address, or the /64 of an IPv6 subscriber. Undefined for a Unix socket. */
export function limitKeyOf(address: string): string | undefined {
  if (!ipaddr.isValid(address)) return undefined;
  const plain = ipaddr.process(address);
  if (plain.kind() === 'ipv4') return plain.toString();
  return `${(plain as ipaddr.IPv6).parts
    .slice(0, 4)
    .map((part) => part.toString(16))
    .join(':')}::/64`;
}

/** File descriptors reserved for the process itself: its files, its log, its admin listener. */
const RESERVED_DESCRIPTORS = 64;
/** Each client may need one descriptor for its connection, one for the origin's, and one for a file. */
const DESCRIPTORS_PER_CLIENT = 3;
/** Upper bound of the default, because each connection costs memory too. */
const MAX_BY_DEFAULT = 16_384;

/** The default limit of client connections for a process with this many file descriptors. */
export function defaultMaxConnections(openFiles = openFileLimit()): number {
  return Math.min(MAX_BY_DEFAULT, Math.max(1, Math.floor((openFiles - RESERVED_DESCRIPTORS) / DESCRIPTORS_PER_CLIENT)));
}

/** The most client connections that a process with this many file descriptors can accept. */
export function maxConnections(openFiles = openFileLimit()): number {
  return Math.max(1, openFiles - 2 * RESERVED_DESCRIPTORS);
}

/** The number of file descriptors that this process may have open. */
export function openFileLimit(): number {
  const limit = softLimitFromProc() ?? softLimitFromReport();
  return Number.isFinite(limit) ? limit : Infinity;
}

/** Linux has it in a file, which is cheaper than a full report. */
function softLimitFromProc(): number | undefined {
  try {
    const [, soft] = /^Max open files +(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? [];
    return soft === undefined ? undefined : Number(soft.replace('unlimited', 'Infinity'));
  } catch {
    // Other systems have no such file.
    return undefined;
  }
}

function softLimitFromReport(): number {
  const { userLimits } = process.report.getReport() as { userLimits?: { open_files?: { soft?: unknown } } };
  return Number(userLimits?.open_files?.soft ?? Infinity);
}
