import { editDistance } from './explain.js';
import type { Mistake } from './mistake.js';
import { OVERRIDES } from './overrides.js';

type Environment = Readonly<Record<string, string | undefined>>;

const KNOWN: readonly string[] = ['RUFH_PROXY_CONFIG', ...OVERRIDES.map(({ variable }) => variable)];

/** Kubernetes sets these by itself beside services whose names begin so, such as `rufh-proxy` and `rufh-proxy-nodes`. */
const OF_KUBERNETES =
  /^RUFH_PROXY(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)$/;

/** Variables that were probably meant for us and say nothing. `text`: of the configuration, which may name some itself. */
export function misspeltVariables(env: Environment, text = ''): Mistake[] {
  return Object.keys(env)
    .filter((name) => env[name] !== '' && isMeantForUs(name) && !text.includes(`\${${name}`))
    .sort()
    .map((name) => ({ source: name, problem: `there is no such variable; ${hint(name)}` }));
}

function isMeantForUs(name: string): boolean {
  if (KNOWN.includes(name) || OF_KUBERNETES.test(name)) return false;
  return /^RUFH[_-]?PROXY/i.test(name) || KNOWN.some((known) => editDistance(name, known) <= 2);
}

function hint(name: string): string {
  const nearest = KNOWN.map((known) => ({ known, distance: editDistance(name, known) })).sort(
    (a, b) => a.distance - b.distance,
  )[0]!;
  return nearest.distance <= 4
    ? `did you mean ${nearest.known}?`
    : 'those that there are stand in `rufh-proxy serve --help`';
}
