import { fieldValue, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import type { Reply } from '../protocol/protocol.js';

/** The web pages that may upload from a browser. */
export interface CorsRules {
  /** Origins as browsers send them; `*` for all. When empty, replies never change. */
  readonly allowOrigins: readonly string[];
  /** Pages may send cookies and credentials. */
  readonly allowCredentials: boolean;
  readonly maxAgeSeconds: number;
}

/** The methods that upload protocols use, on any resource. */
const ALLOWED_METHODS = 'POST, HEAD, PATCH, DELETE, OPTIONS, GET, PUT';

const REQUEST_FIELDS =
  'Authorization, Origin, X-Requested-With, X-Request-ID, X-HTTP-Method-Override, Content-Type, Content-Disposition, ' +
  'Content-Digest, Repr-Digest, Want-Repr-Digest, Upload-Length, Upload-Offset, Upload-Metadata, Upload-Defer-Length, ' +
  'Upload-Concat, Upload-Checksum, Tus-Resumable, Upload-Incomplete, Upload-Complete, Upload-Draft-Interop-Version';

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
];

const PREFLIGHT_VARY = [
  'Origin',
  'Access-Control-Request-Method',
  'Access-Control-Request-Headers',
  'Access-Control-Request-Private-Network',
].join(', ');

/** Lets pages of the allowed origins use uploads, by the CORS protocol of the Fetch standard. Pure. */
export class Cors {
  private readonly allowsAnyOrigin: boolean;

  constructor(private readonly rules: CorsRules) {
    this.allowsAnyOrigin = rules.allowOrigins.includes('*');
  }

  /** The reply to a preflight on a resource of ours; undefined if CORS is left to the origin. */
  preflight(head: RequestHead): Reply | undefined {
    if (this.rules.allowOrigins.length === 0) return undefined;
    const vary: HeaderLine = ['Vary', PREFLIGHT_VARY];
    const allowedOrigin = this.allowedOrigin(head.headers);
    if (allowedOrigin === undefined) return { status: 204, headers: [vary] };
    return {
      status: 204,
      headers: [
        ...this.allowHeaders(allowedOrigin),
        ['Access-Control-Allow-Methods', ALLOWED_METHODS],
        ['Access-Control-Allow-Headers', requestedFields(head.headers)],
        ['Access-Control-Max-Age', `${this.rules.maxAgeSeconds}`],
        ...this.privateNetworkHeaders(head.headers),
        vary,
      ],
    };
  }

  /**
   * The reply with the fields that let the page read it, on errors and relayed answers too, because browsers hide
   * replies without them. CORS fields of the origin are extended, never contradicted or repeated.
   */
  apply(reply: Reply, head: RequestHead): Reply {
    if (this.rules.allowOrigins.length === 0) return reply;
    const allowedOrigin = this.allowedOrigin(head.headers);
    const headers = this.sameForAllOrigins ? reply.headers : withListMembers(reply.headers, 'Vary', ['Origin']);
    if (allowedOrigin === undefined) return { ...reply, headers };
    const allowHeaders = hasField(headers, 'access-control-allow-origin') ? [] : this.allowHeaders(allowedOrigin);
    const missing = allowHeaders.filter(([name]) => !hasField(headers, name));
    const exposed = withListMembers(headers, 'Access-Control-Expose-Headers', EXPOSED_FIELDS);
    return { ...reply, headers: [...exposed, ...missing] };
  }

  /** With `*` and without credentials the reply does not depend on Origin, so it needs no Vary. */
  private get sameForAllOrigins(): boolean {
    return this.allowsAnyOrigin && !this.rules.allowCredentials;
  }

  private allowHeaders(origin: string): HeaderLine[] {
    const lines: HeaderLine[] = [['Access-Control-Allow-Origin', origin]];
    if (this.rules.allowCredentials) lines.push(['Access-Control-Allow-Credentials', 'true']);
    return lines;
  }

  /**
   * Chrome asks before a page from the internet reaches a private network (Private Network Access). Only origins named
   * in the settings are allowed: `*` may be meant for a public server, and any page can have the origin `null`.
   */
  private privateNetworkHeaders(headers: Headers): HeaderLine[] {
    const isRequested = fieldValue(headers, 'access-control-request-private-network')?.trim() === 'true';
    const origin = fieldValue(headers, 'origin') ?? 'null';
    const isNamed = origin !== 'null' && this.rules.allowOrigins.includes(origin);
    return isRequested && isNamed ? [['Access-Control-Allow-Private-Network', 'true']] : [];
  }

  /**
   * The value of Access-Control-Allow-Origin; browsers refuse `*` together with credentials, so the origin is named
   * then.
   */
  private allowedOrigin(headers: Headers): string | undefined {
    const origin = fieldValue(headers, 'origin');
    if (this.sameForAllOrigins) return '*';
    if (origin === undefined) return undefined;
    return this.allowsAnyOrigin || this.rules.allowOrigins.includes(origin) ? origin : undefined;
  }
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
