import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { OriginView } from './events.js';
import type { PageFile } from './page-files.js';

/** One upload, as pages can ask for it. */
interface ReceivedRequest extends OriginView {
  readonly id: number;
  /** Names of header fields of upload protocols, which an ordinary request does not have. */
  readonly protocolFields: readonly string[];
  size: number;
  sha256?: string;
}

/** The files that the origin serves, and the listeners to which it reports uploads. */
export interface OriginOptions {
  readonly files: ReadonlyMap<string, PageFile>;
  /** Header fields of the page, such as its content security policy. */
  readonly pageHeaders: () => Readonly<Record<string, string>>;
  /** The settings of the page, as JSON. */
  readonly settings: () => object;
  readonly onBegan: (request: OriginView) => void;
  readonly onReceived: (request: OriginView) => void;
}

const MAX_REMEMBERED = 200;
const PROTOCOL_FIELD = /^(?:upload-|tus-)/i;

/** A small ordinary API: it takes files by POST or PUT and serves a page. It knows nothing about resumable uploads. */
export class ExampleOrigin {
  private readonly received: ReceivedRequest[] = [];
  private count = 0;
  private readonly server: Server;

  private constructor(private readonly options: OriginOptions) {
    this.server = createServer({ requestTimeout: 0 }, (request, response) => {
      this.respond(request, response).catch(() => response.destroy());
    });
  }

  static async listen(options: OriginOptions): Promise<ExampleOrigin> {
    const origin = new ExampleOrigin(options);
    await new Promise<void>((resolve, reject) => {
      origin.server.once('error', reject).listen(0, '127.0.0.1', resolve);
    });
    return origin;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.server.close(() => resolve());
      this.server.closeAllConnections();
    });
  }

  private async respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://origin');
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    if (!isRead && pathname.startsWith('/files/')) return this.take(request, response);
    if (!isRead) return sendJson(response, 404, { error: 'Files go to /files/NAME.' });
    if (pathname === '/settings.json') return sendJson(response, 200, this.options.settings());
    if (pathname === '/received') return sendJson(response, 200, this.receivedAt(searchParams.get('target')));
    const file = this.options.files.get(pathname === '/' ? '/index.html' : pathname);
    if (!file) return sendJson(response, 404, { error: 'There is nothing here.' });
    response.writeHead(200, {
      'Content-Type': file.type,
      'Content-Length': file.bytes.length,
      'Cache-Control': 'no-cache',
      'X-Content-Type-Options': 'nosniff',
      ...this.options.pageHeaders(),
    });
    response.end(request.method === 'HEAD' ? undefined : file.bytes);
  }

  private receivedAt(target: string | null): readonly ReceivedRequest[] {
    return target === null ? this.received : this.received.filter((request) => request.target === target);
  }

  private async take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const upload: ReceivedRequest = {
      id: ++this.count,
      method: request.method ?? '',
      target: request.url ?? '',
      contentLength: request.headers['content-length'],
      protocolFields: Object.keys(request.headers).filter((name) => PROTOCOL_FIELD.test(name)),
      size: 0,
    };
    this.received.push(upload);
    if (this.received.length > MAX_REMEMBERED) this.received.shift();
    this.options.onBegan(upload);
    const hash = createHash('sha256');
    for await (const bytes of request as AsyncIterable<Buffer>) {
      upload.size += bytes.length;
      hash.update(bytes);
    }
    upload.sha256 = hash.digest('hex');
    this.options.onReceived(upload);
    const { id, size, sha256, target } = upload;
    sendJson(response, 201, { id, size, sha256 }, { Location: target });
  }
}

function sendJson(response: ServerResponse, status: number, value: object, headers: Record<string, string> = {}): void {
  const body = `${JSON.stringify(value)}\n`;
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    ...headers,
  });
  response.end(body);
}
