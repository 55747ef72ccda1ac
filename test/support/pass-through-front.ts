import { Agent, createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttp2Server, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2';
import { type AddressInfo, Socket } from 'node:net';
import { silentLog } from '../../src/observe/log.js';
import { ReverseProxy, type ReverseProxyOptions } from '../../src/proxy/reverse-proxy.js';
import type { Exchange } from '../../src/server/exchange.js';
import { InvalidHead, readHead } from '../../src/server/request-head.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';
import { type RawOrigin, type RawScript, startRawOrigin } from './raw-origin.js';
import { until } from './temporary.js';
import { loadHttpProxy } from './load-http-proxy.js';

/** A server that gives every request to one origin. */
export interface Front {
  readonly url: string;
  /** Connections to the origin. */
  originConnections(): number;
  /** Connections of clients. */
  clientConnections(): number;
  /** Exchanges that are not over yet. */
  running(): number;
  close(): Promise<void>;
}

export interface FrontOptions extends Partial<ReverseProxyOptions> {
  readonly preserveHost?: boolean;
  readonly timeoutMs?: number;
  /** h2c: HTTP/2 with prior knowledge. h2: over TLS, where HTTP/1.1 is served as well. */
  readonly speaks?: 'http/1.1' | 'h2c';
}

const TRUST = new TrustedProxies([]);

/** Starts our pass-through on a free port. */
export async function startFront(
  origin: string,
  options: FrontOptions = {},
): Promise<Front & { passThrough: ReverseProxy }> {
  const { preserveHost = true, timeoutMs = 30_000, speaks = 'http/1.1', ...rest } = options;
  const passThrough = new ReverseProxy({ log: silentLog(), ...rest });
  const route = { origin, delivery: { preserveHost, timeoutMs } };
  let running = 0;
  const serve = async (
    request: IncomingMessage | Http2ServerRequest,
    response: ServerResponse | Http2ServerResponse,
  ): Promise<void> => {
    const head = readHead(request, TRUST);
    if (head instanceof InvalidHead) return void response.writeHead(head.status).end();
    running++;
    await passThrough.forward({ req: request, res: response } as Exchange, { head, route });
    running--;
  };
  const server = speaks === 'http/1.1' ? createServer() : asHttp1(createHttp2Server());
  server.on('request', (request, response) => void serve(request, response));
  server.on('checkContinue', (request, response) => void serve(request, response));
  server.on('upgrade', (request, socket, early) => {
    const head = readHead(request, TRUST);
    if (socket instanceof Socket && !(head instanceof InvalidHead))
      passThrough.upgrade({ request, socket, early }, { head, route });
  });
  const listening = await listen(server);
  return {
    ...listening,
    passThrough,
    originConnections: () => passThrough.openConnections,
    running: () => running,
    close: async () => {
      await passThrough.close();
      await listening.close();
    },
  };
}

/** The same with http-proxy alone, as its documentation shows it: what ours is compared with. */
async function startBareFront(origin: string, { speaks = 'http/1.1' }: FrontOptions = {}): Promise<Front> {
  const agent = new Agent({ keepAlive: true });
  const proxy = loadHttpProxy().createProxyServer({ target: origin, agent });
  proxy.on('error', (_, __, response) => {
    if ('writeHead' in response && !response.headersSent) response.writeHead(502).end();
    else response.destroy();
  });
  const server = speaks === 'http/1.1' ? createServer() : asHttp1(createHttp2Server());
  server.on('request', (request, response) => {
    try {
      proxy.web(request, response);
    } catch (error) {
      response.writeHead(500).end((error as NodeJS.ErrnoException).code);
    }
  });
  server.on('upgrade', (request, socket, head) => proxy.ws(request, socket, head));
  const listening = await listen(server);
  const count = (sockets: NodeJS.ReadOnlyDict<unknown[]>): number => Object.values(sockets).flat().length;
  return {
    ...listening,
    originConnections: () => count(agent.sockets) + count(agent.freeSockets),
    running: () => 0,
    close: async () => {
      agent.destroy();
      await listening.close();
    },
  };
}

export interface Stage {
  readonly origin: RawOrigin;
  readonly front: Front;
}

/** Plays a scenario on one of the two: `bare` is http-proxy alone, which must show the fault that ours does not have. */
export async function play<T>(
  which: 'ours' | 'bare',
  scenario: (setup: Stage) => Promise<T>,
  { script, ...options }: FrontOptions & { readonly script?: RawScript } = {},
): Promise<T> {
  const origin = await startRawOrigin(script);
  const front = await (which === 'ours' ? startFront : startBareFront)(origin.url, options);
  try {
    return await scenario({ origin, front });
  } finally {
    await front.close();
    await origin.close();
    await until(() => front.running() === 0 && front.originConnections() === 0, 'the end of every exchange');
  }
}

/** HTTP/2 servers have the same events, with requests and responses that look the same. */
function asHttp1(server: unknown): Server {
  return server as Server;
}

async function listen(server: Server): Promise<Pick<Front, 'url' | 'clientConnections' | 'close'>> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    clientConnections: () => sockets.size,
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
