import type { RequestHead } from '../model/request-head.js';
import type { Refusal } from '../model/outcome.js';
import type { Reply } from '../protocol/protocol.js';
import type { Exchange } from './exchange.js';

export interface RelayTask {
  readonly exchange: Exchange;
  readonly head: RequestHead;
  /** Whose the upload is. */
  readonly node: string;
  /** How a refusal looks to this request; `cut`: it is better told by the end of the connection. */
  readonly refuse: (refusal: Refusal) => Reply | 'cut';
}

/** What becomes of requests on uploads whose bytes are with another node. */
export interface Relay {
  isElsewhere(node: string | undefined): node is string;
  /** Fulfilled when the exchange is over, whatever came of it. Fails with a `Fault` before anything was said. */
  relay(task: RelayTask): Promise<void>;
  /** Ends what still brings a body: its client goes on by another node. */
  drain(): void;
}
