import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { json, methodNotAllowed, problem, type AdminAnswer, type AdminRequest } from './admin-answer.js';
import { checkReadiness, type HealthCheck } from './readiness.js';
import { answerAtDesk, type UploadsDesk } from './uploads-desk.js';

export type AdminAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface AdminOptions {
  readonly address: AdminAddress;
  /** Nobody chose the address: take a free port when it is in use. */
  readonly anyPortWillDo?: boolean;
  readonly metrics: Metrics;
  /** What must hold for this process to take requests. */
  readonly checks: readonly HealthCheck[];
  /** Where uploads can be seen and acted on; undefined until all rooms of the proxy are open. */
  readonly desk?: () => UploadsDesk | undefined;
  readonly log: Log;
}

export interface Admin {
  /** `http://127.0.0.1:9090`, or `unix:/path`. */
  readonly url: string;
  close(): Promise<void>;
}

/** Opens the admin listener: whether the process lives, whether it can take requests, its figures, and its uploads. */
export async function startAdmin(options: AdminOptions): Promise<Admin> {
  const server = createServer((request, response) => {
    answer(options, requestOf(request)).then(
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
  return {
    url: urlOf(server),
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
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

async function answer(options: AdminOptions, request: AdminRequest): Promise<AdminAnswer> {
  const { method, path } = request;
  const page = PAGES[path];
  if (page) return method === 'GET' || method === 'HEAD' ? page(options) : methodNotAllowed(['GET', 'HEAD']);
  const desk = options.desk?.();
  const isAtDesk = path === '/uploads' || path.startsWith('/uploads/');
  if (isAtDesk && !desk) return problem(503, 'The proxy is still starting.', { 'Retry-After': '1' });
  return (desk && (await answerAtDesk(desk, request))) ?? problem(404);
}

const PAGES: Readonly<Record<string, ((options: AdminOptions) => Promise<AdminAnswer>) | undefined>> = {
  '/healthz': () => Promise.resolve(json(200, { alive: true })),
  '/readyz': async ({ checks }) => {
    const readiness = await checkReadiness(checks);
    return json(readiness.ready ? 200 : 503, readiness);
  },
  '/metrics': async ({ metrics }) => ({ status: 200, type: metrics.contentType, body: await metrics.text() }),
};

async function listen(server: Server, { address, anyPortWillDo = false, log }: AdminOptions): Promise<void> {
  try {
    await listenOn(server, address);
  } catch (error) {
    if (!anyPortWillDo || address.kind !== 'tcp' || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    await listenOn(server, { ...address, port: 0 });
    log.warn({ wanted: address.port, url: urlOf(server) }, 'the default admin port is in use, took a free one');
  }
}

function listenOn(server: Server, address: AdminAddress): Promise<void> {
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
