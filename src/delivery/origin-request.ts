import { DEFAULT_CREDENTIALS, fieldKey, originFields, withoutSpellings } from '../model/client-fields.js';
import { originTrailers, withForwarding } from '../model/forwarded.js';
import { endToEnd, fieldValue, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import { type Route, routeFor } from '../model/route.js';
import { PLAIN_DIALECT, type StoredRequest, type Upload } from '../model/upload.js';
import {
  filenameOf,
  framingFor,
  declaredType,
  multipartType,
  isUninformativeType,
  representationType,
} from './origin-body.js';

/** The head of the one ordinary request that stands for the whole upload. */
export interface OriginRequestHead {
  /** Scheme, host and port. */
  readonly origin: string;
  readonly method: string;
  readonly target: string;
  /** Every field but `Content-Length`, which follows from the body. */
  readonly headers: Headers;
}

/** Fields about one piece of an upload, or about one message: wrong or harmful on a request that carries the whole. */
const UPLOAD_FIELDS = new Set([
  'upload-complete',
  'upload-incomplete',
  'upload-offset',
  'upload-length',
  'upload-limit',
  'upload-metadata',
  'upload-concat',
  'upload-defer-length',
  'upload-checksum',
  'upload-draft-interop-version',
  'tus-resumable',
  'expect',
  'content-length',
  // RFC 9530 §2: about the content of one message. `Repr-Digest` is about the whole and stays.
  'content-digest',
  'host',
]);

/** Of an ordinary request: what the body that follows says anew, and what is between its client and us. */
const MESSAGE_FIELDS = new Set(['expect', 'content-length', 'host']);

/** About the representation, which is one part of a multipart body: they stand there, or are untrue of the whole. */
const REPRESENTATION_FIELDS = new Set([
  'content-type',
  'content-disposition',
  'content-encoding',
  'content-language',
  'content-location',
  'content-range',
  'content-md5',
  'digest',
  'repr-digest',
  'content-digest',
]);

/** `upload`: as `completedBy` makes it, where a client has completed it. */
export function originRequestHead(upload: Upload, route: Route, via?: string): OriginRequestHead {
  const { request } = upload;
  const base = new URL(route.origin);
  const { method = request.method, target } = route.delivery;
  const framing = framingFor(upload, route.delivery.framing);
  const ofTheWhole = withoutFields(
    endToEnd(request.headers),
    upload.dialect === PLAIN_DIALECT ? MESSAGE_FIELDS : UPLOAD_FIELDS,
  );
  const own = framing.kind === 'multipart' ? asForm(ofTheWhole, upload) : withRepresentationType(ofTheWhole, upload);
  const told = withForwarding(originFields(own, route), request, via);
  const lines = withAddedHeaders(told, upload, route);
  return {
    origin: base.origin,
    method,
    target: (base.pathname === '/' ? '' : base.pathname) + targetOf(request, target),
    headers: [
      ['Host', route.delivery.preserveHost && request.authority !== '' ? request.authority : base.host],
      ...lines,
      ...idempotencyKey(lines, upload),
    ],
  };
}

/**
 * The upload as its completing request makes it: each of its credentials replaces the stored one, which may have expired.
 * Where the authorization service was asked about that request again, it has what the service said then, and no credential
 * that the service has not seen with it: two identities are never mixed.
 */
export function withCompletingRequest(
  upload: Upload,
  route: Route,
  { credentials, addedHeaders }: { readonly credentials: Headers; readonly addedHeaders?: Headers },
): Upload {
  // Here, and not for the head alone: a form takes its fields from the same request.
  // Fields that the creation named in its `Connection` were its own: those of the completing request are others.
  const newer = withCredentials(endToEnd(upload.request.headers), credentials, route);
  if (addedHeaders === undefined) return { ...upload, request: { ...upload.request, headers: newer } };
  const brought = new Set(credentials.map(([name]) => name.toLowerCase()));
  const older = new Set((route.delivery.credentials ?? DEFAULT_CREDENTIALS).filter((name) => !brought.has(name)));
  return { ...upload, addedHeaders, request: { ...upload.request, headers: withoutFields(newer, older) } };
}

/** What is known of an upload's request before its bytes, for an origin that is asked about it beforehand. */
export interface ExpectedRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: Headers;
  /** The body is a form around the bytes, whose length is another. */
  readonly isForm: boolean;
}

/** The creation `request` as its origin will get it, as far as the route makes something else of it. */
export function expectedRequest(
  request: Pick<StoredRequest, 'method' | 'target' | 'headers'>,
  route: Route,
): ExpectedRequest {
  const { method = request.method, target, framing } = routeFor(request.method, route).delivery;
  const isForm = framingFor({ request }, framing).kind === 'multipart';
  const headers: Headers = isForm
    ? [
        ...withoutFields(request.headers, REPRESENTATION_FIELDS),
        ['Content-Type', multipartType({ deliveryKey: 'preflight' })],
      ]
    : withRepresentationType(request.headers, { dialect: '', request });
  return { method, target: targetOf(request, target), headers, isForm };
}

/** Trailers of the last body, without those that would say of the whole what is true of a piece or of the file alone. */
export function trailersForOrigin(trailers: Headers, upload: Upload, route: Route): HeaderLine[] {
  const isForm = framingFor(upload, route.delivery.framing).kind === 'multipart';
  const names = [
    ...(upload.dialect === PLAIN_DIALECT ? MESSAGE_FIELDS : UPLOAD_FIELDS),
    ...(isForm ? REPRESENTATION_FIELDS : []),
  ];
  return originTrailers(withoutFields(trailers, new Set(names)), route);
}

/** The type of the whole in place of a piece's. Where the creation has none, it is added only if something else tells it. */
function withRepresentationType(
  headers: Headers,
  { dialect, request }: { readonly dialect: string; readonly request: Pick<StoredRequest, 'headers'> },
): HeaderLine[] {
  const told = declaredType(request);
  const isTyped = fieldValue(headers, 'content-type') !== undefined;
  if (dialect === PLAIN_DIALECT || (!isTyped && told === undefined)) return [...headers];
  if (told !== undefined && !isTyped) return [...headers, ['Content-Type', told]];
  return headers.map(([name, value]): HeaderLine => {
    return name.toLowerCase() === 'content-type' && isUninformativeType(value)
      ? [name, representationType(request)]
      : [name, value];
  });
}

function asForm(headers: Headers, upload: Upload): HeaderLine[] {
  return [...withoutFields(headers, REPRESENTATION_FIELDS), ['Content-Type', multipartType(upload)]];
}

/** New lines take the place of the old ones, so that the order the client chose stays. */
function withCredentials(headers: Headers, credentials: Headers, { delivery }: Route): HeaderLine[] {
  return (delivery.credentials ?? DEFAULT_CREDENTIALS).reduce<HeaderLine[]>(
    (lines, name) => {
      const fresh = credentials.filter(([line]) => line.toLowerCase() === name);
      if (fresh.length === 0) return lines;
      const at = lines.findIndex(([line]) => line.toLowerCase() === name);
      const others = withoutFields(lines, new Set([name]));
      others.splice(at === -1 ? others.length : at, 0, ...fresh);
      return others;
    },
    [...headers],
  );
}

/** What the authorization service says of the client, and never what the client says of itself in the same names. */
function withAddedHeaders(headers: Headers, { addedHeaders = [] }: Upload, route: Route): HeaderLine[] {
  const others = originFields(headers, { ...route, passesUnderscores: true });
  return [...withoutSpellings(others, new Set(addedHeaders.map(([name]) => fieldKey(name)))), ...addedHeaders];
}

/** The same for every attempt, so that an origin that honours it takes the upload once. A client's own key is its business. */
function idempotencyKey(lines: Headers, upload: Upload): HeaderLine[] {
  return fieldValue(lines, 'idempotency-key') === undefined ? [['Idempotency-Key', upload.deliveryKey]] : [];
}

/**
 * The target of the origin's request: the creation's own, or a template with `{target}` (path and query), `{path}`,
 * `{query}` (without its question mark) and `{filename}` (percent-encoded, "upload" when there is none).
 */
export function targetOf(request: Pick<StoredRequest, 'target' | 'headers'>, template: string | undefined): string {
  if (template === undefined) return request.target;
  const [path, query = ''] = splitOnce(request.target, '?');
  const values: Readonly<Record<string, string>> = {
    target: request.target,
    path,
    query,
    filename: encodeURIComponent(filenameOf(request) ?? 'upload'),
  };
  const filled = template.replace(/\{(target|path|query|filename)\}/g, (_, name: string) => values[name]!);
  return filled.startsWith('/') ? filled : `/${filled}`;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
