import type { OwnerDirectory } from '../proxy/peer-relay.js';
import type { Nodes, NodeState } from '../store/nodes.js';

/** Long enough to save the lookup for most requests to a busy upload, and short enough to notice a new address soon. */
const MAX_AGE_MS = 1_000;

/** Finds the state of a node that owns uploads, by its name, and remembers it for one second. */
export class OwnerCache implements OwnerDirectory {
  private readonly cache = new Map<
    string,
    { readonly until: number; readonly owner: Promise<NodeState | undefined> }
  >();

  constructor(
    private readonly nodes: Pick<Nodes, 'find'>,
    private readonly monotonic: () => number,
    private readonly maxAgeMs = MAX_AGE_MS,
  ) {}

  find(node: string): Promise<NodeState | undefined> {
    const cached = this.cache.get(node);
    if (cached && cached.until > this.monotonic()) return cached.owner;
    const owner = this.nodes.find(node);
    this.cache.set(node, { until: this.monotonic() + this.maxAgeMs, owner });
    // A failed lookup is not remembered.
    owner.catch(() => this.cache.delete(node));
    return owner;
  }
}
