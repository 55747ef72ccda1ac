import { fieldValue } from '../model/headers.js';
import type { Intent, Refusal } from '../model/messages.js';
import { METHODS_WITHOUT_CONTENT } from '../model/methods.js';
import type { RequestHead } from '../model/request-head.js';
import type { PlainBodies, UploadProtocol } from '../model/route.js';
import { PLAIN_DIALECT, TUS_DIALECT } from '../model/upload.js';
import { knownContentLength, mediaType, parseCreation, parseUploadRequest, readCompleteness } from './parse.js';
import { plain, plainCreation } from './plain.js';
import type { Protocol } from './protocol.js';
import { renderInterim, renderOutcome } from './render.js';
import { isValue, readInteger, valueOf } from './structured-fields.js';
import { isTusRequest, OFFSET_STREAM, tus, tusAnnouncement, tusMethod, type TusSettings } from './tus.js';
import { type Dialect, dialects, final, PARTIAL_UPLOAD, withoutInterim, withoutVersion } from './versions.js';

/** The resource that a request's path leads to, from the routes and the store. */
export type RequestTarget =
  | {
      readonly kind: 'target';
      /** The method makes the target resumable; for OPTIONS, any method does. */
      readonly resumable: boolean;
      /** Smaller uploads that arrive in one request pass through. */
      readonly minSize: number;
      /** The rule for ordinary bodies of this method. */
      readonly plainBodies: PlainBodies;
      /** Requests of this method without content are reshaped too, as if they had an empty body. */
      readonly shapesEmptyBodies: boolean;
      /**
       * The content becomes the file of a form with fields that only the route may set, so it must not be a form
       * itself.
       */
      readonly refusesForms: boolean;
      /** The upload protocols that are accepted here. */
      readonly protocols: readonly UploadProtocol[];
    }
  /** `dialect` is that of the stored upload; undefined if there is no such upload. */
  | {
      readonly kind: 'upload';
      readonly id: string;
      readonly dialect: string | undefined;
      readonly protocols: readonly UploadProtocol[];
    };

/** The classification of a request: a CORS preflight, the origin's own, or one of an upload protocol. */
export type Detected =
  | { readonly kind: 'preflight' }
  | { readonly kind: 'pass-through' }
  | { readonly kind: 'resumable'; readonly protocol: Protocol; readonly request: Intent | Refusal };

type TargetResource = Extract<RequestTarget, { readonly kind: 'target' }>;
type UploadResource = Extract<RequestTarget, { readonly kind: 'upload' }>;

const PASS_THROUGH: Detected = { kind: 'pass-through' };

/**
 * Classifies a request, and chooses the protocol version for uploads. The order of the checks matters. In doubt the
 * request passes through, because every upload of an iOS app sends `Upload-Complete: ?1`, resumable or not.
 */
export function detect(head: RequestHead, target: RequestTarget, settings: DetectSettings): Detected {
  return target.kind === 'upload' ? detectOnUpload(head, target, settings) : detectOnTarget(head, target, settings);
}

function detectOnTarget(head: RequestHead, target: TargetResource, settings: DetectSettings): Detected {
  const upload = detectUpload(head, target, settings);
  const detected = upload.kind === 'pass-through' ? detectPlain(head, target) : upload;
  if (!target.refusesForms || detected.kind !== 'resumable' || mediaType(head) !== FORM) return detected;
  const isCreation = 'kind' in detected.request && detected.request.kind === 'create';
  return isCreation ? resumable(detected.protocol, { reason: 'nested-form' }) : detected;
}

const FORM = 'multipart/form-data';

/** Classifies a request that is no upload; the route decides about its body. */
function detectPlain(head: RequestHead, { plainBodies, shapesEmptyBodies }: TargetResource): Detected {
  if (plainBodies === 'pass' || !(head.hasBody || shapesEmptyBodies)) return PASS_THROUGH;
  if (plainBodies === 'spool') return resumable(plain, plainCreation(head));
  return resumable(plain, { reason: 'upload-required', field: 'Upload-Complete' });
}

function detectUpload(head: RequestHead, target: TargetResource, settings: DetectSettings): Detected {
  // Before the preflight check: the origin answers preflights for targets that are not resumable.
  if (!target.resumable) return PASS_THROUGH;
  // Neither browsers nor upload clients send OPTIONS with content, so its content is treated like any other.
  if (head.method === 'OPTIONS' && head.hasBody && target.plainBodies !== 'pass') return PASS_THROUGH;
  if (isPreflight(head)) return { kind: 'preflight' };
  const dialect = targetDialect(head);
  if (head.method === 'OPTIONS')
    return resumable(discovery(ietf(dialect, settings), target.protocols, settings), { kind: 'discover' });
  if (isTusRequest(head)) return detectTus(head, target.protocols, settings);
  if (!target.protocols.includes('rufh')) return detectOtherProtocol(head);
  // An append to something that is no upload must not create one, and the origin does not understand appends.
  if (head.method === 'PATCH' && mediaType(head) === PARTIAL_UPLOAD) {
    return resumable(ietf(dialect, settings), { reason: 'unknown-upload' });
  }
  return METHODS_WITHOUT_CONTENT.has(head.method) ? PASS_THROUGH : detectCreation(head, target, settings);
}

/**
 * A tus client never means an ordinary request to the origin by POST: its creation would become an empty object there.
 */
function detectTus(head: RequestHead, protocols: readonly UploadProtocol[], settings: TusSettings): Detected {
  // Routes, authorization and the origin go by the request's own method, so only POST can stand for another one here.
  const method = head.method === 'POST' ? tusMethod(head) : head.method;
  const isCreation = method === 'POST';
  if (!isCreation && !(method === 'PATCH' && mediaType(head) === OFFSET_STREAM)) return PASS_THROUGH;
  const protocol = tus(settings, 'creation');
  if (!protocols.includes('tus')) return resumable(protocol, { reason: 'protocol-not-offered', protocol: 'tus' });
  return resumable(protocol, isCreation ? protocol.parseCreation(head) : { reason: 'unknown-upload' });
}

/**
 * Where only tus is offered, a complete request of the draft works as an ordinary one. An incomplete one cannot, and an
 * append to something that is no upload must not create one.
 */
function detectOtherProtocol(head: RequestHead): Detected {
  const dialect = targetDialect(head);
  const isIncomplete = valueOf(readCompleteness(dialect, head)) === false;
  const isAppend = head.method === 'PATCH' && mediaType(head) === PARTIAL_UPLOAD;
  return isIncomplete || isAppend
    ? resumable(ietf(dialect), { reason: 'protocol-not-offered', protocol: 'rufh' })
    : PASS_THROUGH;
}

/** The response to OPTIONS announces every protocol that is offered, because it need not name the client's. */
function discovery(protocol: Protocol, protocols: readonly UploadProtocol[], settings: TusSettings): Protocol {
  if (protocol.name === TUS_DIALECT || !protocols.includes('tus')) return protocol;
  return {
    ...protocol,
    render: (outcome, context) => {
      const reply = protocol.render(outcome, context);
      if (outcome.kind !== 'discovered') return reply;
      const headers = protocols.includes('rufh') ? reply.headers : [];
      return { ...reply, headers: [...headers, ...tusAnnouncement(context.limits, settings)] };
    },
  };
}

/** Detects an upload by its completeness field. An invalid field counts as absent (RFC 9651 §4.2). */
function detectCreation(head: RequestHead, { minSize }: TargetResource, settings: IetfSettings): Detected {
  const dialect = targetDialect(head);
  const complete = readCompleteness(dialect, head);
  if (!isValue(complete)) return PASS_THROUGH;
  // A complete request of a future version works as an ordinary one. An incomplete one gets the newest known rules.
  if (complete && namedDialect(head) === 'unknown') return PASS_THROUGH;
  const protocol = ietf(dialect, settings);
  const length = knownContentLength(head) ?? valueOf(readInteger(head.headers, 'Upload-Length'));
  // Incomplete creations are accepted whatever their length: browser clients begin every upload with an empty one.
  if (complete && length !== undefined && length < minSize) return PASS_THROUGH;
  const learnsUrl = fieldValue(head.headers, 'Upload-Metadata') === undefined;
  return resumable(learnsUrl ? protocol : tellingUrl(protocol), protocol.parseCreation(head));
}

/**
 * The protocol for tus-js-client, the only client of the drafts that sends Upload-Metadata. Pages see no 104, and it takes
 * a URL only from a 2xx: without one it would send the file again after a failure, and the origin would get it twice.
 * Reasons: docs/decisions/0033.
 */
function tellingUrl(protocol: Protocol): Protocol {
  return {
    ...protocol,
    render: (outcome, context) => {
      const isFailure =
        (outcome.kind === 'answered' && outcome.answer.status >= 400) ||
        outcome.kind === 'parked' ||
        outcome.kind === 'undelivered' ||
        outcome.kind === 'pending';
      const isIncomplete = isFailure && outcome.upload.heldBack !== undefined;
      return protocol.render(isIncomplete ? { kind: 'created', upload: outcome.upload } : outcome, context);
    },
  };
}

/** The request's version decides the form of the response, or the stored upload's if the request names none. */
function detectOnUpload(head: RequestHead, upload: UploadResource, settings: DetectSettings): Detected {
  if (isPreflight(head)) return { kind: 'preflight' };
  const protocol = protocolOnUpload(head, upload, settings);
  const name = protocol.name === TUS_DIALECT ? 'tus' : 'rufh';
  // No request finds the upload of an ordinary request.
  const exists = upload.dialect !== undefined && upload.dialect !== PLAIN_DIALECT;
  if (!exists) return resumable(protocol, { reason: 'unknown-upload' });
  if (!upload.protocols.includes(name)) return resumable(protocol, { reason: 'protocol-not-offered', protocol: name });
  const request = protocol.parseUploadRequest(head, upload.id);
  const discovers = 'kind' in request && request.kind === 'discover';
  return resumable(discovers ? discovery(protocol, upload.protocols, settings) : protocol, request);
}

/** An upload may continue in another protocol than it began with: its client may have been updated meanwhile. */
function protocolOnUpload(head: RequestHead, { dialect }: UploadResource, settings: DetectSettings): Protocol {
  if (isTusRequest(head)) return tus(settings, 'upload');
  const isDraft = namedDialect(head) !== undefined || isValue(readCompleteness(final, head));
  if (dialect === TUS_DIALECT && !isDraft) return tus(settings, 'upload');
  const stored = dialect === undefined ? undefined : dialects.get(dialect);
  return ietf(uploadDialect(head, stored ?? final), settings);
}

function uploadDialect(head: RequestHead, stored: Dialect): Dialect {
  const named = namedDialect(head);
  if (named === 'unknown') return withoutVersion(stored);
  if (named) return named;
  // The field of another version must not count as absent: that means "complete" where versions have no such field.
  const speaksFinal = isValue(readCompleteness(final, head)) && !isValue(readCompleteness(stored, head));
  return stored === final || speaksFinal ? final : withoutInterim(stored);
}

/** Requests without a known version get the newest rules. */
function targetDialect(head: RequestHead): Dialect {
  const named = namedDialect(head);
  return named === 'unknown' ? withoutVersion(final) : (named ?? final);
}

/** From `Upload-Draft-Interop-Version`: undefined without the field, `unknown` for other versions or no Integer. */
function namedDialect(head: RequestHead): Dialect | 'unknown' | undefined {
  const version = readInteger(head.headers, 'Upload-Draft-Interop-Version');
  if (version === 'absent') return undefined;
  return dialects.get(String(version)) ?? 'unknown';
}

function isPreflight({ method, headers }: RequestHead): boolean {
  return method === 'OPTIONS' && fieldValue(headers, 'Access-Control-Request-Method') !== undefined;
}

function resumable(protocol: Protocol, request: Intent | Refusal): Detected {
  return { kind: 'resumable', protocol, request };
}

/** The settings by which requests are classified. */
type DetectSettings = Required<IetfSettings> & TusSettings;

/** The settings of RUFH. */
export interface IetfSettings {
  /** Sends 104 also to requests without a version header, which the drafts forbid and the RFC will allow. */
  readonly finalInterim?: boolean;
}

/** The protocol for one deployed version of RUFH. */
export function ietf(dialect: Dialect, { finalInterim = false }: IetfSettings = {}): Protocol {
  const sendsInterim = dialect.interim === 'always' || (dialect.interim === 'when-enabled' && finalInterim);
  return {
    name: dialect.name,
    parseCreation: (head) => parseCreation(dialect, head),
    parseUploadRequest: (head, id) => parseUploadRequest(dialect, head, id),
    interim: (update, context) => (sendsInterim ? renderInterim(dialect, update, context) : undefined),
    render: (outcome, context) => renderOutcome(dialect, outcome, context),
  };
}
