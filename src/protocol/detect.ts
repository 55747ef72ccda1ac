import { fieldValue } from '../model/headers.js';
import type { Intent, Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import type { PlainBodies } from '../model/route.js';
import { knownContentLength, mediaType, parseCreation, parseUploadRequest, readCompleteness } from './parse.js';
import { plain, plainCreation } from './plain.js';
import type { Protocol } from './protocol.js';
import { renderInterim, renderOutcome } from './render.js';
import { isValue, readInteger, valueOf } from './structured-fields.js';
import { type Dialect, dialects, final, PARTIAL_UPLOAD, withoutInterim, withoutVersion } from './versions.js';

/** What a request's path leads to, as far as the routes and the store know. */
export type RequestTarget =
  | {
      readonly kind: 'target';
      /** For OPTIONS, whether any method is. */
      readonly resumable: boolean;
      /** Smaller uploads that come whole are passed on as they are. */
      readonly minSize: number;
      /** For the method of the request, as is the next. */
      readonly plainBodies: PlainBodies;
      /** A request without content counts as one with an empty body: it would reach the wrong place too. */
      readonly shapesEmptyBodies: boolean;
      /** The bytes become the file of a form with fields that a client is not to choose: a form of its own could. */
      readonly refusesForms: boolean;
    }
  /** `dialect`: the upload's own; undefined when there is no such upload. */
  | { readonly kind: 'upload'; readonly id: string; readonly dialect: string | undefined };

export type Detected =
  | { readonly kind: 'preflight' }
  | { readonly kind: 'pass-through' }
  | { readonly kind: 'resumable'; readonly protocol: Protocol; readonly request: Intent | Refusal };

type TargetResource = Extract<RequestTarget, { readonly kind: 'target' }>;
type UploadResource = Extract<RequestTarget, { readonly kind: 'upload' }>;

const PASS_THROUGH: Detected = { kind: 'pass-through' };

/** Methods without content to upload (RFC 9110 §9.3); the early drafts name four of them. */
const WITHOUT_CONTENT = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT']);

/**
 * What a request is: ours, and in which form, or the origin's. The order of the questions matters. When in doubt the
 * request is the origin's, because every upload of an iOS app says `Upload-Complete: ?1`, resumable or not.
 */
export function detect(head: RequestHead, place: RequestTarget, settings: Required<IetfSettings>): Detected {
  return place.kind === 'upload' ? detectOnUpload(head, place, settings) : detectOnTarget(head, place, settings);
}

function detectOnTarget(head: RequestHead, target: TargetResource, settings: IetfSettings): Detected {
  const upload = detectUpload(head, target, settings);
  const detected = upload.kind === 'pass-through' ? detectPlain(head, target) : upload;
  if (!target.refusesForms || detected.kind !== 'resumable' || mediaType(head) !== FORM) return detected;
  const isCreation = 'kind' in detected.request && detected.request.kind === 'create';
  return isCreation ? resumable(detected.protocol, { reason: 'form-of-its-own' }) : detected;
}

const FORM = 'multipart/form-data';

/** A body that is no upload: the route says whether it passes. */
function detectPlain(head: RequestHead, { plainBodies, shapesEmptyBodies }: TargetResource): Detected {
  if (plainBodies === 'pass' || !(head.hasBody || shapesEmptyBodies)) return PASS_THROUGH;
  if (plainBodies === 'spool') return resumable(plain, plainCreation(head));
  return resumable(plain, { reason: 'upload-required', field: 'Upload-Complete' });
}

function detectUpload(head: RequestHead, target: TargetResource, settings: IetfSettings): Detected {
  // A target of which nothing is resumable answers its preflights itself too.
  if (!target.resumable) return PASS_THROUGH;
  // With content it is no question that browsers or uploads ask, and the content is seen like any other.
  if (head.method === 'OPTIONS' && head.hasBody && target.plainBodies !== 'pass') return PASS_THROUGH;
  if (isPreflight(head)) return { kind: 'preflight' };
  if (isTusRequest(head)) return PASS_THROUGH;
  const dialect = targetDialect(head);
  if (head.method === 'OPTIONS') return resumable(ietf(dialect, settings), { kind: 'discover' });
  // An append, but not to an upload: it must not create one, and the origin knows nothing of appends.
  if (head.method === 'PATCH' && mediaType(head) === PARTIAL_UPLOAD) {
    return resumable(ietf(dialect, settings), { reason: 'unknown-upload' });
  }
  return WITHOUT_CONTENT.has(head.method) ? PASS_THROUGH : detectCreation(head, target, settings);
}

/** An invalid completeness field is as good as none (RFC 9651 §4.2), and without one there is nothing to resume. */
function detectCreation(head: RequestHead, { minSize }: TargetResource, settings: IetfSettings): Detected {
  const dialect = targetDialect(head);
  const complete = readCompleteness(dialect, head);
  if (!isValue(complete)) return PASS_THROUGH;
  // A future client works without us. One that is going to send the rest later needs us, and the newest rules we know.
  if (complete && namedDialect(head) === 'unknown') return PASS_THROUGH;
  const protocol = ietf(dialect, settings);
  const length = knownContentLength(head) ?? valueOf(readInteger(head.headers, 'Upload-Length'));
  // One that sends the rest later needs us, however small it is: a browser's client begins every upload so.
  if (complete && length !== undefined && length < minSize) return PASS_THROUGH;
  return resumable(protocol, protocol.parseCreation(head));
}

/** The upload decides who understands it, the request how it wants to be answered. */
function detectOnUpload(head: RequestHead, place: UploadResource, settings: IetfSettings): Detected {
  if (isPreflight(head)) return { kind: 'preflight' };
  const stored = place.dialect === undefined ? undefined : dialects.get(place.dialect);
  const protocol = ietf(uploadDialect(head, stored ?? final), settings);
  // Two families never answer for each other: to one, an upload of the other does not exist.
  if (isTusRequest(head) || !stored) return resumable(protocol, { reason: 'unknown-upload' });
  return resumable(protocol, protocol.parseUploadRequest(head, place.id));
}

function uploadDialect(head: RequestHead, stored: Dialect): Dialect {
  const named = namedDialect(head);
  if (named === 'unknown') return withoutVersion(stored);
  return named ?? (stored === final ? final : withoutInterim(stored));
}

/** Whoever names no version of ours is answered by the newest rules. */
function targetDialect(head: RequestHead): Dialect {
  const named = namedDialect(head);
  return named === 'unknown' ? withoutVersion(final) : (named ?? final);
}

/** `Upload-Draft-Interop-Version`: undefined when there is none, `unknown` when it is none of ours, or no Integer. */
function namedDialect(head: RequestHead): Dialect | 'unknown' | undefined {
  const version = readInteger(head.headers, 'Upload-Draft-Interop-Version');
  if (version === 'absent') return undefined;
  return dialects.get(String(version)) ?? 'unknown';
}

/** tus 1.0.0 wins over everything: a tus client on iOS sends the fields of both. */
function isTusRequest({ headers }: RequestHead): boolean {
  return fieldValue(headers, 'Tus-Resumable') !== undefined;
}

function isPreflight({ method, headers }: RequestHead): boolean {
  return method === 'OPTIONS' && fieldValue(headers, 'Access-Control-Request-Method') !== undefined;
}

function resumable(protocol: Protocol, request: Intent | Refusal): Detected {
  return { kind: 'resumable', protocol, request };
}

export interface IetfSettings {
  /** Send 104 in the form without a version header as well: the drafts forbid it, the RFC will not. */
  readonly finalInterim?: boolean;
}

/** RUFH in one of its deployed forms. */
export function ietf(dialect: Dialect, { finalInterim = false }: IetfSettings = {}): Protocol {
  const sendsInterim = dialect.interim === 'always' || (dialect.interim === 'when-enabled' && finalInterim);
  return {
    name: dialect.name,
    parseCreation: (head) => parseCreation(dialect, head),
    parseUploadRequest: (head, id) => parseUploadRequest(dialect, head, id),
    interim: (news, context) => (sendsInterim ? renderInterim(dialect, news, context) : undefined),
    render: (outcome, context) => renderOutcome(dialect, outcome, context),
  };
}
