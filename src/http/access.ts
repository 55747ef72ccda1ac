import { createHash } from 'node:crypto';
import { withForwarding } from '../model/forwarding.js';
import { endToEnd, fieldValue, withoutFields, type HeaderLine, type Headers } from '../model/headers.js';
import type { RelayedAnswer } from '../model/outcome.js';
import type { RequestHead } from '../model/request-head.js';
import type { Authorize, Route } from '../model/route.js';
import type { Log } from '../observe/log.js';
import { ask, type ShortAnswer } from './ask.js';
import { linesForOrigin } from './origin-lines.js';

export type Admission =
  | {
      readonly kind: 'in';
      /** What the origin's request gets besides. */
      readonly addedHeaders?: Headers;
      /** Who this is, as `forwardAuth` says. */
      readonly principal?: string;
    }
  /** Turned away, with the answer of whoever was asked. */
  | { readonly kind: 'out'; readonly answer: RelayedAnswer };

type ForwardAuth = NonNullable<Authorize['forwardAuth']>;

/** About a body that the one who is asked does not get. */
const OF_THE_BODY = new Set(['content-length', 'expect', 'transfer-encoding', 'content-digest', 'trailer']);

/** How long an origin may think about a head: one that waits for the body in spite of `Expect` lets it in. */
const PREFLIGHT_MS = 2000;

/** Decides who may upload before a byte of a body is taken, and whose an upload is. */
export class Access {
  constructor(private readonly log: Log) {}

  /** Asks whoever the route names: the authorization service, then the origin itself. */
  async admit(head: RequestHead, route: Route): Promise<Admission> {
    const { forwardAuth, preflight } = route.authorize;
    const admission: Admission = forwardAuth ? await this.askService(head, forwardAuth) : { kind: 'in' };
    if (admission.kind === 'out' || !preflight) return admission;
    return (await this.askOrigin(head, route)) ?? admission;
  }

  /**
   * Whose request this is, as a digest that can be kept: of the headers the route binds uploads to, or of the principal.
   * Undefined where nothing binds.
   */
  async principalOf(head: RequestHead, route: Route, admission?: Admission): Promise<string | undefined> {
    const { bindTo, authorize } = route;
    if (bindTo !== 'principal')
      return bindTo.length === 0 ? undefined : digestOf(bindTo.map((name) => fieldValue(head.headers, name)));
    const { forwardAuth } = authorize;
    const known = admission ?? (forwardAuth && (await this.askService(head, forwardAuth)));
    return digestOf([known?.kind === 'in' ? known.principal : undefined]);
  }

  private async askService(head: RequestHead, auth: ForwardAuth): Promise<Admission> {
    const { url, timeoutMs, copyHeaders, principalHeader } = auth;
    let answer: ShortAnswer;
    try {
      answer = await ask({ url, method: 'GET', headers: questionOf(head, url), timeoutMs });
    } catch (error) {
      this.log.error({ err: error }, 'the authorization service gave no answer: nobody is let in');
      return { kind: 'out', answer: silent };
    }
    if (answer.status < 200 || answer.status > 299) return { kind: 'out', answer: relayed(answer) };
    const names = new Set(copyHeaders.map((name) => name.toLowerCase()));
    return {
      kind: 'in',
      addedHeaders: answer.headers.filter(([name]) => names.has(name.toLowerCase())),
      principal: fieldValue(answer.headers, principalHeader),
    };
  }

  /** RFC 9110 §10.1.1: an origin that knows already that it does not want the body says so instead of 100. */
  private async askOrigin(head: RequestHead, route: Route): Promise<Admission | undefined> {
    const { origin, delivery } = route;
    const base = new URL(origin);
    const url = base.origin + (base.pathname === '/' ? '' : base.pathname) + head.target;
    const host = delivery.preserveHost ? head.authority : base.host;
    const lines = withoutFields(linesForOrigin(head, host), OF_THE_BODY).filter(
      ([name]) => !/^(upload|tus)-/i.test(name),
    );
    const length: HeaderLine =
      head.contentLength === undefined ? ['Transfer-Encoding', 'chunked'] : ['Content-Length', `${head.contentLength}`];
    const headers: HeaderLine[] = [...lines, length, ['Expect', '100-continue'], ['Connection', 'close']];
    try {
      const timeoutMs = Math.min(PREFLIGHT_MS, delivery.timeoutMs);
      const answer = await ask({ url, method: head.method, headers, timeoutMs, expectsContinue: true });
      return answer.status >= 400 && answer.status < 500 ? { kind: 'out', answer: relayed(answer) } : undefined;
    } catch {
      // No word within the time, or no connection: only a refusal keeps a client out; delivery has its own patience.
      return undefined;
    }
  }
}

/** What the service is told: the client's own fields, and where it wants to go, as forward-auth services expect it. */
function questionOf(head: RequestHead, url: string): HeaderLine[] {
  const { authority, connection, httpVersion, scheme } = head;
  const { peerAddress, peerIsTrusted } = connection;
  const own = withoutFields(endToEnd(head.headers), new Set([...OF_THE_BODY, 'host']));
  return [
    ['Host', new URL(url).host],
    ...withForwarding(own, { peerAddress, peerIsTrusted, scheme, authority, httpVersion }),
    ['X-Forwarded-Method', head.method],
    ['X-Forwarded-Uri', head.target],
    ['Connection', 'close'],
  ];
}

function relayed({ status, reason, headers, body }: ShortAnswer): RelayedAnswer {
  const lines = withoutFields(endToEnd(headers), new Set(['content-length']));
  return { status, reason, headers: lines, bodySize: body.length, body: readable(body), trailers: () => [] };
}

const SILENT = JSON.stringify({
  type: 'about:blank',
  title: 'Service Unavailable',
  status: 503,
  detail: 'Nobody can say right now whether you may upload. Try again later.',
});

const silent: RelayedAnswer = {
  status: 503,
  reason: 'Service Unavailable',
  headers: [
    ['Content-Type', 'application/problem+json'],
    ['Retry-After', '5'],
  ],
  bodySize: Buffer.byteLength(SILENT),
  body: readable(Buffer.from(SILENT)),
  trailers: () => [],
};

/** Can be read again and again, unlike a stream. */
function readable(body: Buffer): AsyncIterable<Uint8Array> {
  return {
    async *[Symbol.asyncIterator]() {
      if (body.length > 0) yield await Promise.resolve(body);
    },
  };
}

/** A missing value is a value too: whoever sends none is not whoever sends one. */
function digestOf(values: readonly (string | undefined)[]): string {
  return createHash('sha256')
    .update(JSON.stringify(values.map((value) => value ?? null)))
    .digest('hex');
}
