import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import { CuttingProxy } from '../support/cutting-proxy.js';
import { MoveStage } from '../support/move-stage.js';
import type { PeerNode } from '../support/peer-node.js';
import { requestOnce } from '../support/raw-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

const MIB = 1024 * 1024;
const BYTES = randomBytes(10 * MIB);
const WHOLE = [{ size: BYTES.length, sum: sha256(BYTES) }];

let stage: MoveStage;

beforeEach(async () => {
  stage = await MoveStage.open(BYTES);
});
afterEach(() => stage.close());

/** Holds back what the node is given, as long as the test wants. */
function holdFiles(node: PeerNode): { readonly held: () => string[]; readonly release: () => void } {
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  const held: string[] = [];
  node.onFiles = async ({ req }, take) => {
    held.push(`${req.method} ${req.url!.split('/').slice(3).join('/')}`);
    await released;
    await take();
  };
  return { held: () => held, release: () => release() };
}

/** Everything of an upload is at the other node, and it goes on there. */
async function expectAtOther(path: string, offset: number): Promise<void> {
  expect(await stage.nodeOf(path)).toBe('other');
  expect(await stage.old.files()).toEqual([]);
  expect((await stage.head(path, stage.old)).header('Upload-Offset')).toBe(`${offset}`);
  expect((await stage.append(path, stage.other, offset)).status).toBe(200);
  expect(stage.received('/files')).toEqual(WHOLE);
}

describe('the other node', () => {
  test('that ends the connection in the middle keeps nothing; the upload goes on where it is, and is moved later', async () => {
    const path = await stage.uploadWith(6 * MIB);
    let cuts = 0;
    stage.other.onFiles = async ({ req }, take) => {
      if (req.method !== 'PUT' || cuts === 3) return take();
      cuts++;
      setImmediate(() => req.socket.destroy());
      await take();
    };
    const migrator = stage.old.startMoving();
    expect(await until(() => migrator.progress.problem, 'a problem')).toMatch(/^node other: /);
    await stage.done(migrator);
    expect(cuts).toBe(3);
    expect(migrator.progress).toEqual({ moved: 1, bytes: 6 * MIB, left: 0, isDone: true });
    await expectAtOther(path, 6 * MIB);
  });

  test('that dies for good is passed over for one that lives', async () => {
    const path = await stage.uploadWith(6 * MIB);
    stage.other.onFiles = ({ req }) => void req.socket.destroy();
    const migrator = stage.old.startMoving();
    await until(() => migrator.progress.problem, 'a problem');
    expect(await stage.nodeOf(path)).toBe('old');
    expect((await stage.head(path, stage.old)).header('Upload-Offset')).toBe(`${6 * MIB}`);
    const third = await stage.peers.node('third');
    await stage.done(migrator);
    expect(await stage.nodeOf(path)).toBe('third');
    expect(await stage.other.files()).toEqual([]);
    expect((await stage.append(path, third, 6 * MIB)).status).toBe(200);
    expect(stage.received('/files')).toEqual(WHOLE);
  });

  test('that has no room is passed over too', async () => {
    const path = await stage.uploadWith(1000);
    stage.other.onFiles = ({ req, res }) => {
      req.resume();
      res.statusCode = 507;
      res.end();
    };
    const migrator = stage.old.startMoving();
    expect(await until(() => migrator.progress.problem, 'a problem')).toBe('node other: it answered 507');
    await stage.peers.node('third');
    await stage.done(migrator);
    expect(await stage.nodeOf(path)).toBe('third');
  });

  test('that has something left from a try before gets everything anew', async () => {
    const path = await stage.uploadWith(1000);
    const [file] = await stage.old.files();
    const writer = await stage.other.spool.create(stage.idOf(path), file!.split('/')[1]!);
    await writer.write([Buffer.from('left')]);
    await writer.close();
    await stage.done(stage.old.startMoving());
    await expectAtOther(path, 1000);
  });

  test('that lost a file between two steps is noticed', async () => {
    const path = await stage.uploadWith(6 * MIB);
    let isLost = false;
    stage.other.onFiles = async ({ req }, take) => {
      const isConfirmation = req.method === 'PUT' && req.url!.split('/').length === 3;
      if (isConfirmation && !isLost) await stage.other.spool.remove(stage.idOf(path));
      isLost ||= isConfirmation;
      await take();
    };
    const migrator = stage.old.startMoving();
    await stage.done(migrator);
    expect(isLost).toBe(true);
    await expectAtOther(path, 6 * MIB);
  });

  test('is none: that is told, and everything stays', async () => {
    const path = await stage.uploadWith(1000);
    stage.peers.cluster.nodes.set('other', { isLeaving: true });
    const migrator = stage.old.startMoving();
    await until(() => migrator.progress.problem, 'a problem');
    expect(migrator.progress).toMatchObject({ left: 1, isDone: false, problem: 'no other node takes uploads' });
    expect(await stage.nodeOf(path)).toBe('old');
  });
});

/** Changes one bit of what comes past, once: the first byte at or behind the place where the text ends. */
function flipBehind(
  text: string,
  skip: number,
): { readonly change: (bytes: Buffer) => void; readonly count: () => number } {
  let before = '';
  let left: number | undefined;
  let count = 0;
  const change = (bytes: Buffer): void => {
    if (count > 0) return;
    let from = 0;
    if (left === undefined) {
      const seen = before + bytes.toString('latin1');
      const found = seen.indexOf(text);
      const known = before.length;
      before = seen.slice(-text.length);
      if (found < 0) return;
      from = found + text.length - known;
      left = skip;
    }
    const at = from + left;
    if (at < bytes.length) {
      bytes[at]! ^= 1;
      count++;
    } else left = at - bytes.length;
  };
  return { change, count: () => count };
}

const BODY = '\r\n\r\n';
const BLOCK = 512 * 1024;

describe('a network that changes one bit of what a node gives away', () => {
  let network: CuttingProxy;
  beforeEach(async () => {
    network = await CuttingProxy.start(Number(new URL(stage.other.peerUrl).port));
    stage.peers.cluster.nodes.set('other', { url: `http://127.0.0.1:${network.port}` });
  });
  afterEach(() => network.stop());

  // The file has four blocks and 1000 bytes.
  test.each([
    ['the first byte of a file', BODY, 0],
    ['the checksum behind a block', BODY, BLOCK + 2],
    ['the last byte of a full block', BODY, 4 * (BLOCK + 4) - 5],
    ['the block that is not full', BODY, 4 * (BLOCK + 4) + 500],
    ['the last checksum of a file', BODY, 4 * (BLOCK + 4) + 1003],
    ['the size of a file, as it is confirmed', '"size":', 0],
    ['the offset that its client was told', '"promised":', 6],
    ['the name of a file in a head', 'PUT /.peer/', 40],
    ['the length in a head', 'Content-Length: ', 2],
    ['the digest in a head', 'Content-Digest: sha-256=:', 5],
  ])('(%s): it is found, and all goes once more', async (_, text, skip) => {
    const path = await stage.uploadWith(4 * BLOCK + 1000);
    await stage.old.spool.noteAcknowledged(stage.idOf(path), 4 * BLOCK + 1000);
    const flip = flipBehind(text, skip);
    network.onBytesThere = flip.change;
    const migrator = stage.old.startMoving();
    await stage.done(migrator);
    expect(flip.count()).toBe(1);
    const told = stage.old.log.filter(({ msg }) => /^an upload could not be moved/.test(String(msg)));
    expect(told).toHaveLength(1);
    expect(await stage.other.spool.acknowledgedOffset(stage.idOf(path))).toBe(4 * BLOCK + 1000);
    await expectAtOther(path, 4 * BLOCK + 1000);
  });

  test('says so, in the words of both nodes', async () => {
    await stage.uploadWith(4 * BLOCK + 1000);
    network.onBytesThere = (bytes) => {
      if (bytes.length > 10_000) bytes[5000]! ^= 1;
    };
    const migrator = stage.old.startMoving();
    expect(await until(() => migrator.progress.problem, 'a problem')).toBe(
      'node other: a byte changed on its way there',
    );
    expect(stage.other.log).toContainEqual(
      expect.objectContaining({ msg: 'a file from another node was damaged on its way, and is not kept' }),
    );
    expect(await stage.other.files()).toEqual([]);
    network.onBytesThere = () => undefined;
    await stage.done(migrator);
  });

  test('in a kept answer: its client gets the right one', async () => {
    const answer = randomBytes(2 * MIB, 9);
    stage.peers.origin.answerWith({ status: 201, body: answer });
    const path = await stage.uploadWith(0);
    expect((await stage.append(path, stage.old, 0)).status).toBe(201);
    const flip = flipBehind(BODY, MIB);
    network.onBytesThere = flip.change;
    await stage.done(stage.old.startMoving());
    expect(flip.count()).toBe(1);
    const kept = await requestOnce(stage.other.url, { method: 'GET', target: `${path}/answer` });
    expect([kept.status, sha256(kept.body)]).toEqual([201, sha256(answer)]);
  });
});

describe('a client that comes back in the middle', () => {
  test('goes on while most is copied, and what it brings meanwhile is moved as well', async () => {
    const path = await stage.uploadWith(6 * MIB);
    const files = holdFiles(stage.other);
    const migrator = stage.old.startMoving();
    await until(() => files.held().length > 0, 'the first file on its way');
    expect((await stage.append(path, stage.old, 6 * MIB, 8 * MIB)).status).toBe(204);
    expect((await stage.append(path, stage.other, 8 * MIB, 9 * MIB)).status).toBe(204);
    expect(await stage.nodeOf(path)).toBe('old');
    files.release();
    await stage.done(migrator);
    await expectAtOther(path, 9 * MIB);
  });

  test('does not wait for the last of it either: then that is tried again later', async () => {
    const path = await stage.uploadWith(1000);
    const files = holdFiles(stage.other);
    const migrator = stage.old.startMoving();
    await until(() => files.held().length > 0, 'the file on its way');
    expect((await stage.append(path, stage.old, 1000, 5000)).status).toBe(204);
    expect(await stage.nodeOf(path)).toBe('old');
    files.release();
    await stage.done(migrator);
    await expectAtOther(path, 5000);
  });

  test('and cancels leaves nothing anywhere', async () => {
    const path = await stage.uploadWith(6 * MIB);
    const files = holdFiles(stage.other);
    const migrator = stage.old.startMoving();
    await until(() => files.held().length > 0, 'the first file on its way');
    const headers = [['Upload-Draft-Interop-Version', '10']] as const;
    expect((await requestOnce(stage.old.url, { method: 'DELETE', target: path, headers })).status).toBe(204);
    files.release();
    await stage.done(migrator);
    expect(migrator.progress).toMatchObject({ moved: 0, left: 0 });
    await until(async () => (await stage.other.files()).length === 0, 'an empty disk at the other node');
    expect(await stage.old.files()).toEqual([]);
  });
});

describe('an upload that is delivered while its files are confirmed', () => {
  test('stays with its answer, and is moved with that', async () => {
    const answer = randomBytes(2 * MIB, 9);
    stage.peers.origin.answerWith({ hangUp: true });
    const path = await stage.uploadWith(0);
    await stage.append(path, stage.old, 0);
    expect(await stage.phaseOf(path)).toBe('undelivered');
    stage.peers.origin.answerWith({ status: 201, body: answer });
    let isFirst = true;
    stage.other.onFiles = async ({ req }, take) => {
      const isConfirmation = req.method === 'PUT' && req.url!.split('/').length === 3;
      if (isConfirmation && isFirst) {
        isFirst = false;
        expect((await stage.append(path, stage.old, BYTES.length - 1)).status).toBe(201);
      }
      await take();
    };
    await stage.done(stage.old.startMoving());
    expect(await stage.old.files()).toEqual([]);
    await stage.old.stop();
    const kept = await requestOnce(stage.other.url, { method: 'GET', target: `${path}/answer` });
    expect([kept.status, sha256(kept.body)]).toEqual([201, sha256(answer)]);
  });
});

describe('the store', () => {
  test('that does not say whether it has moved an upload is asked again, and nothing is removed before it knows', async () => {
    const path = await stage.uploadWith(1000);
    const { store } = stage.peers.cluster;
    const seen: string[][] = [];
    let tries = 0;
    const forgetful = Object.assign(Object.create(store) as typeof store, {
      move: async (...args: Parameters<typeof store.move>) => {
        const result = await store.move(...args);
        seen.push(await stage.old.files(), await stage.other.files());
        if (tries++ < 2) throw new Fault('STORE_UNAVAILABLE', 'no answer', true);
        return result;
      },
    });
    const migrator = stage.old.startMoving({ store: forgetful });
    await stage.done(migrator);
    expect(seen.map((files) => files.length)).toEqual([1, 1, 1, 1, 1, 1]);
    expect(migrator.progress.moved).toBe(1);
    await expectAtOther(path, 1000);
  });

  test('that is away is a problem that passes', async () => {
    const path = await stage.uploadWith(1000);
    const { store } = stage.peers.cluster;
    let tries = 0;
    const away = Object.assign(Object.create(store) as typeof store, {
      list: (...args: Parameters<typeof store.list>) => {
        if (tries++ < 2) throw new Fault('STORE_UNAVAILABLE', 'Redis does not answer', true);
        return store.list(...args);
      },
    });
    const migrator = stage.old.startMoving({ store: away });
    expect(await until(() => migrator.progress.problem, 'a problem')).toBe('Redis does not answer');
    await stage.done(migrator);
    await expectAtOther(path, 1000);
  });
});

describe('our own disk', () => {
  test('that has lost bytes ends their upload, and the node is emptied all the same', async () => {
    const path = await stage.uploadWith(1000);
    await stage.old.spool.remove(stage.idOf(path));
    const migrator = stage.old.startMoving();
    const { store } = stage.peers.cluster;
    const lost = async () => (await store.get(stage.idOf(path)))?.lost;
    expect(await until(lost, 'the end of the upload')).toBe(true);
    await stage.done(migrator);
    expect(await stage.other.files()).toEqual([]);
  });
});

test('a node that is stopped in the middle keeps its uploads, and the other keeps nothing', async () => {
  const path = await stage.uploadWith(6 * MIB);
  let isHeld = false;
  stage.other.onFiles = async ({ req }, take) => {
    if (req.method !== 'PUT') return take();
    isHeld = true;
    await new Promise((resolve) => req.socket.once('close', resolve));
  };
  const migrator = stage.old.startMoving();
  await until(() => isHeld, 'the file on its way');
  await migrator.stop();
  expect(await stage.nodeOf(path)).toBe('old');
  expect(await stage.other.files()).toEqual([]);
  expect((await stage.append(path, stage.old, 6 * MIB)).status).toBe(200);
});
