import { expect, test } from '@jest/globals';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadConfig } from '../../src/config/load.js';
import { temporaryDirectory } from '../support/temporary.js';

const example = readFileSync(new URL('../../config/cluster.example.yaml', import.meta.url), 'utf8');

async function load(yaml: string, env: Record<string, string> = {}) {
  const directory = await temporaryDirectory();
  const file = join(directory.path, 'cluster.yaml');
  writeFileSync(file, yaml);
  const loaded = loadConfig({ file, env, flags: {} });
  await directory.remove();
  return loaded;
}

test('the example is of nodes that share Redis and a spool', async () => {
  const env = {
    ORIGIN: 'http://api',
    REDIS_URL: 'rediss://redis.local',
    REDIS_PASSWORD: '007',
    BALANCER: '10.1.0.0/16',
  };
  const loaded = await load(example, env);
  expect(loaded).toMatchObject({
    config: {
      defaultRoute: { origin: 'http://api', resumable: true },
      trustedProxies: [{ cidr: '10.1.0.0/16', relaysInterim: true }],
      store: { type: 'redis', nodes: [{ host: 'redis.local', port: 6379 }], tls: {}, password: '007', waitMs: 30_000 },
      spool: { shared: true, sync: 'group' },
    },
  });
  expect(loaded).not.toHaveProperty('config.cluster');
});

test('what it offers in place of a shared spool is of nodes with disks of their own', async () => {
  const [shared, own] = [/^spool:\n(?: {2}.*\n)+/m, /^# spool:\n(?:# {3}.*\n|# cluster:\n)+/m];
  const block = own.exec(example)![0];
  const yaml = example.replace(shared, '').replace(block, block.replace(/^# /gm, ''));
  const loaded = await load(yaml, { NODE_ADDRESS: '10.0.0.7', CLUSTER_SECRET: 'sixteen--letters' });
  expect(loaded).toMatchObject({
    config: {
      store: { type: 'redis' },
      spool: { shared: false },
      cluster: {
        listen: { port: 8081 },
        advertise: 'http://10.0.0.7:8081',
        secret: 'sixteen--letters',
        ownerTimeoutMs: 600_000,
      },
    },
  });
});
