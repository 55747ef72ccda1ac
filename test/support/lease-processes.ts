import { randomBytes } from 'node:crypto';
import { silentLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/connection.js';
import type { RedisSettings } from '../../src/store/redis/errors.js';
import { type LeaseConnection, type LeaseTimes, RedisLeases } from '../../src/store/redis/leases.js';
import { RedisStore } from '../../src/store/redis/redis-store.js';
import { until } from './temporary.js';

/** What another process has of its own: connections, a store, and leases. */
export interface LeaseProcess {
  readonly leases: RedisLeases;
  readonly store: RedisStore;
  readonly gate: ScriptGate;
  /** The last ticket that was drawn for an upload, 0 before the first. */
  lastTicket(id: string): Promise<number>;
  /** Its connections are gone, and nothing was given back. */
  die(): Promise<void>;
}

export interface ProcessOptions extends Partial<LeaseTimes> {
  /** No message reaches it. */
  readonly isDeaf?: boolean;
}

/** Holds back what a process asks of Redis, as if it were paused at that moment. */
class ScriptGate {
  private readonly scripts = new Set<string>();
  private readonly waiting: { readonly script: string; readonly go: () => void }[] = [];

  hold(script: string): void {
    this.scripts.add(script);
  }

  open(): void {
    this.scripts.clear();
    for (const { go } of this.waiting.splice(0)) go();
  }

  /** Fulfilled when somebody waits here. */
  async arrived(script: string): Promise<void> {
    await until(() => this.waiting.some((held) => held.script === script), `${script} to be called`);
  }

  /** The same connection, with this gate in front of its scripts. */
  before(connection: RedisConnection): Pick<LeaseConnection, 'run' | 'runDurably'> {
    const gated = (run: LeaseConnection['run']): LeaseConnection['run'] => {
      return async (script, keys, args) => {
        if (this.scripts.has(script)) await new Promise<void>((go) => this.waiting.push({ script, go }));
        return run(script, keys, args);
      };
    };
    return {
      run: gated((...call) => connection.run(...call)),
      runDurably: gated((...call) => connection.runDurably(...call)),
    };
  }
}

/** Processes that share one store, which nobody else sees. */
export class LeaseProcesses {
  private readonly members: LeaseProcess[] = [];
  private readonly prefix = randomBytes(6).toString('hex');

  constructor(private readonly settingsOf: (prefix: string) => RedisSettings) {}

  async join({ isDeaf = false, ...times }: ProcessOptions = {}): Promise<LeaseProcess> {
    const connection = await RedisConnection.open(this.settingsOf(this.prefix), silentLog());
    const gate = new ScriptGate();
    const bus = isDeaf ? deafBus(connection) : connection.bus;
    const leases = new RedisLeases({ ...gate.before(connection), keys: connection.keys, bus }, times);
    const store = new RedisStore({ connection, node: '' });
    let isDead = false;
    const die = async (): Promise<void> => {
      if (isDead) return;
      isDead = true;
      leases.close();
      await store.close();
      await connection.close();
    };
    const lastTicket = async (id: string): Promise<number> => {
      const { lease } = connection.keys.upload(id);
      return Number(await connection.call(lease, (client) => client.hget(lease, 'last')));
    };
    const member = { leases, store, gate, lastTicket, die };
    this.members.push(member);
    return member;
  }

  async dispose(): Promise<void> {
    for (const member of this.members) {
      member.gate.open();
      await member.die();
    }
  }
}

function deafBus({ bus }: RedisConnection): RedisConnection['bus'] {
  const nothing = (): void => undefined;
  return Object.create(bus, { on: { value: nothing }, off: { value: nothing } }) as RedisConnection['bus'];
}
