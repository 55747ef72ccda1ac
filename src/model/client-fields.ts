import type { HeaderLine, Headers } from './headers.js';
import type { Authorize, Route } from './route.js';

/** What a route says of the fields of its clients. */
export interface FieldRules extends Partial<Pick<Route, 'passesUnderscores'>> {
  readonly authorize?: Pick<Authorize, 'forwardAuth'>;
}

/** The authorization service decides by these, so that it gets them even where its own answer replaces them at the origin. */
const CREDENTIALS: ReadonlySet<string> = new Set(['authorization', 'cookie']);

/**
 * One key for all spellings of a field name that an application may take for the same field: CGI, WSGI and PHP read
 * fields from variables, where a character that is neither letter nor digit becomes `_`.
 */
export function fieldKey(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, '-');
}

/** The lines without every spelling of the names whose keys are in `keys`. */
export function withoutSpellings(headers: Headers, keys: ReadonlySet<string>): HeaderLine[] {
  return headers.filter(([name]) => !keys.has(fieldKey(name)));
}

/** What a client may say on this route: no names with `_`, and none that the authorization service speaks by. */
export function clientFields(headers: Headers, route: FieldRules): HeaderLine[] {
  const reserved = reservedKeys(route);
  return headers.filter(
    ([name]) => mayPass(name, route) && (CREDENTIALS.has(name.toLowerCase()) || !reserved.has(fieldKey(name))),
  );
}

/** The same for lines that go to the origin as they are: there the service replaces credentials too. */
export function originFields(headers: Headers, route: FieldRules): HeaderLine[] {
  const reserved = reservedKeys(route);
  return headers.filter(([name]) => mayPass(name, route) && !reserved.has(fieldKey(name)));
}

function mayPass(name: string, { passesUnderscores }: FieldRules): boolean {
  return passesUnderscores === true || !name.includes('_');
}

function reservedKeys({ authorize }: FieldRules): ReadonlySet<string> {
  const forwardAuth = authorize?.forwardAuth;
  if (!forwardAuth) return NONE;
  return new Set([...forwardAuth.copyHeaders, forwardAuth.principalHeader].map(fieldKey));
}

const NONE: ReadonlySet<string> = new Set();
