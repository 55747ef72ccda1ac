import { describe, expect, test } from '@jest/globals';
import { REDIS_PROGRAMS } from '../support/redis-server.js';
import { startRedis, startRedisCluster, startSentinels } from '../support/redis-servers.js';
import { until } from '../support/temporary.js';

describe.each(Object.entries(REDIS_PROGRAMS))('%s', (_, program) => {
  test('a server keeps what it was told when it is killed and comes back', async () => {
    const server = await startRedis({
      program,
      settings: ['appendonly yes', 'appendfsync always', 'requirepass x'],
      cliArgs: ['-a', 'x', '--no-auth-warning'],
    });
    try {
      await server.cli('set', 'told', 'this');
      await server.restart();
      expect(await server.cli('get', 'told')).toBe('this');
    } finally {
      await server.stop();
    }
  });

  test('a cluster serves every slot, and its replicas follow', async () => {
    const cluster = await startRedisCluster({ program, replicas: 1 });
    try {
      expect(await cluster.masters[1]!.cli('cluster', 'info')).toMatch(/cluster_slots_ok:16384/);
      expect(await cluster.replicas[1]!.cli('info', 'replication')).toMatch(/role:slave/);
    } finally {
      await cluster.stop();
    }
  });

  test('sentinels replace a master that died', async () => {
    const set = await startSentinels({ program });
    try {
      expect(await set.master()).toBe(set.servers[0]);
      await set.servers[0]!.kill();
      await until(async () => (await set.master()) === set.servers[1], 'another master', 60_000);
      expect(await set.servers[1]!.cli('info', 'replication')).toMatch(/role:master/);
    } finally {
      await set.stop();
    }
  });
});
