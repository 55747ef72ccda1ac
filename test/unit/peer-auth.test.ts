import { type AddressInfo, createServer, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { beforeEach, describe, expect, test } from '@jest/globals';
import { LostNodes } from '../../src/cluster/lost-nodes.js';
import { FileRefused, PeerFilesClient } from '../../src/cluster/peer-files.js';
import { Fault } from '../../src/model/fault.js';
import type { Headers } from '../../src/model/headers.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { type PeerClaim, PeerSignature } from '../../src/proxy/peer-auth.js';
import type { Lease } from '../../src/store/leases.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { neverAborted, REQUEST } from '../support/delivery-harness.js';
import { FakeNodes } from '../support/fake-admin.js';
import { startRawOrigin } from '../support/raw-origin.js';
import { makeCertificate, within } from '../support/temporary.js';
import { CLIENT_FACTS } from '../support/test-listener.js';

describe('signatures', () => {
  const NOW = 1_800_000_000_000;
  const HEADERS: Headers = [
    ['Host', 'files.example'],
    ['Content-Length', '4'],
  ];
  const LINE = { method: 'PATCH', target: '/.uploads/abc', headers: HEADERS };
  const CLAIM: PeerClaim = { kind: 'request', to: 'b', client: CLIENT_FACTS };

  const sender = new PeerSignature('secret', 'a', () => NOW);

  /** One that began long before `now`. */
  function receiver(now = NOW, secret = 'secret', most?: number): PeerSignature {
    let clock = now - 3_600_000;
    const made = new PeerSignature(secret, 'b', () => clock, most);
    clock = now;
    return made;
  }

  const VALUE = sender.sign(CLAIM, LINE);

  /** The value with one of its parts made of something else. */
  function having(part: number, text: string): string {
    return VALUE.split('.')
      .map((was, at) => (at === part ? text : was))
      .join('.');
  }

  function encoded(claim: unknown): string {
    return Buffer.from(JSON.stringify(claim)).toString('base64url');
  }

  test('what one node signs another believes, word for word', () => {
    expect(receiver().verify(VALUE, LINE)).toEqual(CLAIM);
    expect(receiver().verify(sender.sign({ kind: 'files', to: 'b' }, LINE), LINE)).toEqual({ kind: 'files', to: 'b' });
  });

  test('it is fit for a header field', () => {
    const strange = { ...CLAIM, client: { ...CLIENT_FACTS, authority: 'ü\r\nX: 1' } };
    expect(sender.sign(strange, LINE)).toMatch(/^[\w.-]+$/);
  });

  test.each([-29_000, 0, 29_000])('clocks may differ by %d ms', (apartMs) => {
    expect(receiver(NOW + apartMs).verify(VALUE, LINE)).toEqual(CLAIM);
  });

  test.each([-31_000, 31_000])('what is %d ms away is too old, or too new', (apartMs) => {
    expect(receiver(NOW + apartMs).verify(VALUE, LINE)).toBe('old');
  });

  describe('not believed is', () => {
    test('nothing', () => {
      expect(receiver().verify(undefined, LINE)).toBe('unsigned');
    });

    test.each([
      ['another method', { ...LINE, method: 'DELETE' }],
      ['another target', { ...LINE, target: '/.uploads/abd' }],
      ['a target that begins in the method', { ...LINE, method: 'PATCH\n/.uploads/abc', target: '' }],
      ['another length', { ...LINE, headers: [HEADERS[0]!, ['Content-Length', '5'] as const] }],
      ['no length', { ...LINE, headers: [HEADERS[0]!] }],
      ['another framing', { ...LINE, headers: [HEADERS[0]!, ['Transfer-Encoding', 'chunked'] as const] }],
      ['one more field', { ...LINE, headers: [...HEADERS, ['Upload-Complete', '?1'] as const] }],
      ['another order of the same field', { ...LINE, headers: [...HEADERS].reverse() }],
    ])('a signature for %s', (_, line) => {
      expect(receiver().verify(VALUE, line)).toBe('forged');
    });

    test.each([
      ['a newer time', having(1, `${NOW + 1}`)],
      ['another nonce', having(2, 'A'.repeat(16))],
      ['another claim', having(3, encoded({ ...CLAIM, client: { ...CLIENT_FACTS, authority: 'evil.example' } }))],
      ['another signature', having(4, 'A'.repeat(43))],
      ['no signature', having(4, '')],
      ['a shorter signature', having(4, VALUE.split('.')[4]!.slice(0, 40))],
      ['two of them', `${VALUE}, ${VALUE}`],
      ['nothing of the kind', 'refused'],
      ['the empty value', ''],
    ])('one with %s', (_, value) => {
      expect(receiver().verify(value, LINE)).toBe('forged');
    });

    test('one made with another secret', () => {
      expect(receiver(NOW, 'another').verify(VALUE, LINE)).toBe('forged');
    });

    test('one for another node', () => {
      expect(receiver().verify(sender.sign({ kind: 'files', to: 'c' }, LINE), LINE)).toBe('misdirected');
    });
  });

  // Issue 9, §5: replays.
  describe('believed once', () => {
    test('is a signature, also within the time in which clocks may differ', () => {
      let now = NOW - 3_600_000;
      const owner = new PeerSignature('secret', 'b', () => now);
      for (const at of [NOW, NOW + 29_000]) {
        now = at;
        expect(owner.verify(VALUE, LINE)).toEqual(at === NOW ? CLAIM : 'replayed');
      }
      now = NOW + 31_000;
      expect(owner.verify(VALUE, LINE)).toBe('old');
    });

    test('is a signature for all of the time in which it would be believed, which is twice that', () => {
      let now = NOW - 3_600_000;
      const owner = new PeerSignature('secret', 'b', () => now);
      const early = new PeerSignature('secret', 'a', () => now + 29_000);
      now = NOW;
      expect(owner.verify(sender.sign(CLAIM, LINE), LINE)).toEqual(CLAIM);
      now = NOW + 59_000;
      const value = early.sign(CLAIM, LINE);
      expect(owner.verify(value, LINE)).toEqual(CLAIM);
      // Others come meanwhile, by which what is older is forgotten.
      for (const at of [61_000, 87_000, 117_000]) {
        now = NOW + at;
        expect(owner.verify(early.sign(CLAIM, LINE), LINE)).toEqual(CLAIM);
        expect(owner.verify(value, LINE)).toBe('replayed');
      }
      now = NOW + 119_000;
      expect(owner.verify(value, LINE)).toBe('old');
    });

    test('is what was signed after the receiver began: it does not know what was used before', () => {
      expect(new PeerSignature('secret', 'b', () => NOW + 1).verify(VALUE, LINE)).toBe('old');
    });

    test('are as many as can be remembered, and no more', () => {
      const owner = receiver(NOW, 'secret', 2);
      const verdicts = [1, 2, 3].map(() => owner.verify(sender.sign(CLAIM, LINE), LINE));
      expect(verdicts).toEqual([CLAIM, CLAIM, 'busy']);
    });
  });

  test.each(['1', '3', '10'])('a signature of version %s is told apart from a forged one', (version) => {
    expect(receiver().verify(having(0, version), LINE)).toBe('version');
  });

  test('lines of the connection may change on the way', () => {
    const headers: Headers = [...HEADERS, ['Connection', 'keep-alive']];
    expect(receiver().verify(VALUE, { ...LINE, headers })).toEqual(CLAIM);
  });
});

describe('files of other nodes', () => {
  test('a node that no connection comes to be with is given up long before one that is slow', async () => {
    // Nobody speaks TLS there, as with a machine that says nothing at all.
    const sockets: Socket[] = [];
    const server = createServer((socket) => void sockets.push(socket));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const { cert, key } = makeCertificate();
    const signature = new PeerSignature('a secret of all nodes', 'old', Date.now);
    const files = new PeerFilesClient({ signature, tls: { cert, key, ca: cert }, connectTimeoutMs: 20 });
    const node = { name: 'other', url, silentMs: 0, isLeaving: false };
    const put = files.put(
      node,
      { id: 'a'.repeat(32), name: 'c' },
      5,
      Readable.from([Buffer.from('hello')]),
      neverAborted(),
    );
    await expect(put).rejects.toThrow('no connection in time');
    await expect(put).rejects.toBeInstanceOf(FileRefused);
    files.close();
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });

  test('what another node says before it has the whole file is taken at once', async () => {
    const other = await startRawOrigin(async (exchange) => {
      await exchange.respond({ status: 507 });
      await exchange.closed;
    });
    const files = new PeerFilesClient({ signature: new PeerSignature('a secret of all nodes', 'old', Date.now) });
    const node = { name: 'other', url: other.url, silentMs: 0, isLeaving: false };
    const body = Readable.from(Array.from({ length: 64 }, () => Buffer.alloc(1024 * 1024)));
    const put = files.put(node, { id: 'a'.repeat(32), name: 'c' }, 64 * 1024 * 1024, body, neverAborted());
    await expect(within(put, 'the answer')).rejects.toThrow('it answered 507');
    files.close();
    await other.close();
  });
});

describe('lost nodes', () => {
  const OWNER_TIMEOUT_MS = 60_000;

  let nodes: FakeNodes;
  let now: number;
  let isStoreUnavailable: boolean;
  let uploads: Map<string, Partial<Upload>>;
  /** Runs when an upload of the node is about to be forgotten. */
  let beforeEnd: () => void;
  let gone: LostNodes;

  beforeEach(() => {
    nodes = new FakeNodes();
    nodes.set('heir', {});
    nodes.set('other', { silentMs: 0 });
    now = 1_000_000;
    isStoreUnavailable = false;
    const known = { request: REQUEST, attempts: [], node: 'other', phase: 'receiving' } as const;
    uploads = new Map(['a', 'b'].map((id) => [id, { ...known, id }]));
    beforeEnd = () => undefined;
    gone = new LostNodes({
      self: 'heir',
      nodes: {
        all: () => (isStoreUnavailable ? Promise.reject(new Fault('STORE_UNAVAILABLE', 'away', true)) : nodes.all()),
        find: (name) => nodes.find(name),
        forget: (name) => nodes.forget(name),
      },
      leases: { take: () => Promise.resolve({ token: 1, release: () => Promise.resolve() } as Lease), drain: () => {} },
      storeOf: () => storeOfOther() as UploadStore,
      mayCheckLostNodes: () => Promise.resolve(true),
      ownerTimeoutMs: OWNER_TIMEOUT_MS,
      clock: Date.now,
      monotonic: () => now,
      metrics: new Metrics(),
      log: silentLog(),
    });
  });

  function storeOfOther(): Partial<UploadStore> {
    return {
      expired: () => Promise.resolve([...uploads.keys()]),
      get: (id) => {
        beforeEnd();
        return Promise.resolve(uploads.get(id) as Upload | undefined);
      },
      invalidate: (id) => Promise.resolve(uploads.get(id) as Upload),
      remove: (id) => Promise.resolve(void uploads.delete(id)),
      close: () => Promise.resolve(),
    };
  }

  /** As much time as the interval between two looks. */
  async function lookAfter(ms: number): Promise<void> {
    now += ms;
    await gone.check().catch((error: unknown) => {
      if (!(error instanceof Fault)) throw error;
    });
  }

  async function watchFor(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 15_000) await lookAfter(15_000);
  }

  describe('a node that has been silent for longer than the owner timeout', () => {
    test('is forgotten with its uploads by one that has looked on all the time', async () => {
      await watchFor(OWNER_TIMEOUT_MS + 15_000);
      nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
      await lookAfter(15_000);
      await lookAfter(15_000);
      expect([uploads.size, await nodes.find('other')]).toEqual([0, undefined]);
    });

    test('is given the time to say something after Redis has come back with what it knew long ago', async () => {
      await watchFor(OWNER_TIMEOUT_MS + 15_000);
      nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
      await lookAfter(15_000);
      nodes.set('other', { silentMs: 0 });
      await lookAfter(15_000);
      nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
      await lookAfter(15_000);
      expect(uploads.size).toBe(2);
    });

    test('is given time after the store was away: nobody could be heard meanwhile', async () => {
      await watchFor(OWNER_TIMEOUT_MS + 15_000);
      isStoreUnavailable = true;
      await watchFor(OWNER_TIMEOUT_MS);
      isStoreUnavailable = false;
      nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
      await lookAfter(15_000);
      expect(uploads.size).toBe(2);
      await watchFor(OWNER_TIMEOUT_MS);
      expect(uploads.size).toBe(0);
    });

    test('is given time by one that has just started, or was stopped for a while', async () => {
      nodes.set('other', { silentMs: 10 * OWNER_TIMEOUT_MS });
      await watchFor(OWNER_TIMEOUT_MS / 2);
      await lookAfter(OWNER_TIMEOUT_MS);
      await watchFor(OWNER_TIMEOUT_MS / 2);
      expect(uploads.size).toBe(2);
    });

    test('keeps what is left when it comes back in the middle', async () => {
      await watchFor(OWNER_TIMEOUT_MS + 15_000);
      nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
      beforeEnd = () => nodes.set('other', { silentMs: 0 });
      await lookAfter(15_000);
      await lookAfter(15_000);
      expect([uploads.size, await nodes.find('other')]).toEqual([1, expect.objectContaining({ silentMs: 0 })]);
    });

    test('has no say about an upload that another node has by now', async () => {
      await watchFor(OWNER_TIMEOUT_MS + 15_000);
      nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
      uploads.set('a', { id: 'a', node: 'third', phase: 'receiving' });
      await lookAfter(15_000);
      await lookAfter(15_000);
      expect([...uploads.keys()]).toEqual(['a']);
    });
  });
});
