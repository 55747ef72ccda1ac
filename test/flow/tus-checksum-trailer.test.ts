import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { openRequest, TRANSPORTS } from '../support/client.js';
import { PeerNodes } from '../support/peer-nodes.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { sendWithTrailers } from '../support/trailers.js';
import { checksum, expectTus, FILE, STREAM, TUS, TusClient } from '../support/tus-client.js';

// tus 1.0.0, extension checksum, checksum-trailer: the algorithm and the checksum are known only behind the content.

let origin: TestOrigin;
let app: TestApp;
const tus = new TusClient(() => app.url);
beforeAll(async () => {
  origin = await startTestOrigin();
  app = await startTestApp({
    origin: origin.url,
    config: 'routes: [{ match: { path: /eager/** }, delivery: { mode: eager } }, { match: { path: /** } }]\n',
  });
});
afterAll(async () => {
  await app.stop();
  await origin.close();
});
beforeEach(() => {
  origin.requests.length = 0;
  origin.answerWith({ status: 201, body: 'stored' });
});

const ANNOUNCED: HeaderLine = ['Trailer', 'Upload-Checksum'];

function sum(algorithm: string, bytes: string | Uint8Array): HeaderLine {
  return ['Upload-Checksum', checksum(algorithm, bytes)];
}

/** The names of the files with bytes of an upload. */
function filesOf(target: string): Promise<string[]> {
  return readdir(join(app.data, 'spool', target.split('/').at(-1)!)).catch(() => []);
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  const send = (
    method: string,
    target: string,
    headers: readonly HeaderLine[],
    body: Uint8Array,
    trailers: readonly HeaderLine[],
  ) => sendWithTrailers(transport, app.url, { method, target, headers: [TUS, STREAM, ...headers], body }, trailers);
  const patch = (
    target: string,
    offset: number,
    bytes: Uint8Array,
    trailers: readonly HeaderLine[],
    more = [ANNOUNCED],
  ) => send('PATCH', target, [['Upload-Offset', String(offset)], ...more], bytes, trailers);

  test.each(['sha1', 'md5', 'sha256', 'sha512'])('%s is verified', async (algorithm) => {
    const target = await tus.create();
    const [first, rest] = [FILE.subarray(0, 2000), FILE.subarray(2000)];
    const mismatch = await patch(target, 0, first, [sum(algorithm, FILE)]);
    expectTus(mismatch, 460);
    expect(mismatch.header('Upload-Offset')).toBe('0');
    expectTus(await patch(target, 0, first, [sum(algorithm, first)]), 204);
    expectTus(await patch(target, 2000, rest, [sum(algorithm, first)]), 460);
    expect(await tus.offsetOf(target)).toBe(2000);
    expectTus(await patch(target, 2000, rest, [sum(algorithm, rest)]), 201);
    const [request] = origin.requests;
    expect(request!.body.equals(FILE)).toBe(true);
    expect([request!.header('Content-Length'), request!.header('Trailer'), request!.trailers]).toEqual([
      '3000',
      undefined,
      [],
    ]);
  });

  const right = sum('sha1', FILE.subarray(0, 1000));
  test.each<[string, HeaderLine[], HeaderLine[], number]>([
    ['that is announced in another case, among others', [right], [['Trailer', 'X-Other, upload-checksum']], 204],
    ['with other trailers', [['X-Other', 'a'], right], [ANNOUNCED], 204],
    ['that is announced, but does not follow', [], [ANNOUNCED], 400],
    ['that is announced, while another field follows', [['X-Other', 'a']], [ANNOUNCED], 400],
    ['with an unknown algorithm', [['Upload-Checksum', 'crc32 AAAA']], [ANNOUNCED], 400],
    ['with a name in upper case', [['Upload-Checksum', right[1].replace('sha1', 'SHA1')]], [ANNOUNCED], 400],
    ['without Base64', [['Upload-Checksum', 'sha1 !']], [ANNOUNCED], 400],
    ['of another size', [['Upload-Checksum', 'sha1 AAAA']], [ANNOUNCED], 400],
    ['of nothing', [sum('sha1', '')], [ANNOUNCED], 460],
    ['in a section that is too long', [['X-Other', 'x'.repeat(8192)], right], [ANNOUNCED], 400],
    ['in the head as well', [right], [ANNOUNCED, right], 400],
    // A recipient may discard trailers that were not announced (RFC 9110 §6.5.1), and the bytes count by then.
    ['that is not announced', [sum('sha1', 'other')], [], 204],
    ['that resembles one', [sum('sha1', 'other')], [['Trailer', 'X-Upload-Checksum']], 204],
  ])('one %s', async (_, trailers, headers, status) => {
    const target = await tus.create();
    expectTus(await patch(target, 0, FILE.subarray(0, 1000), trailers, headers), status);
    expect(await tus.offsetOf(target)).toBe(status === 204 ? 1000 : 0);
    if (status !== 204) expect(await filesOf(target)).toEqual([]);
    const offset = status === 204 ? 1000 : 0;
    expectTus(await tus.patch(target, offset, FILE.subarray(offset)), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('with a creation: all bytes, or none and no upload', async () => {
    const fields: HeaderLine[] = [['Upload-Length', '3000'], ANNOUNCED];
    const created = await send('POST', '/files', fields, FILE.subarray(0, 1000), [sum('sha1', FILE.subarray(0, 1000))]);
    expectTus(created, 201);
    expect(created.header('Upload-Offset')).toBe('1000');
    const refused = await send('POST', '/files', fields, FILE, [sum('sha1', 'other')]);
    expectTus(refused, 460);
    expect(refused.header('Location')).toBeUndefined();
    expectTus(await send('POST', '/files', fields, FILE, [sum('sha1', FILE)]), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('a length that is stated with content that is discarded is not set either', async () => {
    const target = await tus.create([['Upload-Defer-Length', '1']]);
    const fields: HeaderLine[] = [ANNOUNCED, ['Upload-Length', '3000']];
    expectTus(await patch(target, 0, FILE, [sum('sha1', 'other')], fields), 460);
    expect((await tus.send('HEAD', target)).header('Upload-Length')).toBeUndefined();
    expectTus(await patch(target, 0, new Uint8Array(), [sum('sha1', '')], fields), 204);
    expect((await tus.send('HEAD', target)).header('Upload-Length')).toBe('3000');
    expectTus(await patch(target, 0, FILE, [sum('sha1', FILE)]), 201);
  });

  test('what cannot be verified is not kept: a cut, or content beyond the length', async () => {
    const target = await tus.create();
    expectTus(await patch(target, 0, Buffer.concat([FILE, FILE]), [sum('sha1', FILE)]), 413);
    expect(await tus.offsetOf(target)).toBe(0);
    const headers: HeaderLine[] = [TUS, STREAM, ['Upload-Offset', '0'], ANNOUNCED];
    const request = await openRequest(transport, app.url, { method: 'PATCH', target, headers });
    await request.send(FILE.subarray(0, 1700));
    expect(await tus.offsetOf(target)).toBe(0);
    await request.close();
    expect(await filesOf(target)).toEqual([]);
  });

  test('an eager origin gets nothing of content that is discarded', async () => {
    const created = await tus.send('POST', '/eager/f', [['Upload-Length', '3000']]);
    const target = new URL(created.header('Location')!).pathname;
    expectTus(await patch(target, 0, FILE, [sum('sha1', 'other')]), 460);
    expect(origin.requests.map(({ size }) => size).filter((size) => size > 0)).toEqual([]);
    expectTus(await patch(target, 0, FILE, [sum('sha1', FILE)]), 201);
    expect(origin.requests.filter(({ ended }) => ended === 'whole').map(({ body }) => body.equals(FILE))).toEqual([
      true,
    ]);
  });

  test('a node passes the trailer on to the one that has the upload', async () => {
    const peers = await PeerNodes.open();
    const [owner, entry] = [await peers.node('owner-node-name'), await peers.node('entry-node-name')];
    const client = new TusClient(() => owner.url);
    const target = await client.create();
    const append = (trailer: HeaderLine) =>
      sendWithTrailers(
        transport,
        entry.url,
        {
          method: 'PATCH',
          target,
          headers: [TUS, STREAM, ['Upload-Offset', '0'], ANNOUNCED],
          body: FILE.subarray(0, 10),
        },
        [trailer],
      );
    expectTus(await append(sum('sha1', 'other')), 460);
    expectTus(await append(sum('sha1', FILE.subarray(0, 10))), 204);
    expect(await client.offsetOf(target)).toBe(10);
    await peers.close();
  });
});

test('content with a length has no trailers over HTTP/1.1, so an announced checksum is missing', async () => {
  const target = await tus.create();
  const refused = await tus.patch(target, 0, FILE, [ANNOUNCED]);
  expectTus(refused, 400);
  expect(refused.body.toString()).toContain('did not follow the content');
  expect(await tus.offsetOf(target)).toBe(0);
});

test('a checksum before and behind the content is refused before its bytes', async () => {
  const request = await openRequest('HTTP/1.1', app.url, {
    method: 'PATCH',
    target: await tus.create(),
    headers: [TUS, STREAM, ['Upload-Offset', '0'], ANNOUNCED, sum('sha1', FILE)],
  });
  expectTus(await request.readFinal(), 400);
  await request.close();
});
