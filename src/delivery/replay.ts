import { withForwarding } from '../model/forwarding.js';
import { endToEnd, fieldValue, withoutFields, type HeaderLine, type Headers } from '../model/headers.js';
import type { Route } from '../model/route.js';
import type { Upload } from '../model/upload.js';

/** The head of the one ordinary request that stands for the whole upload. */
export interface Replay {
  /** Scheme, host and port. */
  readonly origin: string;
  readonly method: string;
  readonly target: string;
  /** Every field but `Content-Length`, which follows from the body. */
  readonly headers: Headers;
}

/** Fields about one piece of an upload, or about one message: wrong or harmful on a request that carries the whole. */
const OF_THE_UPLOAD = new Set([
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
  'x-http-method-override',
  'expect',
  'content-length',
  // RFC 9530 §2: about the content of one message. `Repr-Digest` is about the whole and stays.
  'content-digest',
  'host',
]);

/** They say "a piece follows", which the origin would take for the type of the whole. */
const TYPES_OF_PIECES = new Set(['application/partial-upload', 'application/offset+octet-stream']);

const CREDENTIALS = ['authorization', 'cookie'];

/** `credentials`: those of the request that completes the upload; each replaces its stored one, which may have expired. */
export function replayOf(upload: Upload, route: Route, credentials: Headers): Replay {
  const { request } = upload;
  const base = new URL(route.origin);
  const own = withoutFields(endToEnd(request.headers), OF_THE_UPLOAD).map(withWholeType);
  const lines = withForwarding(withCredentials(own, credentials), request);
  return {
    origin: base.origin,
    method: request.method,
    target: (base.pathname === '/' ? '' : base.pathname) + request.target,
    headers: [
      ['Host', route.delivery.preserveHost && request.authority !== '' ? request.authority : base.host],
      ...lines,
      ...idempotencyKey(lines, upload),
    ],
  };
}

function withWholeType([name, value]: HeaderLine): HeaderLine {
  const isType = name.toLowerCase() === 'content-type';
  const type = value.split(';', 1)[0]!.trim().toLowerCase();
  return isType && TYPES_OF_PIECES.has(type) ? [name, 'application/octet-stream'] : [name, value];
}

/** New lines take the place of the old ones, so that the order the client chose stays. */
function withCredentials(headers: Headers, credentials: Headers): HeaderLine[] {
  return CREDENTIALS.reduce<HeaderLine[]>(
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

/** The same for every attempt, so that an origin that honours it takes the upload once. A client's own key is its business. */
function idempotencyKey(lines: Headers, upload: Upload): HeaderLine[] {
  return fieldValue(lines, 'idempotency-key') === undefined ? [['Idempotency-Key', upload.deliveryKey]] : [];
}
