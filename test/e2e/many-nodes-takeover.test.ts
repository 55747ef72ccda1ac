import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type OpenRequest, TRANSPORTS } from '../support/client.js';
import { comparable, FlowClient } from '../support/flow-client.js';
import { openNodes, SETS, type TestNodes } from '../support/nodes.js';
import { progressOf, type ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { framed, type TestProxy } from '../support/test-proxy.js';

const BYTES = randomBytes(60_000);
const { length } = BYTES;
const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
/** What a dead writer sends when it wakes up: bytes that are in no file. */
const LATE = Buffer.alloc(5000, 0xff);

const PAIRS = TRANSPORTS.flatMap((dead) => TRANSPORTS.map((alive) => ({ dead, alive })));

describe.each(SETS)('$nodes nodes with bytes that are $bytes', ({ nodes: count, bytes }) => {
  let proxy: TestProxy;
  let nodes: TestNodes;

  beforeAll(async () => {
    ({ proxy, nodes } = await openNodes({ nodes: count, bytes }));
  });

  afterAll(() => proxy.close());

  /** An append that has brought `arrived` bytes from `offset` on and then says nothing. */
  async function stall(
    client: FlowClient,
    upload: ResumableUpload,
    { offset = 0, arrived }: { offset?: number; arrived: number },
  ): Promise<OpenRequest> {
    const request = await client.append(upload, { offset, complete: true, bytes: length - offset });
    if (arrived > 0) await request.send(BYTES.subarray(offset, offset + arrived));
    await nodes.untilSpooled(upload, offset + arrived);
    return request;
  }

  function expectWhole(target: string): void {
    const requests = proxy.requestsFor(target).map(({ size, sha256: sum }) => ({ size, sum }));
    expect(requests).toEqual([{ size: length, sum: sha256(BYTES) }]);
  }

  describe.each(PAIRS)('an append stalls at one node over $dead, its client is back at another over $alive', (pair) => {
    const name = `${count}-${bytes}-${pair.dead}-${pair.alive}`.replaceAll('/', '-');
    const before = (): FlowClient => new FlowClient(proxy, pair.dead, '10');
    const after = (): FlowClient => new FlowClient(proxy, pair.alive, '10');

    test('HEAD ends it, its offset is taken by the next append, and what comes late does not count', async () => {
      const target = `/takeover/head-${name}`;
      const upload = await before().place({ target, length });
      const stalled = await stall(before(), upload, { arrived: 21_000 });
      const client = after();
      const retrieved = await client.at(upload.url).retrieve();
      await stalled.send(LATE).catch(() => undefined);
      expect(comparable(retrieved)).toEqual(client.expected.retrieved(21_000, { complete: false, length }));
      const answer = await client.at(upload.url).append(BYTES.subarray(21_000), { offset: 21_000, complete: true });
      expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
      await stalled.givenUp();
      expectWhole(target);
    });

    test('an append that guesses where the stalled one began is told where it stands now', async () => {
      const target = `/takeover/guess-${name}`;
      const upload = await before().place({ target, length });
      await stall(before(), upload, { arrived: 8000 });
      const client = after();
      const refused = await client.at(upload.url).append(BYTES, { offset: 0, complete: true });
      expect(refused.status).toBe(409);
      expect(progressOf(client.dialect, refused)).toMatchObject({ offset: 8000, complete: false });
      const answer = await client.at(upload.url).append(BYTES.subarray(8000), { offset: 8000, complete: true });
      expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
      expectWhole(target);
    });

    test('DELETE ends it, and nothing is left of the upload', async () => {
      const target = `/takeover/delete-${name}`;
      const upload = await before().place({ target, length });
      const stalled = await stall(before(), upload, { arrived: 30_000 });
      const client = after();
      expect(comparable(await client.at(upload.url).cancel())).toEqual(client.expected.cancelled());
      await stalled.send(LATE).catch(() => undefined);
      expect((await client.at(upload.url).retrieve()).status).toBe(404);
      await nodes.untilGone(upload);
      expect(proxy.requestsFor(target)).toEqual([]);
    });

    test('a creation that stalls is ended by HEAD as well', async () => {
      const target = `/takeover/creation-${name}`;
      const { request, upload } = await before().begin({ target, length });
      await request.send(BYTES.subarray(0, 17_000));
      await nodes.untilSpooled(upload, 17_000);
      const client = after();
      const retrieved = await client.at(upload.url).retrieve();
      expect(comparable(retrieved)).toEqual(client.expected.retrieved(17_000, { complete: false, length }));
      const answer = await client.at(upload.url).append(BYTES.subarray(17_000), { offset: 17_000, complete: true });
      expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
      expectWhole(target);
    });

    test('of two appends that race for the same offset at most one is taken, and no byte of the other', async () => {
      const target = `/takeover/race-${name}`;
      const upload = await before().place({ target, length });
      for (let offset = 0; offset < length; offset = await upload.offset()) {
        const part = BYTES.subarray(offset, offset + 12_000);
        const step = { offset, complete: offset + part.length === length, bytes: part.length };
        const racers = await Promise.all([before().append(upload, step), after().append(upload, step)]);
        await Promise.all(racers.map((racer) => racer.send(part).catch(() => undefined)));
        await Promise.all(racers.map((racer) => racer.end().catch(() => undefined)));
        const ends = await Promise.all(racers.map(endOf));
        // Whoever comes second to the end may repeat it and be given the same answer, or come when all is answered.
        const allowed = step.complete ? [200, 400, 409, 'given up'] : [204, 409, 'given up'];
        expect(ends.filter((end) => !allowed.includes(end))).toEqual([]);
        expect(ends.filter((end) => end === 204).length).toBeLessThan(2);
      }
      expectWhole(target);
    });
  });

  test('offsets are asked for at all nodes in the middle of an upload, and it goes on every time', async () => {
    const target = `/takeover/twenty-${count}-${bytes}`;
    const client = new FlowClient(proxy, 'HTTP/1.1', '10');
    const upload = await client.place({ target, length });
    let offset = 0;
    for (let count = 0; count < 20; count++) {
      await stall(client, upload, { offset, arrived: 1000 + count });
      expect(await upload.offset()).toBe(offset + 1000 + count);
      offset += 1000 + count;
    }
    await stall(client, upload, { offset, arrived: 100 });
    const offsets = await Promise.all(Array.from({ length: 20 }, () => upload.offset()));
    expect(offsets).toEqual(Array.from({ length: 20 }, () => offset + 100));
    const answer = await upload.append(BYTES.subarray(offset + 100), { offset: offset + 100, complete: true });
    expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
    expectWhole(target);
  });
});

/** How the exchange ended for its client: with a status, or without an answer. */
function endOf(request: OpenRequest): Promise<number | 'given up'> {
  return request.readFinal().then(
    ({ status }) => status,
    () => 'given up',
  );
}
