import { afterEach, describe, expect, test } from '@jest/globals';
import { makeClient, type RedisClient } from '../../src/store/redis/clients.js';
import { RedisBus } from '../../src/store/redis/pubsub.js';
import { settingsFor } from '../support/opened-redis.js';
import { RedisRoom } from '../support/redis-room.js';
import type { RedisServer } from '../support/redis-server.js';
import { until, within } from '../support/temporary.js';

const room = new RedisRoom();

afterEach(() => room.close());

test('what others say on our channel is not taken for news, and does no harm', async () => {
  const server = await room.start();
  const { connection } = await room.opened(settingsFor(server.port));
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
    room.endsWith(() => bus.close());
    return bus;
  }

  afterEach(() => clients.splice(0).forEach((client) => client.disconnect()));

  test('is waited for no longer than for anything else', async () => {
    const bus = hanging(await room.start());
    await expect(within(bus.open(), 'the failure')).rejects.toThrow('not answered in time');
    await until(() => clients[0]!.status === 'end', 'the end of its connection');
  });

  test('keeps no connection once the bus is closed', async () => {
    const bus = hanging(await room.start());
    const opening = expect(bus.open()).rejects.toThrow();
    await until(() => clients[0]?.status === 'ready', 'the connection');
    await new Promise((resolve) => setImmediate(resolve));
    bus.close();
    await opening;
    await until(() => clients[0]!.status === 'end', 'the end of its connection');
  });
});
