import * as z from 'zod';
import type { CorsRules, Route } from '../model/route.js';
import type { SettingIssue, SettingPath } from './errors.js';
import { boolean, duration, valueType } from './values.js';

/** The settings for web pages of other origins, without defaults: for the top level and for routes. */
export const corsSettings = {
  allow_origins: z
    .array(webOrigin())
    .describe(
      'Web origins whose pages may upload from a browser, as `https://app.example.com`. `*` in a host stands for letters, digits, ' +
        '`-` and `_` of one label (`https://*.example.com`, `https://pr-*.example.com`), and as a port for every port. `*` alone ' +
        'allows every page. Empty: CORS is left to the origin. Pages that are named, also by a pattern, may reach a proxy in a ' +
        'private network.',
    ),
  allow_credentials: boolean().describe('Pages may send cookies and other credentials.'),
  max_age: duration({ maxMs: Infinity }).describe('How long a browser may cache a preflight response.'),
};

type CorsSettings = z.output<z.ZodObject<typeof corsSettings>>;

/** The settings of the whole file in which rules for pages occur. */
interface Settings {
  readonly cors: CorsSettings;
  readonly routes?: readonly { readonly cors?: Partial<CorsSettings> }[];
}

const WEB_ORIGIN = /^([a-z][a-z0-9+.-]*):\/\/([a-z0-9._*-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}|\*))?$/;

const DEFAULT_PORTS: Readonly<Record<string, string>> = { http: '80', https: '443' };

/** An origin in the form that browsers send: in lower case and without a default port; or a pattern, `*` or `null`. */
function webOrigin() {
  return valueType({
    read: readWebOrigin,
    allowed: 'an origin such as https://app.example.com or https://*.example.com, without a path and in ASCII, or *',
    json: { type: 'string', pattern: String.raw`^(\*|null|[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+)$` },
    unit: 'origin',
  });
}

function readWebOrigin(found: unknown): string | undefined {
  if (typeof found !== 'string') return undefined;
  if (found === '*' || found === 'null') return found;
  const [, scheme = '', host, port] = WEB_ORIGIN.exec(found.toLowerCase()) ?? [];
  // A wildcard in the last label would allow every site there is.
  if (host === undefined || host.split('.').at(-1)!.includes('*') || host.includes('**')) return undefined;
  return `${scheme}://${host}${port === undefined || port === DEFAULT_PORTS[scheme] ? '' : `:${port}`}`;
}

/** The rules of a route; undefined if CORS is left to its origin. */
export function toCors({ allow_origins, allow_credentials, max_age }: CorsSettings): CorsRules | undefined {
  if (allow_origins.length === 0) return undefined;
  return {
    allowOrigins: allow_origins,
    allowCredentials: allow_credentials,
    maxAgeSeconds: Math.ceil(max_age / 1000),
  };
}

/** The `cors` settings of the top level and of every route that sets some, each with those that it inherits. */
function corsGroups({ cors, routes = [] }: Settings) {
  return [
    { path: [] as SettingPath, settings: cors, own: cors as Partial<CorsSettings> },
    ...routes.flatMap((route, index) =>
      route.cors ? [{ path: ['routes', index], settings: { ...cors, ...route.cors }, own: route.cors }] : [],
    ),
  ];
}

/** Finds rules that let every page use the credentials of every user. */
export function corsCrossChecks(settings: Settings): SettingIssue[] {
  return corsGroups(settings).flatMap(({ path, settings: { allow_origins, allow_credentials }, own }) => {
    if (!allow_credentials || !allow_origins.includes('*')) return [];
    const [credentials, origins] = ['allow_credentials', 'allow_origins'].map((name) => [...path, 'cors', name]);
    const risk = 'any page could act on behalf of your users; list the origins';
    if (own.allow_credentials === undefined)
      return [{ path: origins!, problem: `cannot contain * when allow_credentials is true: ${risk}` }];
    return [{ path: credentials!, problem: `cannot be true when allow_origins contains *: ${risk}` }];
  });
}

/** Warns about rules that have no effect, or that allow more pages than somebody is likely to own. */
export function corsWarnings(settings: Settings, routes: readonly { readonly route: Route }[]): SettingIssue[] {
  return corsGroups(settings).flatMap(({ path, settings: rules, own }) => {
    const at = (name: string): SettingPath => [...path, 'cors', name];
    const index = path[1];
    const isUnused = typeof index === 'number' && !routes[index]!.route.resumable;
    if (isUnused)
      return [{ path: [...path, 'cors'], problem: 'has no effect: the route is not resumable, so its origin decides' }];
    return [
      ...(own.allow_credentials === true && rules.allow_origins.length === 0
        ? [{ path: at('allow_credentials'), problem: 'has no effect without allow_origins, which is empty' }]
        : []),
      ...(own.allow_origins ?? []).flatMap((origin, at) =>
        originWarning([...path, 'cors', 'allow_origins', at], origin, rules),
      ),
    ];
  });
}

function originWarning(path: SettingPath, origin: string, { allow_credentials }: CorsSettings): SettingIssue[] {
  if (origin === 'null' && allow_credentials) {
    const problem =
      'allows pages without an origin of their own, and every site can make one: with allow_credentials it acts on behalf of your users';
    return [{ path, problem }];
  }
  const [host = ''] = origin.replace(/^.*:\/\//, '').split(':');
  const [last, ...labels] = host.split('.').toReversed();
  if (!labels[0]?.includes('*') || last === 'localhost') return [];
  return [
    {
      path,
      problem: `allows the pages of every site below .${last}; name your domain, as in https://*.example.${last}`,
    },
  ];
}
