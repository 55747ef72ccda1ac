import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Config } from '../../src/config/config.js';
import { describeError } from '../../src/config/errors.js';
import { loadConfig } from '../../src/config/load.js';
import { makeCertificate, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('cluster settings', () => {
  let directory: TemporaryDirectory;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  interface Given {
    readonly env?: Record<string, string>;
    readonly flags?: Record<string, unknown>;
  }

  const REDIS = 'origin: http://a\nstore: { type: redis, url: redis://h }\n';

  function load(yaml: string, { env = {}, flags = {} }: Given = {}) {
    const file = join(directory.path, 'rufh-proxy.yaml');
    writeFileSync(file, yaml.replaceAll('DIR', directory.path));
    return loadConfig({ file, env, flags });
  }

  function configOf(lines: string, given?: Given): Config {
    const loaded = load(REDIS + lines, given);
    if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
    return loaded.config;
  }

  /** The mistakes as lines, with `DIR` for the directory's path. */
  function configErrors(yaml: string, given?: Given): string[] {
    const loaded = load(yaml, given);
    if (!('configErrors' in loaded)) return [];
    return loaded.configErrors.map((one) => {
      const source = one.line === undefined ? one.source : undefined;
      return describeError({ ...one, source }).replaceAll(directory.path, 'DIR');
    });
  }

  function write(name: string, content: string): void {
    writeFileSync(join(directory.path, name), content);
  }

  const SECRET = 'secret: sixteen--letters';
  const AT = 'listen: 0.0.0.0:8081, advertise: http://10.0.0.5:8081';

  describe('with Redis', () => {
    test('one node needs nothing else, and its spool is its own', () => {
      const config = configOf('');
      expect(config).toMatchObject({ spool: { shared: false }, workers: 1 });
      expect(config.cluster).toBeUndefined();
    });

    test.each<[string, string, Given]>([
      ['the file', 'spool: { shared: true }\nworkers: 3', {}],
      ['variables', '', { env: { RUFH_PROXY_SPOOL_SHARED: 'true', RUFH_PROXY_WORKERS: '3' } }],
      ['flags', '', { flags: { spoolShared: true, workers: '3' } }],
    ])('a shared spool and several workers can be had by %s', (_how, lines, given) => {
      expect(configOf(lines, given)).toMatchObject({ spool: { shared: true }, workers: 3 });
    });

    test('there are as many workers as cores when nobody chooses a number', () => {
      expect(configOf('workers: auto').workers).toBe(availableParallelism());
    });

    test('nodes with disks of their own have an address, a name for the others, and a secret', () => {
      expect(configOf(`cluster: { ${AT}, ${SECRET} }`).cluster).toEqual({
        listen: { kind: 'tcp', host: '0.0.0.0', port: 8081 },
        advertise: 'http://10.0.0.5:8081',
        secret: 'sixteen--letters',
        ownerTimeoutMs: 600_000,
      });
    });

    test('the secret of the nodes comes from a file, and they speak TLS', () => {
      const { cert, key } = makeCertificate();
      write('secret', 'sixteen--letters\n');
      write('cert', cert);
      write('key', key);
      const tls = 'tls: { cert: DIR/cert, key: DIR/key, ca: DIR/cert }';
      const lines = `cluster: { listen: "[::]:1", advertise: "https://[::1]:1/", secret_file: DIR/secret, ${tls}, owner_timeout: 1m }`;
      expect(configOf(lines).cluster).toEqual({
        listen: { kind: 'tcp', host: '::', port: 1 },
        advertise: 'https://[::1]:1',
        secret: 'sixteen--letters',
        tls: {
          cert: join(directory.path, 'cert'),
          key: join(directory.path, 'key'),
          ca: join(directory.path, 'cert'),
        },
        ownerTimeoutMs: 60_000,
      });
    });
  });

  describe('a value that is not expected told with what is', () => {
    const words =
      'expected http://HOST:PORT or https://HOST:PORT at which other nodes reach this one, such as http://10.0.0.5:8081';
    const secretWords =
      'invalid value (not shown); expected a string of at least 16 characters (in quotes if it looks like a number), or null';
    const advertised = (url: string) => `cluster: { listen: 0.0.0.0:8081, ${SECRET}, advertise: "${url}" }`;
    test.each([
      ...[
        '10.0.0.5:8081',
        'http://10.0.0.5',
        'http://10.0.0.5:8081/path',
        'ftp://10.0.0.5:8081',
        'http://10.0.0.5:65536',
      ].map((url) => [advertised(url), `3:71: cluster.advertise: found "${url}", ${words}`]),
      [`cluster: { ${AT}, secret: fifteen-letters }`, `3:75: cluster.secret: ${secretWords}`],
      [`cluster: { ${AT}, secret: 1234567890123456 }`, `3:75: cluster.secret: ${secretWords}`],
      [
        `cluster: { ${AT}, ${SECRET}, tls: { cert: /c, key: /k } }`,
        '3:93: cluster.tls.ca: is missing; expected the path of a file or directory',
      ],
      [
        `cluster: { ${AT}, ${SECRET}, owner_timeout: 9s }`,
        '3:108: cluster.owner_timeout: found "9s", expected a time with a unit, such as 500ms, 30s, 5m, 24h or 7d, at least 10000ms, at most 24d',
      ],
      [
        `cluster: { listen: a:1, advertise: "http://me@a:1", ${SECRET} }`,
        `3:36: cluster.advertise: found "http://***@a:1", ${words}`,
      ],
      ['workers: many', '3:10: workers: found "many", expected a whole number from 1 to 1024, or auto'],
      ['workers: 0', '3:10: workers: found 0, expected a whole number from 1 to 1024, or auto'],
      ['workers: 1.5', '3:10: workers: found 1.5, expected a whole number from 1 to 1024, or auto'],
      ['spool: { shared: yes please }', '3:18: spool.shared: found "yes please", expected true or false'],
    ])('%s', (line, configError) => {
      expect(configErrors(REDIS + line)).toEqual([configError]);
    });

    test('a node without a name for the others lacks it, and where it listens', () => {
      expect(configErrors(`${REDIS}cluster: { ${SECRET} }`)).toEqual([
        expect.stringMatching(/^3:\d+: cluster.listen: is missing; /),
        expect.stringMatching(/^3:\d+: cluster.advertise: is missing; /),
      ]);
    });
  });

  describe('settings that are right one by one, but not together', () => {
    test('the embedded store is for one process of one node', () => {
      const alone = 'cannot be used with the embedded store, which supports one node only';
      const instead = 'set "store: { type: redis, url: … }", or remove it';
      const lines = `spool: { shared: true }\ncluster: { ${AT}, ${SECRET} }\nworkers: 4\n`;
      expect(configErrors(`origin: http://a\n${lines}`)).toEqual([
        `2:18: spool.shared: ${alone}; ${instead}`,
        `3:10: cluster: ${alone}; ${instead}`,
        '3:10: cluster: is not needed while spool.shared is true, since every node has the bytes itself; leave out one of them',
        `4:10: workers: is 4, but the embedded store keeps records and leases in one process; ${instead}`,
      ]);
    });

    test('also on a machine with a single core', () => {
      expect(configErrors('origin: http://a', { env: { RUFH_PROXY_WORKERS: 'auto' } })).toEqual([
        'RUFH_PROXY_WORKERS: workers: is auto, but the embedded store keeps records and leases in one process; ' +
          'set "store: { type: redis, url: … }", or remove it',
      ]);
    });

    test.each<[string, string]>([
      [
        `spool: { shared: true }\ncluster: { ${AT}, ${SECRET} }`,
        '4:10: cluster: is not needed while spool.shared is true, since every node has the bytes itself; leave out one of them',
      ],
      [
        'spool: { shared: true, sync: none }',
        '3:30: spool.sync: cannot be none while spool.shared is true: acknowledged bytes would be only in the cache of one ' +
          'machine, where the other nodes cannot read them; use group or always',
      ],
      [`cluster: { ${AT} }`, '3:10: cluster: needs a secret that all nodes share: set `secret_file` or `secret`'],
      [
        `cluster: { ${AT}, ${SECRET}, secret_file: /f }`,
        '3:106: cluster.secret_file: cannot be combined with `secret`; remove one of them',
      ],
      [`cluster: { ${AT}, secret_file: DIR/none }`, '3:80: cluster.secret_file: cannot read DIR/none: ENOENT'],
      [`cluster: { ${AT}, secret_file: DIR/empty }`, '3:80: cluster.secret_file: DIR/empty is empty'],
      [
        `cluster: { ${AT}, secret_file: DIR/short }`,
        '3:80: cluster.secret_file: DIR/short contains fewer than 16 characters; use a longer secret',
      ],
      [
        `cluster: { listen: 0.0.0.0:0, advertise: http://10.0.0.5:8081, ${SECRET} }`,
        '3:20: cluster.listen: needs a fixed port, because the other nodes must know it',
      ],
      [
        `cluster: { listen: 127.0.0.1:8080, advertise: http://10.0.0.5:8081, ${SECRET} }`,
        '3:20: cluster.listen: the cluster listener needs its own address; 0.0.0.0:8080 is already used by another listener',
      ],
      [
        `admin: 127.0.0.1:8081\ncluster: { ${AT}, ${SECRET} }`,
        '4:20: cluster.listen: the cluster listener needs its own address; 127.0.0.1:8081 is already used by another listener',
      ],
      ...['0.0.0.0', '[::]'].map((host): [string, string] => [
        `cluster: { listen: 127.0.0.1:1, advertise: "http://${host}:1", ${SECRET} }`,
        '3:44: cluster.advertise: is not an address to connect to; use the name or address of this node',
      ]),
      [
        `cluster: { listen: 127.0.0.1:1, advertise: https://a:1, ${SECRET} }`,
        '3:44: cluster.advertise: begins with https:, but `cluster.tls` is not set; use http:',
      ],
      [
        `cluster: { ${AT.replace('http:', 'https:')}, ${SECRET}, tls: { cert: DIR/none, key: DIR/short, ca: DIR/short } }`,
        '3:107: cluster.tls.cert: cannot read DIR/none: ENOENT',
      ],
    ])('%s', (lines, configError) => {
      write('empty', '');
      write('short', 'fifteen-letters\n');
      expect(configErrors(REDIS + lines)).toEqual([configError]);
    });

    test('nodes that have certificates say so to the others', () => {
      const { cert, key } = makeCertificate();
      write('cert', cert);
      write('key', key);
      const tls = 'tls: { cert: DIR/cert, key: DIR/key, ca: DIR/cert }';
      expect(configErrors(`${REDIS}cluster: { ${AT}, ${SECRET}, ${tls} }`)).toEqual([
        '3:45: cluster.advertise: begins with http:, but `cluster.tls` is set; use https:',
      ]);
    });
  });
});

describe('the example for many nodes', () => {
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
        store: {
          type: 'redis',
          nodes: [{ host: 'redis.local', port: 6379 }],
          tls: {},
          password: '007',
          waitMs: 30_000,
        },
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
});
