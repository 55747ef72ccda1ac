import { Readable } from 'node:stream';
import { expect, test } from '@jest/globals';
import { PeerFiles, PeerFilesClient } from '../../src/cluster/peer-files.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { PeerSignature } from '../../src/proxy/peer-auth.js';
import { startPeerListener } from '../../src/proxy/peer-listener.js';
import { RunningSums, sizeWithSums } from '../../src/spool/block-sums.js';
import type { ChunkWriter, Spool } from '../../src/spool/spool.js';
import { neverAborted } from '../support/delivery-room.js';

const MIB = 1024 * 1024;
const SECRET = 'a secret of all nodes';

/** Keeps nothing; notes the size at each sync. */
class NotingWriter implements ChunkWriter {
  size = 0;
  readonly extent = { size: 0 };
  readonly extentWithoutLastByte = { size: 0 };
  readonly synced: number[] = [];

  write(buffers: readonly Uint8Array[]): Promise<void> {
    this.size += buffers.reduce((sum, { length }) => sum + length, 0);
    return Promise.resolve();
  }

  sync(): Promise<void> {
    return Promise.resolve(void this.synced.push(this.size));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  discard(): Promise<void> {
    return Promise.resolve();
  }
}

test('a large file from another node is synced while it comes, so that little is left to do at its end', async () => {
  const writer = new NotingWriter();
  const spool: Partial<Spool> = { create: () => Promise.resolve(writer) };
  const store = { get: () => Promise.resolve({ node: 'old' } as Upload) };
  const log = silentLog();
  const files = new PeerFiles({ self: 'other', store, spool: spool as Spool, isLeaving: () => false, log });
  const listener = await startPeerListener(
    {
      address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      signature: new PeerSignature(SECRET, 'other', Date.now),
      log,
    },
    { onRequest: () => undefined, onFiles: (exchange) => void files.answer(exchange) },
  );
  const client = new PeerFilesClient({ signature: new PeerSignature(SECRET, 'old', Date.now) });
  const node = { name: 'other', url: listener.url, silentMs: 0, isLeaving: false };
  const path = { id: 'a'.repeat(32), name: 'c' };
  const pieces = new RunningSums(`${path.id}/${path.name}`).take(Array.from({ length: 80 }, () => Buffer.alloc(MIB)));
  await client.put(node, path, sizeWithSums(80 * MIB), Readable.from(pieces), neverAborted());
  const steps = writer.synced.map((size, at) => size - (writer.synced[at - 1] ?? 0));
  expect(writer.synced.at(-1)).toBe(80 * MIB);
  expect(Math.max(...steps)).toBeLessThan(24 * MIB);
  client.close();
  listener.destroyAll();
  await listener.closed;
});
