import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { Upload } from 'tus-js-client';
import { openNodes, type TestNodes } from '../support/nodes.js';
import { RedisTrouble } from '../support/redis-trouble.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import type { TestProxy } from '../support/test-proxy.js';
import { expectTus, FILE, TusClient } from '../support/tus-client.js';
import type { HeaderLine } from '../../src/model/headers.js';

const PART: HeaderLine = ['Upload-Concat', 'partial'];

/** Creates and fills a part, each request at the next node. */
async function createPart(tus: TusClient, from: number, to: number): Promise<string> {
  const target = await tus.create([PART, ['Upload-Length', String(to - from)]]);
  const middle = Math.floor((from + to) / 2);
  expectTus(await tus.patch(target, 0, FILE.subarray(from, middle)), 204);
  expectTus(await tus.patch(target, middle - from, FILE.subarray(middle, to)), 204);
  return target;
}

describe('parts on nodes that share a directory', () => {
  let proxy: TestProxy;
  let nodes: TestNodes;
  beforeAll(async () => {
    ({ proxy, nodes } = await openNodes({ nodes: 2, bytes: 'shared' }));
  });
  afterAll(() => proxy.close());

  test('are joined at any node, also after all nodes have been started again, and repeated at another node', async () => {
    const tus = new TusClient(() => proxy.app.url);
    const parts = [await createPart(tus, 0, 1000), await createPart(tus, 1000, 3000)];
    for (const node of nodes.names) await nodes.restart(node);
    const join = (): ReturnType<TusClient['send']> =>
      tus.send('POST', '/joined', [['Upload-Concat', `final;${parts.join(' ')}`]]);
    proxy.answer('/joined', { status: 201, body: 'stored' });
    const joined = await join();
    expectTus(joined, 201);
    expect(joined.body.toString()).toBe('stored');
    const repeated = await join();
    expect([repeated.status, repeated.header('Location')]).toEqual([201, joined.header('Location')]);
    const [request, ...others] = proxy.requestsFor('/joined');
    expect([request!.sha256, others]).toEqual([sha256(FILE), []]);
    expect(await tus.offsetOf(new URL(joined.header('Location')!).pathname)).toBe(3000);
  });
});

describe('parts on nodes that keep their own bytes', () => {
  let proxy: TestProxy;
  beforeAll(async () => {
    ({ proxy } = await openNodes({ nodes: 2, bytes: 'node-local' }));
  });
  afterAll(() => proxy.close());

  test('are not announced, and refused with the reason before any byte is sent', async () => {
    const tus = new TusClient(() => proxy.app.url);
    const { headerLines } = await tus.send('OPTIONS', '/files');
    const extensions = headerLines.find(([name]) => name.toLowerCase() === 'tus-extension')![1].split(',');
    expect([extensions.includes('creation'), extensions.includes('concatenation')]).toEqual([true, false]);
    for (const concat of ['partial', `final;/.uploads/${'x'.repeat(32)}`]) {
      const refused = await tus.send('POST', '/files', [
        ['Upload-Concat', concat],
        ['Upload-Length', '5'],
      ]);
      expectTus(refused, 400);
      expect(refused.body.toString()).toContain('each server keeps the bytes that it got');
    }
    // One upload in one piece works on them like anywhere.
    const target = await tus.create();
    expectTus(await tus.patch(target, 0, FILE.subarray(0, 1000)), 204);
    expectTus(await tus.patch(target, 1000, FILE.subarray(1000)), 200);
    const posts = proxy.requestsFor('/files').filter(({ method }) => method === 'POST');
    expect(posts.map((request) => request.sha256)).toEqual([sha256(FILE)]);
  });
});

describe('while Redis cannot be reached', () => {
  let trouble: RedisTrouble;
  afterEach(() => trouble.close());

  test('an upload is locked, so that tus-js-client comes back to it instead of beginning anew', async () => {
    trouble = await RedisTrouble.open();
    trouble.origin.answerWith({ status: 201, body: 'stored' });
    const tus = new TusClient(() => trouble.proxy.url);
    const bytes = randomBytes(50_000, 9);
    const target = await tus.create([['Upload-Length', String(bytes.length)]]);
    expectTus(await tus.patch(target, 0, bytes.subarray(0, 10_000)), 204);
    await trouble.network.cut();
    await until(async () => (await tus.send('HEAD', target)).status === 423, 'the lock');
    const locked = await tus.send('HEAD', target);
    expectTus(locked, 423);
    expect(['Retry-After', 'Upload-Offset'].map((name) => locked.header(name))).toEqual(['5', undefined]);
    expectTus(await tus.send('POST', '/files', [['Upload-Length', '5']]), 503);
    const statuses: number[] = [];
    const ended = new Promise<string>((resolve, reject) => {
      const upload = new Upload(bytes, {
        endpoint: `${trouble.proxy.url}/files`,
        uploadUrl: trouble.proxy.url + target,
        retryDelays: Array<number>(200).fill(100),
        onAfterResponse: (_, response) => {
          statuses.push(response.getStatus());
          if (statuses.length === 1) void trouble.network.restore();
        },
        onSuccess: ({ lastResponse }) => resolve(lastResponse.getBody()),
        onError: reject,
      });
      upload.start();
    });
    expect(await ended).toBe('stored');
    expect(statuses[0]).toBe(423);
    expect(trouble.origin.requests.map((request) => request.sha256)).toEqual([sha256(bytes)]);
    const created = trouble.proxy.log.filter(
      ({ msg, method, status }) => msg === 'request' && method === 'POST' && status === 201,
    );
    expect(created).toHaveLength(1);
  });
});
