import type { Owners } from '../proxy/peer-relay.js';
import type { Nodes, NodeState } from '../store/nodes.js';

/** Long enough that a busy upload costs no question for each of its requests, short enough that a move is not missed. */
const KEEP_MS = 1_000;

/** Where the nodes are that have uploads: what the store said of them in the last second. */
export class KnownOwners implements Owners {
  private readonly known = new Map<
    string,
    { readonly until: number; readonly owner: Promise<NodeState | undefined> }
  >();

  constructor(
    private readonly nodes: Pick<Nodes, 'find'>,
    private readonly monotonic: () => number,
    private readonly keepMs = KEEP_MS,
  ) {}

  find(node: string): Promise<NodeState | undefined> {
    const known = this.known.get(node);
    if (known && known.until > this.monotonic()) return known.owner;
    const owner = this.nodes.find(node);
    this.known.set(node, { until: this.monotonic() + this.keepMs, owner });
    // Nothing was said: the next one asks again.
    owner.catch(() => this.known.delete(node));
    return owner;
  }
}
