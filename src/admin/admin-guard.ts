import { createHash, timingSafeEqual } from 'node:crypto';
import { isIP } from 'node:net';
import { problem, type AdminAnswer, type AdminRequest } from './admin-answer.js';

/** The conditions on which the admin listener answers a request. */
export interface AdminRules {
  /** Asked for with every request to what is not `open`; undefined: nothing is asked for. */
  readonly token?: string;
  readonly open?: readonly OpenPage[];
  /** Names by which requests without the token may call the listener, beside localhost and IP addresses. */
  readonly hosts?: readonly string[];
}

/** `health`: whether the process lives, and whether it can take requests. */
export type OpenPage = 'health' | 'metrics';

const PAGES_OF: Readonly<Record<OpenPage, readonly string[]>> = {
  health: ['/healthz', '/readyz'],
  metrics: ['/metrics'],
};

/**
 * Turns away requests that may not be answered, on every path: those without the token, and those of web pages.
 *
 * Pages in an operator's browser can reach this listener too. Browsers send `Origin` with everything that changes
 * something or that a page of another site could read. A page whose own name was made to point here (DNS rebinding) sends
 * no `Origin`, but is known by that name in `Host`; probes call a listener by its IP address.
 */
export class AdminGuard {
  private readonly digest: Buffer | undefined;
  private readonly openPaths: ReadonlySet<string>;
  private readonly hosts: ReadonlySet<string>;

  constructor({ token, open = ['health'], hosts = [] }: AdminRules) {
    this.digest = token === undefined ? undefined : digestOf(token);
    this.openPaths = new Set(open.flatMap((page) => PAGES_OF[page]));
    this.hosts = new Set(['localhost', ...hosts.map((name) => name.toLowerCase())]);
  }

  /** The answer to a request that may not be answered otherwise; undefined for one that may. */
  refusal({ path, headers, isOnSocket = false }: AdminRequest): AdminAnswer | undefined {
    if (headers['origin'] !== undefined) return problem(403, WEB_PAGE);
    const shown = bearerOf(headers['authorization']);
    const hasToken = this.digest !== undefined && shown !== undefined && timingSafeEqual(this.digest, digestOf(shown));
    if (hasToken) return undefined;
    if (!isOnSocket && !this.isKnown(String(headers['host'] ?? ''))) return problem(403, UNKNOWN_NAME);
    if (this.digest === undefined || this.openPaths.has(path)) return undefined;
    return problem(401, shown === undefined ? NO_TOKEN : WRONG_TOKEN, {
      'WWW-Authenticate': 'Bearer realm="rufh-proxy"',
    });
  }

  private isKnown(authority: string): boolean {
    const host = authority
      .replace(/:\d*$/, '')
      .replace(/^\[(.*)\]$/, '$1')
      .replace(/\.$/, '')
      .toLowerCase();
    return host === '' || isIP(host) !== 0 || this.hosts.has(host);
  }
}

const WEB_PAGE = 'Web pages get nothing here; use rufh-proxy uploads, or a client that sends no Origin.';
const UNKNOWN_NAME =
  'Without the token this listener goes by localhost, IP addresses and the names in admin.hosts only, not by the name in Host.';
const NO_TOKEN = 'This listener asks for the token of admin.token_file, as "Authorization: Bearer TOKEN".';
const WRONG_TOKEN = 'The token is not the one that this process has read from admin.token_file when it started.';

/** RFC 6750 §2.1; the scheme in any case (RFC 9110 §11.1). */
function bearerOf(field: string | string[] | undefined): string | undefined {
  return /^bearer +(\S+) *$/i.exec(String(field ?? ''))?.[1];
}

/** Of one length whatever the token's, so that comparing takes the same time. */
function digestOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
