import { expect } from '@jest/globals';
import type { Migrator } from '../../src/cluster/migrator.js';
import type { PeerNode } from './peer-node.js';
import { PeerStage } from './peer-stage.js';
import { requestOnce } from './raw-client.js';
import { appendLines, clientDialect, creationLines } from './resumable-client.js';
import { until } from './temporary.js';
import type { WireResponse } from './wire-response.js';

const dialect = clientDialect('10');

/** A node named `old` that is going to give its uploads to one named `other`. */
export class MoveStage {
  private constructor(
    readonly peers: PeerStage,
    readonly old: PeerNode,
    readonly other: PeerNode,
    /** What every upload on this stage has in the end. */
    readonly bytes: Buffer,
  ) {}

  static async open(bytes: Buffer): Promise<MoveStage> {
    const peers = await PeerStage.open();
    return new MoveStage(peers, await peers.node('old'), await peers.node('other'), bytes);
  }

  close(): Promise<void> {
    return this.peers.close();
  }

  /** An upload with the old node that has so many bytes; gives its path. */
  async uploadWith(count: number, target = '/files'): Promise<string> {
    const headers = creationLines(dialect, { complete: false, length: this.bytes.length });
    const body = this.bytes.subarray(0, count);
    const created = await requestOnce(this.old.url, { method: 'POST', target, headers, body });
    expect(created.status).toBe(201);
    return new URL(created.header('Location')!).pathname;
  }

  idOf(path: string): string {
    return path.split('/').at(-1)!;
  }

  async nodeOf(path: string): Promise<string | undefined> {
    return (await this.peers.cluster.store.get(this.idOf(path)))?.node;
  }

  async phaseOf(path: string): Promise<string | undefined> {
    return (await this.peers.cluster.store.get(this.idOf(path)))?.phase;
  }

  head(path: string, node: PeerNode): Promise<WireResponse> {
    const headers = [['Upload-Draft-Interop-Version', '10']] as const;
    return requestOnce(node.url, { method: 'HEAD', target: path, headers });
  }

  append(path: string, node: PeerNode, from: number, to = this.bytes.length): Promise<WireResponse> {
    const headers = appendLines(dialect, { offset: from, complete: to === this.bytes.length });
    return requestOnce(node.url, { method: 'PATCH', target: path, headers, body: this.bytes.subarray(from, to) });
  }

  async done(migrator: Migrator): Promise<void> {
    await until(
      () => migrator.progress.isDone,
      () => `the end of the moves: ${JSON.stringify(migrator.progress)}`,
    );
  }

  /** What the origin has got as a whole. */
  received(target: string): { size: number; sum: string }[] {
    const whole = this.peers.origin.requests.filter(
      (request) => request.target === target && request.ended === 'whole',
    );
    return whole.map(({ size, sha256: sum }) => ({ size, sum }));
  }
}
