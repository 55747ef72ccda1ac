import { readFileSync } from 'node:fs';
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { makeCertificate, serverPort } from './temporary.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Names below this domain lead to this machine, in Chromium only. */
const DOMAIN = 'uploads.test';

/** The host of the web pages, which is another web origin than the API but the same site, so cookies go along. */
const PAGE_HOST = `app.${DOMAIN}`;
const API_HOST = `api.${DOMAIN}`;

/** What a page asks its server for: the content, and its media type if it is not JavaScript. */
export interface Resource {
  readonly content: string | Buffer;
  readonly type?: string;
}

/** Where a page is, and what its script is told. */
interface PagePlace {
  readonly scheme?: 'http' | 'https';
  readonly host?: string;
  readonly query?: Readonly<Record<string, string>>;
}

/** The web page that every script gets: a field for files, a button, and a place for a dashboard. */
const PAGE = `<!doctype html>
<html lang="en">
  <meta charset="utf-8" />
  <title>Test page</title>
  <input type="file" id="file" />
  <button id="send">Send</button>
  <div id="uploads"></div>
  <script type="module" src="/SCRIPT"></script>
</html>`;

/**
 * A real Chromium, and a server of web pages. The pages have names of their own (`app.uploads.test`), over HTTP and over
 * TLS; the browser resolves every name to this machine and takes every certificate.
 */
export class TestBrowser {
  private constructor(
    private readonly browser: Browser,
    private readonly servers: readonly [http: Server, https: Server],
    private readonly ports: readonly [http: number, https: number],
    /** What the server of pages has, by path. */
    readonly resources: Map<string, Resource>,
  ) {}

  /** `scripts` are files of test/support/pages, each bundled with the packages it imports. */
  static async start(scripts: readonly string[], args: readonly string[] = []): Promise<TestBrowser> {
    const resources = new Map<string, Resource>(scripts.map((name) => [`/${name}`, { content: bundle(name) }]));
    resources.set('/resumable-fetch.min.js', { content: clientFile() });
    const answer = (request: IncomingMessage, response: ServerResponse): void => serve(resources, request, response);
    const servers = [createHttpServer(answer), createHttpsServer(makeCertificate(), answer)] as const;
    const ports = [await serverPort(), await serverPort()] as const;
    await Promise.all(
      servers.map((server, at) => new Promise<void>((done) => server.listen(ports[at], '127.0.0.1', done))),
    );
    const browser = await chromium.launch({
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      chromiumSandbox: process.getuid?.() !== 0,
      args: [
        `--host-resolver-rules=MAP *.${DOMAIN} 127.0.0.1`,
        '--no-proxy-server',
        '--disable-dev-shm-usage',
        ...args,
      ],
    });
    return new TestBrowser(browser, servers, ports, resources);
  }

  /** A visitor with cookies and a storage of its own. */
  newVisitor(): Promise<BrowserContext> {
    return this.browser.newContext({ ignoreHTTPSErrors: true });
  }

  /** The web origin of pages on that host. */
  webOrigin(scheme: 'http' | 'https' = 'http', host = PAGE_HOST): string {
    return `${scheme}://${host}:${this.ports[scheme === 'http' ? 0 : 1]}`;
  }

  /** Opens the page that runs a script, for a new visitor. Errors that the page does not catch are printed. */
  async open(script: string, { scheme, host, query = {} }: PagePlace = {}): Promise<Page> {
    const visitor = await this.newVisitor();
    const page = await visitor.newPage();
    page.on('pageerror', (error) => console.error(error));
    await page.goto(`${this.webOrigin(scheme, host)}/page/${script}?${new URLSearchParams(query).toString()}`);
    return page;
  }

  async close(): Promise<void> {
    await this.browser.close();
    const closed = this.servers.map((server) => new Promise((resolve) => server.close(resolve)));
    for (const server of this.servers) server.closeAllConnections();
    await Promise.all(closed);
  }
}

/** The same server under the name that pages use for it. */
export function apiUrl(url: string): string {
  return url.replace('127.0.0.1', API_HOST);
}

/** Calls a function that the script of a page has put on its window. */
export function call<T>(page: Page, name: string, argument?: unknown): Promise<T> {
  return page.evaluate(`window.${name}(${JSON.stringify(argument)})`);
}

/** Puts JavaScript and the packages that it imports into one file that a page can load. */
export function bundled(code: string): string {
  const { outputFiles } = buildSync({
    stdin: { contents: code, resolveDir: ROOT, loader: 'js' },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    external: ['/resumable-fetch.min.js'],
    logLevel: 'error',
  });
  return outputFiles[0]!.text;
}

/** The client as web pages load it. Needs `npm run build`. */
export function clientFile(): Buffer {
  return readFileSync(new URL('../../dist/client/resumable-fetch.min.js', import.meta.url));
}

function bundle(name: string): string {
  return bundled(readFileSync(new URL(`pages/${name}`, import.meta.url), 'utf8'));
}

function serve(
  resources: ReadonlyMap<string, Resource>,
  { url = '/' }: IncomingMessage,
  response: ServerResponse,
): void {
  const path = url.split('?')[0]!;
  const script = /^\/page\/(.+)$/.exec(path)?.[1];
  const found =
    script === undefined ? resources.get(path) : { content: PAGE.replace('SCRIPT', script), type: 'text/html' };
  response.writeHead(found ? 200 : 404, { 'Content-Type': found?.type ?? 'text/javascript' });
  response.end(found?.content);
}
