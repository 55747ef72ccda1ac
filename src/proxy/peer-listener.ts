import { fromRawHeaders } from '../model/headers.js';
import type { Log } from '../observe/log.js';
import type { Exchange } from '../server/exchange.js';
import { type ListenAddress, type Listener, startListener } from '../server/listener.js';
import { respondEarly } from '../server/response.js';
import { type ClaimFailure, type ClientFacts, PEER_FIELD, type PeerSignature } from './peer-auth.js';

export interface PeerListenerOptions {
  readonly address: ListenAddress;
  /** PEM. Peers have to present a certificate signed by `ca`. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer; readonly ca: string | Buffer };
  readonly signature: PeerSignature;
  readonly log: Log;
}

/** Handles verified requests of other nodes. */
export interface PeerHandlers {
  /** Handles a client's request that another node relays. */
  onRequest(exchange: Exchange, client: ClientFacts): void;
  /** Handles files of an upload that another node transfers here. */
  onFiles(exchange: Exchange): void;
}

/** Limits for reading the body of a rejected request. */
const REJECTED_BODY_LIMITS = { bytes: 64 * 1024, ms: 1000 };

/**
 * More than any client's request head that another node accepts (64 KiB over HTTP/2), with the headers that the node
 * adds.
 */
const MAX_HEAD_BYTES = 96 * 1024;

/**
 * Opens the internal listener, which serves other nodes of the cluster only. Rejects when the address cannot be bound.
 */
export function startPeerListener(options: PeerListenerOptions, handlers: PeerHandlers): Promise<Listener> {
  const { address, tls } = options;
  return startListener(
    {
      address,
      tls,
      http2: false,
      windows: { stream: 0, session: 0 },
      maxConcurrentStreams: 0,
      maxHeadBytes: MAX_HEAD_BYTES,
      // A node that ends its side of a connection wants no more responses.
      halfClosedMs: 0,
    },
    {
      onRequest: (exchange) => admit(exchange, options, handlers),
      onUpgrade: (_request, socket) => void socket.destroy(),
    },
  );
}

/** Verifies the signature and passes the request on, or refuses it with 403. */
function admit(exchange: Exchange, { signature, log }: PeerListenerOptions, handlers: PeerHandlers): void {
  const { method = '', url = '', headers, rawHeaders } = exchange.req;
  const value = headers[PEER_FIELD.toLowerCase()];
  const verified = signature.verify(typeof value === 'string' ? value : undefined, {
    method,
    target: url,
    headers: fromRawHeaders(rawHeaders),
  });
  if (typeof verified === 'string') {
    log.warn(
      { why: verified, advice: ADVICE[verified], peer: exchange.req.socket.remoteAddress },
      'rejected a request on the internal listener',
    );
    const failureHeaders = [[PEER_FIELD, verified]] as const;
    void respondEarly(exchange, { status: 403, headers: failureHeaders }, REJECTED_BODY_LIMITS);
  } else if (verified.kind === 'request') handlers.onRequest(exchange, verified.client);
  else handlers.onFiles(exchange);
}

/** Advice to the operator, by the reason of a refusal. */
const ADVICE: Readonly<Record<ClaimFailure, string>> = {
  unsigned: 'only nodes of this cluster may use this listener',
  version:
    'the sender runs another version of rufh-proxy; nodes refuse requests from each other until all run the same version',
  forged: 'check that all nodes have the same cluster.secret',
  old: 'check that the clocks of the nodes agree',
  replayed: 'a request between nodes was recorded and sent again: check who has access to their network',
  busy: 'more requests arrived from other nodes within a minute than can be remembered',
  misdirected: 'check that each node has its own cluster.advertise',
};
