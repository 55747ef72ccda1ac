import type { NodesLog } from './nodes-log.js';
import type { Blow, BlowKind } from './nodes-plan.js';
import type { NodesStage } from './nodes-stage.js';

/** Breaks what a blow says, and mends it after its time. */
export class Strikes {
  readonly counts: Partial<Record<BlowKind | 'long', number>> = {};
  private mendedAt = Date.now();
  private underWay = 0;
  private readonly hit = new Set<number>();
  private long: Promise<void> = Promise.resolve();

  constructor(
    private readonly stage: NodesStage,
    private readonly log: NodesLog,
    private readonly cutClients: () => void,
  ) {}

  /** When something was last broken: now, while anything is. */
  get lastAt(): number {
    return this.underWay > 0 ? Date.now() : this.mendedAt;
  }

  /** Fulfilled when it is mended; a long one goes on alone, and is waited for by the next long one and by `end`. */
  async strike(blow: Blow): Promise<void> {
    this.count(blow.kind);
    if (!blow.isLong) return this.play(blow);
    await this.long;
    this.count('long');
    this.long = this.play(blow);
    // Its failure is that of whoever waits for it.
    this.long.catch(() => undefined);
  }

  /** Waits until nothing is broken any more. */
  end(): Promise<void> {
    return this.long;
  }

  private async play(blow: Blow): Promise<void> {
    const node = this.spared(blow.node);
    const aimsAtNode = blow.kind.endsWith('node') || blow.kind.endsWith('network');
    if (aimsAtNode) this.hit.add(node);
    this.underWay += 1;
    try {
      const mend = await this.breakIt(blow.kind, node);
      await new Promise((resolve) => setTimeout(resolve, blow.forMs));
      await mend();
    } finally {
      this.underWay -= 1;
      this.mendedAt = Date.now();
      if (aimsAtNode) this.hit.delete(node);
    }
  }

  /** That node, or the next that nothing is wrong with. */
  private spared(node: number): number {
    const nodes = Array.from({ length: this.stage.size }, (_, at) => (node + at) % this.stage.size);
    return nodes.find((at) => !this.hit.has(at)) ?? node;
  }

  /** Gives what mends it. */
  private async breakIt(kind: BlowKind, at: number): Promise<() => unknown> {
    const { redis } = this.stage;
    const network = this.stage.network(at);
    switch (kind) {
      case 'stop-node': {
        const { pid } = this.stage.node(at);
        process.kill(pid, 'SIGSTOP');
        return () => process.kill(pid, 'SIGCONT');
      }
      case 'kill-node':
        await this.stage.node(at).kill();
        this.log.read(this.stage.node(at));
        return () => this.stage.revive(at);
      case 'kill-redis':
        await redis.kill();
        return () => redis.restart();
      case 'stop-redis':
        redis.pause();
        return () => redis.resume();
      case 'cut-network':
        await network.cut();
        return () => network.restore();
      case 'hang-network':
        network.hang();
        return () => network.restore();
      case 'cut-clients':
        this.cutClients();
        return () => undefined;
    }
  }

  private count(what: BlowKind | 'long'): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }
}
