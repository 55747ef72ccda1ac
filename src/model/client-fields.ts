import { type HeaderLine, type Headers, linesThat } from './headers.js';
import { remembered } from './remembered.js';
import type { Authorize, Route } from './route.js';

/** The rules of a route for the fields of its clients. */
export interface FieldRules extends Partial<
  Pick<Route, 'passesUnderscores' | 'trustsTargetOverrides' | 'reservedNames'>
> {
  readonly authorize?: Pick<Authorize, 'forwardAuth'>;
  readonly delivery?: CredentialRules;
}

/** Keys (`fieldKey`) of the X-Forwarded fields with which proxies name the user. */
export const FORWARDED_IDENTITY_FIELD =
  /^x-forwarded-(?:user|name|email|groups?|roles?|preferred-username|access-token|id-token)$/;

/**
 * Keys (`fieldKey`) of the fields with which proxies and authorization services name the user to applications
 * (Authelia, oauth2-proxy, Authentik, Vouch, Google's and Microsoft's proxies and others). If any route has an
 * authorization service, clients may set them on no route, copied or not.
 */
const IDENTITY_FIELDS: readonly RegExp[] = [
  /^(?:x-)?remote-(?:user|name|email|groups?|roles?|uid|full-name|preferred-username)$/,
  /^(?:x-)?auth-(?:user|username|user-name|email|name|groups?|roles?)$/,
  /^x-(?:auth-request|authentik|authelia|webauth|vouch|pomerium|token-user|goog-authenticated-user|amzn-oidc)-.+$/,
  /^x-ms-client-principal(?:-.+)?$/,
  /^(?:cf-access-authenticated-user|tailscale-user)-.+$/,
  FORWARDED_IDENTITY_FIELD,
];

/** Whether services name the user in the field with this key (`fieldKey`). */
export const isIdentityField = remembered((key) => IDENTITY_FIELDS.some((names) => names.test(key)));

/** Lower-case names of the fields with credentials, unless a route configures others. */
export const DEFAULT_CREDENTIALS: readonly string[] = ['authorization', 'cookie'];

/** The lines of a request that are credentials on its route. */
export function credentialsIn(headers: Headers, { credentials = DEFAULT_CREDENTIALS }: CredentialRules): HeaderLine[] {
  return headers.filter(([name]) => credentials.includes(name.toLowerCase()));
}

/** The rules of a route for credentials. */
export interface CredentialRules {
  /** Lower-case names of the fields with credentials; missing: `DEFAULT_CREDENTIALS`. */
  readonly credentials?: readonly string[];
}

/**
 * One key for all field names that an application may read as the same field: CGI, WSGI and PHP turn fields into
 * variables, where every character that is neither letter nor digit becomes `_`.
 */
export const fieldKey = remembered((name) => name.toLowerCase().replace(/[^a-z0-9]/g, '-'));

/** The lines whose names have none of these keys (`fieldKey`). */
export function withoutSpellings(headers: Headers, keys: ReadonlySet<string>): HeaderLine[] {
  return headers.filter(([name]) => !keys.has(fieldKey(name)));
}

/**
 * The fields that a client may set on this route: none with `_`, none that an authorization service sets, and no
 * override of the target. Credentials stay, because the authorization service needs them.
 */
export function clientFields(headers: Headers, route: FieldRules): Headers {
  const isReserved = reservedNameTest(route);
  if (isReserved === isNeverReserved) return linesThat(([name]) => mayPass(name, route), headers);
  return linesThat(
    ([name]) =>
      mayPass(name, route) && (DEFAULT_CREDENTIALS.includes(name.toLowerCase()) || !isReserved(fieldKey(name))),
    headers,
  );
}

/** The fields of `clientFields` for the origin: without credentials that the authorization service replaces. */
export function originFields(headers: Headers, route: FieldRules): Headers {
  const isReserved = reservedNameTest(route);
  if (isReserved === isNeverReserved) return linesThat(([name]) => mayPass(name, route), headers);
  return linesThat(([name]) => mayPass(name, route) && !isReserved(fieldKey(name)), headers);
}

function mayPass(name: string, { passesUnderscores, trustsTargetOverrides }: FieldRules): boolean {
  if (passesUnderscores !== true && name.includes('_')) return false;
  return trustsTargetOverrides === true || !namesTargetOverride(name);
}

const namesTargetOverride = remembered((name) => isTargetOverrideField(fieldKey(name)));

/** Names with which proxies report the target that a request had before they rewrote it. */
const TARGET_OVERRIDE =
  /^(?:x-)?(?:(?:envoy-)?original|rewrite|rewritten|forwarded|(?:waws-)?unencoded|override|http-destination)-?(?:(?:full|raw|request|http)-)?(?:ur[il]|path|path-?info|query|query-string|target)$/;
const ORIGINAL_METHOD = /^(?:x-)?(?:(?:envoy-)?original|rewrite|forwarded)-(?:(?:request|http)-)?method$/;

/**
 * Whether the field with this key (`fieldKey`) names another target or the original method. Some applications (on IIS,
 * Zend, Symfony, Spring and others) serve that target, for which no authorization was checked.
 */
export const isTargetOverrideField = remembered((key) => TARGET_OVERRIDE.test(key) || ORIGINAL_METHOD.test(key));

const METHOD_FIELD = /^(?:x-)?(?:(?:http|rest|request|requested)-)?(?:method|verb)(?:-override)?$/;
const METHOD_OVERRIDE = /^(?:x-)?(?:http-override|override-(?:http-)?(?:method|verb))$/;

/** Whether the field with this key (`fieldKey`) lets clients that can only send GET and POST ask for another method. */
export const isMethodOverrideField = remembered((key) => METHOD_FIELD.test(key) || METHOD_OVERRIDE.test(key));

/**
 * Keys (`fieldKey`) of the fields that the authorization services of these routes set; undefined without such a
 * service. Credentials are not reserved: a client cannot forge them.
 */
export function namesReservedBy(routes: readonly FieldRules[]): string[] | undefined {
  const services = routes.flatMap(({ authorize }) => authorize?.forwardAuth ?? []);
  if (services.length === 0) return undefined;
  const keys = services.flatMap(({ copyHeaders, principalHeader }) => [...copyHeaders, principalHeader]).map(fieldKey);
  return [...new Set(keys)].filter((key) => !DEFAULT_CREDENTIALS.includes(key));
}

/** Makes a test for keys (`fieldKey`) that only an authorization service may set, that of this route or another. */
function reservedNameTest({ authorize, reservedNames }: FieldRules): (key: string) => boolean {
  const forwardAuth = authorize?.forwardAuth;
  if (!forwardAuth && !reservedNames) return isNeverReserved;
  const own = forwardAuth ? [...forwardAuth.copyHeaders, forwardAuth.principalHeader].map(fieldKey) : [];
  const reserved = new Set([...own, ...(reservedNames ?? [])]);
  return (key) => reserved.has(key) || isIdentityField(key);
}

function isNeverReserved(): boolean {
  return false;
}

const CONNECTION_CREDENTIALS = new Set(['authorization', 'proxy-authorization']);
const CHALLENGES = new Set(['www-authenticate', 'proxy-authenticate']);

/**
 * The fields belong to a login by NTLM or Negotiate. Contrary to RFC 9110 §11.1, servers apply such a login to the
 * entire connection, so the next client's request on it would be served as that user's.
 */
export function authenticatesConnection(headers: Headers): boolean {
  return headers.some(([name, value]) => {
    // The shortest and the longest of these names.
    if (name.length < 13 || name.length > 19) return false;
    const key = name.toLowerCase();
    if (CONNECTION_CREDENTIALS.has(key)) return /^\s*(?:NTLM|Negotiate)(?:\s|$)/i.test(value);
    return CHALLENGES.has(key) && /(?:^|,)\s*(?:NTLM|Negotiate)(?:[\s,]|$)/i.test(value);
  });
}
