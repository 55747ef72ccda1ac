import { Fault } from '../model/fault.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { Leases } from '../store/lease.js';
import type { NodeState, Nodes } from '../store/nodes.js';
import type { UploadStore } from '../store/upload-store.js';
import { forgetNode } from '../uploads/forget-node.js';

export interface GoneNodesOptions {
  /** The name of this node. */
  readonly self: string;
  readonly nodes: Pick<Nodes, 'all' | 'forget'>;
  readonly leases: Leases;
  /** What is known of uploads, as that node would see it. */
  readonly storeOf: (node: string) => UploadStore;
  /** Given to one process of all. */
  readonly mayLook: () => Promise<boolean>;
  /** A node that is silent for this long will not come back. */
  readonly ownerTimeoutMs: number;
  readonly metrics: Metrics;
  readonly log: Log;
}

const MOST_MS = 30_000;
const LEAST_MS = 250;

/** Ends the uploads of nodes that were silent for too long: state that is lost is never guessed, and nobody waits for ever. */
export class GoneNodes {
  private timer: NodeJS.Timeout | undefined;
  private looking: Promise<void> | undefined;

  constructor(private readonly options: GoneNodesOptions) {}

  start(): void {
    const everyMs = Math.min(MOST_MS, Math.max(LEAST_MS, this.options.ownerTimeoutMs / 4));
    this.timer = setInterval(() => this.begin(), everyMs).unref();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    await this.looking;
  }

  /** One look at who is there. Fails with a `Fault`. */
  async look(): Promise<void> {
    const { self, nodes, ownerTimeoutMs, mayLook } = this.options;
    const all = await nodes.all();
    const gone = all.filter(({ name, silentMs }) => name !== self && silentMs >= ownerTimeoutMs);
    if (gone.length === 0 || !(await mayLook())) return;
    for (const node of gone) await this.forget(node);
  }

  private begin(): void {
    this.looking ??= this.look()
      .catch((error: unknown) => {
        // That the store is away is told elsewhere.
        if (!(error instanceof Fault))
          this.options.log.error({ err: error }, 'nodes that are gone could not be looked for');
      })
      .finally(() => (this.looking = undefined));
  }

  private async forget({ name, silentMs }: NodeState): Promise<void> {
    const { self: heir, storeOf, nodes, leases, metrics, log } = this.options;
    const store = storeOf(name);
    try {
      const uploads = await forgetNode({ store, leases, heir, metrics, log });
      await nodes.forget(name);
      log.error({ node: name, silentSeconds: Math.round(silentMs / 1000), uploads }, 'a node is gone for good');
    } finally {
      await store.close();
    }
  }
}
