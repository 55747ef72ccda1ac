import { expect } from '@jest/globals';
import { NodeSet, type Bytes, type NodeSetOptions } from './node-set.js';
import { Stage } from './stage.js';
import type { ResumableUpload } from './resumable-client.js';
import { only } from './thoroughness.js';

/** Every number of nodes and place of the bytes that flows are tried on. */
const ALL_SETS: readonly { readonly nodes: number; readonly bytes: Bytes }[] = [
  { nodes: 2, bytes: 'shared' },
  { nodes: 2, bytes: 'node-local' },
  { nodes: 3, bytes: 'shared' },
  { nodes: 3, bytes: 'node-local' },
];

export const SETS = only(ALL_SETS, ({ nodes }) => nodes === 2);

/** A stage whose proxy is several nodes behind HAProxy. */
export class NodeStage {
  private constructor(
    readonly stage: Stage,
    readonly set: NodeSet,
  ) {}

  static async open(options: Omit<NodeSetOptions, 'origin' | 'data'>): Promise<NodeStage> {
    let set: NodeSet | undefined;
    const stage = await Stage.open({}, async ({ origin, data }) => {
      return (set = await NodeSet.start({ ...options, origin, data }));
    });
    return new NodeStage(stage, set!);
  }

  /** So many requests were for this upload, counting its creation, and each went to another node than the one before. */
  async expectSpread(upload: ResumableUpload, creation: string, count: number): Promise<void> {
    const nodes = await this.set.haproxy.untilRelayed(
      [new URL(creation, this.stage.base).pathname, upload.target],
      count,
    );
    expect(nodes).toHaveLength(count);
    expect(nodes.filter((node, at) => node === nodes[at - 1])).toEqual([]);
    for (const node of nodes) expect(this.set.names).toContain(node);
  }

  /** The node that has an upload's bytes on its disk. */
  async ownerOf(upload: ResumableUpload): Promise<string> {
    return (await this.set.holdersOf(upload))[0]!;
  }

  close(): Promise<void> {
    return this.stage.close();
  }
}
