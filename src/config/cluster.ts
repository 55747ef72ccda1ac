import { availableParallelism } from 'node:os';
import type { SettingIssue, SettingPath } from './errors.js';
import type { Settings } from './schema.js';
import { resolveSecret, MIN_SECRET_LENGTH, secretFileErrors, tlsFileErrors } from './secrets.js';
import type { Address } from './values.js';

/** The connection between nodes with separate disks. */
export interface ClusterConfig {
  readonly listen: Address;
  /** URL at which the other nodes reach this one: `http://HOST:PORT`, without a trailing slash. */
  readonly advertise: string;
  readonly secret: string;
  /** Absolute paths of PEM files; both sides present a certificate that `ca` has signed. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca: string };
  /** A node that is silent for this long counts as lost, with its uploads. */
  readonly ownerTimeoutMs: number;
}

/** The configuration of the cluster; undefined if it is not set. */
export function toCluster(cluster: Settings['cluster']): ClusterConfig | undefined {
  if (cluster === null) return undefined;
  return {
    listen: cluster.listen,
    advertise: cluster.advertise,
    // The cross-checks reject a configuration without a secret.
    secret: resolveSecret(cluster.secret, cluster.secret_file) ?? '',
    ...(cluster.tls ? { tls: cluster.tls } : {}),
    ownerTimeoutMs: cluster.owner_timeout,
  };
}

/** Number of workers; `auto` is one for each core. */
export function toWorkers(workers: Settings['workers']): number {
  return workers === 'auto' ? availableParallelism() : workers;
}

type ClusterSettings = NonNullable<Settings['cluster']>;

/** Cross-checks the settings that combine several processes or nodes into one proxy. */
export function clusterCrossChecks({ store, spool, cluster, workers }: Settings): SettingIssue[] {
  return [
    ...(store.type === 'embedded' ? embeddedStoreErrors({ spool, cluster, workers }) : []),
    ...(store.type === 'redis' && spool.shared && spool.sync === 'none'
      ? [{ path: ['spool', 'sync'], problem: SYNC_NONE_ON_SHARED_SPOOL }]
      : []),
    ...(cluster && spool.shared
      ? [{ path: ['cluster'], relatedPath: ['spool'], problem: CLUSTER_WITH_SHARED_SPOOL }]
      : []),
    ...(cluster ? nodeErrors(cluster).map(({ path, problem }) => ({ path: ['cluster', ...path], problem })) : []),
  ];
}

const SYNC_NONE_ON_SHARED_SPOOL =
  'cannot be none while spool.shared is true: acknowledged bytes would be only in the cache of one machine, where the ' +
  'other nodes cannot read them; use group or always';
const CLUSTER_WITH_SHARED_SPOOL =
  'is not needed while spool.shared is true, since every node has the bytes itself; leave out one of them';

/** Finds settings that the embedded store, which is in the memory of one process, does not support. */
function embeddedStoreErrors({
  spool,
  cluster,
  workers,
}: Pick<Settings, 'spool' | 'cluster' | 'workers'>): SettingIssue[] {
  const type: SettingPath = ['store', 'type'];
  const instead = 'set "store: { type: redis, url: … }", or remove it';
  const oneNodeOnly = `cannot be used with the embedded store, which supports one node only; ${instead}`;
  const rules: [SettingPath, boolean, string][] = [
    [['spool', 'shared'], spool.shared, oneNodeOnly],
    [['cluster'], cluster !== null, oneNodeOnly],
    [
      ['workers'],
      workers !== 1,
      `is ${workers}, but the embedded store keeps records and leases in one process; ${instead}`,
    ],
  ];
  return rules.flatMap(([path, isBroken, problem]) => (isBroken ? [{ path, relatedPath: type, problem }] : []));
}

function nodeErrors({ listen, advertise, secret, secret_file: file, tls }: ClusterSettings): SettingIssue[] {
  const { protocol, hostname } = new URL(advertise);
  const rules: [SettingPath, boolean, string][] = [
    [['listen'], 'port' in listen && listen.port === 0, 'needs a fixed port, because the other nodes must know it'],
    [
      ['advertise'],
      WILDCARD_HOSTS.has(hostname),
      'is not an address to connect to; use the name or address of this node',
    ],
    [['advertise'], tls !== null && protocol === 'http:', 'begins with http:, but `cluster.tls` is set; use https:'],
    [
      ['advertise'],
      tls === null && protocol === 'https:',
      'begins with https:, but `cluster.tls` is not set; use http:',
    ],
    [[], secret === null && file === null, 'needs a secret that all nodes share: set `secret_file` or `secret`'],
  ];
  return [
    ...rules.flatMap(([path, isBroken, problem]) => (isBroken ? [{ path, problem }] : [])),
    ...secretFileErrors('secret', secret, file, { min: MIN_SECRET_LENGTH }),
    ...(tls ? tlsFileErrors(['tls'], tls) : []),
  ];
}

const WILDCARD_HOSTS: ReadonlySet<string> = new Set(['0.0.0.0', '[::]']);
