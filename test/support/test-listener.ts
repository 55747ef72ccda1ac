import type { RequestHead } from '../../src/model/request-head.js';
import { silentLog } from '../../src/observe/log.js';
import { problemReply } from '../../src/protocol/problem.js';
import type { Reply } from '../../src/protocol/protocol.js';
import { type ClientFacts, PeerSignature } from '../../src/proxy/peer-auth.js';
import { PeerRelay, type PeerRelayOptions, type RelayTask } from '../../src/proxy/peer-relay.js';
import type { Exchange } from '../../src/server/exchange.js';
import { type Handlers, type Listener, type ListenerOptions, startListener } from '../../src/server/listener.js';
import { InvalidHead, readHead } from '../../src/server/request-head.js';
import { sendReply, type SendResult } from '../../src/server/response.js';
import { TrustedProxies, type TrustedProxy } from '../../src/server/trusted-proxies.js';
import { connect, type RawClient } from './client.js';
import { connectH2, type H2Client } from './http2-client.js';
import { type RawOrigin, type RawScript, startRawOrigin } from './raw-origin.js';
import { until } from './temporary.js';

const listeners: Listener[] = [];

/** A listener on a free port of 127.0.0.1; `closeDoors` ends it. */
export async function openListener(
  onRequest: Handlers['onRequest'],
  options: Partial<ListenerOptions & Pick<Handlers, 'onUpgrade'>> = {},
): Promise<Listener> {
  const listener = await startListener(
    {
      address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      http2: true,
      windows: { stream: 4 * 2 ** 20, session: 8 * 2 ** 20 },
      maxConcurrentStreams: 100,
      ...options,
    },
    { onRequest, onUpgrade: options.onUpgrade ?? ((_req, socket) => socket.destroy()) },
  );
  listeners.push(listener);
  return listener;
}

export async function closeListeners(): Promise<void> {
  for (const listener of listeners.splice(0)) {
    listener.destroyAll();
    await listener.closed;
  }
}

/** Answers with "ok" and forgets the body. */
export function ok(exchange: Exchange): void {
  exchange.req.resume();
  void sendReply(exchange, { status: 200, headers: [], body: 'ok' });
}

/** Answers with the head as it was read, in JSON, or with the refusal. */
export function respondWithHead(proxies: readonly TrustedProxy[] = []): (exchange: Exchange) => void {
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
export function headIn({ body }: { readonly body: Buffer }): RequestHead {
  return JSON.parse(body.toString()) as RequestHead;
}

/** A body in pieces that tells whether it was read to its end or given up. */
export function pieces(...parts: (string | Error)[]) {
  const told = { givenUp: false };
  async function* body() {
    try {
      for (const part of parts) {
        await Promise.resolve();
        if (part instanceof Error) throw part;
        yield Buffer.from(part);
      }
    } finally {
      told.givenUp = true;
    }
  }
  return { body: body(), told };
}

/** A door that answers with `reply`, and what became of it. */
export async function respondingWith(reply: () => Reply) {
  const sent: SendResult[] = [];
  const listener = await openListener((exchange) => {
    exchange.req.resume();
    exchange.req.on('error', () => undefined);
    void sendReply(exchange, reply()).then((what) => sent.push(what));
  });
  return { url: listener.url, sent };
}

export async function overHttp1<T>(url: string, use: (client: RawClient) => Promise<T>): Promise<T> {
  const client = await connect(url);
  try {
    return await use(client);
  } finally {
    client.destroy();
  }
}

export async function overHttp2<T>(url: string, use: (client: H2Client) => Promise<T>): Promise<T> {
  const client = await connectH2(url);
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

export const SECRET = 'a secret of all nodes';

/** What one node tells another of a client. */
export const CLIENT_FACTS: ClientFacts = {
  httpVersion: '2.0',
  scheme: 'https',
  authority: 'files.example',
  connection: {
    peerAddress: '192.0.2.1',
    encrypted: true,
    clientAddress: '198.51.100.7',
    peerIsTrusted: true,
    relaysInterim: false,
    isClientsOwn: false,
  },
  hasNoLength: true,
};

/** A node named `entry` that relays every request to a node named `owner`, which is a bare socket. */
export interface PeerFront {
  readonly url: string;
  readonly owner: RawOrigin;
  readonly relay: PeerRelay;
  /** What refusals were answered with. */
  readonly refused: string[];
  /** Exchanges that are not over yet. */
  readonly running: () => number;
}

export type PeerFrontOptions = Partial<PeerRelayOptions> & { readonly script?: RawScript };

/** Plays a scene on such a node and sees that it leaves nothing behind. */
export async function onPeerFront<T>(
  { script, ...options }: PeerFrontOptions,
  scenario: (front: PeerFront) => Promise<T>,
): Promise<T> {
  const owner = await startRawOrigin(script);
  const refused: string[] = [];
  let running = 0;
  const relay = new PeerRelay({
    self: 'entry',
    owners: { find: () => Promise.resolve({ url: owner.url, silentMs: 0 }) },
    signature: new PeerSignature(SECRET, 'entry', Date.now),
    ownerTimeoutMs: 60_000,
    onUnknownOutcomeReported: () => Promise.resolve(),
    log: silentLog(),
    ...options,
  });
  const refuse: RelayTask['refusalReply'] = ({ reason }) => {
    refused.push(reason);
    const status = reason === 'unknown-upload' ? 404 : 503;
    return problemReply({ status, detail: reason });
  };
  const { url } = await openListener((exchange) => {
    const head = readHead(exchange.req, new TrustedProxies([]));
    if (head instanceof InvalidHead) throw new Error(head.detail);
    running++;
    void relay.relay({ exchange, head, node: 'owner', refusalReply: refuse }).finally(() => running--);
  });
  try {
    return await scenario({ url, owner, relay, refused, running: () => running });
  } finally {
    await closeListeners();
    relay.close();
    await owner.close();
    await until(() => running === 0 && relay.openConnections === 0, 'the end of every relayed exchange');
  }
}
