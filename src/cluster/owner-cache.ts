import type { OwnerDirectory } from '../proxy/peer-relay.js';
import type { Nodes, NodeState } from '../store/nodes.js';

/** Saves a busy upload one lookup per request, and is short enough to notice a move soon. */
const MAX_AGE_MS = 1_000;

/** Finds the node that owns an upload; remembers each result for one second. */
export class OwnerCache implements OwnerDirectory {
  private readonly known = new Map<
    string,
    { readonly until: number; readonly owner: Promise<NodeState | undefined> }
  >();

  constructor(
    private readonly nodes: Pick<Nodes, 'find'>,
    private readonly monotonic: () => number,
    private readonly maxAgeMs = MAX_AGE_MS,
  ) {}

  find(node: string): Promise<NodeState | undefined> {
    const known = this.known.get(node);
    if (known && known.until > this.monotonic()) return known.owner;
    const owner = this.nodes.find(node);
    this.known.set(node, { until: this.monotonic() + this.maxAgeMs, owner });
    // A failed lookup is not remembered.
    owner.catch(() => this.known.delete(node));
    return owner;
  }
}
