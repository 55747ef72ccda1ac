import type { OriginState } from '../delivery/origin-queue.js';

/** The state of a proxy, as `GET /status` shows it. */
export interface Status {
  readonly version: string;
  readonly nodeVersion: string;
  /** The name of this node; missing if all nodes share a spool. */
  readonly node?: string;
  readonly startedAt: string;
  readonly uptimeSeconds: number;
  readonly draining: boolean;
  /** When the configuration that applies was put into use. */
  readonly configAppliedAt: string;
  /** The number of uploads by phase; missing while the store is unavailable. */
  readonly uploads?: Readonly<Record<string, number>>;
  readonly spool: {
    readonly storedBytes?: number;
    readonly reservedBytes?: number;
    readonly freeBytes?: number;
    readonly freeFiles?: number;
  };
  readonly origins: readonly OriginState[];
  readonly certificates: readonly { readonly listener: string; readonly expiresAt: string }[];
  /** The nodes that share the store; missing without a cluster, or while the store is unavailable. */
  readonly nodes?: readonly NodeStatus[];
  /** Missing without several workers. */
  readonly workers?: readonly { readonly number: number; readonly listening: boolean }[];
}

interface NodeStatus {
  readonly name: string;
  readonly url: string;
  readonly silentMs: number;
  readonly leaving: boolean;
}

/** The status of a node from those of its workers, of which at least one is there: they differ in their origins only. */
export function mergeStatus([first, ...others]: readonly [Status, ...Status[]], workers: Status['workers']): Status {
  const origins = new Map<string, OriginState>();
  for (const each of [first, ...others].flatMap((status) => status.origins)) {
    const known = origins.get(each.origin);
    origins.set(each.origin, known ? mergeOrigin(known, each) : each);
  }
  return { ...first, origins: [...origins.values()], workers };
}

const SEVERITY = ['closed', 'probing', 'open'] as const;

function mergeOrigin(a: OriginState, b: OriginState): OriginState {
  const breaker = SEVERITY[Math.max(SEVERITY.indexOf(a.breaker), SEVERITY.indexOf(b.breaker))]!;
  return { origin: a.origin, breaker, active: a.active + b.active, queued: a.queued + b.queued };
}
