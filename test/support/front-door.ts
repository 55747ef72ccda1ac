import type { RequestHead } from '../../src/model/request-head.js';
import { problemReply } from '../../src/protocol/problem.js';
import type { Exchange } from '../../src/server/exchange.js';
import { type Handlers, type Listener, type ListenerOptions, startListener } from '../../src/server/listener.js';
import { InvalidHead, readHead } from '../../src/server/request-head.js';
import { sendReply } from '../../src/server/response.js';
import { TrustedProxies, type TrustedProxy } from '../../src/server/trusted-proxies.js';

const doors: Listener[] = [];

/** A listener on a free port of 127.0.0.1; `closeDoors` ends it. */
export async function openDoor(
  onRequest: Handlers['onRequest'],
  options: Partial<ListenerOptions & Pick<Handlers, 'onUpgrade'>> = {},
): Promise<Listener> {
  const door = await startListener(
    {
      address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      http2: true,
      windows: { stream: 4 * 2 ** 20, session: 8 * 2 ** 20 },
      maxConcurrentStreams: 100,
      ...options,
    },
    { onRequest, onUpgrade: options.onUpgrade ?? ((_req, socket) => socket.destroy()) },
  );
  doors.push(door);
  return door;
}

export async function closeDoors(): Promise<void> {
  for (const door of doors.splice(0)) {
    door.destroyAll();
    await door.closed;
  }
}

/** Answers with "ok" and forgets the body. */
export function ok(exchange: Exchange): void {
  exchange.req.resume();
  void sendReply(exchange, { status: 200, headers: [], body: 'ok' });
}

/** Answers with the head as it was read, in JSON, or with the refusal. */
export function tellHead(proxies: readonly TrustedProxy[] = []): (exchange: Exchange) => void {
  const trust = new TrustedProxies(proxies);
  return (exchange) => {
    exchange.req.resume();
    const head = readHead(exchange.req, trust);
    const reply =
      head instanceof InvalidHead ? problemReply(head) : { status: 200, headers: [], body: JSON.stringify(head) };
    void sendReply(exchange, reply);
  };
}

/** What `tellHead` told. */
export function toldHead({ body }: { readonly body: Buffer }): RequestHead {
  return JSON.parse(body.toString()) as RequestHead;
}
