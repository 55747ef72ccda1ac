import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { type AddressInfo, isIP } from 'node:net';
import { clearSocketPath, setSocketMode } from '../fs/unix-socket.js';
import { statusPhrase } from '../model/status-phrases.js';
import type { Log } from '../observe/log.js';

type AdminAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface AdminListenerOptions extends AdminRules {
  readonly address: AdminAddress;
  /** Permissions of a Unix socket's file. */
  readonly mode?: number;
  /** Responds to requests that the rules allow. */
  readonly respond: (request: AdminRequest) => Promise<AdminResponse>;
  readonly log: Log;
}

/** A running admin listener. */
export interface Admin {
  /** `http://127.0.0.1:9090`, or `unix:/path`. */
  readonly url: string;
  /** Changes the rules for requests from now on. */
  setRules(rules: AdminRules): void;
  close(): Promise<void>;
}

/** Starts the admin listener, which checks each request against `AdminRules` before it calls `respond`. */
export async function startAdminListener(options: AdminListenerOptions): Promise<Admin> {
  let guard = new AdminGuard(options);
  const respond = async (request: AdminRequest): Promise<AdminResponse> =>
    guard.refusal(request) ?? options.respond(request);
  const server = createServer((request, response) => {
    respond(requestOf(request, options.address)).then(
      ({ status, type, body, headers }) => {
        response.writeHead(status, {
          ...(type ? { 'Content-Type': type } : {}),
          'Cache-Control': 'no-store',
          ...headers,
        });
        response.end(body);
      },
      (error: unknown) => {
        options.log.error({ err: error }, 'admin request failed');
        const { status, type, body } = problem(500);
        response.writeHead(status, { 'Content-Type': type }).end(body);
      },
    );
  });
  await listen(server, options);
  if (options.token === undefined && isPublic(server)) options.log.warn({ url: urlOf(server) }, PUBLIC_WITHOUT_TOKEN);
  return {
    url: urlOf(server),
    setRules: (rules) => {
      guard = new AdminGuard(rules);
    },
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

const PUBLIC_WITHOUT_TOKEN =
  'the admin listener can be reached from other machines and requires no token (admin.insecure): anyone who can reach it ' +
  'can read the metrics and cancel uploads; set token_file, or use a loopback address or a Unix socket';

function isPublic(server: Server): boolean {
  const bound = server.address() as AddressInfo | string;
  return typeof bound !== 'string' && bound.address !== '::1' && !bound.address.startsWith('127.');
}

function requestOf({ method = '', url = '', headers }: IncomingMessage, { kind }: AdminAddress): AdminRequest {
  const [path = '', ...query] = url.split('?');
  return {
    method,
    path,
    query: new URLSearchParams(query.join('?')),
    headers,
    isOnSocket: kind === 'unix',
  };
}

async function listen(server: Server, { address, mode = OWNER_ONLY }: AdminListenerOptions): Promise<void> {
  if (address.kind === 'unix') await clearSocketPath(address.path);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(address.kind === 'unix' ? { path: address.path } : address, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
  if (address.kind === 'unix') await setSocketMode(address.path, mode);
}

const OWNER_ONLY = 0o600;

function urlOf(server: Server): string {
  const bound = server.address() as AddressInfo | string;
  if (typeof bound === 'string') return `unix:${bound}`;
  return `http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`;
}

/** A response of the admin listener. */
export interface AdminResponse {
  readonly status: number;
  readonly type?: string;
  readonly body?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A request to the admin listener; bodies are ignored. */
export interface AdminRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** The request came over a Unix socket, which web pages cannot reach. */
  readonly isOnSocket?: boolean;
}

export function json(status: number, value: unknown): AdminResponse {
  return { status, type: 'application/json; charset=utf-8', body: `${JSON.stringify(value)}\n` };
}

/** A problem response (RFC 9457); `detail` describes the problem and how to solve it. */
export function problem(
  status: number,
  detail?: string,
  headers?: AdminResponse['headers'],
  more: Readonly<Record<string, unknown>> = {},
): AdminResponse {
  const members = {
    type: 'about:blank',
    title: statusPhrase(status),
    status,
    ...(detail === undefined ? {} : { detail }),
    ...more,
  };
  return {
    status,
    type: 'application/problem+json',
    body: `${JSON.stringify(members)}\n`,
    ...(headers ? { headers } : {}),
  };
}

/** RFC 9110 §15.5.6: a 405 lists the allowed methods. */
export function methodNotAllowed(allowed: readonly string[]): AdminResponse {
  return problem(405, undefined, { Allow: allowed.join(', ') });
}

/** The access rules of the admin listener. */
interface AdminRules {
  /** Required for every request except to `open` pages; undefined: no token is required. */
  readonly token?: string;
  /** Pages that need no token; `health` by default. */
  readonly open?: readonly OpenPage[];
  /** Host names that requests without the token may use, besides localhost and IP addresses. */
  readonly hosts?: readonly string[];
}

/** `health`: liveness and readiness. */
type OpenPage = 'health' | 'metrics';

const OPEN_PATHS: Readonly<Record<OpenPage, readonly string[]>> = {
  health: ['/healthz', '/readyz'],
  metrics: ['/metrics'],
};

/**
 * Refuses requests without the token, and requests of web pages in an operator's browser.
 *
 * Browsers send `Origin` with every request that changes something or whose response another site could read, and
 * `Sec-Fetch-Site` with the others. A page whose own name resolves to this listener (DNS rebinding) sends no `Origin`, but
 * has that name in `Host`; health probes use the IP address.
 */
class AdminGuard {
  private readonly digest: Buffer | undefined;
  private readonly openPaths: ReadonlySet<string>;
  private readonly hosts: ReadonlySet<string>;

  constructor({ token, open = ['health'], hosts = [] }: AdminRules) {
    this.digest = token === undefined ? undefined : digestOf(token);
    this.openPaths = new Set(open.flatMap((page) => OPEN_PATHS[page]));
    this.hosts = new Set(['localhost', ...hosts.map((name) => name.toLowerCase())]);
  }

  /** The response to a request that the rules do not allow; undefined for others. */
  refusal({ path, headers, isOnSocket = false }: AdminRequest): AdminResponse | undefined {
    if (headers['origin'] !== undefined || isOfOtherSite(headers)) return problem(403, WEB_PAGE);
    const token = bearerToken(headers['authorization']);
    const hasToken = this.digest !== undefined && token !== undefined && timingSafeEqual(this.digest, digestOf(token));
    if (hasToken) return undefined;
    if (!isOnSocket && !this.isAllowedHost(String(headers['host'] ?? ''))) return problem(403, UNKNOWN_HOST);
    if (this.digest === undefined || this.openPaths.has(path)) return undefined;
    return problem(401, token === undefined ? NO_TOKEN : WRONG_TOKEN, {
      'WWW-Authenticate': 'Bearer realm="rufh-proxy"',
    });
  }

  private isAllowedHost(authority: string): boolean {
    const host = authority
      .replace(/:\d*$/, '')
      .replace(/^\[(.*)\]$/, '$1')
      .replace(/\.$/, '')
      .toLowerCase();
    return host === '' || isIP(host) !== 0 || this.hosts.has(host);
  }
}

/**
 * Fetch Metadata: an image, script or frame of another site, or of another port of this machine. A link that the operator
 * follows opens a page that no other site can read.
 */
function isOfOtherSite(headers: AdminRequest['headers']): boolean {
  const site = headers['sec-fetch-site'];
  if (site === undefined || site === 'none' || site === 'same-origin') return false;
  return headers['sec-fetch-mode'] !== 'navigate' || headers['sec-fetch-dest'] !== 'document';
}

const WEB_PAGE = 'Web pages get nothing here; use rufh-proxy uploads, or a client that sends no Origin.';
const UNKNOWN_HOST =
  'Without the token this listener goes by localhost, IP addresses and the names in admin.hosts only, not by the name in Host.';
const NO_TOKEN = 'This listener asks for the token of admin.token_file, as "Authorization: Bearer TOKEN".';
const WRONG_TOKEN =
  'The token is not the one that this process has read from admin.token_file when it was started or reloaded.';

/** RFC 6750 §2.1; the scheme is case-insensitive (RFC 9110 §11.1). */
function bearerToken(field: string | string[] | undefined): string | undefined {
  return /^bearer +(\S+) *$/i.exec(String(field ?? ''))?.[1];
}

/** Makes tokens of any length comparable in constant time. */
function digestOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
