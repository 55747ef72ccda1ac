import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { clearSocketPath } from '../disk/unix-socket.js';
import type { Log } from '../observe/log.js';
import { problem, type AdminAnswer, type AdminRequest } from './admin-answer.js';

export type AdminAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface AdminListenerOptions {
  readonly address: AdminAddress;
  /** Nobody chose the address: take a free port when it is in use. */
  readonly anyPortWillDo?: boolean;
  readonly answer: (request: AdminRequest) => Promise<AdminAnswer>;
  readonly log: Log;
}

export interface Admin {
  /** `http://127.0.0.1:9090`, or `unix:/path`. */
  readonly url: string;
  close(): Promise<void>;
}

/** Listens for operators and gives each request the answer there is for it. */
export async function startAdminListener(options: AdminListenerOptions): Promise<Admin> {
  const server = createServer((request, response) => {
    options.answer(requestOf(request)).then(
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
  if (isPublic(server)) options.log.warn({ url: urlOf(server) }, PUBLIC);
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
  'the admin listener can be reached from other machines and asks for no login: whoever reaches it can read the metrics and ' +
  'cancel uploads; give "admin" a loopback address or a Unix socket, or keep others away from it';

function isPublic(server: Server): boolean {
  const bound = server.address() as AddressInfo | string;
  return typeof bound !== 'string' && bound.address !== '::1' && !bound.address.startsWith('127.');
}

function requestOf({ method = '', url = '', headers, socket }: IncomingMessage): AdminRequest {
  const [path = '', ...query] = url.split('?');
  return {
    method,
    path,
    query: new URLSearchParams(query.join('?')),
    headers,
    ...(socket.localAddress === undefined ? {} : { localAddress: socket.localAddress }),
  };
}

async function listen(server: Server, { address, anyPortWillDo = false, log }: AdminListenerOptions): Promise<void> {
  try {
    await listenOn(server, address);
  } catch (error) {
    if (!anyPortWillDo || address.kind !== 'tcp' || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    await listenOn(server, { ...address, port: 0 });
    log.warn({ wanted: address.port, url: urlOf(server) }, 'the default admin port is in use, took a free one');
  }
}

async function listenOn(server: Server, address: AdminAddress): Promise<void> {
  if (address.kind === 'unix') await clearSocketPath(address.path);
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(address.kind === 'unix' ? { path: address.path } : address, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
}

function urlOf(server: Server): string {
  const bound = server.address() as AddressInfo | string;
  if (typeof bound === 'string') return `unix:${bound}`;
  return `http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`;
}
