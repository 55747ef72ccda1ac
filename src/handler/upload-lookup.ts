import { clientFields, fieldKey, isMethodOverrideField } from '../model/client-fields.js';
import { Fault } from '../model/fault.js';
import type { RequestHead } from '../model/request-head.js';
import {
  addsFormFields,
  dependsOnPath,
  isProtected,
  passesSmallUploads,
  plainBodiesFor,
  protectionKey,
  reshapesRequest,
  type Route,
  routeFor,
  type Routes,
} from '../model/route.js';
import type { Upload } from '../model/upload.js';
import { isUploadToken, type UploadIdentity, uploadIdOf } from '../model/upload-id.js';
import { pathOf } from '../model/uri.js';
import type { RequestTarget } from '../protocol/detect.js';
import {
  canonicalTarget,
  InvalidHead,
  mayBeBelow,
  mayEscapeRoot,
  otherReadings,
  readTarget,
} from '../server/request-head.js';
import type { Uploads } from '../uploads/uploads.js';
import type { Authorizer } from './authorize.js';

/** The target of a request, with the route that applies to it. */
export interface ResolvedTarget {
  /** The request as it is forwarded: its target is canonical on protected routes, and forbidden fields are removed. */
  readonly head: RequestHead;
  readonly target: RequestTarget;
  /** The route of the upload, or else of the target. */
  readonly route: Route;
  /**
   * For OPTIONS on a target, the route whose uploads are announced: any method on this path could have them (RUFH
   * §4.1.4).
   */
  readonly announced?: Route;
  /** Also missing if the upload belongs to another client. */
  readonly upload?: Upload;
  /** The token in the URL of an upload, whether that exists or not. */
  readonly identity?: UploadIdentity;
  /** The page about the upload, where the request is not for the upload itself. */
  readonly page?: 'status' | 'answer';
  /** The reason why it is unknown whether the upload exists. */
  readonly fault?: Fault;
}

export interface UploadLookupOptions {
  readonly uploads: Pick<Uploads, 'find'>;
  readonly authorizer: Authorizer;
  readonly routes: Routes;
  /** Path prefix of upload resources: begins and ends with a slash. */
  readonly uploadsPath: string;
}

/**
 * The upload with this token. Uploads of earlier versions have the token itself for their id; the id of a newer one has
 * another form and is no token, so knowing it opens nothing.
 */
export async function findByToken(uploads: Pick<Uploads, 'find'>, token: string): Promise<Upload | undefined> {
  if (!isUploadToken(token)) return undefined;
  return (await uploads.find(uploadIdOf(token))) ?? (await uploads.find(token));
}

/** Finds targets and uploads. Where a route binds uploads to their creator, others do not find them. */
export class UploadLookup {
  constructor(private readonly options: UploadLookupOptions) {}

  /**
   * Resolves the target of a request; returns an `InvalidHead` for a path that could bypass the protection of a route.
   * Only an upload has to be waited for.
   */
  find(received: RequestHead): ResolvedTarget | InvalidHead | Promise<ResolvedTarget> {
    const { routes, uploadsPath } = this.options;
    const located = locate(received, routes, uploadsPath);
    if (located.kind === 'refused') return new InvalidHead(400, located.detail);
    const { head } = located;
    if (located.kind === 'upload') return this.findUpload(head, head.path.slice(uploadsPath.length));
    const { method, path } = head;
    const { route } = located;
    const forwarded = withClientFields(head, route);
    if (method !== 'OPTIONS') return { head: forwarded, route, target: targetOf(head, route) };
    const announced = routes.findResumable(path);
    const protocols = announced?.protocols ?? route.protocols;
    return {
      head: forwarded,
      route,
      announced,
      target: targetOf(head, { ...route, protocols, resumable: announced !== undefined }),
    };
  }

  private async findUpload(received: RequestHead, path: string): Promise<ResolvedTarget> {
    const [, token = path, page] = /^([^/]*)\/(status|answer)$/.exec(path) ?? [];
    const upload = await this.uploadOf(token);
    const exists = upload !== undefined && !(upload instanceof Fault);
    const id = exists ? upload.id : uploadIdOf(token);
    const identity = { token, id };
    const route = exists ? this.routeOfUpload(upload) : this.options.routes.find(received.method, received.path);
    const head = withClientFields(received, route);
    if (upload instanceof Fault)
      return {
        head,
        target: { kind: 'upload', id, dialect: undefined, protocols: route.protocols },
        route,
        identity,
        fault: upload,
      };
    const ownUpload = upload && (await this.unlessForeign(upload, head, route));
    if (ownUpload instanceof Fault)
      return {
        head,
        target: { kind: 'upload', id, dialect: undefined, protocols: route.protocols },
        route,
        identity,
        fault: ownUpload,
      };
    const target: RequestTarget = { kind: 'upload', id, dialect: ownUpload?.dialect, protocols: route.protocols };
    return { head, target, route, identity, upload: ownUpload, page: page as ResolvedTarget['page'] };
  }

  private async uploadOf(token: string): Promise<Upload | undefined | Fault> {
    try {
      return await findByToken(this.options.uploads, token);
    } catch (fault) {
      // The fault is rendered later, because the protocol is not known before the target is.
      if (fault instanceof Fault) return fault;
      throw fault;
    }
  }

  /** The upload, if it belongs to this client; for others it does not exist (RUFH, security considerations). */
  private async unlessForeign(upload: Upload, head: RequestHead, route: Route): Promise<Upload | undefined | Fault> {
    if (upload.principal === undefined) return upload;
    try {
      const owner = await this.options.authorizer.ownerOf(head, route);
      return owner.kind === 'client' && owner.digest === upload.principal ? upload : undefined;
    } catch (fault) {
      if (fault instanceof Fault) return fault;
      throw fault;
    }
  }

  private routeOfUpload({ route, request }: Upload): Route {
    const { routes } = this.options;
    return routes.byName(route) ?? routes.find(request.method, request.target.split('?', 1)[0]!);
  }
}

/**
 * Removes fields that clients may not send, once for all readers: different views of the fields could give an upload
 * two owners.
 */
function withClientFields(head: RequestHead, route: Route): RequestHead {
  const headers = clientFields(head.headers, route);
  return headers === head.headers ? head : { ...head, headers };
}

function targetOf({ method }: RequestHead, route: Route): RequestTarget {
  const { resumable, limits, delivery } = routeFor(method, route);
  return {
    kind: 'target',
    resumable,
    minSize: passesSmallUploads(route) ? limits.minSize : 0,
    plainBodies: plainBodiesFor(method, route),
    shapesEmptyBodies: reshapesRequest(delivery),
    refusesForms: addsFormFields(delivery.framing),
    protocols: route.protocols,
  };
}

/** The destination of a request. `head` is the form that is matched, authorized, stored and sent from here on. */
export type Located =
  | { readonly kind: 'upload'; readonly head: RequestHead }
  | { readonly kind: 'target'; readonly head: RequestHead; readonly route: Route }
  /** The target has several readings, and the protection of one would not cover the others. */
  | { readonly kind: 'refused'; readonly detail: string };

type RouteFinder = Pick<Routes, 'find' | 'findIgnoringCase' | 'hasProtected'>;

/**
 * Finds the route of a request, so that no origin can read its target as one that another route protects. A protected
 * route sends the very path that was matched; elsewhere the target is sent as received if all its readings lead to
 * routes with the same protection.
 */
export function locate(received: RequestHead, routes: RouteFinder, uploadsPath: string): Located {
  const { method, path, pathAmbiguity } = received;
  if (path.startsWith(uploadsPath)) return { kind: 'upload', head: received };
  const route = routes.find(method, path);
  const head = keptBelowOrigin(received, route);
  if (!head) return refusedFor(pathAmbiguity ?? OTHER_SPELLING);
  const readings = lazyReadings(head);
  if (mayBeBelow(head, uploadsPath) && (readings()?.some((reading) => reading.startsWith(uploadsPath)) ?? true))
    return refusedFor(pathAmbiguity ?? OTHER_SPELLING);
  if (!routes.hasProtected) return { kind: 'target', head, route };
  const methods = requestedMethods(head);
  if (methods.length > MAX_METHODS) return { kind: 'refused', detail: OTHER_METHOD };
  const check: ReadingCheck = { routes, route, methods };
  if (hasUnsafeDestination(head, check)) return { kind: 'refused', detail: OTHER_DESTINATION };
  if (pathAmbiguity !== undefined && dependsOnPath(route)) return refusedFor(pathAmbiguity);
  const safe = sendableForms(head, route).find((form) => {
    const formReadings = form === head ? readings() : otherReadings(form);
    return protectedReading(form, formReadings, check) === undefined;
  });
  if (safe) return { kind: 'target', head: safe, route };
  const problem = protectedReading(head, readings(), check)!;
  return problem === OTHER_METHOD ? { kind: 'refused', detail: OTHER_METHOD } : refusedFor(pathAmbiguity ?? problem);
}

/** The request in a form that stays below the path of its origin's URL, if it has one; undefined if there is none. */
function keptBelowOrigin(head: RequestHead, { origin }: Route): RequestHead | undefined {
  if (pathOf(origin).length <= 1 || !mayEscapeRoot(head)) return head;
  const canonical = { ...head, target: canonicalTarget(head) };
  return head.pathAmbiguity === undefined && !mayEscapeRoot(canonical) ? canonical : undefined;
}

/** Input for checking whether some reading of a target bypasses the protection of a route. */
interface ReadingCheck {
  readonly routes: RouteFinder;
  /** The route that the request matches. */
  readonly route: Route;
  /** The methods that its fields and its query request instead of its own. */
  readonly methods: readonly string[];
}

/** The most methods that are checked: no client needs more, and each costs time. */
const MAX_METHODS = 4;

/**
 * Methods that an application may use instead of the request's own, because fields or the query name them (for clients
 * that know only GET and POST). Applications parse such values differently, so every word counts.
 */
function requestedMethods({ method, headers, target }: RequestHead): string[] {
  const query = target.includes('?') ? target.slice(target.indexOf('?') + 1) : '';
  const inQuery = [...new URLSearchParams(query)].filter(([name]) => METHOD_PARAMETER.test(name));
  const inFields = headers.filter(([name]) => isMethodOverrideField(fieldKey(name)));
  const words = [...inFields, ...inQuery].flatMap(([, value]) => value.toUpperCase().match(/[A-Z][A-Z-]*/g) ?? []);
  // Single letters are quality values or similar.
  return [...new Set(words)].filter((word) => word.length > 1 && word !== method);
}

/** As in Rails, Laravel and Symfony. */
const METHOD_PARAMETER = /^(?:_method|x-http-method(?:-override)?)$/i;

const OTHER_METHOD =
  'A field or the query of this request asks for a method that is protected in another way than the method of this ' +
  'request. Send the request by the method that it means.';

/** Methods that write to the target in `Destination` (RFC 4918 §10.3), which routes may protect too. */
const DESTINATION_METHODS: ReadonlySet<string> = new Set(['COPY', 'MOVE']);

/** Whether the request writes to a `Destination` that is malformed or has another protection. */
function hasUnsafeDestination(head: RequestHead, { routes, route, methods }: ReadingCheck): boolean {
  const writeMethods = [head.method, ...methods].filter((method) => DESTINATION_METHODS.has(method));
  if (writeMethods.length === 0) return false;
  const destinations = head.headers.filter(([name]) => fieldKey(name) === 'destination');
  return destinations.some(([, value]) => {
    const target = readTarget(head.method, value.trim());
    if (!target) return true;
    const destination: RequestHead = { ...head, target: target.target, path: target.path };
    const check = { routes, route, methods: [...writeMethods, 'PUT'] };
    return protectedReading(destination, otherReadings(destination), check) !== undefined;
  });
}

const OTHER_DESTINATION =
  'The Destination of this request is malformed, or it is protected in another way than the path of this request.';

/** Computes the readings of a target on first use. */
function lazyReadings(head: RequestHead): () => Readings {
  let cached: { readonly readings: Readings } | undefined;
  return () => (cached ??= { readings: otherReadings(head) }).readings;
}

type Readings = ReturnType<typeof otherReadings>;

/**
 * The forms in which the target may be sent, the preferred one first. A literal dot segment has one meaning (RFC 3986
 * §5.2.4), so resolving it leaves no other reading.
 */
function sendableForms(head: RequestHead, route: Route): RequestHead[] {
  const canonical = { ...head, target: canonicalTarget(head) };
  if (dependsOnPath(route)) return [canonical];
  return head.pathAmbiguity === undefined && hasDotSegments(head.target) ? [head, canonical] : [head];
}

/** The reason why some server could find a route with another protection in this request; undefined if none can. */
function protectedReading(
  head: RequestHead,
  readings: Readings,
  { routes, route, methods }: ReadingCheck,
): string | undefined {
  if (!readings) return OTHER_SPELLING;
  const protectsOtherwise = (other: Route): boolean =>
    isProtected(other) && protectionKey(other) !== protectionKey(route);
  const paths = [head.path, ...readings];
  const checks: readonly (readonly [methods: readonly string[], exactProblem: string, caseProblem: string])[] = [
    [[head.method], OTHER_SPELLING, OTHER_CASE],
    [methods, OTHER_METHOD, OTHER_METHOD],
  ];
  for (const [checkedMethods, exactProblem, caseProblem] of checks) {
    if (checkedMethods.some((method) => paths.some((path) => protectsOtherwise(routes.find(method, path)))))
      return exactProblem;
    const inAnyCase = checkedMethods.flatMap((method) => paths.map((path) => routes.findIgnoringCase(method, path)));
    if (inAnyCase.some((other) => dependsOnPath(other) && protectsOtherwise(other))) return caseProblem;
  }
  return undefined;
}

const OTHER_SPELLING = 'a spelling that some servers read as another path';
const OTHER_CASE = 'letters whose case some servers ignore, which makes it another path';

function refusedFor(problem: string): Located {
  return {
    kind: 'refused',
    detail: `The path of this request has ${problem}, and it could be read as one that is protected. Send it in its plain form.`,
  };
}

function hasDotSegments(target: string): boolean {
  return /\/\.{1,2}(?:\/|$)/.test(target.split('?', 1)[0]!);
}
