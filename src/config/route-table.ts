import picomatch from 'picomatch';
import { METHODS_WITHOUT_CONTENT } from '../model/methods.js';
import { isProtected, type Route, type Routes } from '../model/route.js';
import type { Config } from './config.js';
import type { RouteConfig } from './route.js';

/** A route with its patterns compiled, in two variants: for methods with a body and for those without. */
interface CompiledRoute {
  readonly matchesPath: (path: string) => boolean;
  /** Ignores case, unless the route says that case matters. */
  readonly matchesIgnoringCase: (path: string) => boolean;
  readonly methods?: ReadonlySet<string>;
  readonly resumable: Route;
  readonly passThrough: Route;
}

/** Compiles the routes of a config. The first match wins; without a match the default route applies. */
export function buildRoutes(config: Pick<Config, 'routes' | 'defaultRoute'>): Routes {
  const compiled = config.routes.map(compile);
  const defaultRoute = compile({ paths: ['/**'], route: config.defaultRoute });
  const all = [...compiled, { ...defaultRoute, matchesPath: () => true, matchesIgnoringCase: () => true }];
  const byName = new Map(all.map(({ resumable }) => [resumable.name, resumable]));
  return {
    find: (method, requestPath) => {
      const path = asteriskToRoot(requestPath);
      const route = all.find(({ methods, matchesPath }) => (methods?.has(method) ?? true) && matchesPath(path))!;
      return METHODS_WITHOUT_CONTENT.has(method) ? route.passThrough : route.resumable;
    },
    findIgnoringCase: (method, path) =>
      all.find(
        ({ methods, matchesIgnoringCase }) =>
          (methods?.has(method) ?? true) && matchesIgnoringCase(asteriskToRoot(path)),
      )!.resumable,
    hasProtected: all.some(({ resumable }) => isProtected(resumable)),
    findResumable: (path) => firstResumable(all, asteriskToRoot(path)),
    byName: (name) => byName.get(name),
    all: all.map(({ resumable }) => resumable),
  };
}

/** The path for matching: `*` (of `OPTIONS *`) counts as `/`, because no pattern matches an asterisk. */
function asteriskToRoot(path: string): string {
  return path === '*' ? '/' : path;
}

function compile({ paths, methods, ignoreCase, route }: RouteConfig): CompiledRoute {
  return {
    matchesPath: matcher(paths, ignoreCase === true, route),
    matchesIgnoringCase: matcher(paths, ignoreCase !== false, route),
    // HEAD is GET without the content (RFC 9110 §9.3.2), and applications serve both with one handler.
    ...(methods === undefined ? {} : { methods: new Set(methods.includes('GET') ? [...methods, 'HEAD'] : methods) }),
    resumable: route,
    passThrough: { ...route, resumable: false },
  };
}

/** Matches paths. A protected route `/a/` also matches `/a`, because most servers treat them alike. */
function matcher(paths: readonly string[], nocase: boolean, route: Route): (path: string) => boolean {
  const matches = picomatch([...paths], { dot: true, nocase });
  if (!isProtected(route) || paths.every((pattern) => !/\/[)}]*$/.test(pattern))) return (path) => matches(path);
  return (path) => matches(path) || matches(`${path}/`);
}

/** The first route that matches this path and makes a method resumable that no earlier route handles. */
function firstResumable(routes: readonly CompiledRoute[], path: string): Route | undefined {
  const handledMethods = new Set<string>(METHODS_WITHOUT_CONTENT);
  for (const { matchesPath, methods, resumable } of routes) {
    if (!matchesPath(path)) continue;
    if (resumable.resumable && (!methods || [...methods].some((method) => !handledMethods.has(method))))
      return resumable;
    if (!methods) return undefined;
    methods.forEach((method) => handledMethods.add(method));
  }
  return undefined;
}
