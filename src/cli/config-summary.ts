import type { AdminConfig } from '../config/admin-settings.js';
import type { Config } from '../config/config.js';
import type { RouteConfig } from '../config/route-config.js';
import { formatAddress } from '../config/scalars.js';
import type { RedisConfig } from '../config/store-config.js';
import { reshapes, type Route } from '../model/route.js';

/** What would be served, a line for each part; without passwords. */
export function configSummary(config: Config): string[] {
  const listeners = config.listeners.map(({ address, tls, http2 }) => {
    return `${formatAddress(address)} (${tls ? 'https' : 'http'}${http2 ? ', HTTP/2' : ''})`;
  });
  const rest = config.routes.length === 0 ? 'every path' : 'everything else';
  return [
    `listen    ${listeners.join(', ')}`,
    `admin     ${config.admin ? operators(config.admin) : 'none'}`,
    `data      ${config.data}`,
    `store     ${config.store.type === 'embedded' ? 'embedded, for one process' : redis(config.store)}`,
    `spool     ${config.spool.shared ? 'local, shared by all nodes' : 'local'}, sync: ${config.spool.sync}`,
    ...nodes(config),
    `workers   ${config.workers}`,
    ...config.routes.map(describeRoute),
    `route     ${rest} ${describe(config.defaultRoute)}`,
  ];
}

function operators({ address, token, open }: AdminConfig): string {
  const openly = open.length > 0 ? `, but for ${open.join(' and ')}` : '';
  return `${formatAddress(address)} (${token === undefined ? 'no token' : `with a token${openly}`})`;
}

function redis(store: RedisConfig): string {
  const { kind, masterName, socketPath, tls, username, password, database, prefix, replicas } = store;
  const servers =
    socketPath ?? store.nodes.map(({ host, port }) => formatAddress({ kind: 'tcp', host, port })).join(', ');
  const as = { single: '', sentinel: `master ${masterName ?? ''} of Sentinels `, cluster: 'Cluster with ' }[kind];
  return [
    `redis, ${as}${servers}`,
    ...(tls ? ['TLS'] : []),
    ...(username === undefined ? [] : [`user ${username}`]),
    ...(password === undefined ? ['no password'] : []),
    ...(kind === 'cluster' ? [] : [`database ${database}`]),
    `prefix ${prefix}`,
    ...(replicas === 0 ? [] : [`confirmed by replicas: ${replicas}`]),
  ].join(', ');
}

/** How other nodes get at the bytes here; one process alone has none. */
function nodes({ store, spool, cluster }: Config): string[] {
  if (store.type === 'embedded' || spool.shared) return [];
  if (!cluster) return ['cluster   none: this is the only node, no other can reach the bytes here'];
  const safety = cluster.tls ? 'signed, TLS with certificates of both sides' : 'signed, without TLS';
  return [`cluster   ${cluster.advertise}, listening on ${formatAddress(cluster.listen)} (${safety})`];
}

function describeRoute({ paths, methods, route }: RouteConfig): string {
  const which = [...(methods ? [methods.join(' ')] : []), paths.join(' ')].join(' ');
  return `route     ${which} ${describe(route)}`;
}

function describe(route: Route): string {
  return `-> ${route.origin}${route.resumable ? ', resumable' : ''}${plainBodies(route)}`;
}

/** Tells how a route treats bodies that are no uploads, and which of its settings do not hold for them. */
function plainBodies({ plainBodies: handling, delivery, limits, resumable }: Route): string {
  if (handling === 'spool') return ', ordinary bodies go through the spool';
  if (handling === 'refuse') return ', ordinary bodies are refused';
  const open = [...(delivery.gate ? ['gate'] : []), ...(reshapes(delivery) ? ['framing, target and method'] : [])];
  const limited = limits.maxSize === undefined ? '' : `, bodies up to ${limits.maxSize} bytes`;
  if (!resumable || open.length === 0) return limited;
  return `${limited}, ordinary bodies pass: ${open.join(', ')} hold for uploads only`;
}
