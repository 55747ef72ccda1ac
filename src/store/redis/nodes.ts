import type { Nodes, NodeState } from '../nodes.js';
import type { RedisConnection } from './connection.js';

type Announcement = Parameters<Nodes['announce']>[0];

export interface RedisNodesOptions {
  readonly everyMs?: number;
}

/** The nodes that share a Redis. Only the clock of Redis decides how long a node has been silent. */
export class RedisNodes implements Nodes {
  private own: Announcement | undefined;
  private timer: NodeJS.Timeout | undefined;
  private lastAnnouncement: Promise<unknown> = Promise.resolve();
  private readonly everyMs: number;

  constructor(
    private readonly connection: Pick<RedisConnection, 'run' | 'call' | 'keys'>,
    { everyMs = 2000 }: RedisNodesOptions = {},
  ) {
    this.everyMs = everyMs;
  }

  async find(name: string): Promise<NodeState | undefined> {
    const [node] = await this.read([name]);
    return node;
  }

  all(): Promise<readonly NodeState[]> {
    return this.read([]);
  }

  /** Rejects when Redis is unavailable; the announcement is repeated anyway. */
  async announce(own: Announcement): Promise<void> {
    this.own = own;
    this.timer ??= setInterval(() => {
      // `RedisHealth` reports the outage, and the others see how long this node is silent.
      this.sendAnnouncement().catch(() => undefined);
    }, this.everyMs).unref();
    await this.sendAnnouncement();
  }

  async forget(name: string): Promise<void> {
    const { nodes } = this.connection.keys;
    await this.connection.call(nodes, (client) => client.hdel(nodes, name));
  }

  async close(): Promise<void> {
    clearInterval(this.timer);
    this.own = undefined;
    await this.lastAnnouncement.catch(() => undefined);
  }

  private sendAnnouncement(): Promise<unknown> {
    if (!this.own) return Promise.resolve();
    const { name, url, isLeaving } = this.own;
    this.lastAnnouncement = this.connection.run(
      'announce-node',
      [this.connection.keys.nodes],
      [name, isLeaving ? '1' : '0', url],
    );
    return this.lastAnnouncement;
  }

  private async read(names: readonly string[]): Promise<NodeState[]> {
    const reply = await this.connection.run('read-nodes', [this.connection.keys.nodes], names);
    const [now, ...announcements] = reply as string[];
    const pairs = Array.from({ length: announcements.length / 2 }, (_, at) => announcements.slice(2 * at, 2 * at + 2));
    return pairs.map(([name, words]) => nodeState(name!, words!, Number(now)));
  }
}

function nodeState(name: string, fields: string, now: number): NodeState {
  const [announcedAt, isLeaving, url] = fields.split(' ') as [string, string, string];
  return { name, url, silentMs: Math.max(0, now - Number(announcedAt)), isLeaving: isLeaving === '1' };
}

/**
 * Gives one process a task for a time; true for that process. This only saves work: the task must be safe to run
 * twice.
 */
export async function tryAcquire(connection: RedisConnection, name: string, forMs: number): Promise<boolean> {
  const key = connection.keys.taskLock(name);
  return (await connection.call(key, (client) => client.set(key, '1', 'PX', forMs, 'NX'))) === 'OK';
}
