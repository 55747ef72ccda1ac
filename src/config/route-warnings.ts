import { asksByPath, type Route } from '../model/route.js';
import type { Config } from './config.js';
import type { Contradiction, SettingPath } from './mistake.js';
import type { RouteConfig } from './route-config.js';
import { buildRoutes } from './routes.js';
import type { Settings } from './schema.js';

/** Routes that probably do not do what was meant. */
export function routeWarnings(config: Config, settings: Settings): Contradiction[] {
  const { defaultRoute, routes } = config;
  const inherits = (index: number): boolean => settings.routes?.[index]?.authorize === undefined;
  const top = openInPart([], defaultRoute);
  return [
    ...unreachable(config),
    ...alwaysRefused(config),
    ...openMethods(config),
    ...top,
    ...routes.flatMap(({ route }, index) =>
      top.length > 0 && inherits(index) ? [] : openInPart(['routes', index], route),
    ),
  ];
}

/** A route that asks refuses paths with several readings (`docs/access.md`), be they those of its patterns. */
function alwaysRefused({ routes }: Config): Contradiction[] {
  return routes.flatMap(({ paths, route }, index) => {
    const odd = paths.filter((pattern) => /\/\/|%(?:2F|5C|[01][0-9A-F]|7F)/.test(pattern));
    if (odd.length === 0 || !asksByPath(route)) return [];
    const problem = `has ${odd.join(' and ')}, which is refused with 400 on a route that asks: servers read // and escaped slashes, backslashes and control characters in several ways`;
    return [{ path: ['routes', index, 'match'], problem }];
  });
}

/** The first match wins, and a method that the route does not name is another route's. */
function openMethods({ routes, defaultRoute }: Config): Contradiction[] {
  return routes.flatMap(({ methods, route: { authorize } }, index) => {
    if (!methods || !authorize.forwardAuth || defaultRoute.authorize.forwardAuth) return [];
    const problem = `asks \`forward_auth\` for ${methods.join(', ')} only: every other method goes on to the next route, and a form field such as _method may turn POST into one of these; leave \`methods\` out, unless the others are for everybody`;
    return [{ path: ['routes', index, 'match', 'methods'], problem }];
  });
}

/** Stands for every method that no route names. */
const ANY_METHOD = 'QQQ';

/** The first match wins: a route whose every request is another's before it never gets one. */
function unreachable({ routes, defaultRoute }: Config): Contradiction[] {
  return routes.flatMap((route, index) => {
    const earlier = routes.slice(0, index);
    const samples = samplesOf(route);
    if (earlier.length === 0 || samples.length === 0 || earlier.some(({ paths }) => paths.some(excludes))) return [];
    const before = buildRoutes({ routes: earlier, defaultRoute });
    const takers = (route.methods ?? [ANY_METHOD]).flatMap((method) =>
      samples.map((path) => before.find(method, path).name),
    );
    if (takers.includes(defaultRoute.name)) return [];
    const names = [...new Set(takers)].map((name) => `"${name}"`).join(' and ');
    const problem = `no request reaches this route: ${names} before it ${takers.length === 1 ? 'takes' : 'take'} what it matches; put it first, or leave it out`;
    return [{ path: ['routes', index, 'match'], problem }];
  });
}

/** A pattern that leaves names out may let just those through that the other is about. */
function excludes(pattern: string): boolean {
  return /!\(|\[[!^]/.test(pattern);
}

/** Paths of a route with names that nobody has; none where its patterns are too intricate to tell. */
function samplesOf({ paths, ignoreCase }: RouteConfig): string[] {
  if (paths.some((pattern) => /[[\]()!+@?\\]/.test(pattern))) return [];
  const samples = paths.flatMap(alternatives).flatMap(withNames);
  return ignoreCase ? [...samples, ...samples.map((path) => path.toUpperCase())] : samples;
}

/** `/{a,b}/x` as `/a/x` and `/b/x`. */
function alternatives(pattern: string): string[] {
  const [whole, inner] = /\{([^{}]*)\}/.exec(pattern) ?? [];
  if (whole === undefined || inner === undefined) return [pattern];
  return inner.split(',').flatMap((word) => alternatives(pattern.replace(whole, word)));
}

function withNames(pattern: string): string[] {
  const deep = ['q7z', 'q7z/z7q/q7z.q7z'].map((names) => pattern.replaceAll('**', names).replaceAll('*', 'q7z'));
  // `/a/**` is `/a` too.
  return pattern.endsWith('/**') && pattern.length > 3 ? [...deep, deep[0]!.slice(0, -'/q7z'.length)] : deep;
}

function openInPart(path: SettingPath, { authorize: { forwardAuth }, plainBodies, limits }: Route): Contradiction[] {
  if (forwardAuth?.scope !== 'uploads') return [];
  const open = [
    'requests without a body (GET, DELETE and others)',
    ...(plainBodies === 'pass' ? ['ordinary request bodies (`plain_bodies: pass`)'] : []),
    ...(plainBodies === 'pass' && limits.minSize > 0
      ? [`uploads below ${limits.minSize} bytes (\`limits.min_size\`)`]
      : []),
    'upgrades to other protocols',
  ];
  const problem = `leaves open what forward_auth is not asked for: ${open.join(', ')} reach the origin from everybody; write all, unless the origin asks for itself`;
  return [{ path: [...path, 'authorize', 'scope'], problem }];
}
