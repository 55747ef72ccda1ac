import { EventEmitter } from 'node:events';
import { afterEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { Upload } from '../../src/model/upload.js';
import { makeClient, type RedisClient } from '../../src/store/redis/clients.js';
import { storeFault } from '../../src/store/redis/errors.js';
import { ReplyTimeout, ServerClock } from '../../src/store/redis/health.js';
import { RedisBus } from '../../src/store/redis/pubsub.js';
import { RedisSettlementWaiters } from '../../src/store/redis/queries.js';
import { newUpload } from '../contract/sample-upload.js';
import { CuttingProxy } from '../support/network.js';
import type { RedisServer } from '../support/redis-server.js';
import { type OpenedRedis, RedisResources, settingsFor } from '../support/redis-store.js';
import { until, within } from '../support/temporary.js';

describe('publish and subscribe', () => {
  const resources = new RedisResources();

  afterEach(() => resources.close());

  test('what others say on our channel is not taken for news, and does no harm', async () => {
    const server = await resources.start();
    const { connection } = await resources.opened(settingsFor(server.port));
    const { channel } = connection.keys.bucket(0);
    const heard: string[] = [];
    connection.bus.on('settled', (id) => heard.push(id));
    connection.bus.on('reconnected', () => heard.push('reconnected'));
    for (const text of ['error everything is lost', 'reconnected x', 'word', '', 'settled an-upload'])
      await server.cli('publish', channel, text);
    await until(() => heard.length > 0, 'the news');
    expect(heard).toEqual(['an-upload']);
  });

  describe('a server that hangs while its channels are asked for', () => {
    const clients: RedisClient[] = [];

    /** A bus whose server stands still once it is connected. */
    function hanging(server: RedisServer): RedisBus {
      const subscriber = async (): Promise<RedisClient> => {
        const client = makeClient(settingsFor(server.port), { role: 'subscriber', retryMs: () => 50 });
        client.on('error', () => undefined);
        clients.push(client);
        await client.connect();
        server.pause();
        return client;
      };
      const bus = new RedisBus({ channels: ['news'], sharded: false, subscriber, publish: () => Promise.resolve() });
      resources.endsWith(() => bus.close());
      return bus;
    }

    afterEach(() => clients.splice(0).forEach((client) => client.disconnect()));

    test('is waited for no longer than for anything else', async () => {
      const bus = hanging(await resources.start());
      await expect(within(bus.open(), 'the failure')).rejects.toThrow('not answered in time');
      await until(() => clients[0]!.status === 'end', 'the end of its connection');
    });

    test('keeps no connection once the bus is closed', async () => {
      const bus = hanging(await resources.start());
      const opening = expect(bus.open()).rejects.toThrow();
      await until(() => clients[0]?.status === 'ready', 'the connection');
      await new Promise((resolve) => setImmediate(resolve));
      bus.close();
      await opening;
      await until(() => clients[0]!.status === 'end', 'the end of its connection');
    });
  });
});

describe('faults', () => {
  const settings = settingsFor(6379, { password: 'correct-horse' });

  function systemError(syscall: string, code: string, message: string): Error {
    return Object.assign(new Error(message), { syscall, code });
  }

  test('a file that cannot be read is not a socket that is not there', () => {
    const missing = systemError('open', 'ENOENT', "ENOENT: no such file or directory, open '/opt/lua/commit.lua'");
    expect(storeFault(missing, settings).message).toMatch(/ENOENT: no such file or directory, open/);
    const closed = systemError('scandir', 'EACCES', "EACCES: permission denied, scandir '/opt/lua'");
    expect(storeFault(closed, settings).message).toMatch(/EACCES: permission denied, scandir/);
    const socket = systemError('connect', 'ENOENT', 'connect ENOENT /run/redis.sock');
    expect(storeFault(socket, settings).message).toMatch(/there is no such socket/);
  });

  test('a server that repeats what it was told does not make us repeat the password', () => {
    const words = "ERR unknown command 'AUTH', with args beginning with: 'correct-horse'";
    const fault = storeFault(new Error(words), settings);
    expect(`${fault.message} ${String(fault.cause)}`).not.toContain('correct-horse');
    expect(fault.message).toContain("ERR unknown command 'AUTH'");
  });
});

describe('a store of somebody else', () => {
  const resources = new RedisResources();

  afterEach(() => resources.close());

  const said = ({ lines }: OpenedRedis, words: string): number => lines.filter(({ msg }) => msg.includes(words)).length;

  describe('a Redis whose data are others than before', () => {
    test('is told to those who have to note it, again until they have', async () => {
      const server = await resources.start();
      const redis = await resources.opened(settingsFor(server.port));
      const noted: string[] = [];
      redis.connection.onStoreReplaced((storeId) => {
        noted.push(storeId);
        return noted.length > 1 ? Promise.resolve() : Promise.reject(new Fault('STORAGE_FULL', '/data is full', true));
      });
      await server.cli('flushall');
      await until(() => redis.connection.unavailableReason === '/data is full', 'the failure is known');
      await until(() => redis.connection.unavailableReason === undefined, 'it is noted');
      expect(noted).toEqual([redis.connection.storeId, redis.connection.storeId]);
      expect(said(redis, 'came back empty')).toBe(1);
    });

    test('is noted by every process, whichever of them found it out', async () => {
      const server = await resources.start();
      const both = [await resources.opened(settingsFor(server.port)), await resources.opened(settingsFor(server.port))];
      const noted = new Set<string>();
      let told = 0;
      for (const { connection } of both)
        connection.onStoreReplaced((storeId) => {
          told += 1;
          return Promise.resolve(void noted.add(storeId));
        });
      await server.cli('flushall');
      await until(() => told === 2, 'both are told');
      expect([...noted]).toEqual([both[0]!.connection.storeId]);
    });

    test('is no loss as long as it is only a replica that is not filled yet', async () => {
      const [master, replica] = [await resources.start(), await resources.start()];
      const redis = await resources.opened(settingsFor(replica.port));
      await replica.cli('replicaof', '127.0.0.1', `${master.port}`);
      await until(
        () => redis.connection.unavailableReason?.includes('is a read-only replica'),
        'it is known to be one',
      );
      expect(said(redis, 'came back empty')).toBe(0);
    });
  });
});

describe('reconnecting', () => {
  const resources = new RedisResources();

  afterEach(() => resources.close());

  /** A server, the way to it, and who goes that way. */
  async function open(database: number): Promise<{ server: RedisServer; network: CuttingProxy; redis: OpenedRedis }> {
    const server = await resources.start('lua-time-limit 100');
    const network = await CuttingProxy.start(server.port);
    resources.endsWith(() => network.stop());
    return { server, network, redis: await resources.opened(settingsFor(network.port, { database })) };
  }

  /** Until what is published comes here. */
  async function untilHeard({ connection }: OpenedRedis, server: RedisServer): Promise<void> {
    const { channel } = connection.keys.bucket(0);
    let isHeard = false;
    connection.bus.on('settled', () => (isHeard = true));
    await until(() => server.cli('publish', channel, 'settled x').then(() => isHeard), 'news to be heard');
  }

  // What a server says to a new connection depends on the moment: the library takes a refusal for granted, or ends the process.
  describe('a connection that is made anew while the server refuses everything', () => {
    test.each([0, 2])('hears news and knows its uploads afterwards (database %s)', async (database) => {
      const { server, network, redis } = await open(database);
      const { id } = await redis.store.create(newUpload());
      const busy = server.cli('eval', 'while true do end', '0').catch(() => 'killed');
      await until(
        () => redis.connection.unavailableReason?.includes('kept busy by a script'),
        'the script to be noticed',
      );
      const before = network.connections;
      await network.cut();
      await network.restore();
      await until(() => network.connections >= before + 2, 'both connections to be made anew');
      // Both have been refused by now.
      await until(async () => (await server.cli('script', 'kill').catch(() => '')) === 'OK', 'the end of the script');
      expect(await busy).toBe('killed');
      await until(() => redis.connection.unavailableReason === undefined, 'Redis to be well');
      expect(await redis.store.get(id)).toMatchObject({ phase: 'receiving' });
      await untilHeard(redis, server);
      expect(redis.lines.filter(({ msg }) => /came back empty|other data/.test(msg))).toEqual([]);
    });
  });

  test('channels that a user was forbidden for a while are heard again', async () => {
    const { server, network, redis } = await open(0);
    await server.cli('acl', 'setuser', 'default', 'resetchannels');
    const before = network.connections;
    await network.cut();
    await network.restore();
    await until(() => network.connections >= before + 2, 'both connections to be made anew');
    await until(() => redis.connection.unavailableReason === undefined, 'Redis to be well');
    await server.cli('acl', 'setuser', 'default', 'allchannels');
    await untilHeard(redis, server);
  });
});

describe('reply timeouts', () => {
  const never = new Promise<never>(() => undefined);

  test('a step nobody answers is given up', async () => {
    await expect(new ReplyTimeout().wait('a', never)).rejects.toThrow('not answered in time');
  });

  test('an answer that came while this process stood still counts', async () => {
    const patience = new ReplyTimeout();
    const answered = new Promise<string>((resolve) => setImmediate(() => resolve('late')));
    const waiting = patience.wait('a', answered);
    const until = performance.now() + 800;
    while (performance.now() < until) Math.sqrt(until);
    expect(await waiting).toBe('late');
  });

  test('a step waits behind others as long as those about the same are answered, and no longer', async () => {
    const patience = new ReplyTimeout();
    const order: string[] = [];
    const busy = setInterval(() => void patience.wait('a', Promise.resolve()), 20);
    const behind = patience.wait('a', never).catch(() => order.push('behind others'));
    const alone = patience.wait('b', never).catch(() => order.push('alone'));
    await alone;
    clearInterval(busy);
    await behind;
    expect(order).toEqual(['alone', 'behind others']);
  });
});

describe('totals', () => {
  test('who leaves while Redis is asked for the first time is let go at once, and nothing of that is left to fail', async () => {
    const unanswered = new Promise<undefined>(() => undefined);
    const settlement = new RedisSettlementWaiters(new EventEmitter() as unknown as RedisBus, () => unanswered);
    const leaving = new AbortController();
    const waiting = settlement.wait('an-upload', leaving.signal);
    leaving.abort(new Error('the client has left'));
    await expect(within(waiting, 'the end of the waiting', 2000)).rejects.toThrow('the client has left');
    settlement.close();
  });

  test('who begins to wait while Redis is away hears it; those who wait already go on', async () => {
    const bus = new EventEmitter();
    const away = new Fault('STORE_UNAVAILABLE', 'away', true);
    const delivering: Upload = { ...newUpload(), phase: 'delivering', offset: 0, attempts: [], attemptCount: 0 };
    let look = (): Promise<Upload> => Promise.resolve(delivering);
    const settlement = new RedisSettlementWaiters(bus as unknown as RedisBus, () => look());
    const patient = new AbortController().signal;
    const before = settlement.wait(delivering.id, patient);
    look = () => Promise.reject(away);
    await expect(within(settlement.wait(delivering.id, patient), 'the failure')).rejects.toBe(away);
    const answered: Upload = { ...delivering, phase: 'answered' };
    look = () => Promise.resolve(answered);
    bus.emit('settled', delivering.id);
    expect(await within(before, 'the answer')).toBe(answered);
    settlement.close();
  });
});

describe('the clock of the server', () => {
  const SECOND = 1000;
  const DAY = 86_400 * SECOND;
  const NOON = 1_700_000_000_000;

  /** A node and a Redis whose clocks are set while time passes, and a node that asks every second. */
  class Clocks {
    ourStep = 0;
    theirStep = 0;
    private passed = 0;
    readonly clock = new ServerClock(() => this.ours, { monotonic: () => this.passed, settleMs: DAY });

    get ours(): number {
      return NOON + this.passed + this.ourStep;
    }

    get theirs(): number {
      return NOON + this.passed + this.theirStep;
    }

    pass(ms: number): void {
      this.passed += ms;
      this.clock.observe(this.theirs, this.ours);
    }
  }

  const STEPS = [20 * SECOND, -20 * SECOND, DAY, -DAY, 400 * DAY, -400 * DAY];

  describe.each(STEPS)('a clock that is set by %s ms', (step) => {
    function open(): Clocks {
      const clocks = new Clocks();
      clocks.pass(SECOND);
      return clocks;
    }

    test('on the machine of Redis ends no upload early', () => {
      const clocks = open();
      const { clock } = clocks;
      const endsAt = clock.toServerExpiry(clocks.ours + DAY);
      clocks.theirStep = step;
      clocks.pass(SECOND);
      expect(clock.toLocalExpiry(String(endsAt))).toBeGreaterThanOrEqual(clocks.ours + DAY - SECOND);
      expect(Number(endsAt)).toBeGreaterThan(Number(clock.toServerCutoff(clocks.ours + DAY - 2 * SECOND)));
      // Other nodes may judge it by the new time.
      expect(clock.toServerTime(clocks.ours)).toBe(clocks.theirs);
    });

    test('on the machine of Redis ends no upload early that begins while it is wrong, and ends after it was put right', () => {
      const clocks = open();
      const { clock } = clocks;
      clocks.theirStep = step;
      clocks.pass(SECOND);
      const endsAt = String(clock.toServerExpiry(clocks.ours + DAY));
      // A node that has not heard of the step yet.
      expect(Number(endsAt)).toBeGreaterThanOrEqual(clocks.ours + DAY);
      clocks.theirStep = 0;
      clocks.pass(SECOND);
      expect(clock.toLocalExpiry(endsAt)).toBeGreaterThanOrEqual(clocks.ours + DAY - SECOND);
    });

    test('is believed when everything from before has had its whole time', () => {
      const clocks = open();
      clocks.theirStep = step;
      clocks.pass(SECOND);
      clocks.pass(DAY);
      expect(clocks.clock.toServerCutoff(clocks.ours)).toBe(clocks.theirs);
      expect(clocks.clock.toLocalExpiry(String(clocks.theirs))).toBe(clocks.ours);
    });

    test('on this machine ends no upload early: by the time that is never set forward', () => {
      const clocks = open();
      const { clock } = clocks;
      const endsAt = clock.toServerExpiry(clocks.ours + DAY);
      clocks.ourStep = step;
      clocks.pass(SECOND);
      const expiryNow = Math.min(clocks.ours, clocks.ours - clocks.ourStep);
      expect(clock.toLocalExpiry(String(endsAt))).toBeGreaterThanOrEqual(expiryNow + DAY - SECOND);
      expect(Number(endsAt)).toBeGreaterThan(Number(clock.toServerCutoff(expiryNow + DAY - 2 * SECOND)));
    });
  });

  test('an end that never comes stays one', () => {
    const { clock } = new Clocks();
    expect([clock.toServerTime(Infinity), clock.toServerExpiry(Infinity)]).toEqual(['+inf', '+inf']);
    expect([clock.toServerCutoff(Infinity), clock.toLocalExpiry('+inf')]).toEqual(['+inf', Infinity]);
  });
});
