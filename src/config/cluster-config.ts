import { availableParallelism } from 'node:os';
import type { Address } from './scalars.js';
import type { Settings } from './schema.js';
import { secretOf } from './secret.js';

/** How nodes with disks of their own reach each other. */
export interface ClusterConfig {
  readonly listen: Address;
  /** What the other nodes call this one: `http://HOST:PORT`, without a trailing slash. */
  readonly advertise: string;
  readonly secret: string;
  /** Absolute paths of PEM files; both sides show a certificate of `ca`. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca: string };
  /** A node that is silent for this long has lost its uploads. */
  readonly ownerTimeoutMs: number;
}

/** Undefined when there is to be none. */
export function toCluster(cluster: Settings['cluster']): ClusterConfig | undefined {
  if (cluster === null) return undefined;
  return {
    listen: cluster.listen,
    advertise: cluster.advertise,
    // The check refuses a configuration without one.
    secret: secretOf(cluster.secret, cluster.secret_file) ?? '',
    ...(cluster.tls ? { tls: cluster.tls } : {}),
    ownerTimeoutMs: cluster.owner_timeout,
  };
}

/** As many as there are cores, where nobody chose a number. */
export function toWorkers(workers: Settings['workers']): number {
  return workers === 'auto' ? availableParallelism() : workers;
}
