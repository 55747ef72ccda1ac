import { afterEach, describe, expect, test } from '@jest/globals';
import { exchangeOver, openRequest, type OpenRequest } from '../support/client.js';
import { comparable, FlowClient } from '../support/flow-client.js';
import { ANSWERS, latch, LostAnswer } from '../support/lost-answer.js';
import { openNodes, SPOOLS, type TestNodes } from '../support/nodes.js';
import { appendLines, ResumableUpload } from '../support/resumable-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { framed, type TestProxy } from '../support/test-proxy.js';

const BYTES = randomBytes(50_000);
const { length } = BYTES;
const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

let proxy: TestProxy;
let nodes: TestNodes;
const opened: OpenRequest[] = [];

afterEach(async () => {
  await Promise.all(opened.splice(0).map((request) => request.close()));
  await proxy.close();
});

const urlOf = (node: string): string => nodes.urlOf(node);

/** An append to one node of our choice, whose body is about to be sent. */
async function beginAt(
  node: string,
  client: FlowClient,
  { target }: ResumableUpload,
  { offset, to = length }: { readonly offset: number; readonly to?: number },
): Promise<OpenRequest> {
  const lines = appendLines(client.dialect, { offset, complete: to === length });
  const headers = [...lines, ['Content-Length', `${to - offset}`] as const];
  // What a dead node had claimed is free only when its time is over.
  const request = await openRequest(
    'HTTP/1.1',
    urlOf(node),
    { method: 'PATCH', target, headers },
    { deadlineMs: 60_000 },
  );
  opened.push(request);
  return request;
}

/** The same with its body, whose answer is still to be read. */
async function appendAt(...[node, client, upload, part]: Parameters<typeof beginAt>): Promise<OpenRequest> {
  const request = await beginAt(node, client, upload, part);
  await request.send(BYTES.subarray(part.offset, part.to));
  return request;
}

describe.each(['PUT', 'POST'])('a node that delivers a %s is killed while its client waits at another', (method) => {
  test('the client gets there what the policy says', async () => {
    ({ proxy, nodes } = await openNodes({ nodes: 2, bytes: 'shared', program: 'short-claims' }));
    const client = new FlowClient(proxy, 'HTTP/1.1', '10');
    const target = `/loss/${method}`;
    const { opened: answered, open } = latch();
    proxy.answer(target, { ...ANSWERS[1]!, after: answered });
    const upload = await client.place({ target, method, length });
    const first = await appendAt('n1', client, upload, { offset: 0 });
    await proxy.requestFor(target);
    const waiting = await appendAt('n2', client, upload, { offset: length - 1 });
    await nodes.kill('n1');
    await expect(first.readFinal()).rejects.toThrow('connection closed');
    open();
    const lost = new LostAnswer(client, upload, target, BYTES);
    if (method === 'PUT') {
      expect((await waiting.readFinal()).status).toBe(201);
      lost.expectRequests(2);
    } else {
      expect((await waiting.readFinal()).status).toBe(503);
      lost.expectRequests(1);
      await lost.expectAnswer(await lost.repeatEnd(), ANSWERS[1]!);
      lost.expectRequests(2);
    }
    await lost.expectComplete();
  });
});

test('a node that is killed in the middle of an append loses nothing that was acknowledged, and the others go on', async () => {
  ({ proxy, nodes } = await openNodes({ nodes: 3, bytes: 'shared', program: 'short-claims' }));
  const client = new FlowClient(proxy, 'HTTP/1.1', '8');
  const target = '/loss/append';
  const upload = await client.place({ target, length });
  await upload.append(BYTES.subarray(0, 10_000), { offset: 0, complete: false });
  const stalled = await appendAt('n1', client, upload, { offset: 10_000, to: 20_000 });
  await stalled.readFinal();
  await appendAt('n1', client, upload, { offset: 20_000, to: 20_000 });
  await nodes.kill('n1');
  const offset = await upload.offset();
  expect(offset).toBe(20_000);
  const answer = await upload.append(BYTES.subarray(offset), { offset, complete: true });
  expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
  expect(proxy.requestsFor(target)).toHaveLength(1);
});

test('bytes on the disk of a node that is gone are waited for, and go on when it is back', async () => {
  ({ proxy, nodes } = await openNodes({ nodes: 2, bytes: 'node-local' }));
  const client = new FlowClient(proxy, 'HTTP/1.1', '10');
  const target = '/loss/owner';
  const upload = await client.place({ target, length });
  const part = await upload.append(BYTES.subarray(0, 30_000), { offset: 0, complete: false });
  expect(part.status).toBe(204);
  const owner = (await nodes.holdersOf(upload))[0]!;
  await nodes.kill(owner);
  const refused = await upload.retrieve();
  expect(refused.status).toBe(503);
  expect(Number(refused.header('Retry-After'))).toBeGreaterThan(0);
  await nodes.restart(owner);
  expect(await upload.offset()).toBe(30_000);
  const answer = await upload.append(BYTES.subarray(30_000), { offset: 30_000, complete: true });
  expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
});

test('a node that is stopped while it writes, and goes on after another has finished the upload, changes nothing', async () => {
  ({ proxy, nodes } = await openNodes({ nodes: 2, bytes: 'shared' }));
  const client = new FlowClient(proxy, 'HTTP/1.1', '10');
  const target = '/loss/stopped';
  const upload = await client.place({ target, length });
  const stale = await beginAt('n1', client, upload, { offset: 0 });
  await stale.send(BYTES.subarray(0, 20_000));
  await nodes.untilSpooled(upload, 20_000);
  nodes.pause('n1');
  try {
    // What n1 has not committed by now is not counted: the offset says what is.
    const other = new ResumableUpload(
      client.dialect,
      (request) => exchangeOver('HTTP/1.1', urlOf('n2'), request),
      upload.url,
    );
    const offset = await other.offset();
    const answer = await other.append(BYTES.subarray(offset), { offset, complete: true });
    expect(answer.status).toBe(200);
  } finally {
    nodes.resume('n1');
  }
  await stale.send(Buffer.alloc(30_000, 0xff)).catch(() => undefined);
  await stale.givenUp();
  expect(proxy.requestsFor(target)).toMatchObject([{ size: length, sha256: sha256(BYTES) }]);
  for (let at = 0; at < 2; at++) {
    const shown = comparable(await upload.retrieve(), { maxAgeSeconds: 3600 });
    expect(shown).toEqual(client.expected.retrieved(length, { complete: true, length }));
  }
});

describe.each(SPOOLS)('with bytes that are %s', (bytes) => {
  test('a node that ends in good order lets its clients go on at the others', async () => {
    ({ proxy, nodes } = await openNodes({ nodes: 3, bytes }));
    const client = new FlowClient(proxy, 'HTTP/1.1', '10');
    const uploads = [];
    for (let at = 0; at < 3; at++) {
      const target = `/loss/drain-${at}`;
      const upload = await client.place({ target, length });
      const request = await client.append(upload, { offset: 0, complete: true, bytes: length });
      await request.send(BYTES.subarray(0, 20_000));
      await nodes.untilSpooled(upload, 20_000);
      uploads.push({ target, upload, request });
    }
    expect(await nodes.kill('n2', 'SIGTERM')).toBe(0);
    if (bytes === 'node-local') await nodes.restart('n2');
    for (const { target, upload } of uploads) {
      const offset = await upload.offset();
      expect(offset).toBe(20_000);
      const answer = await upload.append(BYTES.subarray(offset), { offset, complete: true });
      expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
      expect(proxy.requestsFor(target)).toHaveLength(1);
    }
  });
});
