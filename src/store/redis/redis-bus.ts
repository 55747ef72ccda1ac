import { EventEmitter } from 'node:events';
import type { Redis } from 'ioredis';
import type { RedisClient } from './redis-clients.js';

/** `ask`: somebody wants the lease. `free`: it was given back. `settled`: a delivery came to something. */
export type News = 'ask' | 'free' | 'settled';

const PING_MS = 2000;

/**
 * What the scripts of all processes tell each other, about every upload. Only hints: a message can be lost, and after
 * `reconnected` some may have been, so that whoever waits has to look for itself now and then.
 */
export class RedisBus {
  private readonly events = new EventEmitter().setMaxListeners(0);
  private readonly pings: NodeJS.Timeout;
  private wasReady = false;

  constructor(
    private readonly client: RedisClient,
    private readonly channels: readonly string[],
    private readonly sharded: boolean,
  ) {
    client.on('message', (_: string, text: string) => this.tell(text));
    client.on('smessage', (_: string, text: string) => this.tell(text));
    for (const event of ['ready', '+subscriber', 'subscribersReady']) client.on(event, () => this.reconnected());
    this.pings = setInterval(() => this.ping(), PING_MS).unref();
  }

  /** Fulfilled when every channel is heard. */
  async open(): Promise<void> {
    if (this.sharded) await Promise.all(this.channels.map((channel) => this.client.ssubscribe(channel)));
    else await this.client.subscribe(...this.channels);
    this.wasReady = true;
  }

  on(news: News, listener: (id: string) => void): void;
  on(news: 'reconnected', listener: () => void): void;
  on(news: News | 'reconnected', listener: (id: string) => void): void {
    this.events.on(news, listener);
  }

  off(news: News | 'reconnected', listener: (id: string) => void): void {
    this.events.off(news, listener);
  }

  close(): void {
    clearInterval(this.pings);
    this.events.removeAllListeners();
    this.client.disconnect();
  }

  private tell(text: string): void {
    const space = text.indexOf(' ');
    this.events.emit(text.slice(0, space), text.slice(space + 1));
  }

  private reconnected(): void {
    if (this.wasReady) this.events.emit('reconnected');
  }

  /** Nobody sends anything on this connection: without this a broken one would be noticed by nobody. */
  private ping(): void {
    if (this.client.isCluster || this.client.status !== 'ready') return;
    (this.client as Redis).ping().catch(() => {
      // The client's own events tell what came of it.
    });
  }
}
