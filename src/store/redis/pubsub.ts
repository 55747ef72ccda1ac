import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { Cluster } from 'ioredis';
import { withTimeout } from '../../concurrency/waiting.js';
import type { RedisClient } from './clients.js';

/**
 * `ask`: another request wants the lease. `free`: the lease was released. `settled`: a delivery ended or was given
 * up.
 */
export type RedisEvent = 'ask' | 'free' | 'settled';

/** Any client that may publish in this Redis can send any text on our channels. */
const REDIS_EVENTS: ReadonlySet<string> = new Set<RedisEvent>(['ask', 'free', 'settled']);

export interface BusOptions {
  readonly channels: readonly string[];
  /** On a cluster of version 7 and later: each channel belongs to the server of its slot. */
  readonly sharded: boolean;
  /** Returns a connected client without subscriptions. */
  readonly subscriber: () => Promise<RedisClient>;
  readonly publish: (channel: string, text: string) => Promise<unknown>;
}

const CHECK_MS = 2000;
/** Without a limit, a server that hangs would keep us from trying another one. */
const SUBSCRIBE_MS = 3000;

/**
 * The events that the scripts of all processes publish about uploads. They are hints only: a message can be lost, for
 * instance before `reconnected`, so every waiting request must also check the state itself from time to time.
 */
export class RedisBus {
  private readonly events = new EventEmitter().setMaxListeners(0);
  private readonly checkTimer: NodeJS.Timeout;
  private client: RedisClient | undefined;
  private opening: RedisClient | undefined;
  /** The echo that we published and have not received yet. */
  private pendingEcho: string | undefined;
  private isReplacing = false;
  /** True while a new subscription is not confirmed by the server. */
  private isSubscriptionPending = false;
  private closed = false;

  constructor(private readonly options: BusOptions) {
    this.checkTimer = setInterval(() => this.check(), CHECK_MS).unref();
  }

  /** Resolves when all channels are subscribed. */
  async open(): Promise<void> {
    const client = await this.options.subscriber();
    this.opening = client;
    try {
      client.on('message', (_: string, text: string) => this.dispatch(text));
      client.on('smessage', (_: string, text: string) => this.dispatch(text));
      await withTimeout(this.subscribe(client), SUBSCRIBE_MS);
      if (this.closed) throw new Error('Connection is closed');
    } catch (error) {
      client.disconnect();
      throw error;
    } finally {
      this.opening = undefined;
    }
    this.client?.disconnect();
    this.client = client;
    if (client instanceof Cluster) this.followServers(client);
    else client.on('ready', () => this.resubscribe(client));
  }

  on(event: RedisEvent, listener: (id: string) => void): void;
  on(event: 'reconnected', listener: () => void): void;
  on(event: RedisEvent | 'reconnected', listener: (id: string) => void): void {
    this.events.on(event, listener);
  }

  off(event: RedisEvent | 'reconnected', listener: (id: string) => void): void {
    this.events.off(event, listener);
  }

  close(): void {
    this.closed = true;
    clearInterval(this.checkTimer);
    this.events.removeAllListeners();
    this.opening?.disconnect();
    this.client?.disconnect();
  }

  private followServers(cluster: Cluster): void {
    for (const event of ['ready', '+subscriber', 'subscribersReady'])
      cluster.on(event, () => this.events.emit('reconnected'));
  }

  private async subscribe(client: RedisClient): Promise<void> {
    const { channels, sharded } = this.options;
    if (sharded) await Promise.all(channels.map((channel) => client.ssubscribe(channel)));
    else await client.subscribe(...channels);
  }

  private dispatch(text: string): void {
    const space = text.indexOf(' ');
    const [word, rest] = [text.slice(0, space), text.slice(space + 1)];
    if (REDIS_EVENTS.has(word)) this.events.emit(word, rest);
    else if (word === 'echo' && rest === this.pendingEcho) this.pendingEcho = undefined;
  }

  /**
   * These connections send nothing by themselves, so a broken one would go unnoticed. Subscribing again costs no more
   * than a ping, and restores subscriptions that were refused or lost.
   */
  private check(): void {
    if (this.client instanceof Cluster) return this.sendEcho();
    if (this.client?.status !== 'ready') return;
    if (this.isSubscriptionPending) return this.resubscribe(this.client);
    this.subscribe(this.client).catch(() => {
      // The client reconnects by itself.
    });
  }

  private resubscribe(client: RedisClient): void {
    this.isSubscriptionPending = true;
    this.subscribe(client)
      .then(() => {
        this.isSubscriptionPending = false;
        this.events.emit('reconnected');
      })
      .catch(() => {
        // The next check tries again.
      });
  }

  /**
   * A cluster's client can lose subscriptions permanently when servers come and go; a missing echo shows it, and a new
   * client replaces it.
   */
  private sendEcho(): void {
    if (this.pendingEcho !== undefined) return this.replaceClient();
    const { channels, publish } = this.options;
    const echo = randomUUID();
    publish(channels[Math.floor(Math.random() * channels.length)]!, `echo ${echo}`).catch(() => {
      // Nothing can be published now, so no event is missed.
      if (this.pendingEcho === echo) this.pendingEcho = undefined;
    });
    this.pendingEcho = echo;
  }

  private replaceClient(): void {
    if (this.isReplacing) return;
    this.isReplacing = true;
    this.open()
      .then(() => {
        this.pendingEcho = undefined;
        this.events.emit('reconnected');
      })
      .catch(() => {
        // The next check tries again.
      })
      .finally(() => (this.isReplacing = false));
  }
}
