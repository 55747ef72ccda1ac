import { accessSync, constants, readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { Config, ListenerConfig } from './config.js';
import type { SettingPath } from './mistake.js';
import { DEFAULT_ROUTE } from './route-config.js';
import { routeContradictions, type Contradiction } from './route-contradictions.js';
import { formatAddress, type Address } from './scalars.js';

/** Everything that the schema cannot see. Reads the files that the settings name, and changes nothing. */
export function contradictions(config: Config): Contradiction[] {
  return [
    ...sameAddress(config),
    ...config.listeners.flatMap(unusableTls),
    ...routeContradictions([], config.defaultRoute),
    ...config.routes.flatMap(({ route }, index) => routeContradictions(['routes', index], route)),
    ...sameName(config),
    ...corsForAll(config),
    ...windows(config),
  ];
}

function sameAddress({ listeners, admin }: Config): Contradiction[] {
  const all = listeners.map(({ address }, index): { address: Address; path: SettingPath } => ({
    address,
    path: ['listen', index],
  }));
  const chosenAdmin = admin && !admin.anyPortWillDo ? [{ address: admin.address, path: ['admin'] as SettingPath }] : [];
  const every = [...all, ...chosenAdmin];
  return every.flatMap(({ address, path }, index) => {
    const other = every.slice(0, index).find((earlier) => collide(earlier.address, address));
    if (!other) return [];
    const who = path[0] === 'admin' ? 'the admin listener needs an address of its own; ' : '';
    return [{ path, against: other.path, problem: `${who}${formatAddress(other.address)} is listened on already` }];
  });
}

/** Two listeners cannot have one address; a wildcard host takes the port of every host of its family. */
function collide(a: Address, b: Address): boolean {
  if (a.kind === 'unix' || b.kind === 'unix')
    return a.kind === b.kind && 'path' in a && 'path' in b && a.path === b.path;
  if (a.port !== b.port || a.port === 0) return false;
  const hosts = [a.host, b.host];
  return (
    a.host === b.host ||
    hosts.includes('::') ||
    (hosts.includes('0.0.0.0') && !hosts.some((host) => host.includes(':')))
  );
}

function unusableTls({ tls }: ListenerConfig, index: number): Contradiction[] {
  if (!tls) return [];
  const path = ['listen', index, 'tls'];
  const unreadable = (['cert', 'key'] as const).flatMap((which) => {
    const problem = unreadableFile(tls[which]);
    return problem === undefined ? [] : [{ path: [...path, which], problem }];
  });
  if (unreadable.length > 0) return unreadable;
  try {
    createSecureContext({ cert: readFileSync(tls.cert), key: readFileSync(tls.key) });
    return [];
  } catch (error) {
    const why = (error as Error).message;
    return [{ path, problem: `certificate and key cannot be used together: ${why}` }];
  }
}

function unreadableFile(file: string): string | undefined {
  try {
    accessSync(file, constants.R_OK);
    return undefined;
  } catch (error) {
    return `cannot read ${file}: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}`;
  }
}

/** Uploads remember their route by its name. */
function sameName({ routes }: Config): Contradiction[] {
  return routes.flatMap(({ route }, index) => {
    const path = ['routes', index];
    if (route.name === DEFAULT_ROUTE) {
      return [
        { path: [...path, 'name'], problem: `"${DEFAULT_ROUTE}" is the name of what no route matches; choose another` },
      ];
    }
    const first = routes.findIndex((other) => other.route.name === route.name);
    if (first === index) return [];
    return [{ path, problem: `has the same name as routes[${first}], "${route.name}"; give it a \`name\` of its own` }];
  });
}

function corsForAll({ cors }: Config): Contradiction[] {
  if (!cors.allowCredentials || !cors.allowOrigins.includes('*')) return [];
  const problem = 'cannot be true while allow_origins has *: any page could act for your users; name the origins';
  return [{ path: ['cors', 'allow_credentials'], problem }];
}

function windows({ http2 }: Config): Contradiction[] {
  if (http2.streamWindowBytes <= http2.sessionWindowBytes) return [];
  const problem = `is ${http2.sessionWindowBytes}, less than stream_window, which is ${http2.streamWindowBytes}`;
  return [{ path: ['http2', 'session_window'], problem }];
}
