import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { isIdempotentMethod } from '../model/methods.js';
import { DEFAULT_CREDENTIALS } from '../model/client-fields.js';
import { dependsOnPath, maxEagerDeliveries, type Route } from '../model/route.js';
import { adminWarnings } from './admin.js';
import type { Config } from './config.js';
import { corsWarnings } from './cors.js';
import type { SettingIssue, SettingPath } from './errors.js';
import { history as historySchema } from './history-schema.js';
import { buildRoutes } from './route-table.js';
import type { RouteConfig } from './route.js';
import type { Settings } from './schema.js';
import { exposedSecretWarnings } from './secrets.js';

/** Finds settings that are valid but probably not intended. */
export function findWarnings(config: Config, settings: Settings): SettingIssue[] {
  const { defaultRoute, routes } = config;
  return [
    ...adminWarnings(settings.admin),
    ...secretFiles(settings).flatMap(({ path, file }) => exposedSecretWarnings(path, file)),
    ...trustsEveryAddress(config),
    ...historyWithRedis(settings),
    ...routeWarnings(config, settings),
    ...corsWarnings(settings, routes),
    ...onceIfInherited(config, neverEager),
    ...onceIfInherited(config, bypassesGate),
    ...onceIfInherited(config, boundToRenewedCredential),
    ...onceIfInherited(config, gateNotExecutable),
    ...onceIfInherited(config, bindingNotForwarded),
    ...gatewayStatusRetries([], defaultRoute),
    ...routes.flatMap(({ route, methods }, index) => gatewayStatusRetries(['routes', index], route, methods)),
  ];
}

/** Warns if every address is trusted: any client could then forge its address and the host it requested. */
function trustsEveryAddress({ trustedProxies }: Config): SettingIssue[] {
  return trustedProxies.flatMap(({ cidr }, index) => {
    if (!cidr.endsWith('/0')) return [];
    const problem = `trusts every address (${cidr}): any client can forge its address; list the addresses of your proxies`;
    return [{ path: ['trusted_proxies', index], problem }];
  });
}

/** Warns about settings for histories where none are kept. */
function historyWithRedis({ store, history }: Settings): SettingIssue[] {
  const defaults = historySchema.parse({});
  const isChanged = history.keep !== defaults.keep || history.max_bytes !== defaults.max_bytes;
  if (store.type === 'embedded' || !isChanged || history.keep === 0) return [];
  return [{ path: ['history'], problem: 'has no effect: with `store.type: redis` histories of uploads are not kept' }];
}

function secretFiles({ store, cluster, secrets }: Settings): { path: SettingPath; file: string | null }[] {
  return [
    { path: ['store', 'password_file'], file: store.password_file },
    { path: ['store', 'sentinel', 'password_file'], file: store.sentinel?.password_file ?? null },
    { path: ['secrets', 'keys_file'], file: secrets.keys_file },
    { path: ['cluster', 'secret_file'], file: cluster?.secret_file ?? null },
  ];
}

/** Warnings for all routes. If the top level has the problem, it is reported only there, because routes inherit it. */
function onceIfInherited(
  { defaultRoute, routes }: Config,
  find: (path: SettingPath, route: Route) => SettingIssue[],
): SettingIssue[] {
  const top = find([], defaultRoute);
  return [...top, ...routes.flatMap(({ route }, index) => (top.length > 0 ? [] : find(['routes', index], route)))];
}

function neverEager(path: SettingPath, { delivery }: Route): SettingIssue[] {
  if (delivery.mode !== 'eager' || maxEagerDeliveries(delivery) > 0) return [];
  const problem =
    `is eager, which has no effect: eager deliveries get half of \`concurrency\`, rounded down, and half of ${delivery.concurrency} is 0. ` +
    'Set `concurrency` to 2 or more, or use spool';
  return [{ path: [...path, 'delivery', 'mode'], relatedPath: [...path, 'delivery', 'concurrency'], problem }];
}

/** Warns even if it is intended, because a later reader of the file would assume that the gate sees everything. */
function bypassesGate(path: SettingPath, { delivery, plainBodies, resumable }: Route): SettingIssue[] {
  if (!delivery.gate || plainBodies !== 'pass' || !resumable) return [];
  const problem = 'is pass, so ordinary request bodies reach the origin without the gate; use spool, or remove it';
  return [{ path: [...path, 'plain_bodies'], relatedPath: [...path, 'delivery', 'gate'], problem }];
}

function boundToRenewedCredential(path: SettingPath, { bindTo }: Route): SettingIssue[] {
  if (bindTo === 'principal') return [];
  return bindTo.flatMap((name, index) => {
    if (!/^(?:authorization|cookie)$/i.test(name)) return [];
    const problem = `contains ${name}, which clients renew: a client that does so loses its upload; name an API key, or use principal`;
    return [{ path: [...path, 'bind_to', index], problem }];
  });
}

/**
 * Warns if the gate's program cannot be run, since all uploads would wait. It is not an error, because the program may
 * exist where the proxy runs.
 */
function gateNotExecutable(path: SettingPath, { delivery: { gate } }: Route): SettingIssue[] {
  if (gate?.kind !== 'command') return [];
  const [program = ''] = gate.command;
  if (candidatePaths(program).some(isExecutable)) return [];
  const problem = `names ${program}, which this user cannot run on this machine: every upload would wait`;
  return [{ path: [...path, 'delivery', 'gate', 'command'], problem }];
}

function candidatePaths(program: string): string[] {
  if (program.includes('/')) return [program];
  return (process.env['PATH'] ?? '').split(delimiter).map((directory) => join(directory, program));
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Warns if a binding field is not one of the credentials: the origin would see one client in that field and another in
 * `Authorization`.
 */
function bindingNotForwarded(path: SettingPath, { bindTo, authorize, delivery }: Route): SettingIssue[] {
  if (!authorize.recheck || bindTo === 'principal') return [];
  const credentials = delivery.credentials ?? DEFAULT_CREDENTIALS;
  return bindTo.flatMap((name, index) => {
    if (credentials.includes(name.toLowerCase())) return [];
    const problem = `identifies clients by ${name}, which keeps the value of the creation when another client completes the upload; add it to \`delivery.credentials\``;
    return [{ path: [...path, 'bind_to', index], relatedPath: [...path, 'authorize', 'recheck'], problem }];
  });
}

/** Warns if `retry_on` repeats requests that the guarantee would not repeat. */
function gatewayStatusRetries(path: SettingPath, { delivery }: Route, methods?: readonly string[]): SettingIssue[] {
  const { guarantee, method, retry } = delivery;
  const sentMethods = method === undefined ? methods : [method];
  const isAlwaysIdempotent = sentMethods?.every(isIdempotentMethod) ?? false;
  if (guarantee === 'at_least_once' || (guarantee === undefined && isAlwaysIdempotent)) return [];
  const gatewayStatuses = (retry.retryOn ?? []).filter((status) => status >= 500 && status !== 503);
  if (gatewayStatuses.length === 0) return [];
  const repeated = guarantee === undefined ? 'a POST or PATCH' : 'an upload with at_most_once';
  const problem =
    `has ${gatewayStatuses.join(' and ')}, which gateways send while the origin may still be working: ${repeated} may be delivered ` +
    'twice. Remove it, or set `guarantee: at_least_once` if the origin recognizes a repeated request';
  return [{ path: [...path, 'delivery', 'retry', 'retry_on'], problem }];
}

/** Finds routes that probably do not do what was intended. */
function routeWarnings(config: Config, settings: Settings): SettingIssue[] {
  const { defaultRoute, routes } = config;
  const inherits = (index: number): boolean => settings.routes?.[index]?.authorize === undefined;
  const top = partlyUnprotected([], defaultRoute);
  return [
    ...unreachableRoutes(config),
    ...alwaysRefused(config),
    ...unprotectedMethods(config),
    ...top,
    ...routes.flatMap(({ route }, index) =>
      top.length > 0 && inherits(index) ? [] : partlyUnprotected(['routes', index], route),
    ),
  ];
}

/** A route with access checks refuses ambiguous paths (`docs/access.md`), even those of its own patterns. */
function alwaysRefused({ routes }: Config): SettingIssue[] {
  return routes.flatMap(({ paths, route }, index) => {
    const ambiguous = paths.filter((pattern) => /\/\/|%(?:2F|5C|[01][0-9A-F]|7F)/.test(pattern));
    if (ambiguous.length === 0 || !dependsOnPath(route)) return [];
    const problem = `has ${ambiguous.join(' and ')}, which a route with access checks refuses with 400: servers interpret // and escaped slashes, backslashes and control characters differently`;
    return [{ path: ['routes', index, 'match'], problem }];
  });
}

/** Warns if `forward_auth` covers some methods only: other methods go on to the next route. */
function unprotectedMethods({ routes, defaultRoute }: Config): SettingIssue[] {
  return routes.flatMap(({ methods, route: { authorize } }, index) => {
    if (!methods || !authorize.forwardAuth || defaultRoute.authorize.forwardAuth) return [];
    const problem = `asks \`forward_auth\` for ${methods.join(', ')} only: other methods go on to the next route unchecked, and a form field such as _method may turn a POST into one of these; remove \`methods\`, unless the other methods are public`;
    return [{ path: ['routes', index, 'match', 'methods'], problem }];
  });
}

/** Represents every method that no route names. */
const ANY_METHOD = 'QQQ';

/** Finds routes that no request reaches, because earlier routes match everything that they match. */
function unreachableRoutes({ routes, defaultRoute }: Config): SettingIssue[] {
  return routes.flatMap((route, index) => {
    const earlier = routes.slice(0, index);
    const samples = samplePaths(route);
    if (earlier.length === 0 || samples.length === 0 || earlier.some(({ paths }) => paths.some(isNegated))) return [];
    const earlierRoutes = buildRoutes({ routes: earlier, defaultRoute });
    const matchedRoutes = (route.methods ?? [ANY_METHOD]).flatMap((method) =>
      samples.map((path) => earlierRoutes.find(method, path).name),
    );
    if (matchedRoutes.includes(defaultRoute.name)) return [];
    const names = [...new Set(matchedRoutes)].map((name) => `"${name}"`).join(' and ');
    const problem = `no request reaches this route, because everything it matches is already matched by ${names}; move it up, or remove it`;
    return [{ path: ['routes', index, 'match'], problem }];
  });
}

/** Whether a pattern excludes names; those may be the ones that the later route matches. */
function isNegated(pattern: string): boolean {
  return /!\(|\[[!^]/.test(pattern);
}

/** Sample paths with made-up names that match a route; empty if its patterns are too complex. */
function samplePaths({ paths, ignoreCase }: RouteConfig): string[] {
  if (paths.some((pattern) => /[[\]()!+@?\\]/.test(pattern))) return [];
  const samples = paths.flatMap(expandBraces).flatMap(fillWildcards);
  return ignoreCase ? [...samples, ...samples.map((path) => path.toUpperCase())] : samples;
}

/** Returns `/a/x` and `/b/x` for `/{a,b}/x`. */
function expandBraces(pattern: string): string[] {
  const [braces, inner] = /\{([^{}]*)\}/.exec(pattern) ?? [];
  if (braces === undefined || inner === undefined) return [pattern];
  return inner.split(',').flatMap((word) => expandBraces(pattern.replace(braces, word)));
}

/** Fills the wildcards with names that no real pattern is likely to contain. */
function fillWildcards(pattern: string): string[] {
  const filled = ['q7z', 'q7z/z7q/q7z.q7z'].map((names) => pattern.replaceAll('**', names).replaceAll('*', 'q7z'));
  // `/a/**` also matches `/a`.
  return pattern.endsWith('/**') && pattern.length > 3 ? [...filled, filled[0]!.slice(0, -'/q7z'.length)] : filled;
}

function partlyUnprotected(
  path: SettingPath,
  { authorize: { forwardAuth }, plainBodies, limits }: Route,
): SettingIssue[] {
  if (forwardAuth?.scope !== 'uploads') return [];
  const unchecked = [
    'requests without a body (GET, DELETE and others)',
    ...(plainBodies === 'pass' ? ['ordinary request bodies (`plain_bodies: pass`)'] : []),
    ...(plainBodies === 'pass' && limits.minSize > 0
      ? [`uploads below ${limits.minSize} bytes (\`limits.min_size\`)`]
      : []),
    'upgrades to other protocols',
  ];
  const problem = `leaves some requests unchecked: ${unchecked.join(', ')} reach the origin without forward_auth; use all, unless the origin checks them itself`;
  return [{ path: [...path, 'authorize', 'scope'], problem }];
}
