import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { exchangeOver, openRequest, type Transport } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { PeerNodes } from '../support/peer-nodes.js';
import { type RawOrigin, type RawScript, startRawOrigin } from '../support/raw-origin.js';
import {
  appendLines,
  clientDialect,
  createUpload,
  creationLines,
  ResumableUpload,
} from '../support/resumable-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireRequest } from '../support/wire.js';

const MIB = 2 ** 20;
/** More than the system's buffers between two sockets hold. */
const CONTENT = randomBytes(20 * MIB + 123_456);
const DIALECT = clientDialect('10');
/** Smaller buffers are not released. */
const RELEASED_BYTES = 16 * 1024;

/** The real disk, which may be slow, take a part of a write, or fail, and knows whether a buffer changed while it was used. */
class WatchedDisk {
  /** The memory of everything that was written and read, except small buffers. */
  readonly written = new Set<ArrayBufferLike>();
  readonly read = new Set<ArrayBufferLike>();
  changedWhileUsed = 0;
  /** Bytes that one write takes at most. */
  mostBytes = Infinity;
  /** Calls of `writev` from now on until one fails. */
  failsAfter = Infinity;
  /** Writes wait for it. */
  ready: Promise<void> = Promise.resolve();
  waiting = 0;

  readonly writev: typeof nodeFileSystem.writev = async (fd, buffers, position) => {
    note(buffers, this.written);
    const before = buffers.map((bytes) => sha256(bytes));
    this.waiting++;
    await this.ready;
    this.waiting--;
    if (this.failsAfter-- === 0)
      throw Object.assign(new Error('EIO: i/o error, writev'), { code: 'EIO', syscall: 'writev' });
    const writtenBytes = await nodeFileSystem.writev(fd, firstBytes(buffers, this.mostBytes), position);
    if (buffers.some((bytes, at) => sha256(bytes) !== before[at])) this.changedWhileUsed++;
    return writtenBytes;
  };

  readonly readv: typeof nodeFileSystem.readv = async (fd, buffers, position) => {
    note(buffers, this.read);
    return nodeFileSystem.readv(fd, buffers, position);
  };

  kept(memory: Set<ArrayBufferLike>): number {
    return [...memory].filter(({ byteLength }) => byteLength > 0).length;
  }
}

function note(buffers: readonly Uint8Array[], memory: Set<ArrayBufferLike>): void {
  for (const { buffer } of buffers) if (buffer.byteLength >= RELEASED_BYTES) memory.add(buffer);
}

function firstBytes(buffers: readonly Uint8Array[], most: number): Uint8Array[] {
  let left = most;
  return buffers.flatMap((bytes) => {
    const part = bytes.subarray(0, left);
    left -= part.length;
    return part.length > 0 ? [part] : [];
  });
}

describe('the memory of a body', () => {
  let disk: WatchedDisk;
  let origin: RawOrigin;
  let app: TestApp | undefined;

  beforeEach(async () => {
    disk = new WatchedDisk();
    const { writev, readv } = disk;
    useFileSystem({ ...nodeFileSystem, writev, readv });
    origin = await startRawOrigin();
  });
  afterEach(async () => {
    await app?.stop();
    app = undefined;
    await origin.close();
    useFileSystem();
  });

  async function start(config = ''): Promise<string> {
    app = await startTestApp({ origin: origin.url, config });
    return app.url;
  }

  function send(url: string, request: WireRequest, transport: Transport = 'HTTP/1.1') {
    return exchangeOver(transport, url, request);
  }

  function creation(headers: WireRequest['headers'] = [], body = CONTENT): WireRequest {
    const lines = [...creationLines(DIALECT, { complete: true }), ...headers];
    return { method: 'POST', target: '/files', headers: lines, body };
  }

  const digest = [`sha-256=:${Buffer.from(sha256(CONTENT), 'hex').toString('base64')}:`] as const;

  /** Takes nothing more until the buffers on the way are full, so that what follows waits in the proxy. */
  const slowly: RawScript = async (exchange) => {
    await exchange.readBytes(1000);
    exchange.socket.pause();
    await until(() => disk.kept(disk.read) >= 2, 'bytes that the origin does not take');
    exchange.socket.resume();
    await exchange.readBody();
    await exchange.respond({ status: 200, body: 'ok' });
  };

  interface Case {
    readonly name: string;
    readonly transport?: Transport;
    /** `CONTENT` by default. */
    readonly content?: Buffer;
    readonly config?: string;
    readonly headers?: WireRequest['headers'];
    readonly mostBytes?: number;
    readonly script?: RawScript;
    /** Frames share buffers, which are therefore not released. */
    readonly sharesBuffers?: true;
  }

  const EAGER = 'delivery: { mode: eager, eager: { idle: 20s } }';

  const cases: readonly Case[] = [
    { name: 'delivered from the spool' },
    // Node's client gives up a request with more unsent content.
    { name: 'received over HTTP/2', transport: 'HTTP/2', content: CONTENT.subarray(0, 5 * MIB), sharesBuffers: true },
    {
      name: 'with digests',
      headers: [
        ['Repr-Digest', digest[0]],
        ['Content-Digest', digest[0]],
      ],
    },
    { name: 'of which a write takes a part', mostBytes: 100_001 },
    { name: 'for a slow origin', script: slowly },
    { name: 'delivered eagerly', config: EAGER },
    { name: 'delivered eagerly to a slow origin', config: EAGER, script: slowly },
    { name: 'committed after every write', config: `spool: { sync: always }\n${EAGER}` },
  ];

  test.each(cases)('$name is released after its use, not before', async (row) => {
    const url = await start(row.config);
    disk.mostBytes = row.mostBytes ?? Infinity;
    if (row.script) origin.setScript(row.script);
    const { headers, transport, content = CONTENT } = row;
    const answer = await send(url, creation(headers, content), transport);
    expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
    expect(origin.exchanges[0]!.body.sha256).toBe(sha256(content));
    expect(disk.changedWhileUsed).toBe(0);
    // One may share its memory with the head of the request, and one contains the byte that is kept back until the end.
    if (!row.sharesBuffers) expect(disk.kept(disk.written)).toBeLessThanOrEqual(2);
  });

  test('read for a delivery is released when it is written to the origin', async () => {
    const url = await start();
    origin.setScript(slowly);
    await send(url, creation());
    expect(disk.read.size).toBe(21);
    await until(
      () => disk.kept(disk.read) === 0,
      () => `released reads (${disk.kept(disk.read)} are kept)`,
    );
  });

  test('is kept when its write fails, and the client resumes', async () => {
    const url = await start();
    const upload = await createUpload(DIALECT, (request) => send(url, request), { method: 'POST', target: '/files' });
    disk.mostBytes = 100_001;
    disk.failsAfter = 20;
    const failed = await upload.append(CONTENT, { offset: 0, complete: true });
    expect(failed.status).toBe(503);
    const answer = await upload.finish(CONTENT);
    expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
    expect(origin.exchanges[0]!.body.sha256).toBe(sha256(CONTENT));
    expect(disk.changedWhileUsed).toBe(0);
  });

  test('stays while its write hangs, although the client has left and another request has the lease', async () => {
    const url = await start();
    const upload = await createUpload(DIALECT, (request) => send(url, request), { method: 'POST', target: '/files' });
    const headers = appendLines(DIALECT, { offset: 0, complete: true });
    const first = await openRequest('HTTP/1.1', url, { method: 'PATCH', target: upload.target, headers });
    let release = (): void => undefined;
    disk.ready = new Promise((resolve) => (release = resolve));
    await first.send(CONTENT.subarray(0, MIB));
    await until(() => disk.waiting > 0, 'a write that hangs');
    first.leave('reset');
    const offset = await upload.offset();
    disk.ready = Promise.resolve();
    const answer = await upload.append(CONTENT.subarray(offset), { offset, complete: true });
    expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
    release();
    await until(() => disk.waiting === 0, 'the end of the write');
    expect(origin.exchanges[0]!.body.sha256).toBe(sha256(CONTENT));
    expect(disk.changedWhileUsed).toBe(0);
    await first.close();
  });

  test('that is relayed to another node arrives there unchanged', async () => {
    const peers = await PeerNodes.open();
    const [owner, entry] = [await peers.node('owner-node-name'), await peers.node('entry-node-name')];
    const created = await createUpload(DIALECT, (request) => send(owner.url, request), {
      method: 'POST',
      target: '/files',
    });
    const atEntry = new ResumableUpload(DIALECT, (request) => send(entry.url, request), created.url);
    await atEntry.append(CONTENT.subarray(0, 2 * MIB), { offset: 0, complete: false });
    await untilSpooled(owner.data, created.url, 2 * MIB);
    expect((await atEntry.finish(CONTENT)).status).toBe(200);
    expect(peers.origin.requests.map(({ sha256: sum }) => sum)).toEqual([sha256(CONTENT)]);
    expect(disk.changedWhileUsed).toBe(0);
    await peers.close();
  });
});
