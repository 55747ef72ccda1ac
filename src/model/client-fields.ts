import type { HeaderLine, Headers } from './headers.js';
import type { Authorize, Route } from './route.js';

/** What a route says of the fields of its clients. */
export interface FieldRules extends Partial<Pick<Route, 'passesUnderscores' | 'trustsOtherTargets' | 'reservedNames'>> {
  readonly authorize?: Pick<Authorize, 'forwardAuth'>;
  readonly delivery?: CredentialRules;
}

/** Names by which proxies tell who asks, in the form of `fieldKey`. */
export const FORWARDED_IDENTITY_FIELD =
  /^x-forwarded-(?:user|name|email|groups?|roles?|preferred-username|access-token|id-token)$/;

/**
 * Names by which proxies and authorization services tell applications who asks (Authelia, oauth2-proxy, Authentik, Vouch,
 * Google's and Microsoft's fronts and their like), in the form of `fieldKey`. Where any route asks such a service it is the
 * only one to say them, on every route, whether or not they are copied.
 */
const IDENTITY_FIELDS: readonly RegExp[] = [
  /^(?:x-)?remote-(?:user|name|email|groups?|roles?|uid|full-name|preferred-username)$/,
  /^(?:x-)?auth-(?:user|username|user-name|email|name|groups?|roles?)$/,
  /^x-(?:auth-request|authentik|authelia|webauth|vouch|pomerium|token-user|goog-authenticated-user|amzn-oidc)-.+$/,
  /^x-ms-client-principal(?:-.+)?$/,
  /^(?:cf-access-authenticated-user|tailscale-user)-.+$/,
  FORWARDED_IDENTITY_FIELD,
];

/** Whether services say by this name, in the form of `fieldKey`, who a client is. */
export const isIdentityField = (key: string): boolean => IDENTITY_FIELDS.some((names) => names.test(key));

/** The fields by which clients say who they are, where a route names no others; in lower case. */
export const DEFAULT_CREDENTIALS: readonly string[] = ['authorization', 'cookie'];

/** What a request brings of its route's credentials, line by line. */
export function credentialsIn(headers: Headers, { credentials = DEFAULT_CREDENTIALS }: CredentialRules): HeaderLine[] {
  return headers.filter(([name]) => credentials.includes(name.toLowerCase()));
}

/** Which fields of a route's clients are credentials. */
export interface CredentialRules {
  readonly credentials?: readonly string[];
}

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

/**
 * What a client may say on this route, where the authorization service gets credentials even if its own answer replaces them
 * at the origin: no names with `_`, none that the authorization service speaks by, and no other target
 * than the one that it asks for.
 */
export function clientFields(headers: Headers, route: FieldRules): HeaderLine[] {
  const isReserved = reservedNameTest(route);
  return headers.filter(
    ([name]) =>
      mayPass(name, route) && (DEFAULT_CREDENTIALS.includes(name.toLowerCase()) || !isReserved(fieldKey(name))),
  );
}

/** The same for lines that go to the origin as they are: there the service replaces credentials too. */
export function originFields(headers: Headers, route: FieldRules): HeaderLine[] {
  const isReserved = reservedNameTest(route);
  return headers.filter(([name]) => mayPass(name, route) && !isReserved(fieldKey(name)));
}

function mayPass(name: string, { passesUnderscores, trustsOtherTargets }: FieldRules): boolean {
  if (passesUnderscores !== true && name.includes('_')) return false;
  return trustsOtherTargets === true || !isTargetOverrideField(fieldKey(name));
}

/** What proxies call the target that a request had before they rewrote it: by each of these words, or by several. */
const TARGET_OVERRIDE =
  /^(?:x-)?(?:(?:envoy-)?original|rewrite|rewritten|forwarded|(?:waws-)?unencoded|override|http-destination)-?(?:(?:full|raw|request|http)-)?(?:ur[il]|path|path-?info|query|query-string|target)$/;
const ORIGINAL_METHOD = /^(?:x-)?(?:(?:envoy-)?original|rewrite|forwarded)-(?:(?:request|http)-)?method$/;

/**
 * Whether a name, in the form of `fieldKey`, says that the request was for another target or by another method. Applications
 * that believe such a field (of IIS, Zend, Symfony, Spring and their like) serve that one, which nobody was asked about.
 */
export function isTargetOverrideField(key: string): boolean {
  return TARGET_OVERRIDE.test(key) || ORIGINAL_METHOD.test(key);
}

const METHOD_FIELD = /^(?:x-)?(?:(?:http|rest|request|requested)-)?(?:method|verb)(?:-override)?$/;
const METHOD_OVERRIDE = /^(?:x-)?(?:http-override|override-(?:http-)?(?:method|verb))$/;

/**
 * Whether a name, in the form of `fieldKey`, is one by which applications let clients that know only GET and POST ask for
 * another method.
 */
export function isMethodOverrideField(key: string): boolean {
  return METHOD_FIELD.test(key) || METHOD_OVERRIDE.test(key);
}

/** The names by which the services of these routes speak, whichever route asks them. Credentials prove themselves. */
export function namesReservedBy(routes: readonly FieldRules[]): string[] | undefined {
  const asking = routes.flatMap(({ authorize }) => authorize?.forwardAuth ?? []);
  if (asking.length === 0) return undefined;
  const named = asking.flatMap(({ copyHeaders, principalHeader }) => [...copyHeaders, principalHeader]).map(fieldKey);
  return [...new Set(named)].filter((key) => !DEFAULT_CREDENTIALS.includes(key));
}

/** Tells which names, in the form of `fieldKey`, are an authorization service's to say, be it another route's. */
function reservedNameTest({ authorize, reservedNames }: FieldRules): (key: string) => boolean {
  const forwardAuth = authorize?.forwardAuth;
  if (!forwardAuth && !reservedNames) return () => false;
  const own = forwardAuth ? [...forwardAuth.copyHeaders, forwardAuth.principalHeader].map(fieldKey) : [];
  const named = new Set([...own, ...(reservedNames ?? [])]);
  return (key) => named.has(key) || isIdentityField(key);
}

/** Fields in which one side asks for a login, and those in which the other answers. */
const CONNECTION_CREDENTIALS = new Set(['authorization', 'proxy-authorization']);
const CHALLENGES = new Set(['www-authenticate', 'proxy-authenticate']);

/**
 * These fields belong to a login by NTLM or Negotiate. Servers take it for the login of the whole connection, against
 * RFC 9110 §11.1: the next request on it is served as that user's, whoever sent it.
 */
export function authenticatesConnection(headers: Headers): boolean {
  return headers.some(([name, value]) => {
    const key = name.toLowerCase();
    if (CONNECTION_CREDENTIALS.has(key)) return /^\s*(?:NTLM|Negotiate)(?:\s|$)/i.test(value);
    return CHALLENGES.has(key) && /(?:^|,)\s*(?:NTLM|Negotiate)(?:[\s,]|$)/i.test(value);
  });
}
