import { fieldValue, fromRawHeaders, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import { remembered } from '../model/remembered.js';
import type { RequestHead } from '../model/request-head.js';
import type { CorsRules, Route, Routes } from '../model/route.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import type { AnswerChanges } from '../proxy/reverse-proxy.js';
import type { HttpRequest } from '../server/exchange.js';
import { readTarget } from '../server/request-head.js';
import type { ResolvedTarget } from './upload-lookup.js';

/** The methods that upload protocols use, on any resource. */
const ALLOWED_METHODS = 'POST, HEAD, PATCH, DELETE, OPTIONS, GET, PUT';

const REQUEST_FIELDS =
  'Authorization, Origin, X-Requested-With, X-Request-ID, X-HTTP-Method-Override, Content-Type, Content-Disposition, ' +
  'Content-Encoding, Content-Language, Content-Digest, Repr-Digest, Want-Content-Digest, Want-Repr-Digest, Idempotency-Key, Prefer, ' +
  'Upload-Length, Upload-Offset, Upload-Metadata, Upload-Defer-Length, Upload-Concat, Upload-Checksum, Tus-Resumable, ' +
  'Upload-Incomplete, Upload-Complete, Upload-Draft-Interop-Version';

const EXPOSED_FIELDS = [
  'Location',
  'Upload-Offset',
  'Upload-Length',
  'Upload-Limit',
  'Upload-Complete',
  'Upload-Incomplete',
  'Upload-Draft-Interop-Version',
  'Upload-Metadata',
  'Upload-Expires',
  'Upload-Defer-Length',
  'Upload-Concat',
  'Tus-Version',
  'Tus-Resumable',
  'Tus-Max-Size',
  'Tus-Extension',
  'Tus-Checksum-Algorithm',
  'Accept-Patch',
  'Allow',
  'Preference-Applied',
  'Proxy-Status',
  'Repr-Digest',
  'Retry-After',
];

const PREFLIGHT_VARY = [
  'Origin',
  'Access-Control-Request-Method',
  'Access-Control-Request-Headers',
  'Access-Control-Request-Private-Network',
].join(', ');

/** The resource that a request is for, as far as it is known. */
interface Place extends Partial<Pick<ResolvedTarget, 'target' | 'upload' | 'announced'>> {
  readonly head: Pick<RequestHead, 'method' | 'path' | 'headers'>;
  readonly route: Pick<Route, 'cors' | 'resumable'>;
}

/** The rules that apply to a request, and the value of Access-Control-Allow-Origin for its page. */
interface Access {
  readonly rules: CorsRules;
  /** Undefined: the page is not allowed. */
  readonly allowedOrigin?: string;
  /** Other pages may get another permission. */
  readonly depends: boolean;
}

/**
 * Lets pages of the allowed origins use uploads, by the CORS protocol of the Fetch standard. The rules are those of the
 * route. Reasons: docs/decisions/0036.
 */
export class Cors {
  private readonly isUsed: boolean;

  constructor(private readonly routes: Pick<Routes, 'find' | 'findResumable' | 'all'>) {
    this.isUsed = routes.all.some(({ cors }) => cors !== undefined);
  }

  /** The reply to a preflight on a resource of ours; undefined if CORS is left to the origin. */
  preflight(place: Place): Reply | undefined {
    const { head } = place;
    const asked = fieldValue(head.headers, 'access-control-request-method')?.trim() ?? '';
    const access = this.access(place.target?.kind === 'target' ? { head, route: this.routeOf(asked, head) } : place);
    if (!access) return undefined;
    const { rules, allowedOrigin } = access;
    const vary: HeaderLine = ['Vary', PREFLIGHT_VARY];
    if (allowedOrigin === undefined) return { status: 204, headers: [vary] };
    return {
      status: 204,
      headers: [
        ...allowHeaders(rules, allowedOrigin),
        ['Access-Control-Allow-Methods', allowedMethods(asked)],
        ['Access-Control-Allow-Headers', requestedFields(head.headers)],
        ['Access-Control-Max-Age', `${rules.maxAgeSeconds}`],
        ...privateNetworkHeaders(rules, head.headers),
        vary,
      ],
    };
  }

  /**
   * The reply with the fields that let the page read it, on errors and relayed answers too, because browsers hide
   * replies without them. No field of the origin is repeated. If the origin allows another page than this one, the rules
   * win where the proxy speaks for the resource; where a request passes through (`decides: 'origin'`), the origin wins.
   */
  apply<T extends Pick<Reply, 'headers'>>(reply: T, place: Place, decides: 'proxy' | 'origin' = 'proxy'): T {
    const access = this.access(place);
    if (!access) return reply;
    const { rules, allowedOrigin, depends } = access;
    const headers = depends ? withListMembers(reply.headers, 'Vary', ['Origin']) : reply.headers;
    if (allowedOrigin === undefined) return { ...reply, headers };
    const readable =
      decides === 'origin' && hasField(headers, ALLOW_ORIGIN)
        ? headers
        : allowed(headers, rules, allowedOrigin, fieldValue(place.head.headers, 'origin'));
    return { ...reply, headers: withListMembers(readable, 'Access-Control-Expose-Headers', EXPOSED_FIELDS) };
  }

  /** The reply to a request that is refused by its head alone; unchanged if not even its target can be read. */
  applyEarly(reply: Reply, { method = '', url = '', rawHeaders }: HttpRequest): Reply {
    const target = this.isUsed ? readTarget(method, url) : undefined;
    if (!target) return reply;
    // Pages can send methods in lower case, which are refused.
    const head = { method: method.toUpperCase(), path: target.path, headers: fromRawHeaders(rawHeaders) };
    return this.apply(reply, { head, route: this.routes.find(head.method, head.path) });
  }

  /**
   * Changes to the answer of the origin to a request that may upload and passes through, because it is small or an
   * ordinary body: its page was allowed like those of uploads. Undefined if there are none.
   */
  passThroughChanges(place: Place): AnswerChanges | undefined {
    if (!place.route.resumable || !this.access(place)) return undefined;
    return {
      rewrite: (answer) => this.apply(answer, place, 'origin'),
      failureReply: ({ status, detail }) => this.apply(problemReply({ status, detail }), place),
    };
  }

  private access(place: Place): Access | undefined {
    if (!this.isUsed) return undefined;
    const { head, route, announced, target, upload } = place;
    const routes = target?.kind === 'upload' && !upload ? [route, ...this.routes.all] : [announced ?? route];
    const all = routes.flatMap(({ cors }) => (cors ? [accessOf(cors, head.headers)] : []));
    // An upload that is gone, or cannot be found now, may have been one of any route. A page that sends credentials can
    // read a reply only if it allows them; another page can read that too.
    const allowed = all.filter(({ allowedOrigin }) => allowedOrigin !== undefined);
    const access = allowed.find(({ rules }) => rules.allowCredentials) ?? allowed[0] ?? all[0];
    return access && { ...access, depends: all.some(({ depends }) => depends) };
  }

  /** The route whose uploads a request with this method would be for; rules of routes without uploads do not apply. */
  private routeOf(method: string, { path }: Place['head']): Place['route'] {
    const route = method === 'OPTIONS' ? this.routes.findResumable(path) : this.routes.find(method, path);
    return route?.resumable ? route : { resumable: false };
  }
}

const ALLOW_ORIGIN = 'Access-Control-Allow-Origin';
const ALLOW_CREDENTIALS = 'Access-Control-Allow-Credentials';
const ALLOW_FIELDS: ReadonlySet<string> = new Set([ALLOW_ORIGIN.toLowerCase(), ALLOW_CREDENTIALS.toLowerCase()]);

/**
 * The headers with the permission of the page. A permission of the origin stays if it is for this page with everything
 * that the rules allow; browsers refuse `*` for requests with credentials.
 */
function allowed(headers: Headers, rules: CorsRules, allowedOrigin: string, origin?: string): readonly HeaderLine[] {
  const [given, credentials] = [ALLOW_ORIGIN, ALLOW_CREDENTIALS].map((name) => fieldValue(headers, name)?.trim());
  const allowsPage = given !== undefined && (given === '*' ? !rules.allowCredentials : given === origin);
  if (allowsPage && (!rules.allowCredentials || credentials === 'true')) return headers;
  return [...withoutFields(headers, ALLOW_FIELDS), ...allowHeaders(rules, allowedOrigin)];
}

function allowHeaders({ allowCredentials }: CorsRules, origin: string): HeaderLine[] {
  return [[ALLOW_ORIGIN, origin], ...(allowCredentials ? [[ALLOW_CREDENTIALS, 'true'] as const] : [])];
}

/** With `*` and without credentials the reply does not depend on Origin, so it needs no Vary. */
function isSameForAll({ allowOrigins, allowCredentials }: CorsRules): boolean {
  return allowOrigins.includes('*') && !allowCredentials;
}

/** Browsers refuse `*` together with credentials, so the origin is named then. */
function accessOf(rules: CorsRules, headers: Headers): Access {
  const origin = fieldValue(headers, 'origin');
  if (isSameForAll(rules)) return { rules, allowedOrigin: '*', depends: false };
  const isAllowed = origin !== undefined && (rules.allowOrigins.includes('*') || isNamed(rules, origin));
  return { rules, depends: true, ...(isAllowed ? { allowedOrigin: origin } : {}) };
}

/** Whether the rules name the origin itself or a pattern for it. */
function isNamed({ allowOrigins }: CorsRules, origin: string): boolean {
  return allowOrigins.some(
    (each) => each === origin || (each !== '*' && each.includes('*') && expression(each).test(origin)),
  );
}

/** The regular expression of a pattern: `*` is a part of one label of the host, or any port or none. */
const expression = remembered((pattern: string): RegExp => {
  const escaped = pattern.replace(/[.[\]+]/g, String.raw`\$&`);
  return new RegExp(`^${escaped.replace(/:\*$/, String.raw`(?::\d+)?`).replaceAll('*', '[a-z0-9_-]+')}$`);
});

/**
 * Chrome asked before a page from the internet reached a private network (Private Network Access); newer versions ask the
 * user instead. Only origins that are named are allowed: `*` may be meant for a public server, and any page can have the
 * origin `null`.
 */
function privateNetworkHeaders(rules: CorsRules, headers: Headers): HeaderLine[] {
  const isRequested = fieldValue(headers, 'access-control-request-private-network')?.trim() === 'true';
  const origin = fieldValue(headers, 'origin') ?? 'null';
  return isRequested && origin !== 'null' && isNamed(rules, origin)
    ? [['Access-Control-Allow-Private-Network', 'true']]
    : [];
}

const METHOD = /^[\w!#$%&'*+.^`|~-]+$/;

/** The methods of the upload protocols, and the one that the page asks for: the route takes its bodies. */
function allowedMethods(asked: string): string {
  return METHOD.test(asked) && !ALLOWED_METHODS.split(', ').includes(asked)
    ? `${ALLOWED_METHODS}, ${asked}`
    : ALLOWED_METHODS;
}

/** Pages add fields of their own (ids, tokens), so an allowed page gets every field that it asks for. */
function requestedFields(headers: Headers): string {
  const requested = fieldValue(headers, 'access-control-request-headers');
  const isList =
    requested !== undefined && /^[\w!#$%&'*+.^`|~-]+(?:\s*,\s*[\w!#$%&'*+.^`|~-]+)*$/.test(requested.trim());
  return isList ? requested.trim() : REQUEST_FIELDS;
}

function hasField(headers: Headers, name: string): boolean {
  return fieldValue(headers, name) !== undefined;
}

/** The headers with all `entries` in the list-valued field `name`, which keeps its position. */
function withListMembers(headers: Headers, name: string, entries: readonly string[]): HeaderLine[] {
  const listed = (fieldValue(headers, name) ?? '').split(',').map((entry) => entry.trim());
  const present = new Set(listed.map((entry) => entry.toLowerCase()));
  const missing = entries.filter((entry) => !present.has(entry.toLowerCase()));
  if (missing.length === 0 || (name === 'Vary' && present.has('*'))) return [...headers];
  const line: HeaderLine = [name, [...listed.filter((entry) => entry !== ''), ...missing].join(', ')];
  const index = headers.findIndex(([other]) => other.toLowerCase() === name.toLowerCase());
  const others = withoutFields(headers, new Set([name.toLowerCase()]));
  return index === -1 ? [...others, line] : [...others.slice(0, index), line, ...others.slice(index)];
}
