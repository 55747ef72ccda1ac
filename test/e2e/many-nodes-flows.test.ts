import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { comparable, FEWER_VARIANTS, FlowClient, REPRESENTATIVES, VARIANTS } from '../support/flow-client.js';
import { openNodes, SETS, type TestNodes } from '../support/nodes.js';
import type { ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, seededRandom, sha256 } from '../support/temporary.js';
import { framed, type TestProxy } from '../support/test-proxy.js';
import { only } from '../support/thoroughness.js';

/** End-to-end lines of the client, which its origin is to get whatever node had them. */
const OWN_LINES: readonly HeaderLine[] = [
  ['authorization', 'Bearer t0ken'],
  ['x-twice', 'a'],
  ['x-twice', 'b, c'],
  ['content-type', 'image/png'],
  ['cookie', 'a=1; b=2'],
];
const ANSWER = { status: 201, lines: [['X-Answer', 'one'] as const, ['Location', '/files/9'] as const], body: 'made' };
const RELAYED = { ...ANSWER, lines: framed(ANSWER.lines, ANSWER.body) };
/** `delivery.keep_answer`: the rest of an answered upload's life. */
const KEPT = { maxAgeSeconds: 3600 };

describe.each(SETS)('$nodes nodes with bytes that are $bytes', ({ nodes: count, bytes: place }) => {
  let proxy: TestProxy;
  let nodes: TestNodes;

  beforeAll(async () => {
    ({ proxy, nodes } = await openNodes({ nodes: count, bytes: place }));
  });

  afterAll(() => proxy.close());

  function expectOneRequest(target: string, bytes: Buffer): void {
    const [request, ...others] = proxy.requestsFor(target);
    expect(others).toEqual([]);
    expect(request).toMatchObject({ method: 'POST', size: bytes.length, sha256: sha256(bytes), trailers: [] });
    const names = OWN_LINES.map(([name]) => name);
    const own = request!.headers.filter(([name]) => names.includes(name.toLowerCase()));
    expect(own.map(([name, value]) => [name.toLowerCase(), value])).toEqual(OWN_LINES);
    expect(request!.header('content-length')).toBe(`${bytes.length}`);
    expect(request!.header('host')).toBe(proxy.host);
  }

  // What is said does not depend on how many nodes there are; `test/flow/upload-cut` has every dialect with one.
  describe.each(only(count === 2 ? VARIANTS : FEWER_VARIANTS, ({ interop }) => REPRESENTATIVES.includes(interop)))(
    'over $transport, interop $interop',
    (variant) => {
      const { transport, interop, seed } = variant;
      const random = seededRandom(seed + count);
      const bytes = randomBytes(50_000 + Math.floor(random() * 100_000), seed);
      const { length } = bytes;

      async function createAndCut(client: FlowClient, target: string, cutAt: number): Promise<ResumableUpload> {
        proxy.answer(target, { status: ANSWER.status, headers: ANSWER.lines, body: ANSWER.body });
        const { request, upload } = await client.begin({ target, lines: OWN_LINES, length });
        await request.send(bytes.subarray(0, cutAt));
        await nodes.untilSpooled(upload, cutAt);
        request.leave(random() < 0.5 ? 'end' : 'reset');
        return upload;
      }

      test('an upload that was cut goes on at another node each time, and its origin gets one request', async () => {
        const client = new FlowClient(proxy, transport, interop);
        const { expected } = client;
        const target = `/files/cut-${count}-${place}-${seed}`;
        const cutAt = 1 + Math.floor(random() * (length - 1));
        const upload = await createAndCut(client, target, cutAt);
        const retrieved = await upload.retrieve();
        expect(comparable(retrieved)).toEqual(expected.retrieved(cutAt, { complete: false, length }));
        const middle = cutAt + Math.floor((length - cutAt) / 2);
        const part = await upload.append(bytes.subarray(cutAt, middle), { offset: cutAt, complete: false });
        expect(comparable(part)).toEqual(expected.appended(middle));
        expect(proxy.requestsFor(target)).toEqual([]);
        const answer = await upload.append(bytes.subarray(middle), { offset: middle, complete: true });
        expect(comparable(answer)).toEqual(expected.answered(RELAYED, length));
        expect([...retrieved.interims, ...part.interims, ...answer.interims]).toEqual([]);
        expectOneRequest(target, bytes);
        expect(comparable(await upload.retrieve(), KEPT)).toEqual(
          expected.retrieved(length, { complete: true, length }),
        );
        // A client that is not told where to go on begins with a request of its own for it.
        await nodes.expectSpread(upload, target, client.dialect.version === undefined ? 6 : 5);
      });

      test('an upload that is cancelled at another node is gone everywhere', async () => {
        const client = new FlowClient(proxy, transport, interop);
        const target = `/files/cancelled-${count}-${place}-${seed}`;
        const upload = await createAndCut(client, target, 1000);
        expect(comparable(await upload.cancel())).toEqual(client.expected.cancelled());
        for (let at = 0; at < count; at++) {
          expect(comparable(await upload.retrieve())).toEqual(client.expected.unknownToHead());
          const append = await upload.append('x', { offset: 1000, complete: false });
          expect(comparable(append)).toEqual(client.expected.unknown());
        }
        expect(proxy.requestsFor(target)).toEqual([]);
      });
    },
  );
});
