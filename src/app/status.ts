import type { Status } from '../admin/status.js';
import type { Delivery } from '../delivery/delivery.js';
import { ifAvailable } from '../store/upload-store.js';
import type { DiskSpace } from '../spool/disk-space.js';
import type { ClientListeners } from './listening.js';
import type { Storage } from './storage.js';

export type StatusApi = () => Promise<Status>;

interface StatusDeps extends Pick<Storage, 'store' | 'node' | 'others'> {
  readonly version?: string;
  readonly delivery: Pick<Delivery, 'origins'>;
  readonly listeners: Pick<ClientListeners, 'certificates'>;
  /** The disk of the data. */
  readonly space: Pick<DiskSpace, 'free' | 'refresh'>;
  readonly isDraining: () => boolean;
  /** Milliseconds since the epoch. */
  readonly configAppliedAt: () => number;
  readonly clock: () => number;
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
}

/** Returns the function that reads the state of this process. Its cost does not depend on the number of uploads. */
export function buildStatus(deps: StatusDeps): StatusApi {
  const { version = 'unknown', node, delivery, listeners, space, clock, monotonic } = deps;
  const startedAt = iso(clock());
  const startedAtMonotonic = monotonic();
  return async () => {
    const [totals, nodes] = await Promise.all([
      ifAvailable(() => deps.store.totals()),
      ifAvailable(() => deps.others?.nodes.all()),
      space.refresh(),
    ]);
    return {
      ...{ version, nodeVersion: process.version, startedAt },
      ...(node !== undefined && { node }),
      uptimeSeconds: Math.floor((monotonic() - startedAtMonotonic) / 1000),
      draining: deps.isDraining(),
      configAppliedAt: iso(deps.configAppliedAt()),
      ...(totals && { uploads: totals.phases }),
      spool: {
        ...(totals && { storedBytes: totals.bytes, reservedBytes: totals.reservedBytes }),
        ...finite('freeBytes', space.free?.bytes),
        ...finite('freeFiles', space.free?.files),
      },
      origins: delivery.origins,
      certificates: listeners.certificates.map(({ url, expiresAt }) => ({ listener: url, expiresAt: iso(expiresAt) })),
      ...(nodes && {
        nodes: nodes.map(({ name, url, silentMs, isLeaving }) => ({ name, url, silentMs, leaving: isLeaving })),
      }),
    };
  };
}

function finite(name: string, value: number | undefined): Record<string, number> {
  return value !== undefined && Number.isFinite(value) ? { [name]: value } : {};
}

function iso(at: number): string {
  return new Date(at).toISOString();
}
