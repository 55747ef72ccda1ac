import { silentLog } from '../../src/observe/log.js';
import { problemReply } from '../../src/protocol/problem.js';
import { type ClientFacts, PeerSignature } from '../../src/proxy/peer-auth.js';
import { PeerRelay, type PeerRelayOptions, type RelayTask } from '../../src/proxy/peer-relay.js';
import { InvalidHead, readHead } from '../../src/server/request-head.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';
import { closeDoors, openDoor } from './front-door.js';
import { type RawOrigin, type RawScript, startRawOrigin } from './raw-origin.js';
import { until } from './temporary.js';

export const SECRET = 'a secret of all nodes';

/** What one node tells another of a client. */
export const TOLD_CLIENT: ClientFacts = {
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
  scene: (front: PeerFront) => Promise<T>,
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
  const { url } = await openDoor((exchange) => {
    const head = readHead(exchange.req, new TrustedProxies([]));
    if (head instanceof InvalidHead) throw new Error(head.detail);
    running++;
    void relay.relay({ exchange, head, node: 'owner', refusalReply: refuse }).finally(() => running--);
  });
  try {
    return await scene({ url, owner, relay, refused, running: () => running });
  } finally {
    await closeDoors();
    relay.close();
    await owner.close();
    await until(() => running === 0 && relay.openConnections === 0, 'the end of every relayed exchange');
  }
}
