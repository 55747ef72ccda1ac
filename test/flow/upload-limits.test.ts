import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { untilSpooled } from '../support/disk.js';
import { comparable, FEWER_VARIANTS, FlowClient } from '../support/flow-client.js';
import { ReceivingHarness, StoreReach } from '../support/upload-harness.js';
import { appendLines, clientDialect, creationLines, type ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { framed, receivedLines, replayedLines, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

describe('limits', () => {
  const LIMITS = 'max-size=100000, min-size=100, max-append-size=40000, min-append-size=1000';

  let proxy: TestProxy;

  beforeAll(async () => {
    const limits = '{ max_size: 100000, min_size: 100, max_append_size: 40000, min_append_size: 1000 }';
    proxy = await TestProxy.open({ config: `limits: ${limits}` });
  });

  afterAll(async () => {
    await proxy.close();
  });

  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
  const BYTES = randomBytes(120_000);

  describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
    const { order } = clientDialect(interop);
    const client = (): FlowClient => new FlowClient(proxy, transport, interop, LIMITS);
    const targetFor = (subject: string): string => `/limits/${subject}?seed=${seed}`;
    const tooLarge = { status: 413, limits: true };
    const tooSmall = { status: 400, limits: true };

    /** A body that does not say how long it will be. */
    async function sendUncounted(
      method: string,
      target: string,
      headers: Head,
      body: Uint8Array,
    ): Promise<WireResponse> {
      const request = await proxy.begin(transport, { method, target, headers });
      await request.send(body);
      await request.end();
      return request.readFinal();
    }

    test('a representation beyond max-size is refused before anything is kept, by either length', async () => {
      const { dialect, expected } = client();
      const target = targetFor('max-size');
      for (const creation of [
        { headers: creationLines(dialect, { complete: false, length: 100_001 }), body: '' },
        { headers: creationLines(dialect, { complete: true }), body: BYTES.subarray(0, 100_001) },
      ]) {
        const response = await client().send({ method: 'POST', target, ...creation });
        expect(comparable(response)).toEqual(expected.refused(tooLarge));
        expect(response.interims).toEqual([]);
      }
      expect(proxy.requestsFor(target)).toEqual([]);
    });

    test('bytes beyond max-size that nobody had announced end the upload', async () => {
      const { expected } = client();
      const target = targetFor('uncounted');
      const upload = await client().place({ target, length: undefined });
      for (const offset of [0, 40_000]) {
        const body = BYTES.subarray(offset, offset + 40_000);
        expect(comparable(await upload.append(body, { offset, complete: false }))).toEqual(
          expected.appended(offset + 40_000),
        );
      }
      const headers = appendLines(client().dialect, { offset: 80_000, complete: true });
      const response = await sendUncounted('PATCH', upload.target, headers, BYTES.subarray(80_000, 101_000));
      expect(comparable(response)).toEqual(expected.refused(tooLarge));
      expect(comparable(await upload.retrieve())).toEqual(expected.unknownToHead('gone'));
      expect(proxy.requestsFor(target)).toEqual([]);
    });

    test('an append beyond max-append-size is refused, whether it says so or not, and the upload stays', async () => {
      const { expected, dialect } = client();
      const target = targetFor('max-append-size');
      const upload = await client().place({ target, length: 50_000 });
      const known = await upload.append(BYTES.subarray(0, 40_001), { offset: 0, complete: false });
      expect(comparable(known)).toEqual(expected.refused({ ...tooLarge, offset: 0 }));
      const headers = appendLines(dialect, { offset: 0, complete: false });
      const uncounted = await sendUncounted('PATCH', upload.target, headers, BYTES.subarray(0, 45_000));
      expect(comparable(uncounted)).toEqual(expected.refused({ ...tooLarge, offset: 40_000 }));
      const answer = await upload.append(BYTES.subarray(40_000, 50_000), { offset: 40_000, complete: true });
      expect(comparable(answer)).toEqual(expected.answered(OK, 50_000));
      expect(proxy.requestsFor(target)).toMatchObject([{ sha256: sha256(BYTES.subarray(0, 50_000)) }]);
    });

    test('an append below min-append-size is refused, whether it says so or not, unless it is the last', async () => {
      const { expected, dialect } = client();
      const target = targetFor('min-append-size');
      const upload = await client().place({ target, length: undefined });
      const known = await upload.append(BYTES.subarray(0, 999), { offset: 0, complete: false });
      expect(comparable(known)).toEqual(expected.refused({ ...tooSmall, offset: 0 }));
      const headers = appendLines(dialect, { offset: 0, complete: false });
      const uncounted = await sendUncounted('PATCH', upload.target, headers, BYTES.subarray(0, 999));
      expect(comparable(uncounted)).toEqual(expected.refused({ ...tooSmall, offset: 0 }));
      expect(comparable(await upload.retrieve())).toEqual(expected.retrieved(0, { complete: false }));
      const answer = await upload.append(BYTES.subarray(0, 999), { offset: 0, complete: true });
      expect(comparable(answer)).toEqual(expected.answered(OK, 999));
      expect(proxy.requestsFor(target)).toMatchObject([{ sha256: sha256(BYTES.subarray(0, 999)) }]);
    });

    test('limits on appends hold for the content of a creation from interop 9 on', async () => {
      const { expected, dialect } = client();
      const more = { target: targetFor('creation'), headers: creationLines(dialect, { complete: false }) };
      const large = await client().send({ method: 'POST', ...more, body: BYTES.subarray(0, 40_001) });
      const small = await client().send({ method: 'POST', ...more, body: BYTES.subarray(0, 999) });
      if (order >= 9) {
        expect(comparable(large)).toEqual(expected.refused(tooLarge));
        expect(comparable(small)).toEqual(expected.refused(tooSmall));
        return;
      }
      expect(comparable(large)).toEqual(expected.created(large.header('Location')!, 40_001));
      expect(comparable(small)).toEqual(expected.created(small.header('Location')!, 999));
    });

    test('a representation below min-size passes through if it is whole, and is an upload if more is to come', async () => {
      const { expected, dialect } = client();
      const target = targetFor('min-size');
      const whole = creationLines(dialect, { complete: true });
      const passed = await client().send({ method: 'POST', target, headers: whole, body: BYTES.subarray(0, 99) });
      expect(passed).toMatchObject({ status: 200, interims: [] });
      expect(passed.headerLines.filter(([name]) => /^upload-|^location$/i.test(name))).toEqual([]);
      const [received] = proxy.requestsFor(target);
      expect(received).toMatchObject({ size: 99, sha256: sha256(BYTES.subarray(0, 99)) });
      for (const [name, value] of whole) expect(received!.header(name)).toBe(value);
      const headers = creationLines(dialect, { complete: false, length: 99 });
      const response = await client().send({ method: 'POST', target, headers, body: '' });
      expect(comparable(response)).toEqual(expected.created(response.header('Location')!, 0));
      expect(proxy.requestsFor(target)).toHaveLength(1);
    });

    test('an upload within its limits is told them all', async () => {
      const bytes = BYTES.subarray(0, 30_000);
      const target = targetFor('within');
      const { request, upload }: { request: unknown; upload: ResumableUpload } = await client().begin({
        target,
        length: bytes.length,
      });
      expect(request).toBeDefined();
      expect(comparable(await upload.retrieve())).toEqual(
        client().expected.retrieved(0, { complete: false, length: bytes.length }),
      );
    });
  });

  type Head = ReturnType<typeof creationLines>;
});

describe('digests', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
  const BYTES = randomBytes(30_000, 7);

  function digest(bytes: Uint8Array, algorithm: 'sha-256' | 'sha-512' = 'sha-256'): string {
    return `${algorithm}=:${createHash(algorithm.replace('-', '')).update(bytes).digest('base64')}:`;
  }

  describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
    const client = (): FlowClient => new FlowClient(proxy, transport, interop);
    const targetFor = (subject: string): string => `/digests/${subject}?seed=${seed}`;

    test('content that does not match its digest does not count, and can be sent again', async () => {
      const { expected } = client();
      const target = targetFor('content');
      const upload = await client().place({ target, length: BYTES.length });
      const first = BYTES.subarray(0, 10_000);
      const good: HeaderLine = ['Content-Digest', `${digest(first)}, ${digest(first, 'sha-512')}`];
      const wrong: HeaderLine = ['Content-Digest', digest(BYTES)];
      const refusal = { status: 400, limits: true };
      const step = { offset: 0, complete: false };
      expect(comparable(await upload.append(first, step, [wrong]))).toEqual(
        expected.refused({ ...refusal, offset: 0 }),
      );
      expect(await upload.offset()).toBe(0);
      expect(comparable(await upload.append(first, step, [good]))).toEqual(expected.appended(10_000));
      const rest = BYTES.subarray(10_000);
      const last = { offset: 10_000, complete: true };
      expect(comparable(await upload.append(rest, last, [wrong]))).toEqual(
        expected.refused({ ...refusal, offset: 10_000 }),
      );
      expect(proxy.requestsFor(target)).toEqual([]);
      const answer = await upload.append(rest, last, [['Content-Digest', digest(rest, 'sha-512')]]);
      expect(comparable(answer)).toEqual(expected.answered(OK, BYTES.length));
      expect(proxy.requestsFor(target)).toMatchObject([{ sha256: sha256(BYTES) }]);
      expect(proxy.requestsFor(target)[0]!.header('Content-Digest')).toBeUndefined();
    });

    test('content with a digest that breaks off cannot be checked: what came of it is kept', async () => {
      const target = targetFor('cut');
      const upload = await client().place({ target, length: BYTES.length });
      const part = await proxy.begin(transport, {
        method: 'PATCH',
        target: upload.target,
        headers: [
          ...appendLines(client().dialect, { offset: 0, complete: true }),
          ['Content-Digest', digest(BYTES)],
          ['Content-Length', `${BYTES.length}`],
        ],
      });
      await part.send(BYTES.subarray(0, 9000));
      await untilSpooled(proxy.app.data, upload.url, 9000);
      part.leave('reset');
      expect(await upload.offset()).toBe(9000);
      const answer = await upload.append(BYTES.subarray(9000), { offset: 9000, complete: true });
      expect(comparable(answer)).toEqual(client().expected.answered(OK, BYTES.length));
    });

    test('a creation whose content does not match its digest leaves an upload of nothing', async () => {
      const { expected, dialect } = client();
      const target = targetFor('creation');
      const lines: HeaderLine[] = [['Content-Digest', digest(randomBytes(5))]];
      const headers = [...creationLines(dialect, { complete: true }), ...lines];
      const response = await client().send({ method: 'POST', target, headers, body: BYTES });
      expect(comparable(response)).toEqual(expected.refused({ status: 400, limits: true, offset: 0 }));
      const url = response.interims[0]?.header('Location') ?? '';
      expect(response.interims.map((interim) => comparable(interim))).toEqual(expected.interims(url));
      expect(proxy.requestsFor(target)).toEqual([]);
      if (url === '') return;
      const answer = await client().at(url).append(BYTES, { offset: 0, complete: true });
      expect(comparable(answer)).toEqual(expected.answered(OK, BYTES.length));
    });

    test('a representation that matches its digest, over several requests and a cut, reaches the origin with it', async () => {
      const { expected, dialect } = client();
      const target = targetFor('representation');
      const lines: HeaderLine[] = [
        ['Repr-Digest', `${digest(BYTES)}, xxh64=:AAAAAAAAAAA=:, ${digest(BYTES, 'sha-512')}`],
      ];
      const { request, upload } = await client().begin({ target, lines, length: BYTES.length });
      await request.send(BYTES.subarray(0, 11_111));
      await untilSpooled(proxy.app.data, upload.url, 11_111);
      request.leave('reset');
      const part = { offset: await upload.offset(), complete: false };
      expect(comparable(await upload.append(BYTES.subarray(part.offset, 22_222), part))).toEqual(
        expected.appended(22_222),
      );
      const headers = [...appendLines(dialect, { offset: 22_222, complete: true }), ...lines];
      const last = { method: 'PATCH', target: upload.target, headers, body: BYTES.subarray(22_222) };
      expect(comparable(await client().send(last))).toEqual(expected.answered(OK, BYTES.length));
      const [received] = proxy.requestsFor(target);
      const sent = { host: proxy.host, lines, length: BYTES.length };
      expect(receivedLines(received!)).toEqual(replayedLines(transport, sent));
    });

    test('a representation that does not match its digest never reaches the origin, and the upload is gone', async () => {
      const { expected } = client();
      const target = targetFor('wrong-representation');
      const lines: HeaderLine[] = [['Repr-Digest', digest(randomBytes(5), 'sha-512')]];
      const upload = await client().place({ target, lines, length: BYTES.length });
      const answer = await upload.append(BYTES, { offset: 0, complete: true });
      expect(comparable(answer)).toEqual(expected.refused({ status: 400, limits: true }));
      expect(comparable(await upload.retrieve())).toEqual(expected.unknownToHead('gone'));
      expect(proxy.requestsFor(target)).toEqual([]);
    });

    test('a digest that is none is refused before anything is kept', async () => {
      const { expected, dialect } = client();
      for (const [subject, line] of Object.entries({
        syntax: ['Content-Digest', 'sha-256=abc'],
        size: ['Repr-Digest', 'sha-256=:YWJj:'],
      } as const)) {
        const headers = [...creationLines(dialect, { complete: true }), line];
        const response = await client().send({ method: 'POST', target: targetFor(subject), headers, body: 'abc' });
        expect(comparable(response)).toEqual(expected.refused({ status: 400, limits: true }));
        expect(response.interims).toEqual([]);
        expect(proxy.requestsFor(targetFor(subject))).toEqual([]);
      }
    });

    test('a digest of what is here is told to whoever wants one', async () => {
      const { expected, dialect } = client();
      const target = targetFor('wanted');
      proxy.answer(target, { status: 201, headers: [['Location', '/files/1']] });
      const half = BYTES.subarray(0, 15_000);
      const headers = [
        ...creationLines(dialect, { complete: false }),
        ['Want-Repr-Digest', 'sha-256=3, sha-512=10'] as const,
      ];
      const created = await client().send({ method: 'POST', target, headers, body: half });
      const url = created.header('Location')!;
      expect(comparable(created)).toEqual(expected.created(url, 15_000, [['Repr-Digest', digest(half, 'sha-512')]]));
      const upload = client().at(url);
      expect((await upload.retrieve()).header('Repr-Digest')).toBe(digest(half, 'sha-512'));
      const more = BYTES.subarray(0, 20_000);
      const appended = await upload.append(more.subarray(15_000), { offset: 15_000, complete: false });
      expect(comparable(appended)).toEqual(expected.appended(20_000, [['Repr-Digest', digest(more, 'sha-512')]]));
      const answer = await upload.append(BYTES.subarray(20_000), { offset: 20_000, complete: true });
      expect(answer.header('Repr-Digest')).toBe(digest(BYTES, 'sha-512'));
      expect(answer.status).toBe(201);
    });
  });
});

describe('the hashes of an upload', () => {
  let harness: ReceivingHarness;
  beforeEach(async () => void (harness = await ReceivingHarness.open({ reach: new StoreReach() })));
  afterEach(async () => {
    useFileSystem();
    await harness.close();
  });

  const WANTED = { wantedReprDigest: 'sha-256' } as const;
  /** So many uploads have running hashes at most. */
  const UPLOADS = 256;

  test('are forgotten when it is complete: what is still received need not be read again', async () => {
    const id = await harness.empty(WANTED);
    await harness.send(id, 'hello');
    for (let count = 0; count < UPLOADS; count++)
      await harness.send(await harness.empty(WANTED), 'x', { complete: true });
    let reads = 0;
    useFileSystem({
      ...nodeFileSystem,
      read: (...read) => (reads++, nodeFileSystem.read(...read)),
      readv: (...read) => (reads++, nodeFileSystem.readv(...read)),
    });
    expect(await harness.send(id, ' world', { offset: 5 })).toMatchObject({
      kind: 'appended',
      reprDigest: { value: sha256('hello world') },
    });
    expect(reads).toBe(0);
  });
});
