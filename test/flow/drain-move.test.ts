import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { MoveStage } from '../support/move-stage.js';
import { openRequest } from '../support/open-request.js';
import { requestOnce } from '../support/raw-client.js';
import { appendLines, clientDialect } from '../support/resumable-client.js';
import { untilSpooled } from '../support/spooled.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

const dialect = clientDialect('10');
const BYTES = randomBytes(300_000);

let stage: MoveStage;

beforeEach(async () => {
  stage = await MoveStage.open(BYTES);
});
afterEach(() => stage.close());

describe('a node that gives its uploads away', () => {
  test('leaves nothing behind, and each goes on with the other node from where it was', async () => {
    const paths = [
      await stage.uploadWith(100_000, '/a'),
      await stage.uploadWith(0, '/b'),
      await stage.uploadWith(7, '/c'),
    ];
    await stage.append(paths[0]!, stage.old, 100_000, 150_000);
    const migrator = stage.old.startMoving();
    await stage.done(migrator);
    expect(migrator.progress).toEqual({ moved: 3, bytes: 150_007, left: 0, isDone: true });
    expect(await Promise.all(paths.map((path) => stage.nodeOf(path)))).toEqual(['other', 'other', 'other']);
    expect(await stage.old.files()).toEqual([]);
    await stage.old.stop();
    const offsets = await Promise.all(
      paths.map(async (path) => (await stage.head(path, stage.other)).header('Upload-Offset')),
    );
    expect(offsets).toEqual(['150000', '0', '7']);
    for (const [at, path] of paths.entries()) {
      const answer = await stage.append(path, stage.other, Number(offsets[at]));
      expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
    }
    for (const target of ['/a', '/b', '/c'])
      expect(stage.received(target)).toEqual([{ size: BYTES.length, sum: sha256(BYTES) }]);
  });

  test('gives the kept answers too, with their bodies', async () => {
    const body = randomBytes(2_000_000, 9);
    stage.peers.origin.answerWith({ status: 201, headers: [['X-Kept', 'yes']], body });
    const path = await stage.uploadWith(0);
    expect((await stage.append(path, stage.old, 0)).status).toBe(201);
    await stage.done(stage.old.startMoving());
    expect(await stage.old.files()).toEqual([]);
    await stage.old.stop();
    const answer = await requestOnce(stage.other.url, { method: 'GET', target: `${path}/answer` });
    expect([answer.status, answer.header('X-Kept'), sha256(answer.body)]).toEqual([201, 'yes', sha256(body)]);
  });

  test('tells the other what was promised', async () => {
    const path = await stage.uploadWith(1000);
    await stage.old.spool.noteAcknowledged(stage.idOf(path), 1000);
    await stage.done(stage.old.startMoving());
    expect(await stage.other.spool.acknowledgedOffset(stage.idOf(path))).toBe(1000);
  });

  test('waits for what is being delivered', async () => {
    let answer = (): void => undefined;
    const after = new Promise<void>((resolve) => (answer = resolve));
    stage.peers.origin.answerWith({ status: 200, body: 'at last', after });
    const path = await stage.uploadWith(0);
    const waiting = stage.append(path, stage.old, 0);
    await until(async () => (await stage.phaseOf(path)) === 'delivering', 'the delivery');
    const migrator = stage.old.startMoving();
    await until(() => migrator.progress.left === 1, 'the first look');
    expect(await stage.nodeOf(path)).toBe('old');
    answer();
    expect((await waiting).body.toString()).toBe('at last');
    await stage.done(migrator);
    expect(stage.received('/files')).toHaveLength(1);
    expect((await stage.append(path, stage.other, BYTES.length - 1)).body.toString()).toBe('at last');
  });

  test('delivers nothing any more that it has given away', async () => {
    stage.peers.origin.answerWith({ hangUp: true });
    const path = await stage.uploadWith(0);
    void stage.append(path, stage.old, 0).catch(() => undefined);
    await until(async () => (await stage.phaseOf(path)) !== 'receiving', 'the whole');
    await stage.done(stage.old.startMoving());
    expect(await stage.nodeOf(path)).toBe('other');
    stage.peers.origin.answerWith({ status: 200, body: 'ok' });
    expect((await stage.append(path, stage.other, BYTES.length - 1)).status).not.toBe(404);
  });

  test('takes the uploads of running requests too, which go on with the other', async () => {
    const path = await stage.uploadWith(0, '/running');
    const headers = appendLines(dialect, { offset: 0, complete: true });
    const running = await openRequest('HTTP/1.1', stage.other.url, { method: 'PATCH', target: path, headers });
    await running.send(BYTES.subarray(0, 100_000));
    await untilSpooled(stage.old.data, new URL(path, stage.old.url).href, 100_000);
    const migrator = stage.old.startMoving();
    await running.givenUp();
    await stage.done(migrator);
    const offset = Number((await stage.head(path, stage.other)).header('Upload-Offset'));
    expect(offset).toBe(100_000);
    expect((await stage.append(path, stage.old, offset)).status).toBe(200);
    expect(stage.received('/running')).toEqual([{ size: BYTES.length, sum: sha256(BYTES) }]);
    await running.close();
  });
});
