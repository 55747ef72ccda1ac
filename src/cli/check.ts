import { accessSync, constants, statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { assertUsable } from '../app/storage.js';
import type { AdminConfig } from '../config/admin.js';
import type { Config } from '../config/config.js';
import type { ConfigError } from '../config/errors.js';
import {
  type ConfigSources,
  loadConfig,
  loadValidPart,
  settingError,
  type ValidPart,
  withError,
} from '../config/load.js';
import type { RouteConfig } from '../config/route.js';
import type { RedisConfig } from '../config/store.js';
import { formatAddress } from '../config/values.js';
import { reshapesRequest, type Route } from '../model/route.js';
import { printErrors, printWarnings } from './config-errors.js';
import { describeStartupError } from './startup-errors.js';

/** Prints warnings and a summary and exits with 0, or prints every error and exits with 1. */
export async function check(sources: ConfigSources): Promise<void> {
  const loaded = loadConfig(sources);
  const { warnings = [] } = loaded;
  const dataSettings = 'configErrors' in loaded ? validDataSettings(loadValidPart(sources)) : loaded.config;
  const dataProblem = dataSettings && (await dataDirectoryProblem(dataSettings));
  const creationWarning = dataSettings && dataProblem === undefined ? creationProblem(dataSettings) : undefined;
  const toDataError = (problem: string): ConfigError => settingError(sources, ['data'], problem);
  const loadErrors = 'configErrors' in loaded ? loaded.configErrors : [];
  const configErrors = dataProblem === undefined ? loadErrors : withError(loadErrors, toDataError(dataProblem));
  if (configErrors.length > 0) {
    printErrors(configErrors);
    process.exitCode = 1;
  }
  printWarnings([...warnings, ...(creationWarning === undefined ? [] : [toDataError(creationWarning)])]);
  if (configErrors.length === 0 && 'config' in loaded)
    process.stdout.write(`ok\n${configSummary(loaded.config).join('\n')}\n`);
}

/** The settings that decide whether the data directory can be used; without `store` only its permissions are checked. */
type DataSettings = Pick<Config, 'data' | 'admin'> & Partial<Pick<Config, 'store' | 'spool'>>;

/** The settings of the data directory that are valid; undefined if `data` is not. */
function validDataSettings(validPart: ValidPart | undefined): DataSettings | undefined {
  if (!validPart || validPart.hasErrors('data')) return undefined;
  const { data, admin, store, spool } = validPart.config;
  return validPart.hasErrors('store') || validPart.hasErrors('spool') ? { data, admin } : { data, admin, store, spool };
}

/** The reason why startup would refuse the data directory; undefined if there is none. Changes nothing. */
async function dataDirectoryProblem(config: DataSettings): Promise<string | undefined> {
  const { data: directory, store, spool } = config;
  try {
    if (store && spool) await assertUsable({ directory, store: store.type, isShared: spool.shared });
    if (statSync(directory, { throwIfNoEntry: false })) return permissionProblem(directory);
    const ancestor = existingAncestor(directory);
    // `statSync` in newer versions of Node reports a path below a file as missing.
    if (!statSync(ancestor).isDirectory())
      return `${directory} cannot be created: ${ancestor} is not a directory; choose another --data`;
    return KERNEL_FILE_SYSTEMS.has(statfsSync(ancestor).type)
      ? `${directory} does not exist and cannot be created: ${ancestor} is a kernel file system that stores no files; choose another --data`
      : undefined;
  } catch (error) {
    return describeStartupError(error, config);
  }
}

/**
 * The reason why this user could not create a missing directory. It is only a warning, because another user may start
 * the proxy.
 */
function creationProblem({ data }: DataSettings): string | undefined {
  if (statSync(data, { throwIfNoEntry: false })) return undefined;
  const reason = permissionProblem(existingAncestor(data));
  return reason === undefined ? undefined : `${data} does not exist, and this user cannot create it: ${reason}`;
}

/** proc, sysfs, cgroup and cgroup2 (statfs(2)): they refuse new files even if permissions allow root to write. */
const KERNEL_FILE_SYSTEMS: ReadonlySet<number> = new Set([0x9fa0, 0x62656572, 0x27e0eb, 0x63677270]);

/** The closest existing parent of a directory. */
function existingAncestor(directory: string): string {
  const parent = dirname(directory);
  return statSync(parent, { throwIfNoEntry: false }) || parent === dirname(parent) ? parent : existingAncestor(parent);
}

function permissionProblem(directory: string): string | undefined {
  try {
    accessSync(directory, constants.R_OK | constants.W_OK | constants.X_OK);
    return undefined;
  } catch (error) {
    return `${directory} is not writable for this user (${(error as NodeJS.ErrnoException).code})`;
  }
}

/** Summary of what would be served, one line per part, without passwords. */
export function configSummary(config: Config): string[] {
  const listeners = config.listeners.map(({ address, tls, http2 }) => {
    return `${formatAddress(address)} (${tls ? 'https' : 'http'}${http2 ? ', HTTP/2' : ''})`;
  });
  const rest = config.routes.length === 0 ? 'every path' : 'everything else';
  return [
    `listen    ${listeners.join(', ')}`,
    `admin     ${config.admin ? adminSummary(config.admin) : 'none'}`,
    `data      ${config.data}`,
    `store     ${config.store.type === 'embedded' ? 'embedded, for one process' : redisSummary(config.store)}`,
    `spool     ${config.spool.shared ? 'local, shared by all nodes' : 'local'}, sync: ${config.spool.sync}`,
    ...clusterSummary(config),
    `workers   ${config.workers}`,
    ...config.routes.map(routeSummary),
    `route     ${rest} ${routeTarget(config.defaultRoute)}`,
  ];
}

function adminSummary({ address, token, open }: AdminConfig): string {
  const exceptions = open.length > 0 ? `, except ${open.join(' and ')}` : '';
  return `${formatAddress(address)} (${token === undefined ? 'no token' : `with a token${exceptions}`})`;
}

function redisSummary(store: RedisConfig): string {
  const { kind, masterName, socketPath, tls, username, password, database, prefix, replicas } = store;
  const servers =
    socketPath ?? store.nodes.map(({ host, port }) => formatAddress({ kind: 'tcp', host, port })).join(', ');
  const topology = { single: '', sentinel: `master ${masterName ?? ''} of Sentinels `, cluster: 'Cluster with ' }[kind];
  return [
    `redis, ${topology}${servers}`,
    ...(tls ? ['TLS'] : []),
    ...(username === undefined ? [] : [`user ${username}`]),
    ...(password === undefined ? ['no password'] : []),
    ...(kind === 'cluster' ? [] : [`database ${database}`]),
    `prefix ${prefix}`,
    ...(replicas === 0 ? [] : [`confirmed by replicas: ${replicas}`]),
  ].join(', ');
}

/** How other nodes reach the bytes of this one; empty with the embedded store or a shared spool. */
function clusterSummary({ store, spool, cluster }: Config): string[] {
  if (store.type === 'embedded' || spool.shared) return [];
  if (!cluster) return ['cluster   none: this must be the only node, because no other can read its bytes'];
  const safety = cluster.tls ? 'signed, mutual TLS' : 'signed, without TLS';
  return [`cluster   ${cluster.advertise}, listening on ${formatAddress(cluster.listen)} (${safety})`];
}

function routeSummary({ paths, methods, route }: RouteConfig): string {
  const requests = [...(methods ? [methods.join(' ')] : []), paths.join(' ')].join(' ');
  return `route     ${requests} ${routeTarget(route)}`;
}

function routeTarget(route: Route): string {
  return `-> ${route.origin}${route.resumable ? ', resumable' : ''}${plainBodies(route)}${allowedPages(route)}`;
}

/** The pages of other origins that may upload, of a route that has uploads. */
function allowedPages({ cors, resumable }: Route): string {
  if (!cors || !resumable) return '';
  const pages = cors.allowOrigins.includes('*') ? 'every page' : `pages of ${cors.allowOrigins.join(' ')}`;
  return `, ${pages} may upload${cors.allowCredentials ? ' with credentials' : ''}`;
}

/** The treatment of ordinary bodies on a route, with the settings that do not apply to them. */
function plainBodies({ plainBodies: handling, delivery, limits, resumable }: Route): string {
  if (handling === 'spool') return ', ordinary bodies go through the spool';
  if (handling === 'refuse') return ', ordinary bodies are refused';
  const bypassed = [
    ...(delivery.gate ? ['gate'] : []),
    ...(reshapesRequest(delivery) ? ['framing, target and method'] : []),
  ];
  const limited = limits.maxSize === undefined ? '' : `, bodies up to ${limits.maxSize} bytes`;
  if (!resumable || bypassed.length === 0) return limited;
  return `${limited}, ordinary bodies pass: ${bypassed.join(', ')} apply to uploads only`;
}
