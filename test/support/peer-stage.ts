import { join } from 'node:path';
import { silentLog } from '../../src/observe/log.js';
import { EmbeddedLeases, EmbeddedStore } from '../../src/store/embedded/embedded-store.js';
import { FakeNodes } from './fake-nodes.js';
import { type FakeOrigin, startFakeOrigin } from './fake-origin.js';
import { type Cluster, PeerNode } from './peer-node.js';
import { temporaryDirectory, type TemporaryDirectory } from './temporary.js';

/** Nodes with disks of their own around one store, and an origin behind them. */
export class PeerStage {
  private readonly open: PeerNode[] = [];

  private constructor(
    readonly cluster: Cluster,
    readonly origin: FakeOrigin,
    private readonly directory: TemporaryDirectory,
  ) {}

  static async open(ownerTimeoutMs = 60_000): Promise<PeerStage> {
    const directory = await temporaryDirectory('rufh-peers-');
    const store = await EmbeddedStore.open({
      directory: join(directory.path, 'store'),
      sync: 'none',
      log: silentLog(),
    });
    const origin = await startFakeOrigin();
    const nodes = new FakeNodes();
    // Whoever is asked for a lease gives it back, or the test does not end.
    const leases = new EmbeddedLeases(store, { graceMs: 60_000 });
    const shared = { store, leases, nodes, ownerTimeoutMs, directory: directory.path, origin: origin.url };
    return new PeerStage(shared, origin, directory);
  }

  async node(name: string): Promise<PeerNode> {
    const node = await PeerNode.open(name, this.cluster);
    this.open.push(node);
    return node;
  }

  async close(): Promise<void> {
    await Promise.all(this.open.map((node) => node.stop()));
    await this.origin.close();
    await this.cluster.store.close();
    await this.directory.remove();
  }
}
