import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { clearSocketPath, setSocketMode } from '../disk/unix-socket.js';
import type { Log } from '../observe/log.js';
import { AdminGuard, type AdminRules } from './admin-guard.js';
import { problem, type AdminAnswer, type AdminRequest } from './admin-answer.js';

export type AdminAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface AdminListenerOptions extends AdminRules {
  readonly address: AdminAddress;
  /** Rights of a Unix socket's file. */
  readonly mode?: number;
  readonly answer: (request: AdminRequest) => Promise<AdminAnswer>;
  readonly log: Log;
}

export interface Admin {
  /** `http://127.0.0.1:9090`, or `unix:/path`. */
  readonly url: string;
  close(): Promise<void>;
}

/** Listens for operators and gives each request that may come in the answer there is for it. */
export async function startAdminListener(options: AdminListenerOptions): Promise<Admin> {
  const guard = new AdminGuard(options);
  const answerTo = async (request: AdminRequest): Promise<AdminAnswer> =>
    guard.refusal(request) ?? options.answer(request);
  const server = createServer((request, response) => {
    answerTo(requestOf(request, options.address)).then(
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
  if (options.token === undefined && isPublic(server)) options.log.warn({ url: urlOf(server) }, PUBLIC);
  return {
    url: urlOf(server),
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

const PUBLIC =
  'the admin listener can be reached from other machines and asks for no token (admin.insecure): whoever reaches it can ' +
  'read the metrics and cancel uploads; give it a token_file, a loopback address or a Unix socket';

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
