import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { eagerTurns, type Route } from '../model/route.js';
import { adminWarnings } from './admin-settings.js';
import type { Config } from './config.js';
import type { Contradiction, SettingPath } from './mistake.js';
import { routeWarnings } from './route-warnings.js';
import type { Settings } from './schema.js';
import { exposedSecret } from './secret.js';

/** Settings that work, and probably do not do what was meant. */
export function warnings(config: Config, settings: Settings): Contradiction[] {
  const { defaultRoute, routes } = config;
  return [
    ...adminWarnings(settings.admin),
    ...secretFiles(settings).flatMap(({ path, file }) => exposedSecret(path, file)),
    ...trustsEverybody(config),
    ...routeWarnings(config, settings),
    ...everyRoute(config, neverEager),
    ...everyRoute(config, passesTheGate),
    ...everyRoute(config, boundByToken),
    ...everyRoute(config, gateIsMissing),
    ...everyRoute(config, staysWithCreation),
    ...repeatedByGateways([], defaultRoute),
    ...routes.flatMap(({ route, methods }, index) => repeatedByGateways(['routes', index], route, methods)),
  ];
}

/** Any client could then say where it comes from, and what it calls this server. */
function trustsEverybody({ trustedProxies }: Config): Contradiction[] {
  return trustedProxies.flatMap(({ cidr }, index) => {
    if (!cidr.endsWith('/0')) return [];
    const problem = `trusts every address (${cidr}): any client can say where it comes from; name the addresses of your proxies`;
    return [{ path: ['trusted_proxies', index], problem }];
  });
}

function secretFiles({ store, cluster }: Settings): { path: SettingPath; file: string | null }[] {
  return [
    { path: ['store', 'password_file'], file: store.password_file },
    { path: ['store', 'sentinel', 'password_file'], file: store.sentinel?.password_file ?? null },
    { path: ['cluster', 'secret_file'], file: cluster?.secret_file ?? null },
  ];
}

/** The warnings of all routes, each once where its cause stands: a setting that routes inherit is warned of at the top. */
function everyRoute(
  { defaultRoute, routes }: Config,
  find: (path: SettingPath, route: Route) => Contradiction[],
): Contradiction[] {
  const top = find([], defaultRoute);
  return [...top, ...routes.flatMap(({ route }, index) => (top.length > 0 ? [] : find(['routes', index], route)))];
}

function neverEager(path: SettingPath, { delivery }: Route): Contradiction[] {
  if (delivery.mode !== 'eager' || eagerTurns(delivery) > 0) return [];
  const problem =
    'is eager, and no delivery ever is: eager ones take half of `concurrency`, rounded down, which is none of ' +
    `${delivery.concurrency}. Allow the origin 2 requests or more, or write spool`;
  return [{ path: [...path, 'delivery', 'mode'], against: [...path, 'delivery', 'concurrency'], problem }];
}

/** Told also where it is meant: who reads the file later takes the gate for one that sees all. */
function passesTheGate(path: SettingPath, { delivery, plainBodies, resumable }: Route): Contradiction[] {
  if (!delivery.gate || plainBodies !== 'pass' || !resumable) return [];
  const problem =
    'is pass, so that ordinary request bodies reach the origin without the gate; write spool, or leave it out';
  return [{ path: [...path, 'plain_bodies'], against: [...path, 'delivery', 'gate'], problem }];
}

function boundByToken(path: SettingPath, { bindTo }: Route): Contradiction[] {
  if (bindTo === 'principal') return [];
  return bindTo.flatMap((name, index) => {
    if (!/^(?:authorization|cookie)$/i.test(name)) return [];
    const problem = `names ${name}, which clients renew: whoever does loses the upload; name an API key, or write principal`;
    return [{ path: [...path, 'bind_to', index], problem }];
  });
}

/** Every upload would wait for such a gate. Only a warning: the program may be there where the proxy runs. */
function gateIsMissing(path: SettingPath, { delivery: { gate } }: Route): Contradiction[] {
  if (gate?.kind !== 'command') return [];
  const [program = ''] = gate.command;
  if (placesOf(program).some(isExecutable)) return [];
  const problem = `names ${program}, which this user cannot run here: every upload would wait for it`;
  return [{ path: [...path, 'delivery', 'gate', 'command'], problem }];
}

function placesOf(program: string): string[] {
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

const DEFAULT_CREDENTIALS = ['authorization', 'cookie'];

/** The origin would hear of one client in `Authorization` and of another in such a field. */
function staysWithCreation(path: SettingPath, { bindTo, authorize, delivery }: Route): Contradiction[] {
  if (!authorize.recheck || bindTo === 'principal') return [];
  const credentials = delivery.credentials ?? DEFAULT_CREDENTIALS;
  return bindTo.flatMap((name, index) => {
    if (credentials.includes(name.toLowerCase())) return [];
    const problem = `says who a client is by ${name}, which stays that of the creation when another client completes the upload; add it to \`delivery.credentials\``;
    return [{ path: [...path, 'bind_to', index], against: [...path, 'authorize', 'recheck'], problem }];
  });
}

/** RFC 9110 §9.2.2. */
const IDEMPOTENT = new Set(['PUT', 'DELETE']);

/** A list of its own may repeat what the guarantee would not. */
function repeatedByGateways(path: SettingPath, { delivery }: Route, methods?: readonly string[]): Contradiction[] {
  const { guarantee, method, retry } = delivery;
  const sent = method === undefined ? methods : [method];
  const isAlwaysIdempotent = sent?.every((each) => IDEMPOTENT.has(each)) ?? false;
  if (guarantee === 'at_least_once' || (guarantee === undefined && isAlwaysIdempotent)) return [];
  const doubtful = (retry.retryOn ?? []).filter((status) => status >= 500 && status !== 503);
  if (doubtful.length === 0) return [];
  const whose = guarantee === undefined ? 'a POST or PATCH' : 'with at_most_once an upload';
  const problem =
    `has ${doubtful.join(' and ')}, which gateways say while the origin is still at work: ${whose} may be delivered ` +
    'twice. Leave it out, or set `guarantee: at_least_once` if the origin takes a second request for the first';
  return [{ path: [...path, 'delivery', 'retry', 'retry_on'], problem }];
}
