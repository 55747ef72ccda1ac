import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { DemoEvent } from './events.js';

/** The actions of the buttons on the page. */
interface Actions {
  cut(): void;
  /** False if the proxy is down already. */
  kill(): boolean;
  /** Undefined for no limit. */
  slowDown(bytesPerSecond: number | undefined): void;
}

/** Where the buttons listen, and for which page. */
export interface ControlsOptions {
  readonly listen: { readonly host: string; readonly port: number };
  /** The port of the page, which is on the same host. */
  readonly pagePort: () => number;
  readonly actions: Actions;
  /** Events that a page gets at first, in order. */
  readonly firstEvents: () => readonly DemoEvent[];
}

const MAX_PAGES = 16;
/** A page that reads nothing is given up when so much waits for it. */
const MAX_WAITING_BYTES = 256 * 1024;
const MAX_RATE = 2 ** 40;

/** The listener behind the buttons of the page, and of the events that it shows. Only that page can use it. */
export class Controls {
  private readonly server: Server;
  private readonly pages = new Set<ServerResponse>();

  private constructor(private readonly options: ControlsOptions) {
    this.server = createServer((request, response) => this.respond(request, response));
  }

  static async listen(options: ControlsOptions): Promise<Controls> {
    const controls = new Controls(options);
    await new Promise<void>((resolve, reject) => {
      controls.server.once('error', reject).listen(options.listen.port, options.listen.host, resolve);
    });
    return controls;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  get hasPages(): boolean {
    return this.pages.size > 0;
  }

  tell(event: DemoEvent): void {
    for (const page of this.pages) {
      if (page.writableLength > MAX_WAITING_BYTES) this.drop(page);
      else page.write(`data: ${JSON.stringify(event)}\n\n`);
    }
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.server.close(() => resolve());
      this.server.closeAllConnections();
    });
  }

  private respond(request: IncomingMessage, response: ServerResponse): void {
    const { host, origin, 'sec-fetch-site': fetchSite } = request.headers;
    const refusal = refusalOf({ host, origin, fetchSite }, { page: this.options.pagePort(), controls: this.port });
    if (refusal !== undefined) return send(response, 403, refusal);
    response.setHeader('Access-Control-Allow-Origin', origin!);
    response.setHeader('Vary', 'Origin');
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://controls');
    if (pathname === '/events') return request.method === 'GET' ? this.stream(response) : wrongMethod(response, 'GET');
    const act = this.actionAt(pathname, searchParams);
    if (!act) return send(response, 404, 'There is no such button.');
    if (request.method !== 'POST') return wrongMethod(response, 'POST');
    const problem = act();
    if (problem) send(response, problem.status, problem.text);
    else send(response, 204);
  }

  /** The action of a path, which returns the reason if it is not done. */
  private actionAt(path: string, query: URLSearchParams): (() => Problem | undefined) | undefined {
    const { actions } = this.options;
    switch (path) {
      case '/cut':
        return () => {
          actions.cut();
          return undefined;
        };
      case '/kill':
        return () => (actions.kill() ? undefined : { status: 409, text: 'The proxy is down already.' });
      case '/rate':
        return () => {
          const rate = Number(query.get('bytes_per_second') ?? NaN);
          if (!Number.isInteger(rate) || rate < 0 || rate > MAX_RATE) return { status: 400, text: RATE_ALLOWED };
          actions.slowDown(rate === 0 ? undefined : rate);
          return undefined;
        };
      default:
        return undefined;
    }
  }

  private drop(page: ServerResponse): void {
    this.pages.delete(page);
    page.destroy();
  }

  private stream(response: ServerResponse): void {
    const [oldest] = this.pages;
    if (oldest && this.pages.size >= MAX_PAGES) this.drop(oldest);
    this.pages.add(response);
    response.on('error', () => undefined).once('close', () => this.pages.delete(response));
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    response.write('retry: 500\n\n');
    for (const event of this.options.firstEvents()) response.write(`data: ${JSON.stringify(event)}\n\n`);
  }
}

/** The reason why an action is not done. */
interface Problem {
  readonly status: number;
  readonly text: string;
}

const RATE_ALLOWED = 'bytes_per_second is a whole number; 0 stands for no limit.';

/** Fields with which browsers say who sends a request. */
interface RequestSource {
  readonly host: string | undefined;
  readonly origin: string | undefined;
  readonly fetchSite: string | string[] | undefined;
}

const LOOPBACK = new Set(['127.0.0.1', 'localhost', '[::1]']);

/**
 * The reason to refuse a request to the buttons; undefined for one of the page. A page of another site has another
 * `Origin`, and one whose name was pointed to this machine has another `Host`.
 */
function refusalOf(
  { host, origin, fetchSite }: RequestSource,
  ports: { readonly page: number; readonly controls: number },
): string | undefined {
  const own = readHost(`http://${host ?? ''}`);
  const page = readHost(origin ?? '');
  if (!own || own.port !== ports.controls || !LOOPBACK.has(own.name))
    return 'The buttons are used on this machine only.';
  if (!page || page.port !== ports.page || page.name !== own.name) return 'The buttons belong to another page.';
  if (fetchSite !== undefined && fetchSite !== 'same-site' && fetchSite !== 'same-origin')
    return 'The buttons belong to another site.';
  return undefined;
}

function readHost(text: string): { readonly name: string; readonly port: number } | undefined {
  if (!URL.canParse(text)) return undefined;
  const { protocol, hostname, port, origin } = new URL(text);
  return protocol === 'http:' && origin === text ? { name: hostname, port: Number(port || 80) } : undefined;
}

function wrongMethod(response: ServerResponse, allowed: string): void {
  response.setHeader('Allow', allowed);
  send(response, 405, `This address takes ${allowed}.`);
}

function send(response: ServerResponse, status: number, text = ''): void {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' });
  response.end(text);
}
