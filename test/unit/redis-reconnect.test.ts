import { afterEach, describe, expect, test } from '@jest/globals';
import { newUpload } from '../contract/sample-upload.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { settingsFor, type OpenedRedis } from '../support/opened-redis.js';
import { RedisRoom } from '../support/redis-room.js';
import type { RedisServer } from '../support/redis-server.js';
import { until } from '../support/temporary.js';

const room = new RedisRoom();

afterEach(() => room.close());

/** A server, the way to it, and who goes that way. */
async function open(database: number): Promise<{ server: RedisServer; network: CuttingProxy; redis: OpenedRedis }> {
  const server = await room.start('lua-time-limit 100');
  const network = await CuttingProxy.start(server.port);
  room.endsWith(() => network.stop());
  return { server, network, redis: await room.opened(settingsFor(network.port, { database })) };
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
