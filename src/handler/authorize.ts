import { createHash } from 'node:crypto';
import { clientFields, fieldKey, isIdentityField, withoutSpellings } from '../model/client-fields.js';
import { Fault } from '../model/fault.js';
import { isProxyField, withForwarding } from '../model/forwarded.js';
import {
  endToEnd,
  fieldValue,
  type HeaderLine,
  type Headers,
  withoutFields,
  withoutUploadFields,
} from '../model/headers.js';
import type { RelayedAnswer } from '../model/messages.js';
import { clientBaseUrl, type RequestHead } from '../model/request-head.js';
import type { Authorize, Route } from '../model/route.js';
import { statusPhrase } from '../model/status-phrases.js';
import type { Log } from '../observe/log.js';
import { answerFields, headersForRoute, withoutAltSvc } from '../origin/headers.js';
import { OriginClient } from '../origin/origin-client.js';
import { sendShortRequest, type ShortResponse } from '../origin/short-request.js';
import { problemBody } from '../protocol/problem.js';

/** Whether a client may upload, or use a protected route. */
export type Admission =
  | {
      readonly kind: 'admitted';
      /** Extra headers for the origin's request. */
      readonly addedHeaders?: Headers;
      /** The client's principal, as the authorization service names it. */
      readonly principal?: string;
    }
  /** Rejected, with the answer of the service or the origin. `isUndecided`: the service could not decide. */
  | { readonly kind: 'rejected'; readonly answer: RelayedAnswer; readonly isUndecided: boolean };

/** The owner of a request's uploads: anybody who knows their URL, one client (a digest of what identifies it), or nobody. */
export type Owner = { readonly kind: 'anybody' | 'nobody' } | { readonly kind: 'client'; readonly digest: string };

/**
 * Previews the request that the origin will get for a creation. `isForm`: the body is wrapped in a form, which makes it
 * longer than the upload.
 */
type PreviewRequest = (
  head: Pick<RequestHead, 'method' | 'target' | 'headers'>,
  route: Route,
) => Pick<RequestHead, 'method' | 'target' | 'headers'> & { readonly isForm: boolean };

type ForwardAuth = NonNullable<Authorize['forwardAuth']>;

/** Fields about the body, which are left out of the request to the service or the origin. */
const BODY_FIELDS = new Set(['content-length', 'expect', 'transfer-encoding', 'content-digest', 'trailer']);

/**
 * Time that the origin may take to decide by the head; an origin that waits for the body despite `Expect` counts as
 * admitting it.
 */
const PREFLIGHT_TIMEOUT_MS = 2000;

/**
 * Decides whether to admit a client before any byte of its body is read, and who owns its uploads.
 * Reasons: docs/decisions/0027.
 */
export class Authorizer {
  /**
   * `via`: the name of this proxy in `Via`. `answerSettings`: as for every answer of an origin. `preview`: the change
   * that the route makes to a creation for its origin; none when missing. `client`: of the caller, who closes it.
   */
  constructor(
    private readonly log: Log,
    private readonly via?: string,
    private readonly answerSettings: { readonly publicUrl?: string; readonly altSvc?: string } = {},
    private readonly preview: PreviewRequest = (head) => ({ ...head, isForm: false }),
    private readonly client = new OriginClient(),
  ) {}

  /** Asks the route's authorization service; without one everybody is admitted. */
  async authorize(head: RequestHead, route: Route): Promise<Admission> {
    const { forwardAuth } = route.authorize;
    return forwardAuth ? this.askService(head, route, forwardAuth) : { kind: 'admitted' };
  }

  /**
   * Admits a creation: asks the service, unless `earlier` has its decision, and then the origin. `length`: of the
   * complete upload in bytes, where it is known.
   */
  async admitCreation(head: RequestHead, route: Route, earlier?: Admission, length?: number): Promise<Admission> {
    const admission = earlier ?? (await this.authorize(head, route));
    if (admission.kind === 'rejected' || !route.authorize.preflight) return admission;
    return (await this.preflightOrigin({ ...head, contentLength: length }, route, admission.addedHeaders)) ?? admission;
  }

  /**
   * The owner of the request: by the headers that the route binds uploads to, or by the principal that the service
   * names. Rejects with a `Fault` when the service cannot decide.
   */
  async ownerOf(head: RequestHead, route: Route, admission?: Admission): Promise<Owner> {
    const { bindTo } = route;
    if (bindTo !== 'principal') {
      if (bindTo.length === 0) return { kind: 'anybody' };
      return { kind: 'client', digest: digestOf(bindTo.map((name) => fieldValue(head.headers, name))) };
    }
    const current = admission ?? (await this.authorize(head, route));
    if (current.kind === 'rejected' && current.isUndecided)
      throw new Fault('AUTHORIZATION_UNAVAILABLE', UNDECIDED, true);
    if (current.kind === 'rejected' || !current.principal) return { kind: 'nobody' };
    return { kind: 'client', digest: digestOf([current.principal]) };
  }

  private async askService(head: RequestHead, route: Route, auth: ForwardAuth): Promise<Admission> {
    const { url, timeoutMs, copyHeaders, principalHeader } = auth;
    let answer: ShortResponse;
    try {
      const headers = serviceHeaders(head, route, url, this.via);
      answer = await sendShortRequest(this.client, { url, method: 'GET', headers, timeoutMs, connection: 'kept' });
    } catch (error) {
      this.log.error({ err: error }, 'authorization service gave no answer: requests are refused');
      return { kind: 'rejected', answer: UNDECIDED_ANSWER, isUndecided: true };
    }
    if (answer.status < 200 || answer.status > 299)
      return {
        kind: 'rejected',
        answer: relayedAnswer(withoutServiceFields(answer, auth)),
        isUndecided: answer.status >= 500,
      };
    const copied = new Set(copyHeaders.map((name) => name.toLowerCase()));
    return {
      kind: 'admitted',
      addedHeaders: answer.headers.filter(([name]) => copied.has(name.toLowerCase())),
      principal: fieldValue(answer.headers, principalHeader)?.trim(),
    };
  }

  /** RFC 9110 §10.1.1: an origin that refuses by the head alone answers so instead of with 100. */
  private async preflightOrigin(received: RequestHead, route: Route, added?: Headers): Promise<Admission | undefined> {
    const { origin, delivery } = route;
    const { isForm, ...previewed } = this.preview(received, route);
    const head = { ...received, ...previewed, contentLength: isForm ? undefined : received.contentLength };
    // Such a request would be complete with its head.
    if (head.contentLength === 0) return undefined;
    const base = new URL(origin);
    const target = (base.pathname === '/' ? '' : base.pathname) + head.target;
    const host = delivery.preserveHost ? head.authority : base.host;
    const allHeaders = headersForRoute(head, host, { route, addedHeaders: added, via: this.via });
    const lines = withoutUploadFields(withoutFields(allHeaders, BODY_FIELDS));
    const length: HeaderLine =
      head.contentLength === undefined ? ['Transfer-Encoding', 'chunked'] : ['Content-Length', `${head.contentLength}`];
    const headers: HeaderLine[] = [...lines, length, ['Expect', '100-continue'], ['Connection', 'close']];
    try {
      const timeoutMs = Math.min(PREFLIGHT_TIMEOUT_MS, delivery.timeoutMs);
      const answer = await sendShortRequest(this.client, {
        url: base.origin,
        target,
        method: head.method,
        headers,
        timeoutMs,
        expectsContinue: true,
        connection: 'fresh',
      });
      // 508 (RFC 5842 §7.2): the upload would loop back to this proxy.
      const isRefused = (answer.status >= 400 && answer.status < 500) || answer.status === 508;
      if (!isRefused) return undefined;
      const context = { route, publicUrl: this.answerSettings.publicUrl ?? clientBaseUrl(head) };
      const forClient = withoutUploadFields(answerFields(answer.headers, context, this.answerSettings.altSvc));
      return { kind: 'rejected', answer: relayedAnswer({ ...answer, headers: forClient }), isUndecided: false };
    } catch {
      // No answer in time, or no connection: only a refusal rejects a client; delivery has its own retries.
      return undefined;
    }
  }
}

/**
 * The headers for the service: the client's own, and its destination as forward-auth services expect it. Only the proxy
 * may state method and target, because services believe the first of several such fields, or any of them.
 */
function serviceHeaders(head: RequestHead, route: Route, url: string, via?: string): HeaderLine[] {
  const { authority, connection, httpVersion, scheme } = head;
  const { peerAddress, peerIsTrusted, clientAddress } = connection;
  const fields = clientFields(endToEnd(head.headers), route);
  const own = withoutFields(fields, new Set([...BODY_FIELDS, 'host'])).filter(([name]) => !describesTarget(name));
  return [
    ['Host', new URL(url).host],
    ...withForwarding(own, { peerAddress, peerIsTrusted, clientAddress, scheme, authority, httpVersion }, via),
    ['X-Forwarded-Method', head.method],
    ['X-Forwarded-Uri', head.target],
  ];
}

function describesTarget(name: string): boolean {
  const key = fieldKey(name);
  return isProxyField(key) && !TRUSTED_PROXY_FIELDS.has(key);
}

/** Fields about the connection and our own address, which only trusted proxies may set. */
const TRUSTED_PROXY_FIELDS: ReadonlySet<string> = new Set([
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-forwarded-port',
  'x-forwarded-prefix',
  'x-real-ip',
]);

/**
 * A refusal of the service without the fields meant for the proxy alone: the client's identity, and alternative
 * services.
 */
function withoutServiceFields(answer: ShortResponse, { copyHeaders, principalHeader }: ForwardAuth): ShortResponse {
  const proxyOnly = new Set([...copyHeaders, principalHeader].map(fieldKey));
  const forClient = withoutSpellings(withoutAltSvc(answer.headers), proxyOnly).filter(
    ([name]) => !isIdentityField(fieldKey(name)),
  );
  return { ...answer, headers: withoutUploadFields(forClient) };
}

/** The response as an answer for the client, with the size of its body in place of the received length. */
function relayedAnswer({ status, reason, headers, body }: ShortResponse): RelayedAnswer {
  const lines = withoutFields(endToEnd(headers), new Set(['content-length']));
  return { status, reason, headers: lines, bodySize: body.length, body: repeatable(body), trailers: () => [] };
}

/** An answer of our own, where the service has none that can be used. */
export function problemAnswer(status: number, detail: string, more: Headers = []): RelayedAnswer {
  const body = Buffer.from(problemBody({ status, detail }));
  const headers: Headers = [['Content-Type', 'application/problem+json'], ...more];
  return {
    status,
    reason: statusPhrase(status) ?? '',
    headers,
    bodySize: body.length,
    body: repeatable(body),
    trailers: () => [],
  };
}

const UNDECIDED = 'The authorization service cannot say right now whether this is allowed. Try again later.';

const UNDECIDED_ANSWER = problemAnswer(503, UNDECIDED, [['Retry-After', '5']]);

/** A body that can be read repeatedly, unlike a stream. */
function repeatable(body: Buffer): AsyncIterable<Uint8Array> {
  return {
    async *[Symbol.asyncIterator]() {
      if (body.length > 0) yield await Promise.resolve(body);
    },
  };
}

/** Hashes the values; a missing one is distinct from any other. */
function digestOf(values: readonly (string | undefined)[]): string {
  return createHash('sha256')
    .update(JSON.stringify(values.map((value) => value ?? null)))
    .digest('hex');
}
