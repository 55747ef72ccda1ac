import type { NodeState, Nodes } from '../../src/store/nodes.js';

/** The nodes of a cluster as a test says they are. */
export class FakeNodes implements Nodes {
  private readonly states = new Map<string, NodeState>();

  /** From now on this is what is known of a node. */
  set(name: string, state: Partial<Omit<NodeState, 'name'>>): void {
    const before = this.states.get(name) ?? { name, url: '', silentMs: 0, isLeaving: false };
    this.states.set(name, { ...before, ...state });
  }

  find(name: string): Promise<NodeState | undefined> {
    return Promise.resolve(this.states.get(name));
  }

  all(): Promise<readonly NodeState[]> {
    return Promise.resolve([...this.states.values()]);
  }

  announce({ name, url, isLeaving }: { name: string; url: string; isLeaving: boolean }): Promise<void> {
    this.set(name, { url, isLeaving, silentMs: 0 });
    return Promise.resolve();
  }

  forget(name: string): Promise<void> {
    this.states.delete(name);
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
