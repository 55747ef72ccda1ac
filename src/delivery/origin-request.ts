import { DEFAULT_CREDENTIALS, fieldKey, originFields, withoutSpellings } from '../model/client-fields.js';
import { originTrailers, withForwarding } from '../model/forwarded.js';
import { endToEnd, fieldValue, type HeaderLine, type Headers, withoutFields } from '../model/headers.js';
import { type Route, routeFor } from '../model/route.js';
import { PLAIN_DIALECT, type StoredRequest, type Upload } from '../model/upload.js';
import type { UploadSecrets } from '../secrets/upload-secrets.js';
import {
  CONTROLS,
  filenameOf,
  framingFor,
  declaredType,
  multipartType,
  isUninformativeType,
  representationType,
} from './origin-body.js';
import { UploadMetadata } from './upload-metadata.js';

/** The head of the one request that carries a complete upload to its origin. */
export interface OriginRequestHead {
  /** Scheme, host and port. */
  readonly origin: string;
  readonly method: string;
  readonly target: string;
  /** All fields except `Content-Length`, which depends on the body. */
  readonly headers: Headers;
}

/** Fields about a part of an upload or about one message, which would be wrong on a request with the complete upload. */
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
  // RFC 9530 §2: about the content of one message. `Repr-Digest` is about the complete representation and stays.
  'content-digest',
  'host',
]);

/** Fields of an ordinary request that the spooled body changes or that concern only the client's connection. */
const MESSAGE_FIELDS = new Set(['expect', 'content-length', 'host']);

/** Fields about the representation, which becomes one part of a multipart body; they do not describe the form. */
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

/**
 * The head of the origin's request for an upload. `upload` carries the credentials of `withCompletingRequest`; `via` is this
 * proxy's name.
 */
export function originRequestHead(upload: Upload, route: Route, via?: string): OriginRequestHead {
  const { request } = upload;
  const base = new URL(route.origin);
  const { method = request.method, target } = route.delivery;
  const framing = framingFor(upload, route.delivery.framing);
  const forwarded = withoutFields(
    endToEnd(request.headers),
    upload.dialect === PLAIN_DIALECT ? MESSAGE_FIELDS : UPLOAD_FIELDS,
  );
  const typed = framing.kind === 'multipart' ? asForm(forwarded, upload) : withRepresentationType(forwarded, upload);
  const lines = withAddedHeaders(withForwarding(originFields(typed, route), request, via), upload, route);
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
 * The upload with the credentials of its completing request, which replace the stored ones, because those may have expired.
 * If the authorization service has checked that request, its headers replace the older ones, and stored credentials that it
 * has not seen are dropped: two identities are never mixed.
 */
export function withCompletingRequest(
  upload: Upload,
  route: Route,
  { credentials, addedHeaders }: Pick<CompletingRequest, 'credentials' | 'addedHeaders'>,
): Upload {
  // The stored request itself changes, because a form takes its fields from it too. Hop-by-hop fields of the creation are
  // removed first, so that its `Connection` cannot name fields of the completing request.
  const headers = withCredentials(endToEnd(upload.request.headers), credentials, route);
  if (addedHeaders === undefined) return { ...upload, request: { ...upload.request, headers } };
  const replaced = new Set(credentials.map(([name]) => name.toLowerCase()));
  const uncheckedCredentials = new Set(
    (route.delivery.credentials ?? DEFAULT_CREDENTIALS).filter((name) => !replaced.has(name)),
  );
  return {
    ...upload,
    addedHeaders,
    request: { ...upload.request, headers: withoutFields(headers, uncheckedCredentials) },
  };
}

/** The parts of the newest completing request that a delivery uses. */
export interface CompletingRequest {
  readonly credentials: Headers;
  /** The lines of that request that records do not have in clear. */
  readonly secretLines?: Headers;
  /** Fields that the authorization service adds to that request, if it was asked again. */
  readonly addedHeaders?: Headers;
}

/** The stored request with all its fields. `completing`: the request that some of them are from. */
export interface RevealedRequest extends Pick<Upload, 'request' | 'addedHeaders'> {
  readonly completing?: CompletingRequest;
}

/**
 * The request of an upload with the values that its record does not have in clear. Without some of them nothing may be
 * sent: the origin would treat the upload as that of another client.
 */
export function withSecrets(
  upload: Upload,
  completing: CompletingRequest,
  secrets: Pick<UploadSecrets, 'reveal'>,
): RevealedRequest | { readonly problem: string } {
  const stored = secrets.reveal(upload);
  if (stored.missing.length + stored.missingAdded.length === 0) return stored.upload;
  const { upload: revealed, missing, missingAdded } = secrets.reveal(upload, completing.secretLines);
  const stillMissing = [...missing, ...(completing.addedHeaders ? [] : missingAdded)];
  if (stillMissing.length === 0) return { request: revealed.request, addedHeaders: revealed.addedHeaders, completing };
  return { problem: `${[...new Set(stillMissing)].join(', ')}: ${NOT_KEPT}` };
}

const NOT_KEPT =
  'the value is not stored, or no key of `secrets` opens it; a request that completes the upload again has to bring it';

/** The head of the later request to the origin, as far as a creation determines it; the preflight request uses it. */
export interface ExpectedRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: Headers;
  /** The body is a form around the bytes, so its length differs from the upload's. */
  readonly isForm: boolean;
}

/** The request to the origin that will follow from a creation on this route. */
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

/** The trailers of the last body, without fields that do not apply to the complete upload or to a form. */
export function trailersForOrigin(trailers: Headers, upload: Upload, route: Route): HeaderLine[] {
  const isForm = framingFor(upload, route.delivery.framing).kind === 'multipart';
  const names = [
    ...(upload.dialect === PLAIN_DIALECT ? MESSAGE_FIELDS : UPLOAD_FIELDS),
    ...(isForm ? REPRESENTATION_FIELDS : []),
  ];
  return originTrailers(withoutFields(trailers, new Set(names)), route);
}

/** Replaces the media type of a part by that of the representation. Without any `Content-Type`, adds a declared type only. */
function withRepresentationType(
  headers: Headers,
  { dialect, request }: { readonly dialect: string; readonly request: Pick<StoredRequest, 'headers'> },
): HeaderLine[] {
  const declared = declaredType(request);
  const isTyped = fieldValue(headers, 'content-type') !== undefined;
  if (dialect === PLAIN_DIALECT || (!isTyped && declared === undefined)) return [...headers];
  if (declared !== undefined && !isTyped) return [...headers, ['Content-Type', declared]];
  return headers.map(([name, value]): HeaderLine => {
    return name.toLowerCase() === 'content-type' && isUninformativeType(value)
      ? [name, representationType(request)]
      : [name, value];
  });
}

function asForm(headers: Headers, upload: Upload): HeaderLine[] {
  return [...withoutFields(headers, REPRESENTATION_FIELDS), ['Content-Type', multipartType(upload)]];
}

/** Replaces credentials in place, so that the client's order of fields is kept. */
function withCredentials(headers: Headers, credentials: Headers, { delivery }: Route): HeaderLine[] {
  return (delivery.credentials ?? DEFAULT_CREDENTIALS).reduce<HeaderLine[]>(
    (lines, name) => {
      const newLines = credentials.filter(([line]) => line.toLowerCase() === name);
      if (newLines.length === 0) return lines;
      const at = lines.findIndex(([line]) => line.toLowerCase() === name);
      const others = withoutFields(lines, new Set([name]));
      others.splice(at === -1 ? others.length : at, 0, ...newLines);
      return others;
    },
    [...headers],
  );
}

/** Adds the authorization service's headers and removes the client's own fields of the same names. */
function withAddedHeaders(headers: Headers, { addedHeaders = [] }: Upload, route: Route): HeaderLine[] {
  const others = originFields(headers, { ...route, passesUnderscores: true });
  return [...withoutSpellings(others, new Set(addedHeaders.map(([name]) => fieldKey(name)))), ...addedHeaders];
}

/** An `Idempotency-Key` that is the same for every attempt, unless the client sent its own. */
function idempotencyKey(lines: Headers, upload: Upload): HeaderLine[] {
  return fieldValue(lines, 'idempotency-key') === undefined ? [['Idempotency-Key', upload.deliveryKey]] : [];
}

/**
 * The target of the origin's request: the creation's, or a template with `{target}` (path and query), `{path}`,
 * `{query}` (without its question mark), and percent-encoded `{filename}` ("upload" if there is none) and
 * `{metadata.KEY}` ("unknown" if it cannot be used).
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
  const metadata = new UploadMetadata(request);
  const [pathTemplate] = splitOnce(template, '?');
  const filled = template.replace(
    /\{(target|path|query|filename|metadata\.[\w-]+)\}/g,
    (_, name: string, at: number) => {
      if (!name.startsWith(METADATA)) return values[name]!;
      const value = usableMetadata(metadata.text(name.slice(METADATA.length)));
      return encodeURIComponent(at < pathTemplate.length ? value.replace(/[/\\]/g, '_') : value);
    },
  );
  return filled.startsWith('/') ? filled : `/${filled}`;
}

const METADATA = 'metadata.';

/** Longer values do not belong into a target, which servers limit. */
const MAX_METADATA_CHARACTERS = 500;

/** A value for a target: without control characters, and nothing that would make an empty or a dot segment. */
function usableMetadata(text = ''): string {
  const value = text.replace(CONTROLS, '').trim();
  return value.length > MAX_METADATA_CHARACTERS || /^\.{0,2}$/.test(value) ? 'unknown' : value;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
