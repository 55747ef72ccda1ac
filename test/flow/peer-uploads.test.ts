import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { PeerFiles, PeerFilesClient, formatPeerPath } from '../../src/cluster/peer-files.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog, uploadTag } from '../../src/observe/log.js';
import { PEER_FIELD, PeerSignature } from '../../src/proxy/peer-auth.js';
import { startPeerListener } from '../../src/proxy/peer-listener.js';
import { RunningSums, sizeWithSums } from '../../src/spool/block-sums.js';
import type { ChunkWriter, Spool } from '../../src/spool/spool.js';
import {
  connect,
  exchangeOver,
  openRequest,
  type OpenRequest,
  type RawClient,
  requestOnce,
  type Transport,
  TRANSPORTS,
} from '../support/client.js';
import { neverAborted } from '../support/delivery-harness.js';
import { untilSpooled } from '../support/disk.js';
import { MigrationNodes, type PeerNode, PeerNodes } from '../support/peer-nodes.js';
import { appendLines, clientDialect, creationLines, type DialectName } from '../support/resumable-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import type { WireResponse } from '../support/wire.js';
import { storedIdOf } from '../support/stored-id.js';

describe('uploads on other nodes', () => {
  let peers: PeerNodes;
  let owner: PeerNode;
  let entry: PeerNode;

  beforeAll(async () => {
    peers = await PeerNodes.open();
    owner = await peers.node('owner-node-name');
    entry = await peers.node('entry-node-name');
  });
  afterAll(() => peers.close());

  const BYTES = randomBytes(90_000);
  const { length } = BYTES;
  let flows = 0;

  /** One upload whose bytes are with the owner, and its client, which speaks to the other node from then on. */
  class Flow {
    readonly target = `/flow/${flows++}`;
    readonly dialect;
    path = '';

    constructor(
      readonly transport: Transport,
      dialect: DialectName = '10',
    ) {
      this.dialect = clientDialect(dialect);
    }

    create(
      url: string,
      {
        key,
        body,
        complete = false,
      }: { readonly key?: string; readonly body: string | Buffer; readonly complete?: boolean },
    ): Promise<WireResponse> {
      const keyLines = key === undefined ? [] : [['Idempotency-Key', key] as const];
      const headers = [...creationLines(this.dialect, { complete, length }), ...keyLines];
      return exchangeOver(this.transport, url, { method: 'POST', target: this.target, headers, body });
    }

    async place({ key }: { readonly key?: string } = {}): Promise<this> {
      const created = await this.create(owner.url, { key, body: '' });
      this.path = new URL(created.header('Location')!).pathname;
      return this;
    }

    get location(): string {
      return new URL(this.path, owner.url).href;
    }

    /** An append at the other node whose body is to follow. */
    append(offset: number, complete = true): Promise<OpenRequest> {
      const headers = appendLines(this.dialect, { offset, complete });
      return openRequest(this.transport, entry.url, { method: 'PATCH', target: this.path, headers });
    }

    ask(method: string, url = entry.url, more: readonly (readonly [string, string])[] = []): Promise<WireResponse> {
      const version = [['Upload-Draft-Interop-Version', this.dialect.version ?? '']] as const;
      return exchangeOver(this.transport, url, { method, target: this.path, headers: [...version, ...more] });
    }

    /** What the origin has got. */
    async delivered(): Promise<{ size: number; sha256: string }[]> {
      const whole = () =>
        peers.origin.requests.filter(({ target, ended }) => target === this.target && ended === 'whole');
      await until(() => whole().length > 0, 'the delivery');
      return whole().map(({ size, sha256: sum }) => ({ size, sha256: sum }));
    }
  }

  const whole = [{ size: length, sha256: sha256(BYTES) }];

  describe.each(TRANSPORTS)('over %s, an upload whose bytes another node has', (transport) => {
    test('takes an append, tells its progress at once, and gives the answer of the origin', async () => {
      const flow = await new Flow(transport).place();
      const request = await flow.append(0);
      await request.send(BYTES.subarray(0, 40_000));
      await untilSpooled(owner.data, flow.location, 40_000);
      await request.send(BYTES.subarray(40_000));
      await request.end();
      const answer = await request.readFinal();
      expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
      expect(await flow.delivered()).toEqual(whole);
      await request.close();
    });

    test('is found by the key of its client, whichever node that comes to', async () => {
      const flow = await new Flow(transport).place({ key: `"${transport}"` });
      const again = await flow.create(entry.url, { key: `"${transport}"`, body: '' });
      expect([again.status, new URL(again.header('Location')!).pathname]).toEqual([201, flow.path]);
      const first = await flow.append(0, false);
      await first.send(BYTES.subarray(0, 50_000));
      await untilSpooled(owner.data, flow.location, 50_000);
      const whole = { key: `"${transport}"`, body: BYTES, complete: true };
      const answers = [await flow.create(entry.url, whole), await flow.create(entry.url, whole)];
      expect(answers.map(({ status, body }) => [status, body.toString()])).toEqual(Array(2).fill([200, 'ok']));
      expect(answers.map(({ interims }) => new URL(interims[0]!.header('Location')!).pathname)).toEqual(
        Array(2).fill(flow.path),
      );
      expect(await flow.delivered()).toEqual([{ size: length, sha256: sha256(BYTES) }]);
      expect(peers.origin.requests.filter(({ target }) => target === flow.target)).toHaveLength(1);
      await first.close();
    });

    test('answers HEAD there as here, but for the date', async () => {
      const flow = await new Flow(transport).place();
      const [there, here] = await Promise.all([flow.ask('HEAD'), flow.ask('HEAD', owner.url)]);
      const told = ({ status, headerLines }: WireResponse) => ({
        status,
        lines: headerLines.filter(([name]) => !['date', 'upload-limit'].includes(name.toLowerCase())),
      });
      expect(told(there)).toEqual(told(here));
      expect(there.header('Upload-Offset')).toBe('0');
    });

    test('is taken over by a client that comes back to any node, and the dead one is given up', async () => {
      const flow = await new Flow(transport).place();
      const dead = await flow.append(0);
      await dead.send(BYTES.subarray(0, 30_000));
      await untilSpooled(owner.data, flow.location, 30_000);
      const head = await flow.ask('HEAD', owner.url);
      expect(head.header('Upload-Offset')).toBe('30000');
      await dead.givenUp();
      const again = await flow.append(30_000);
      await again.send(BYTES.subarray(30_000, 60_000));
      await untilSpooled(owner.data, flow.location, 60_000);
      expect((await flow.ask('HEAD')).header('Upload-Offset')).toBe('60000');
      await again.givenUp();
      const last = await flow.append(60_000);
      await last.send(BYTES.subarray(60_000));
      await last.end();
      expect((await last.readFinal()).status).toBe(200);
      expect(await flow.delivered()).toEqual(whole);
      await Promise.all([dead, again, last].map((request) => request.close()));
    });

    test('keeps what came before its client left', async () => {
      const flow = await new Flow(transport).place();
      const request = await flow.append(0);
      await request.send(BYTES.subarray(0, 20_000));
      await untilSpooled(owner.data, flow.location, 20_000);
      request.leave('reset');
      expect((await flow.ask('HEAD')).header('Upload-Offset')).toBe('20000');
      await request.close();
    });

    test('can be discovered, looked at and cancelled', async () => {
      const flow = await new Flow(transport).place();
      expect((await flow.ask('OPTIONS')).status).toBe(200);
      const status = await exchangeOver(transport, entry.url, { method: 'GET', target: `${flow.path}/status` });
      expect(JSON.parse(status.body.toString())).toMatchObject({ phase: 'receiving', offset: 0 });
      expect((await flow.ask('DELETE')).status).toBe(204);
      expect((await flow.ask('HEAD')).status).toBe(404);
      expect((await flow.ask('HEAD', owner.url)).status).toBe(404);
    });

    test('may be asked about with as many header fields as its own node takes', async () => {
      const flow = await new Flow(transport).place();
      const large = [['X-Large', 'x'.repeat(transport === 'HTTP/1.1' ? 15_900 : 40_000)]] as const;
      expect((await flow.ask('HEAD', owner.url, large)).status).toBe(204);
      expect((await flow.ask('HEAD', entry.url, large)).status).toBe(204);
    });

    test('is answered with as many header fields as its own node takes from the origin', async () => {
      const flow = await new Flow(transport).place();
      peers.origin.answerWith({ body: 'ok', headers: [['X-Large', 'x'.repeat(20_000)]] });
      try {
        const request = await flow.append(0);
        await request.send(BYTES);
        await request.end();
        const answer = await request.readFinal();
        expect([answer.status, answer.header('X-Large')?.length]).toEqual([200, 20_000]);
        await request.close();
      } finally {
        peers.origin.answerWith({});
      }
    });

    test('is sent once more when its client was told, by way of another node, that the outcome is unknown', async () => {
      const flow = await new Flow(transport).place();
      const asked = () => peers.origin.requests.filter(({ target }) => target === flow.target).length;
      peers.origin.answerWith(() => (asked() > 1 ? { status: 201, body: 'made' } : { hangUp: true }));
      try {
        const said: [number, number][] = [];
        for (const offset of [0, length, length]) {
          const request = await flow.append(offset);
          if (offset === 0) await request.send(BYTES);
          await request.end();
          const answer = await request.readFinal();
          expect(answer.header('RUFH-Unknown-End')).toBeUndefined();
          said.push([answer.status, asked()]);
          await request.close();
        }
        expect(said).toEqual([
          [503, 1],
          [201, 2],
          [201, 2],
        ]);
      } finally {
        peers.origin.answerWith({});
      }
    });

    test('is refused as it would be by its own node', async () => {
      const flow = await new Flow(transport).place();
      const request = await flow.append(7);
      await request.end();
      const answer = await request.readFinal();
      expect(answer.status).toBe(409);
      expect(JSON.parse(answer.body.toString())).toMatchObject({ 'expected-offset': 0, 'provided-offset': 7 });
      await request.close();
    });

    test('says nothing of nodes', async () => {
      const flow = await new Flow(transport).place();
      const request = await flow.append(0);
      await request.send(BYTES);
      await request.end();
      const answers = [
        await request.readFinal(),
        await flow.ask('HEAD'),
        await flow.ask('OPTIONS'),
        await flow.ask('GET'),
      ];
      const said = JSON.stringify([
        flow.path,
        answers.map(({ headerLines, body, interims }) => [headerLines, String(body), interims]),
      ]);
      expect(said).not.toMatch(/node-name/);
      // Its id is random, and may have any letters.
      expect(said.replaceAll(flow.path.split('/').at(-1)!, '')).not.toMatch(/peer/i);
      expect(said).not.toContain(new URL(owner.peerUrl).port);
      await request.close();
    });

    test('shows its client to the owner: the address, the scheme and the name it used', async () => {
      const flow = await new Flow(transport).place();
      const request = await openRequest(transport, entry.url, {
        method: 'PATCH',
        target: flow.path,
        headers: [...appendLines(flow.dialect, { offset: 0, complete: false }), ['RUFH-Peer', 'from a client']],
      });
      await request.send(BYTES.subarray(0, 10));
      await request.end();
      expect((await request.readFinal()).status).toBe(204);
      const tag = uploadTag(flow.path.split('/').at(-1)!);
      const lineOf = (node: PeerNode) =>
        until(
          () => node.log.find(({ method, target }) => method === 'PATCH' && String(target).includes(tag)),
          `the line in the log of ${node.name}`,
        );
      const version = transport === 'HTTP/1.1' ? '1.1' : '2.0';
      expect(await lineOf(owner)).toMatchObject({
        kind: 'append',
        client: '127.0.0.1',
        httpVersion: version,
        status: 204,
      });
      expect(await lineOf(entry)).toMatchObject({ kind: 'relayed', httpVersion: version, status: 204 });
      await request.close();
    });
  });

  test.each(TRANSPORTS)(
    'over %s, progress is told through the other node while the body is still coming',
    async (by) => {
      const flow = await new Flow(by).place();
      const request = await flow.append(0);
      await request.send(BYTES.subarray(0, 10_000));
      await untilSpooled(owner.data, flow.location, 10_000);
      // It is due after a second, with the next commit.
      const pieces = setInterval(() => void request.send(BYTES.subarray(10_000, 10_010)), 50);
      const interim = await request.readInterim().finally(() => clearInterval(pieces));
      expect(interim.status).toBe(104);
      expect(Number(interim.header('Upload-Offset'))).toBeGreaterThanOrEqual(10_000);
      await request.close();
    },
  );
});

describe('nodes that vanish', () => {
  const OWNER_TIMEOUT_MS = 60_000;
  const dialect = clientDialect('10');
  const version = ['Upload-Draft-Interop-Version', '10'] as const;

  let peers: PeerNodes;
  let owner: PeerNode;
  let entry: PeerNode;
  let path: string;

  beforeEach(async () => {
    peers = await PeerNodes.open(OWNER_TIMEOUT_MS);
    owner = await peers.node('owner');
    entry = await peers.node('entry');
    const headers = creationLines(dialect, { complete: false, length: 1000 });
    const created = await requestOnce(owner.url, { method: 'POST', target: '/files', headers, body: '' });
    path = new URL(created.header('Location')!).pathname;
  });
  afterEach(() => peers.close());

  function head(): Promise<WireResponse> {
    return requestOnce(entry.url, { method: 'HEAD', target: path, headers: [version] });
  }

  function problemOf({ body }: WireResponse): unknown {
    return JSON.parse(body.toString());
  }

  describe('the node that has the bytes is gone', () => {
    beforeEach(() => owner.stop());

    test('its uploads are unavailable for a while, and then there are none', async () => {
      peers.cluster.nodes.set('owner', { silentMs: OWNER_TIMEOUT_MS - 1 });
      const early = await head();
      expect([early.status, early.header('Retry-After')]).toEqual([503, '5']);
      peers.cluster.nodes.set('owner', { silentMs: OWNER_TIMEOUT_MS });
      expect((await head()).status).toBe(404);
    });

    test.each(TRANSPORTS)(
      'an append over %s hears it in a problem, and so does who asks for the status',
      async (by) => {
        const headers = appendLines(dialect, { offset: 0, complete: true });
        const append = await exchangeOver(by, entry.url, {
          method: 'PATCH',
          target: path,
          headers,
          body: 'x'.repeat(1000),
        });
        expect([append.status, append.header('Content-Type')]).toEqual([503, 'application/problem+json']);
        expect(problemOf(append)).toMatchObject({ status: 503, title: 'Service Unavailable' });
        const status = await exchangeOver(by, entry.url, { method: 'GET', target: `${path}/status` });
        expect([status.status, status.header('Retry-After')]).toEqual([503, '5']);
      },
    );

    test('a client that would take a 503 for the end loses its connection instead', async () => {
      const agent = ['User-Agent', 'App/1 CFNetwork/1494.0.7 Darwin/23.4.0'] as const;
      const headers = [
        ...appendLines(dialect, { offset: 0, complete: true }),
        agent,
        ['Content-Length', '1000'] as const,
      ];
      const request = await openRequest('HTTP/1.1', entry.url, { method: 'PATCH', target: path, headers });
      await request.givenUp();
      await request.close();
    });

    test('web pages are still told what they may send', async () => {
      const headers = [
        ['Origin', 'https://app.example'],
        ['Access-Control-Request-Method', 'PATCH'],
      ] as const;
      const answer = await requestOnce(entry.url, { method: 'OPTIONS', target: path, headers });
      expect(answer.status).toBe(204);
    });
  });

  test.each(TRANSPORTS)('a node that stops within an append over %s ends its connection', async (by) => {
    const headers = appendLines(dialect, { offset: 0, complete: true });
    const request = await openRequest(by, entry.url, { method: 'PATCH', target: path, headers });
    await request.send('hello');
    await untilSpooled(owner.data, new URL(path, owner.url).href, 5);
    await owner.stop();
    await request.givenUp();
    await request.close();
  });

  test('two nodes that take each other for the owner do not play ball with a request', async () => {
    peers.cluster.nodes.set('third', { url: owner.peerUrl });
    const lease = await peers.cluster.leases.take(storedIdOf(path));
    await peers.cluster.store.move(storedIdOf(path), lease.token, 'third');
    await lease.release();
    // What answers at that address is no "third".
    expect((await head()).status).toBe(503);
    peers.cluster.nodes.set('third', { url: entry.peerUrl });
    expect((await head()).status).toBe(503);
  });

  test('a node that is leaving takes no new uploads, and goes on with those it has', async () => {
    owner.entry.refuseNewUploads();
    const headers = creationLines(dialect, { complete: false, length: 10 });
    const creation = await requestOnce(owner.url, { method: 'POST', target: '/files', headers, body: '' });
    expect([creation.status, creation.header('Retry-After')]).toEqual([503, '1']);
    const append = appendLines(dialect, { offset: 0, complete: true });
    const answer = await requestOnce(entry.url, {
      method: 'PATCH',
      target: path,
      headers: append,
      body: 'x'.repeat(1000),
    });
    expect(answer.status).toBe(200);
  });
});

describe('files that come late', () => {
  const BYTES = randomBytes(300_000);

  let nodes: MigrationNodes;
  beforeEach(async () => {
    nodes = await MigrationNodes.open(BYTES);
  });
  afterEach(() => nodes.close());

  /** A file on its way whose sender vanished without a word: the other node still waits for the rest. */
  async function halfOf(id: string, name: string, size: number): Promise<RawClient> {
    const headers = [
      ['Host', new URL(nodes.other.peerUrl).host],
      ['Content-Length', `${size}`],
    ] as const;
    const line = { method: 'PUT', target: formatPeerPath({ id, name }), headers };
    const signed = nodes.old.signature.sign({ kind: 'files', to: 'other' }, line);
    const client = await connect(nodes.other.peerUrl);
    await client.sendHead(line.method, line.target, [...headers, [PEER_FIELD, signed]]);
    await client.send(BYTES.subarray(0, size / 2));
    await until(async () => (await nodes.other.files()).length > 0, 'the beginning of the file');
    return client;
  }

  test('a file that never came to its end takes nothing with it that came after it', async () => {
    const path = await nodes.uploadWith(1000);
    const [file] = await nodes.old.files();
    const [id, name] = file!.split('/') as [string, string];
    let running = 0;
    nodes.other.onFiles = async (_, take) => {
      running++;
      await take();
      running--;
    };
    const lost = await halfOf(id, name, 1000);
    await nodes.done(nodes.old.startMoving());
    expect(await nodes.other.files()).toEqual([file]);
    lost.reset();
    await until(() => running === 0, 'the end of the file that was lost');
    expect(await nodes.other.files()).toEqual([file]);
    expect((await nodes.append(path, nodes.other, 1000)).status).toBe(200);
    expect(nodes.received('/files')).toEqual([{ size: BYTES.length, sum: sha256(BYTES) }]);
  });
});

describe('synced files', () => {
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
      { onRequest: () => undefined, onFiles: (exchange) => void files.respond(exchange) },
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
});
