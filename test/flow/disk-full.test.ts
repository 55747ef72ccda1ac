import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce, TRANSPORTS } from '../support/client.js';
import { smallDisk, type SmallDisk } from '../support/disk.js';
import { comparable, FlowClient } from '../support/flow-client.js';
import { startRedis } from '../support/redis-server.js';
import {
  appendLines,
  clientDialect,
  createUpload,
  creationLines,
  progressOf,
  versionLines,
} from '../support/resumable-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { framed, startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

const MIB = 1024 * 1024;
const CONFIG = 'delivery: { retry: { first_delay: 10ms, longest_delay: 100ms } }';

let disk: SmallDisk;
let proxy: TestProxy;

beforeEach(async () => {
  disk = await smallDisk(8 * 1024);
  proxy = await TestProxy.open({ config: CONFIG }, (options) =>
    startTestApp({ ...options, data: join(disk.path, 'data') }),
  );
});

afterEach(async () => {
  await proxy.close();
  await disk.remove();
});

const BYTES = randomBytes(4 * MIB);
const { length } = BYTES;
const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

/** Everything a client is told about a full disk. */
function expectNoRoom(response: WireResponse): void {
  expect(response.status).toBe(507);
  expect(response.header('Content-Type')).toBe('application/problem+json');
  expect(response.header('Retry-After')).toBe('60');
  expect(response.header('Upload-Complete')).toBe('?0');
  expect(JSON.parse(response.body.toString())).toEqual({
    type: 'about:blank',
    title: 'Insufficient Storage',
    status: 507,
    detail: 'There is no room for more bytes now. What was acknowledged is kept: try again later.',
  });
}

function expectWhole(target: string): void {
  const requests = proxy.requestsFor(target).map(({ size, sha256: sum }) => ({ size, sum }));
  expect(requests).toEqual([{ size: length, sum: sha256(BYTES) }]);
}

/** But for the mark that says whose directory it is. */
async function filesOf(kind: 'spool' | 'uploads'): Promise<string[]> {
  return (await readdir(join(proxy.app.data, kind))).filter((name) => name !== '.store');
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  test('an append that does not fit is told so, what was acknowledged stays, and with room it goes on to the end', async () => {
    const target = '/disk/append';
    const client = new FlowClient(proxy, transport, '10');
    const upload = await client.place({ target, length });
    const first = await upload.append(BYTES.subarray(0, 300_000), { offset: 0, complete: false });
    expect(first.status).toBe(204);
    await disk.fill(1.5 * MIB);
    const rest = { offset: 300_000, complete: true };
    expectNoRoom(await upload.append(BYTES.subarray(300_000), rest));
    const offset = await upload.offset();
    expect(offset).toBeGreaterThanOrEqual(300_000);
    expect(offset).toBeLessThanOrEqual(300_000 + 1.5 * MIB);
    expectNoRoom(await upload.append(BYTES.subarray(offset), { offset, complete: true }));
    expect(await upload.offset()).toBeGreaterThanOrEqual(offset);
    expect((await client.send({ method: 'GET', target: '/elsewhere' })).status).toBe(200);
    expect(proxy.requestsFor(target)).toEqual([]);
    await disk.makeRoom();
    expect(comparable(await upload.finish(BYTES))).toEqual(client.expected.answered(OK, length));
    expectWhole(target);
  });

  test('the answer reaches a client that is still sending far more than there is room for', async () => {
    const client = new FlowClient(proxy, transport, '10');
    const upload = await client.place({ target: '/disk/far-too-much', length: undefined });
    const response = await upload.append(Buffer.alloc(14 * MIB), { offset: 0, complete: false });
    expectNoRoom(response);
    expect(await upload.offset()).toBeLessThan(8 * MIB);
    expect((await upload.cancel()).status).toBe(204);
    expect([await filesOf('spool'), await filesOf('uploads')]).toEqual([[], []]);
  });

  test('a creation for which there is no room leaves nothing behind, and works when there is', async () => {
    const target = '/disk/creation';
    const client = new FlowClient(proxy, transport, '10');
    const request = { method: 'POST', target, headers: creationLines(client.dialect, { complete: true }), body: BYTES };
    await disk.fill();
    expectNoRoom(await client.send(request));
    expect([await filesOf('spool'), await filesOf('uploads')]).toEqual([[], []]);
    await disk.makeRoom();
    expect((await client.send(request)).status).toBe(200);
    expectWhole(target);
  });

  test('a creation that states more than there is room for is refused before its 104', async () => {
    const client = new FlowClient(proxy, transport, '10');
    const headers = creationLines(client.dialect, { complete: true });
    await disk.fill(2 * MIB);
    const refused = await client.send({ method: 'POST', target: '/disk/stated', headers, body: BYTES });
    expectNoRoom(refused);
    expect(refused.interims).toEqual([]);
    expect([await filesOf('spool'), await filesOf('uploads')]).toEqual([[], []]);
  });

  /** Sends the bytes without saying how many they are. */
  async function sendUncounted(target: string, headers: readonly HeaderLine[]): Promise<WireResponse> {
    const request = await proxy.begin(transport, { method: 'POST', target, headers });
    await request.send(BYTES);
    await request.end();
    return request.readFinal();
  }

  test('a creation whose bytes do not fit leaves something only for a client that can resume it', async () => {
    const target = '/disk/half';
    await disk.fill(2 * MIB);
    const untold = new FlowClient(proxy, transport, 'final');
    const headers = creationLines(untold.dialect, { complete: true });
    expectNoRoom(await sendUncounted('/disk/untold', headers));
    expect([await filesOf('spool'), await filesOf('uploads')]).toEqual([[], []]);
    const client = new FlowClient(proxy, transport, '10');
    const lines = creationLines(client.dialect, { complete: true });
    const refused = await sendUncounted(target, lines);
    expectNoRoom(refused);
    const upload = client.at(refused.interims[0]!.header('Location')!);
    expect(await upload.offset()).toBeLessThan(2 * MIB);
    await disk.makeRoom();
    expect(comparable(await upload.finish(BYTES))).toEqual(client.expected.answered(OK, length));
    expectWhole(target);
  });
});

test('many retries on a full disk leave no files', async () => {
  const client = new FlowClient(proxy, 'HTTP/1.1', '10');
  const upload = await client.place({ target: '/disk/retries', length });
  await disk.fill();
  for (let count = 0; count < 10; count++)
    expectNoRoom(await upload.append(BYTES, { offset: await upload.offset(), complete: true }));
  const files = await Promise.all((await filesOf('spool')).map((id) => readdir(join(proxy.app.data, 'spool', id))));
  expect(files.flat()).toEqual([]);
});

test('a short answer is recorded although the disk is full', async () => {
  const target = '/disk/answer';
  const client = new FlowClient(proxy, 'HTTP/1.1', '10');
  proxy.answer(target, async () => {
    await disk.fill();
    return { status: 201, headers: [], body: 'made' };
  });
  const made = { status: 201, lines: framed([], 'made'), body: 'made' };
  const upload = await client.place({ target, length });
  const answer = await upload.append(BYTES, { offset: 0, complete: true });
  expect(comparable(answer)).toEqual(client.expected.answered(made, length));
  const again = await upload.append('', { offset: length, complete: true });
  expect(comparable(again)).toEqual(client.expected.answered(made, length));
  expectWhole(target);
});

test('an answer for whose body there is no room is given to whoever waits, and kept in the room that its upload leaves', async () => {
  const target = '/disk/longer-answer';
  const client = new FlowClient(proxy, 'HTTP/1.1', '10');
  const body = 'b'.repeat(40_000);
  proxy.answer(target, async () => {
    await disk.fill();
    return { status: 201, headers: [], body };
  });
  const upload = await client.place({ target, length });
  const first = await upload.append(BYTES, { offset: 0, complete: true });
  expect([first.status, first.body.toString()]).toEqual([201, body]);
  // Nobody makes room but the proxy itself.
  await until(
    async () => (await upload.append('', { offset: length, complete: true })).body.toString() === body,
    'the body',
  );
  expectWhole(target);
});

test('an answer too large for memory that does not fit is cut for whoever waits, and its status is kept', async () => {
  const target = '/disk/large-answer';
  const client = new FlowClient(proxy, 'HTTP/1.1', '10');
  const large = randomBytes(6 * MIB, 7).toString('latin1');
  const lines: HeaderLine[] = [
    ['Location', '/made/1'],
    ['ETag', '"1"'],
  ];
  proxy.answer(target, { status: 200, headers: lines, body: Buffer.from(large, 'latin1') });
  const upload = await client.place({ target, length });
  await expect(upload.append(BYTES, { offset: 0, complete: true })).rejects.toThrow(/closed|ECONNRESET/);
  const headers = appendLines(client.dialect, { offset: length - 1, complete: true });
  const again = await client.send({ method: 'PATCH', target: upload.target, headers, body: BYTES.subarray(-1) });
  expect([again.status, again.header('Upload-Complete')]).toEqual([200, '?1']);
  expect([again.header('Location'), again.header('ETag')]).toEqual(['/made/1', undefined]);
  expect(again.header('Content-Type')).toBe('application/problem+json');
  expect(JSON.parse(again.body.toString())).toMatchObject({ status: 200, detail: expect.stringContaining('full') });
  expect(progressOf(client.dialect, await upload.retrieve())).toMatchObject({ offset: length, complete: true });
  expectWhole(target);
});

// Whether a shared directory can be shared is tried out by writing to it: without room for that, the start goes on.
test('a start on a shared spool without room serves what needs none, and receives once there is room', async () => {
  const redis = await startRedis();
  const data = join(disk.path, 'shared');
  const config = `store: { type: redis, url: "${redis.url}" }\nspool: { shared: true }\n`;
  const start = () => startTestApp({ origin: proxy.origin.url, data, config });
  const begin = (app: TestApp) =>
    createUpload(clientDialect('10'), (request) => requestOnce(app.url, request), { method: 'POST', target: '/files' });
  const first = await start();
  const upload = await begin(first);
  await upload.append(Buffer.from('half'), { offset: 0, complete: false });
  await first.stop();
  await disk.fill();

  const app = await start();
  const roomOf = async () => {
    const readyz = { method: 'GET', path: '/readyz', query: new URLSearchParams(), headers: {} };
    const answer = await app.operators.respond(readyz);
    const { checks } = JSON.parse(answer.body!) as { checks: { name: string; ok: boolean }[] };
    return [answer.status, checks.find(({ name }) => name === 'room')?.ok];
  };
  const ask = (method: string) =>
    requestOnce(app.url, { method, target: upload.target, headers: versionLines(clientDialect('10')) });
  expect(app.log).toContainEqual(expect.objectContaining({ level: 'error', code: 'STORAGE_FULL' }));
  expect(await roomOf()).toEqual([200, false]);
  expect((await requestOnce(app.url, { method: 'GET', target: '/' })).status).toBe(200);
  expect((await ask('HEAD')).header('upload-offset')).toBe('4');
  expect((await ask('DELETE')).status).toBe(204);
  await disk.makeRoom();
  expect(await roomOf()).toEqual([200, true]);
  expect((await (await begin(app)).finish(Buffer.from('whole'))).status).toBe(200);
  await app.stop();
  await redis.stop();
});
