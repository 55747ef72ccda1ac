import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import { requestOnce } from '../support/client.js';
import { CuttingProxy } from '../support/network.js';
import { MigrationNodes, type PeerNode } from '../support/peer-nodes.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

const MIB = 1024 * 1024;
const BYTES = randomBytes(10 * MIB);
const WHOLE = [{ size: BYTES.length, sum: sha256(BYTES) }];

let nodes: MigrationNodes;

beforeEach(async () => {
  nodes = await MigrationNodes.open(BYTES);
});
afterEach(() => nodes.close());

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
  expect(await nodes.nodeOf(path)).toBe('other');
  expect(await nodes.old.files()).toEqual([]);
  expect((await nodes.head(path, nodes.old)).header('Upload-Offset')).toBe(`${offset}`);
  expect((await nodes.append(path, nodes.other, offset)).status).toBe(200);
  expect(nodes.received('/files')).toEqual(WHOLE);
}

describe('the other node', () => {
  test('that ends the connection in the middle keeps nothing; the upload goes on where it is, and is moved later', async () => {
    const path = await nodes.uploadWith(6 * MIB);
    let cuts = 0;
    nodes.other.onFiles = async ({ req }, take) => {
      if (req.method !== 'PUT' || cuts === 3) return take();
      cuts++;
      setImmediate(() => req.socket.destroy());
      await take();
    };
    const migrator = nodes.old.startMoving();
    expect(await until(() => migrator.progress.problem, 'a problem')).toMatch(/^node other: /);
    await nodes.done(migrator);
    expect(cuts).toBe(3);
    expect(migrator.progress).toEqual({ moved: 1, bytes: 6 * MIB, left: 0, isDone: true });
    await expectAtOther(path, 6 * MIB);
  });

  test('that dies for good is passed over for one that lives', async () => {
    const path = await nodes.uploadWith(6 * MIB);
    nodes.other.onFiles = ({ req }) => void req.socket.destroy();
    const migrator = nodes.old.startMoving();
    await until(() => migrator.progress.problem, 'a problem');
    expect(await nodes.nodeOf(path)).toBe('old');
    expect((await nodes.head(path, nodes.old)).header('Upload-Offset')).toBe(`${6 * MIB}`);
    const third = await nodes.peers.node('third');
    await nodes.done(migrator);
    expect(await nodes.nodeOf(path)).toBe('third');
    expect(await nodes.other.files()).toEqual([]);
    expect((await nodes.append(path, third, 6 * MIB)).status).toBe(200);
    expect(nodes.received('/files')).toEqual(WHOLE);
  });

  test('that has no room is passed over too', async () => {
    const path = await nodes.uploadWith(1000);
    nodes.other.onFiles = ({ req, res }) => {
      req.resume();
      res.statusCode = 507;
      res.end();
    };
    const migrator = nodes.old.startMoving();
    expect(await until(() => migrator.progress.problem, 'a problem')).toBe('node other: it answered 507');
    await nodes.peers.node('third');
    await nodes.done(migrator);
    expect(await nodes.nodeOf(path)).toBe('third');
  });

  test('that has something left from a try before gets everything anew', async () => {
    const path = await nodes.uploadWith(1000);
    const [file] = await nodes.old.files();
    const writer = await nodes.other.spool.create(nodes.idOf(path), file!.split('/')[1]!);
    await writer.write([Buffer.from('left')]);
    await writer.close();
    await nodes.done(nodes.old.startMoving());
    await expectAtOther(path, 1000);
  });

  test('that lost a file between two steps is noticed', async () => {
    const path = await nodes.uploadWith(6 * MIB);
    let isLost = false;
    nodes.other.onFiles = async ({ req }, take) => {
      const isConfirmation = req.method === 'PUT' && req.url!.split('/').length === 3;
      if (isConfirmation && !isLost) await nodes.other.spool.remove(nodes.idOf(path));
      isLost ||= isConfirmation;
      await take();
    };
    const migrator = nodes.old.startMoving();
    await nodes.done(migrator);
    expect(isLost).toBe(true);
    await expectAtOther(path, 6 * MIB);
  });

  test('is none: that is told, and everything stays', async () => {
    const path = await nodes.uploadWith(1000);
    nodes.peers.cluster.nodes.set('other', { isLeaving: true });
    const migrator = nodes.old.startMoving();
    await until(() => migrator.progress.problem, 'a problem');
    expect(migrator.progress).toMatchObject({ left: 1, isDone: false, problem: 'no other node takes uploads' });
    expect(await nodes.nodeOf(path)).toBe('old');
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
    network = await CuttingProxy.start(Number(new URL(nodes.other.peerUrl).port));
    nodes.peers.cluster.nodes.set('other', { url: `http://127.0.0.1:${network.port}` });
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
    const path = await nodes.uploadWith(4 * BLOCK + 1000);
    await nodes.old.spool.noteAcknowledged(nodes.idOf(path), 4 * BLOCK + 1000);
    const flip = flipBehind(text, skip);
    network.onBytesThere = flip.change;
    const migrator = nodes.old.startMoving();
    await nodes.done(migrator);
    expect(flip.count()).toBe(1);
    const told = nodes.old.log.filter(({ msg }) => /^an upload could not be moved/.test(String(msg)));
    expect(told).toHaveLength(1);
    expect(await nodes.other.spool.acknowledgedOffset(nodes.idOf(path))).toBe(4 * BLOCK + 1000);
    await expectAtOther(path, 4 * BLOCK + 1000);
  });

  test('says so, in the words of both nodes', async () => {
    await nodes.uploadWith(4 * BLOCK + 1000);
    network.onBytesThere = (bytes) => {
      if (bytes.length > 10_000) bytes[5000]! ^= 1;
    };
    const migrator = nodes.old.startMoving();
    expect(await until(() => migrator.progress.problem, 'a problem')).toBe(
      'node other: the data was damaged in transit',
    );
    expect(nodes.other.log).toContainEqual(
      expect.objectContaining({ msg: 'data from another node was damaged in transit and was not kept' }),
    );
    expect(await nodes.other.files()).toEqual([]);
    network.onBytesThere = () => undefined;
    await nodes.done(migrator);
  });

  test('in a kept answer: its client gets the right one', async () => {
    const answer = randomBytes(2 * MIB, 9);
    nodes.peers.origin.answerWith({ status: 201, body: answer });
    const path = await nodes.uploadWith(0);
    expect((await nodes.append(path, nodes.old, 0)).status).toBe(201);
    const flip = flipBehind(BODY, MIB);
    network.onBytesThere = flip.change;
    await nodes.done(nodes.old.startMoving());
    expect(flip.count()).toBe(1);
    const kept = await requestOnce(nodes.other.url, { method: 'GET', target: `${path}/answer` });
    expect([kept.status, sha256(kept.body)]).toEqual([201, sha256(answer)]);
  });
});

describe('a client that comes back in the middle', () => {
  test('goes on while most is copied, and what it brings meanwhile is moved as well', async () => {
    const path = await nodes.uploadWith(6 * MIB);
    const files = holdFiles(nodes.other);
    const migrator = nodes.old.startMoving();
    await until(() => files.held().length > 0, 'the first file on its way');
    expect((await nodes.append(path, nodes.old, 6 * MIB, 8 * MIB)).status).toBe(204);
    expect((await nodes.append(path, nodes.other, 8 * MIB, 9 * MIB)).status).toBe(204);
    expect(await nodes.nodeOf(path)).toBe('old');
    files.release();
    await nodes.done(migrator);
    await expectAtOther(path, 9 * MIB);
  });

  test('does not wait for the last of it either: then that is tried again later', async () => {
    const path = await nodes.uploadWith(1000);
    const files = holdFiles(nodes.other);
    const migrator = nodes.old.startMoving();
    await until(() => files.held().length > 0, 'the file on its way');
    expect((await nodes.append(path, nodes.old, 1000, 5000)).status).toBe(204);
    expect(await nodes.nodeOf(path)).toBe('old');
    files.release();
    await nodes.done(migrator);
    await expectAtOther(path, 5000);
  });

  test('and cancels leaves nothing anywhere', async () => {
    const path = await nodes.uploadWith(6 * MIB);
    const files = holdFiles(nodes.other);
    const migrator = nodes.old.startMoving();
    await until(() => files.held().length > 0, 'the first file on its way');
    const headers = [['Upload-Draft-Interop-Version', '10']] as const;
    expect((await requestOnce(nodes.old.url, { method: 'DELETE', target: path, headers })).status).toBe(204);
    files.release();
    await nodes.done(migrator);
    expect(migrator.progress).toMatchObject({ moved: 0, left: 0 });
    await until(async () => (await nodes.other.files()).length === 0, 'an empty disk at the other node');
    expect(await nodes.old.files()).toEqual([]);
  });
});

describe('an upload that is delivered while its files are confirmed', () => {
  test('stays with its answer, and is moved with that', async () => {
    const answer = randomBytes(2 * MIB, 9);
    nodes.peers.origin.answerWith({ hangUp: true });
    const path = await nodes.uploadWith(0);
    await nodes.append(path, nodes.old, 0);
    expect(await nodes.phaseOf(path)).toBe('undelivered');
    nodes.peers.origin.answerWith({ status: 201, body: answer });
    let isFirst = true;
    nodes.other.onFiles = async ({ req }, take) => {
      const isConfirmation = req.method === 'PUT' && req.url!.split('/').length === 3;
      if (isConfirmation && isFirst) {
        isFirst = false;
        expect((await nodes.append(path, nodes.old, BYTES.length - 1)).status).toBe(201);
      }
      await take();
    };
    await nodes.done(nodes.old.startMoving());
    expect(await nodes.old.files()).toEqual([]);
    await nodes.old.stop();
    const kept = await requestOnce(nodes.other.url, { method: 'GET', target: `${path}/answer` });
    expect([kept.status, sha256(kept.body)]).toEqual([201, sha256(answer)]);
  });
});

describe('the store', () => {
  test('that does not say whether it has moved an upload is asked again, and nothing is removed before it knows', async () => {
    const path = await nodes.uploadWith(1000);
    const { store } = nodes.peers.cluster;
    const seen: string[][] = [];
    let tries = 0;
    const forgetful = Object.assign(Object.create(store) as typeof store, {
      move: async (...args: Parameters<typeof store.move>) => {
        const result = await store.move(...args);
        seen.push(await nodes.old.files(), await nodes.other.files());
        if (tries++ < 2) throw new Fault('STORE_UNAVAILABLE', 'no answer', true);
        return result;
      },
    });
    const migrator = nodes.old.startMoving({ store: forgetful });
    await nodes.done(migrator);
    expect(seen.map((files) => files.length)).toEqual([1, 1, 1, 1, 1, 1]);
    expect(migrator.progress.moved).toBe(1);
    await expectAtOther(path, 1000);
  });

  test('that is away is a problem that passes', async () => {
    const path = await nodes.uploadWith(1000);
    const { store } = nodes.peers.cluster;
    let tries = 0;
    const away = Object.assign(Object.create(store) as typeof store, {
      list: (...args: Parameters<typeof store.list>) => {
        if (tries++ < 2) throw new Fault('STORE_UNAVAILABLE', 'Redis does not answer', true);
        return store.list(...args);
      },
    });
    const migrator = nodes.old.startMoving({ store: away });
    expect(await until(() => migrator.progress.problem, 'a problem')).toBe('Redis does not answer');
    await nodes.done(migrator);
    await expectAtOther(path, 1000);
  });
});

describe('our own disk', () => {
  test('that has lost bytes ends their upload, and the node is emptied all the same', async () => {
    const path = await nodes.uploadWith(1000);
    await nodes.old.spool.remove(nodes.idOf(path));
    const migrator = nodes.old.startMoving();
    const { store } = nodes.peers.cluster;
    const lost = async () => (await store.get(nodes.idOf(path)))?.lost;
    expect(await until(lost, 'the end of the upload')).toBe(true);
    await nodes.done(migrator);
    expect(await nodes.other.files()).toEqual([]);
  });
});

test('a node that is stopped in the middle keeps its uploads, and the other keeps nothing', async () => {
  const path = await nodes.uploadWith(6 * MIB);
  let isHeld = false;
  nodes.other.onFiles = async ({ req }, take) => {
    if (req.method !== 'PUT') return take();
    isHeld = true;
    await new Promise((resolve) => req.socket.once('close', resolve));
  };
  const migrator = nodes.old.startMoving();
  await until(() => isHeld, 'the file on its way');
  await migrator.stop();
  expect(await nodes.nodeOf(path)).toBe('old');
  expect(await nodes.other.files()).toEqual([]);
  expect((await nodes.append(path, nodes.old, 6 * MIB)).status).toBe(200);
});
