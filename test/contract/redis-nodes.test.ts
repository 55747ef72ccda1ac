import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { silentLog } from '../../src/observe/log.js';
import { RedisConnection } from '../../src/store/redis/connection.js';
import { RedisNodes } from '../../src/store/redis/nodes.js';
import { startRedis } from '../support/redis-server.js';
import { CONTRACT_SETUPS, type RedisSetup } from '../support/redis-store.js';
import { until } from '../support/temporary.js';

const NEVER = 600_000;

describe.each(CONTRACT_SETUPS)('nodes in %s', (_, open) => {
  let setup: RedisSetup;
  let worlds = 0;
  let ends: (() => Promise<void>)[];

  beforeAll(async () => {
    setup = await open();
  });

  afterAll(() => setup.stop());

  beforeEach(() => {
    worlds += 1;
    ends = [];
  });

  afterEach(async () => {
    for (const end of ends.reverse()) await end();
  });

  /** Each repeats only in the test that is about it: a repetition would undo what another test has just done. */
  async function nodes(everyMs = NEVER, clock = Date.now): Promise<RedisNodes> {
    const connection = await RedisConnection.open(setup.settings(`world-${worlds}`), silentLog(), { clock });
    const opened = new RedisNodes(connection, { everyMs });
    ends.push(async () => {
      await opened.close();
      await connection.close();
    });
    return opened;
  }

  test('a node is known to the others by what it says of itself', async () => {
    const [one, two] = [await nodes(), await nodes()];
    await one.announce({ name: 'one', url: 'http://10.0.0.1:8081', isLeaving: false });
    expect(await two.find('one')).toEqual({
      name: 'one',
      url: 'http://10.0.0.1:8081',
      isLeaving: false,
      silentMs: expect.any(Number),
    });
    await one.announce({ name: 'one', url: 'http://10.0.0.9:8081', isLeaving: true });
    expect(await two.find('one')).toMatchObject({ url: 'http://10.0.0.9:8081', isLeaving: true });
  });

  test('all are listed, and one nobody has heard of is not known', async () => {
    const [one, two] = [await nodes(), await nodes()];
    expect(await one.all()).toEqual([]);
    await one.announce({ name: 'one', url: 'http://10.0.0.1:8081', isLeaving: false });
    await two.announce({ name: 'two', url: 'http://10.0.0.2:8081', isLeaving: false });
    expect((await one.all()).map(({ name }) => name).sort()).toEqual(['one', 'two']);
    expect(await one.find('three')).toBeUndefined();
  });

  test('what a node says is repeated until it closes; after that it falls silent, but stays known', async () => {
    const [one, two] = [await nodes(10), await nodes()];
    await one.announce({ name: 'one', url: 'http://10.0.0.1:8081', isLeaving: false });
    await two.forget('one');
    await until(() => two.find('one'), 'the node to be heard of again');
    await one.close();
    await until(async () => (await two.find('one'))!.silentMs > 50, 'the node to fall silent');
  });

  test('a node that is forgotten is unknown', async () => {
    const [one, two] = [await nodes(), await nodes()];
    await one.announce({ name: 'one', url: 'http://10.0.0.1:8081', isLeaving: false });
    await two.forget('one');
    expect(await one.find('one')).toBeUndefined();
    expect(await one.all()).toEqual([]);
  });

  test('the clocks of nodes do not matter', async () => {
    const hour = 3_600_000;
    const [fast, slow] = [await nodes(NEVER, () => Date.now() + hour), await nodes(NEVER, () => Date.now() - hour)];
    await fast.announce({ name: 'fast', url: 'http://10.0.0.1:8081', isLeaving: false });
    await slow.announce({ name: 'slow', url: 'http://10.0.0.2:8081', isLeaving: false });
    for (const seen of [await fast.all(), await slow.all()])
      expect(seen.map(({ silentMs }) => silentMs < hour / 2)).toEqual([true, true]);
  });
});

test('a node that Redis cannot hear says so, and is heard as soon as Redis is back', async () => {
  const server = await startRedis();
  const nodes = [{ host: '127.0.0.1', port: server.port }];
  const connection = await RedisConnection.open({ kind: 'single', nodes, prefix: 'rufh' }, silentLog());
  const registry = new RedisNodes(connection, { everyMs: 10 });
  const unavailable = { code: 'STORE_UNAVAILABLE' };
  try {
    await server.kill();
    const announced = registry.announce({ name: 'one', url: 'http://10.0.0.1:8081', isLeaving: false });
    await expect(announced).rejects.toMatchObject(unavailable);
    await expect(registry.all()).rejects.toMatchObject(unavailable);
    await server.restart();
    await until(() => registry.find('one').catch(() => undefined), 'the node to be heard of');
  } finally {
    await registry.close();
    await connection.close();
    await server.stop();
  }
});
