import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { checkReadiness, type HealthCheck } from './readiness.js';

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
  readonly log: Log;
}

export interface Admin {
  /** `http://127.0.0.1:9090`, or `unix:/path`. */
  readonly url: string;
  close(): Promise<void>;
}

/** Opens the admin listener: whether the process lives, whether it can take requests, and its figures. */
export async function startAdmin(options: AdminOptions): Promise<Admin> {
  const server = createServer((request, response) => {
    answer(options, request.method ?? '', request.url ?? '').then(
      ({ status, type, body, headers }) => {
        response.writeHead(status, { 'Content-Type': type, 'Cache-Control': 'no-store', ...headers });
        response.end(body);
      },
      (error: unknown) => {
        options.log.error({ err: error }, 'admin request failed');
        response.writeHead(500, { 'Content-Type': PROBLEM }).end(problem(500, 'Internal Server Error'));
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

interface AdminAnswer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

const JSON_TYPE = 'application/json; charset=utf-8';
const PROBLEM = 'application/problem+json';

async function answer(options: AdminOptions, method: string, target: string): Promise<AdminAnswer> {
  const page = PAGES[target.split('?')[0]!];
  if (!page) return { status: 404, type: PROBLEM, body: problem(404, 'Not Found') };
  if (method === 'GET' || method === 'HEAD') return page(options);
  const headers = { Allow: 'GET, HEAD' };
  return { status: 405, type: PROBLEM, body: problem(405, 'Method Not Allowed'), headers };
}

const PAGES: Readonly<Record<string, ((options: AdminOptions) => Promise<AdminAnswer>) | undefined>> = {
  '/healthz': () => Promise.resolve({ status: 200, type: JSON_TYPE, body: '{"alive":true}\n' }),
  '/readyz': async ({ checks }) => {
    const readiness = await checkReadiness(checks);
    return { status: readiness.ready ? 200 : 503, type: JSON_TYPE, body: `${JSON.stringify(readiness)}\n` };
  },
  '/metrics': async ({ metrics }) => ({ status: 200, type: metrics.contentType, body: await metrics.text() }),
};

function problem(status: number, title: string): string {
  return `${JSON.stringify({ type: 'about:blank', title, status })}\n`;
}

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
