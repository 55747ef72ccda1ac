import type { Log } from '../observe/log.js';
import { clientOf } from './client-of.js';
import type { Relay, RelayTask } from './relay.js';
import { answerEarly } from './reply.js';

export interface NoRelayOptions {
  /** The name of this node; missing where all nodes are meant to share one spool. */
  readonly node?: string;
  readonly log: Log;
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
}

const NO_RELAY_RETRY_SECONDS = 30;
const SAY_AGAIN_MS = 60_000;

const UNREACHABLE_FROM_HERE = 'The bytes of this upload cannot be reached from here. What was acknowledged is kept.';

/**
 * A node that has no way to the others, where an upload names one of them: a setting is missing, and taking the upload for
 * its own would be to give it up for the bytes that are not here.
 */
export class NoRelay implements Relay {
  private saidAt = -Infinity;

  constructor(private readonly options: NoRelayOptions) {}

  isElsewhere(node: string | undefined): node is string {
    return node !== undefined && node !== this.options.node;
  }

  async relay({ exchange, node, refuse }: RelayTask): Promise<void> {
    this.tell(node);
    const reply = refuse({ reason: 'unavailable', detail: UNREACHABLE_FROM_HERE, retryAfterSeconds: NO_RELAY_RETRY_SECONDS });
    if (reply === 'cut') clientOf(exchange).breakOff();
    else await answerEarly(exchange, reply);
  }

  drain(): void {
    // Nothing is under way.
  }

  /** Once in a while: every request on such an upload meets it. */
  private tell(node: string): void {
    const { log, monotonic, node: own } = this.options;
    if (monotonic() - this.saidAt < SAY_AGAIN_MS) return;
    this.saidAt = monotonic();
    log.error({ node }, own === undefined ? SHARES_NOTHING : SET_CLUSTER);
  }
}

const SET_CLUSTER =
  'the bytes of an upload are with another node, and there is no way to it: set `cluster` at every node (listen, ' +
  'advertise and a secret)';
const SHARES_NOTHING =
  'the bytes of an upload are on the disk of another node, but here `spool.shared` is true: set it to false, and ' +
  '`cluster` at every node (listen, advertise and a secret), until such uploads have ended';
