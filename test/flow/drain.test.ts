import { execFile } from 'node:child_process';
import { request as requestHttp } from 'node:http';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Admin } from '../../src/admin/admin-http.js';
import { startAdmin } from '../../src/admin/admin.js';
import { Drain, type DrainMigrator, NoMigrator } from '../../src/cluster/drain.js';
import type { MigrationProgress } from '../../src/cluster/migrator.js';
import { Fault } from '../../src/model/fault.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { newUpload } from '../contract/sample-upload.js';
import { openRequest, requestOnce } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { MigrationNodes } from '../support/peer-nodes.js';
import { appendLines, clientDialect } from '../support/resumable-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

describe('drain', () => {
  const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));

  let admin: Admin;
  let left: number;
  let leaving: () => Promise<void>;
  let rejoining: () => Promise<void>;
  /** What the mover tells, one after the other; the last for ever. */
  let progress: MigrationProgress[];
  let isStarted: boolean;

  const migrator = {
    start: () => {
      isStarted = true;
    },
    pause: () => {
      isStarted = false;
      return Promise.resolve();
    },
    get progress(): MigrationProgress {
      return progress.length > 1 ? progress.shift()! : progress[0]!;
    },
  };

  async function open(by: DrainMigrator = migrator): Promise<void> {
    const drain = new Drain({ leave: () => leaving(), rejoin: () => rejoining(), migrator: by, log: silentLog() });
    admin = await startAdmin({
      address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      metrics: new Metrics(),
      checks: [],
      drain: () => drain,
      log: silentLog(),
    });
  }

  beforeEach(async () => {
    left = 0;
    isStarted = false;
    leaving = () => {
      left++;
      return Promise.resolve();
    };
    rejoining = () => {
      left--;
      return Promise.resolve();
    };
    progress = [{ moved: 0, bytes: 0, isDone: false }];
    await open();
  });
  afterEach(() => admin.close());

  /** A store of so many uploads of the only node, and some that are over or another node's. */
  function storeOf(count: number): Pick<UploadStore, 'list' | 'totals'> {
    const own = Array.from({ length: count }, () => newUpload());
    const others = [
      { ...newUpload(), phase: 'cancelled' as const },
      { ...newUpload(), node: 'elsewhere' },
    ];
    return {
      list: () => Promise.resolve({ uploads: [...own, ...others] as Upload[] }),
      totals: () =>
        Promise.resolve({ phases: { receiving: count, cancelled: 1, invalid: 2 }, bytes: 0, reservedBytes: 0 }),
    };
  }

  async function ask(method: string, path: string, headers: Record<string, string> = {}) {
    const response = await fetch(admin.url + path, { method, headers });
    return { status: response.status, body: await response.json() };
  }

  describe('/drain', () => {
    test('tells how far it is, and begins with POST alone', async () => {
      expect(await ask('GET', '/drain')).toEqual({ status: 200, body: { draining: false } });
      expect(left).toBe(0);
      expect(await ask('POST', '/drain')).toEqual({ status: 202, body: { draining: true } });
      expect([left, isStarted]).toEqual([1, false]);
      expect(await ask('GET', '/drain')).toEqual({ status: 200, body: { draining: true } });
    });

    test('moves the uploads when that is wanted, also later', async () => {
      await ask('POST', '/drain');
      const move = { moved: 0, bytes: 0, isDone: false };
      expect(await ask('POST', '/drain?move=true')).toEqual({ status: 202, body: { draining: true, move } });
      expect(isStarted).toBe(true);
      progress = [{ moved: 2, bytes: 7, left: 1, isDone: false, problem: 'no other node takes uploads' }];
      expect(await ask('GET', '/drain')).toEqual({ status: 200, body: { draining: true, move: progress[0] } });
    });

    test('has nothing to move where every node reaches the bytes', async () => {
      await admin.close();
      await open(new NoMigrator({ store: storeOf(3), node: undefined, shared: true }));
      const move = { moved: 0, bytes: 0, left: 0, isDone: true, remark: expect.stringContaining('spool.shared') };
      expect((await ask('POST', '/drain?move=true')).body).toEqual({ draining: true, move });
    });

    test('says what stays where there is nobody to take it', async () => {
      await admin.close();
      await open(new NoMigrator({ store: storeOf(3), node: undefined, shared: false }));
      const problem = 'no other node can take the uploads, because `cluster` is not set';
      const move = { moved: 0, bytes: 0, left: 3, isDone: false, isImpossible: true, problem };
      expect((await ask('POST', '/drain?move=true')).body).toEqual({ draining: true, move });
    });

    test('says when the others could not be told', async () => {
      leaving = () => Promise.reject(new Fault('STORE_UNAVAILABLE', 'Redis does not answer', true));
      expect(await ask('POST', '/drain')).toMatchObject({
        status: 503,
        body: { detail: 'The other nodes could not be told: Redis does not answer. Ask again.' },
      });
    });

    test('ends with DELETE, also a move, and can begin again', async () => {
      await ask('POST', '/drain?move=true');
      expect(await ask('DELETE', '/drain')).toEqual({ status: 200, body: { draining: false } });
      expect([left, isStarted]).toEqual([0, false]);
      expect(await ask('DELETE', '/drain')).toEqual({ status: 200, body: { draining: false } });
      expect(left).toBe(0);
      expect(await ask('POST', '/drain')).toEqual({ status: 202, body: { draining: true } });
    });

    test('stays drained when the others could not be told of its end', async () => {
      rejoining = () => Promise.reject(new Fault('STORE_UNAVAILABLE', 'Redis does not answer', true));
      await ask('POST', '/drain');
      expect((await ask('DELETE', '/drain')).status).toBe(503);
      expect(await ask('GET', '/drain')).toEqual({ status: 200, body: { draining: true } });
    });

    test('refuses what it does not understand, and web pages', async () => {
      expect(await ask('POST', '/drain?move=maybe')).toMatchObject({
        status: 400,
        body: { detail: 'move is true or false.' },
      });
      expect((await ask('PUT', '/drain')).status).toBe(405);
      expect((await ask('POST', '/drain', { Origin: 'https://evil.example' })).status).toBe(403);
      expect(left).toBe(0);
    });

    test('is not there before the proxy is', async () => {
      await admin.close();
      const options = {
        address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
        metrics: new Metrics(),
        checks: [],
      } as const;
      admin = await startAdmin({ ...options, drain: () => undefined, log: silentLog() });
      const status = await new Promise((resolve) => {
        requestHttp(`${admin.url}/drain`, { method: 'POST' }, (response) => resolve(response.statusCode)).end();
      });
      expect(status).toBe(503);
    });
  });

  /** Runs the built binary to its end. */
  function drain(...line: string[]): Promise<{ code: number; output: string; errors: string }> {
    const env = { ...process.env, NODE_OPTIONS: '', RUFH_PROXY_CONFIG: '', RUFH_PROXY_ADMIN: new URL(admin.url).host };
    return new Promise((resolve) => {
      execFile(process.execPath, [BINARY, 'drain', ...line], { env, timeout: 20_000 }, (error, output, errors) => {
        resolve({ code: error ? Number(error.code) : 0, output, errors });
      });
    });
  }

  describe('rufh-proxy drain', () => {
    test('sends the proxy away and says so', async () => {
      expect(await drain()).toEqual({ code: 0, output: 'the proxy accepts no new uploads\n', errors: '' });
      expect([left, isStarted]).toEqual([1, false]);
    });

    test('--move waits until nothing is left, and says each step once', async () => {
      const step = { moved: 1, bytes: 1536, left: 2, isDone: false, problem: 'no other node takes uploads' };
      progress = [{ moved: 0, bytes: 0, isDone: false }, step, step, { moved: 3, bytes: 3072, left: 0, isDone: true }];
      expect(await drain('--move')).toEqual({
        code: 0,
        output: [
          'the proxy accepts no new uploads',
          '1 moved with 1.5 KiB, 2 left (no other node takes uploads)',
          '3 moved with 3.0 KiB, none is left',
          '',
        ].join('\n'),
        errors: '',
      });
    });

    test('--move --timeout does not wait for ever', async () => {
      progress = [{ moved: 0, bytes: 0, left: 5, isDone: false }];
      const { code, output, errors } = await drain('--move', '--timeout', '1');
      expect([code, errors]).toEqual([1, 'rufh-proxy: the move did not finish in time; the proxy continues it\n']);
      expect(output).toContain('0 moved with 0 B, 5 left\n');
    });

    test('--move says what stays and fails at once where there is nobody to take it', async () => {
      await admin.close();
      await open(new NoMigrator({ store: storeOf(3), node: undefined, shared: false }));
      const { code, output, errors } = await drain('--move');
      expect([code, errors]).toEqual([1, 'rufh-proxy: nothing was moved; do not remove the disk of this node\n']);
      expect(output).toContain(
        '\n0 moved with 0 B, 3 left (no other node can take the uploads, because `cluster` is not set)\n',
      );
    });

    test('--move fails where what stays cannot be counted', async () => {
      await admin.close();
      const list = () => Promise.reject(new Fault('STORE_UNAVAILABLE', 'Redis does not answer', true));
      await open(new NoMigrator({ store: { list, totals: list }, node: undefined, shared: false }));
      const { code, output } = await drain('--move');
      expect([code, output.split('\n')[1]]).toEqual([1, '0 moved, remaining uploads unknown (Redis does not answer)']);
    });

    test('--move has nothing to do where every node reaches the bytes, and says so', async () => {
      await admin.close();
      await open(new NoMigrator({ store: storeOf(3), node: undefined, shared: true }));
      const { code, output, errors } = await drain('--move');
      expect([code, errors]).toEqual([0, '']);
      expect(output).toContain('\nthere is nothing to move: the bytes are in the shared directory (spool.shared)');
    });

    test('--json says the end alone, for programs', async () => {
      progress = [{ moved: 3, bytes: 3072, left: 0, isDone: true }];
      const { code, output } = await drain('--move', '--json');
      expect([code, JSON.parse(output)]).toEqual([0, { draining: true, move: progress[0] }]);
    });

    test('fails when nothing listens there', async () => {
      const { code, errors } = await drain('--admin', '127.0.0.1:1');
      expect(code).toBe(2);
      expect(errors).toMatch(/^rufh-proxy: nothing answers at http:\/\/127\.0\.0\.1:1 /);
    });
  });
});

describe('moving', () => {
  const dialect = clientDialect('10');
  const BYTES = randomBytes(300_000);

  let nodes: MigrationNodes;

  beforeEach(async () => {
    nodes = await MigrationNodes.open(BYTES);
  });
  afterEach(() => nodes.close());

  describe('a node that gives its uploads away', () => {
    test('leaves nothing behind, and each goes on with the other node from where it was', async () => {
      const paths = [
        await nodes.uploadWith(100_000, '/a'),
        await nodes.uploadWith(0, '/b'),
        await nodes.uploadWith(7, '/c'),
      ];
      await nodes.append(paths[0]!, nodes.old, 100_000, 150_000);
      const migrator = nodes.old.startMoving();
      await nodes.done(migrator);
      expect(migrator.progress).toEqual({ moved: 3, bytes: 150_007, left: 0, isDone: true });
      expect(await Promise.all(paths.map((path) => nodes.nodeOf(path)))).toEqual(['other', 'other', 'other']);
      expect(await nodes.old.files()).toEqual([]);
      await nodes.old.stop();
      const offsets = await Promise.all(
        paths.map(async (path) => (await nodes.head(path, nodes.other)).header('Upload-Offset')),
      );
      expect(offsets).toEqual(['150000', '0', '7']);
      for (const [at, path] of paths.entries()) {
        const answer = await nodes.append(path, nodes.other, Number(offsets[at]));
        expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
      }
      for (const target of ['/a', '/b', '/c'])
        expect(nodes.received(target)).toEqual([{ size: BYTES.length, sum: sha256(BYTES) }]);
    });

    test('gives the kept answers too, with their bodies', async () => {
      const body = randomBytes(2_000_000, 9);
      nodes.peers.origin.answerWith({ status: 201, headers: [['X-Kept', 'yes']], body });
      const path = await nodes.uploadWith(0);
      expect((await nodes.append(path, nodes.old, 0)).status).toBe(201);
      await nodes.done(nodes.old.startMoving());
      expect(await nodes.old.files()).toEqual([]);
      await nodes.old.stop();
      const answer = await requestOnce(nodes.other.url, { method: 'GET', target: `${path}/answer` });
      expect([answer.status, answer.header('X-Kept'), sha256(answer.body)]).toEqual([201, 'yes', sha256(body)]);
    });

    test('tells the other what was promised', async () => {
      const path = await nodes.uploadWith(1000);
      await nodes.old.spool.noteAcknowledged(nodes.idOf(path), 1000);
      await nodes.done(nodes.old.startMoving());
      expect(await nodes.other.spool.acknowledgedOffset(nodes.idOf(path))).toBe(1000);
    });

    test('waits for what is being delivered', async () => {
      let answer = (): void => undefined;
      const after = new Promise<void>((resolve) => (answer = resolve));
      nodes.peers.origin.answerWith({ status: 200, body: 'at last', after });
      const path = await nodes.uploadWith(0);
      const waiting = nodes.append(path, nodes.old, 0);
      await until(async () => (await nodes.phaseOf(path)) === 'delivering', 'the delivery');
      const migrator = nodes.old.startMoving();
      await until(() => migrator.progress.left === 1, 'the first look');
      expect(await nodes.nodeOf(path)).toBe('old');
      answer();
      expect((await waiting).body.toString()).toBe('at last');
      await nodes.done(migrator);
      expect(nodes.received('/files')).toHaveLength(1);
      expect((await nodes.append(path, nodes.other, BYTES.length - 1)).body.toString()).toBe('at last');
    });

    test('delivers nothing any more that it has given away', async () => {
      nodes.peers.origin.answerWith({ hangUp: true });
      const path = await nodes.uploadWith(0);
      void nodes.append(path, nodes.old, 0).catch(() => undefined);
      await until(async () => (await nodes.phaseOf(path)) !== 'receiving', 'the whole');
      await nodes.done(nodes.old.startMoving());
      expect(await nodes.nodeOf(path)).toBe('other');
      nodes.peers.origin.answerWith({ status: 200, body: 'ok' });
      expect((await nodes.append(path, nodes.other, BYTES.length - 1)).status).not.toBe(404);
    });

    test('takes the uploads of running requests too, which go on with the other', async () => {
      const path = await nodes.uploadWith(0, '/running');
      const headers = appendLines(dialect, { offset: 0, complete: true });
      const running = await openRequest('HTTP/1.1', nodes.other.url, { method: 'PATCH', target: path, headers });
      await running.send(BYTES.subarray(0, 100_000));
      await untilSpooled(nodes.old.data, new URL(path, nodes.old.url).href, 100_000);
      const migrator = nodes.old.startMoving();
      await running.givenUp();
      await nodes.done(migrator);
      const offset = Number((await nodes.head(path, nodes.other)).header('Upload-Offset'));
      expect(offset).toBe(100_000);
      expect((await nodes.append(path, nodes.old, offset)).status).toBe(200);
      expect(nodes.received('/running')).toEqual([{ size: BYTES.length, sum: sha256(BYTES) }]);
      await running.close();
    });
  });
});
