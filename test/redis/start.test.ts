import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { aclRule, type RedisSettings } from '../../src/store/redis/errors.js';
import { newUpload } from '../contract/sample-upload.js';
import { REDIS_PROGRAMS, RedisServer, startRedisCluster, startSentinels } from '../support/redis-server.js';
import { type LogLine, RedisResources, settingsFor } from '../support/redis-store.js';
import {
  makeCertificate,
  serverPort,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
} from '../support/temporary.js';
import { startTestOrigin } from '../support/test-origin.js';

describe('start', () => {
  const PASSWORD = 'correct-horse';
  const resources = new RedisResources();
  const { start, opened } = resources;

  afterEach(() => resources.close());

  /** What the start says when it fails; never a password, not even in what lies beneath. */
  async function refusal(settings: RedisSettings): Promise<string> {
    const fault = await opened(settings).then(
      () => undefined,
      (error: unknown) => error as Error,
    );
    expect(fault).toMatchObject({ name: 'Fault' });
    expect(JSON.stringify([fault!.message, fault!.cause, String(fault!.cause)])).not.toContain(PASSWORD);
    return fault!.message;
  }

  describe('a start that fails says why, and what to do', () => {
    test('nobody listens there', async () => {
      const port = await serverPort();
      expect(await refusal(settingsFor(port))).toBe(
        `Redis at 127.0.0.1:${port} does not answer (ECONNREFUSED): is it running, and is the address in store.url right?`,
      );
      expect(await refusal(settingsFor(port, { kind: 'cluster' }))).toContain('does not answer (ECONNREFUSED)');
      expect(await refusal(settingsFor(port, { nodes: [{ path: '/nowhere/redis.sock' }] }))).toContain(
        'no such socket',
      );
      const nowhere = { nodes: [{ host: 'nowhere.invalid', port }] };
      expect(await refusal(settingsFor(port, nowhere))).toContain('cannot be found: its name has no address');
    });

    test('the password is missing or wrong', async () => {
      const { port } = await start(`requirepass ${PASSWORD}`);
      expect(await refusal(settingsFor(port))).toContain('requires a password: set store.password');
      const wrong = settingsFor(port, { password: `${PASSWORD}-not` });
      expect(await refusal(wrong)).toContain('refuses the user name or the password');
      expect((await opened(settingsFor(port, { password: PASSWORD }))).connection.unavailableReason).toBeUndefined();
    });

    test('the database does not exist', async () => {
      const { port } = await start('databases 2');
      expect(await refusal(settingsFor(port, { database: 2 }))).toContain('has no such database');
    });

    test('it is a replica', async () => {
      const master = await start();
      const replica = await start(`replicaof 127.0.0.1 ${master.port}`);
      await until(async () => (await replica.cli('info', 'replication')).includes('link_status:up'), 'replication');
      expect(await refusal(settingsFor(replica.port))).toContain('is a read-only replica');
    });

    test('the data under the prefix was made otherwise', async () => {
      const server = await start();
      await server.cli('hset', '{rufh}:store', 'id', 'x', 'buckets', '64', 'format', '1');
      expect(await refusal(settingsFor(server.port))).toContain('has 64 buckets instead of 1: choose another');
      await server.cli('hset', '{rufh}:store', 'buckets', '1', 'format', '7');
      expect(await refusal(settingsFor(server.port))).toContain('was written in format 7');
    });

    test('the prefix cannot be part of a key', async () => {
      expect(await refusal(settingsFor(1, { prefix: 'a}b' }))).toContain('prefix');
    });

    test('it is a cluster, or is none', async () => {
      const cluster = await startRedisCluster();
      resources.endsWith(() => cluster.stop());
      expect(await refusal(settingsFor(cluster.masters[0]!.port))).toContain('set store.cluster to true');
      const { port } = await start();
      expect(await refusal(settingsFor(port, { kind: 'cluster' }))).toContain('is not a cluster: remove store.cluster');
    });

    test('the sentinels do not know the master, or do not answer', async () => {
      const set = await startSentinels();
      resources.endsWith(() => set.stop());
      const asked = { kind: 'sentinel', masterName: 'other' } as const;
      const known = set.sentinels.map(({ port }) => ({ host: '127.0.0.1', port }));
      const unknown = settingsFor(1, { ...asked, nodes: known });
      expect(await refusal(unknown)).toContain("the Redis master 'other' of the sentinels at");
      expect(await refusal(unknown)).toContain('is unknown to all of them: see store.sentinel.master');
      expect(await refusal(settingsFor(await serverPort(), asked))).toContain('no sentinel answers');
    });
  });

  describe('TLS', () => {
    const certificate = makeCertificate();
    let directory: TemporaryDirectory;
    let server: RedisServer;

    beforeAll(async () => {
      directory = await temporaryDirectory();
      const [cert, key] = [join(directory.path, 'cert.pem'), join(directory.path, 'key.pem')];
      await writeFile(cert, certificate.cert);
      await writeFile(key, certificate.key);
      const files = [`tls-cert-file ${cert}`, `tls-key-file ${key}`, `tls-ca-cert-file ${cert}`];
      server = await RedisServer.start({
        settings: [`tls-port ${await serverPort()}`, ...files, 'tls-auth-clients no'],
      });
    });
    afterAll(async () => {
      await server.stop();
      await directory.remove();
    });

    async function tlsPort(): Promise<number> {
      return Number((await server.cli('config', 'get', 'tls-port')).split('\n')[1]);
    }

    test('is spoken where it is asked for, and the certificate is looked at', async () => {
      const port = await tlsPort();
      await opened(settingsFor(port, { tls: { ca: certificate.cert } }));
      expect(await refusal(settingsFor(port, { tls: {} }))).toContain(
        'set the authority that signed it as store.tls.ca',
      );
      const otherName = { ca: certificate.cert, serverName: 'redis.example' };
      expect(await refusal(settingsFor(port, { tls: otherName }))).toContain('certificate for another name');
    });

    test('a port of something else is said to be none of Redis', async () => {
      const origin = await startTestOrigin();
      resources.endsWith(() => origin.close());
      expect(await refusal(settingsFor(Number(new URL(origin.url).port)))).toContain(
        'does not speak the protocol of Redis: is the address in store.url right?',
      );
    });

    test('a mistake between both kinds of ports is said', async () => {
      expect(await refusal(settingsFor(server.port, { tls: {} }))).toContain('use redis:// instead of rediss://');
      expect(await refusal(settingsFor(await tlsPort()))).toContain('use rediss:// instead of redis://');
    });
  });

  describe('a user with few rights', () => {
    test.each(Object.entries(REDIS_PROGRAMS))(
      'can do all we need, and is told what else it needs (%s)',
      async (_, program) => {
        const server = await RedisServer.start({ program });
        resources.endsWith(() => server.stop());
        const rule = aclRule('rufh').split(' ');
        await server.cli('acl', 'setuser', 'proxy', 'on', `>${PASSWORD}`, ...rule);
        const settings = settingsFor(server.port, { username: 'proxy', password: PASSWORD });
        const { store, connection, lines } = await opened(settings);
        expect(lines.filter(({ msg }) => msg.includes('cannot be read'))).toEqual([]);
        const { id } = await store.create(newUpload());
        await store.cancel(id);
        expect(await store.waitUntilSettled(id, new AbortController().signal)).toMatchObject({ phase: 'cancelled' });
        expect(await store.list(undefined, 5)).toMatchObject({ uploads: { length: 1 } });
        expect(await store.expired(Date.now())).toEqual([id]);
        expect(connection.unavailableReason).toBeUndefined();
        expect(await refusal({ ...settings, prefix: 'foreign' })).toContain(`ACL SETUSER proxy ${aclRule('foreign')}`);
      },
    );
  });

  describe('a start that can wait', () => {
    test('does so for a server that comes later, and says so once', async () => {
      const server = await start();
      await server.kill();
      const lines: LogLine[] = [];
      const opening = opened(settingsFor(server.port, { waitMs: 60_000 }), lines);
      opening.catch(() => undefined);
      const waiting = () => lines.filter(({ msg }) => msg.startsWith('waiting for the store: Redis at'));
      await until(() => waiting().length > 0, 'it to say that it waits');
      await server.restart();
      expect((await opening).connection.unavailableReason).toBeUndefined();
      expect(waiting()).toHaveLength(1);
    });

    test('does not for what waiting cannot mend', async () => {
      const { port } = await start(`requirepass ${PASSWORD}`);
      expect(await refusal(settingsFor(port, { waitMs: 3_600_000 }))).toContain('requires a password');
    });
  });

  describe('what puts uploads at risk', () => {
    test('is said at the start', async () => {
      const { port } = await start('maxmemory-policy allkeys-lru', 'appendonly no');
      const said = (await opened(settingsFor(port))).lines.map(({ msg }) => msg);
      expect(said).toEqual([expect.stringContaining('noeviction'), expect.stringContaining('`appendonly yes`')]);
    });

    test('is not seen without the right to, which is said once', async () => {
      const server = await start('maxmemory-policy allkeys-lru', 'appendonly no');
      const rule = aclRule('rufh').replace(' +config|get', '').split(' ');
      await server.cli('acl', 'setuser', 'proxy', 'on', `>${PASSWORD}`, ...rule);
      const { lines } = await opened(settingsFor(server.port, { username: 'proxy', password: PASSWORD }));
      expect(lines.map(({ msg }) => msg)).toEqual([expect.stringContaining('needs the permission +config|get')]);
    });

    test('nothing is said where there is nothing to say', async () => {
      const { port } = await start('appendonly yes');
      expect((await opened(settingsFor(port))).lines).toEqual([]);
    });
  });

  test('a socket on this machine does as well', async () => {
    const directory = await temporaryDirectory();
    resources.endsWith(() => directory.remove());
    const path = join(directory.path, 'redis.sock');
    await start(`unixsocket ${path}`);
    expect((await opened(settingsFor(1, { nodes: [{ path }] }))).connection.unavailableReason).toBeUndefined();
  });

  test('a store is new once, and keeps its name', async () => {
    const { port } = await start();
    const first = await opened(settingsFor(port));
    const second = await opened(settingsFor(port));
    expect([first.connection.isNewStore, second.connection.isNewStore]).toEqual([true, false]);
    expect(second.connection.storeId).toBe(first.connection.storeId);
  });
});
