import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { appendLines, creationLines } from '../support/resumable-client.js';
import { untilSpooled } from '../support/spooled.js';
import { framed, receivedLines, replayedLines, Stage } from '../support/stage.js';
import { StageClient, VARIANTS } from '../support/stage-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { told } from '../support/told.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open();
});

afterAll(async () => {
  await stage.close();
});

const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
/** `delivery.keep_answer`: the rest of an answered upload's life. */
const KEPT = { maxAgeSeconds: 3600 };
const LINES: readonly HeaderLine[] = [['X-App', 'photos']];

function expectOneRequest(
  { stage, transport }: StageClient,
  target: string,
  bytes: Uint8Array,
  { method = 'POST', lines = LINES }: { method?: string; lines?: readonly HeaderLine[] } = {},
): void {
  const [request, ...others] = stage.requestsFor(target);
  expect(others).toEqual([]);
  expect(request).toMatchObject({ method, size: bytes.length, sha256: sha256(bytes), trailers: [] });
  const expected = replayedLines(transport, { host: stage.host, lines, length: bytes.length });
  expect(receivedLines(request!)).toEqual(expected);
}

describe.each(VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
  const open = (): StageClient => new StageClient(stage, transport, interop);
  const targetFor = (subject: string): string => `/shapes/${subject}?seed=${seed}`;

  test('an upload of unknown length is cut, goes on with more of unknown length, and reaches the origin with its length', async () => {
    const client = open();
    const { expected } = client;
    const target = targetFor('unknown-length');
    const bytes = randomBytes(40_000 + seed, seed);
    const { request, upload } = await client.begin({ target, lines: LINES, length: undefined });
    await request.send(bytes.subarray(0, 9000));
    await request.send(bytes.subarray(9000, 20_000));
    // Whatever came last may be the end: it waits for what follows.
    await untilSpooled(stage.app.data, upload.url, 19_999);
    request.leave('reset');
    expect(told(await upload.retrieve())).toEqual(expected.retrieved(19_999, { complete: false }));
    const part = await client.append(upload, { offset: 19_999, complete: false });
    await part.send(bytes.subarray(19_999, 30_000));
    await part.end();
    expect(told(await part.readFinal())).toEqual(expected.appended(30_000));
    const last = await client.append(upload, { offset: 30_000, complete: true });
    await last.send(bytes.subarray(30_000));
    await last.end();
    expect(told(await last.readFinal())).toEqual(expected.answered(OK, bytes.length));
    expectOneRequest(client, target, bytes);
    const whole = { complete: true, length: bytes.length };
    expect(told(await upload.retrieve(), KEPT)).toEqual(expected.retrieved(bytes.length, whole));
  });

  test('an upload of nothing that is complete at once reaches the origin as an empty request', async () => {
    const client = open();
    const target = targetFor('nothing');
    const headers = [...creationLines(client.dialect, { complete: true }), ...LINES];
    const answer = await client.send({ method: 'POST', target, headers, body: '' });
    const url = answer.interims[0]?.header('Location') ?? '';
    const location = client.expected.answerHasLocation ? url : undefined;
    expect(told(answer)).toEqual(client.expected.answered(OK, 0, location));
    expect(answer.interims.map((interim) => told(interim))).toEqual(client.expected.interims(url));
    expectOneRequest(client, target, Buffer.alloc(0));
    if (url === '') return;
    const nothing = { complete: true, length: 0 };
    expect(told(await client.at(url).retrieve(), KEPT)).toEqual(client.expected.retrieved(0, nothing));
  });

  test('a place that was asked for first is filled by parts, and an append of nothing ends it', async () => {
    const client = open();
    const { expected } = client;
    const target = targetFor('careful');
    const bytes = randomBytes(3000, seed);
    const upload = await client.place({ target, lines: LINES, length: undefined });
    expect(told(await upload.retrieve())).toEqual(expected.retrieved(0, { complete: false }));
    expect(told(await upload.append('', { offset: 0, complete: false }))).toEqual(expected.appended(0));
    const first = await upload.append(bytes.subarray(0, 1), { offset: 0, complete: false });
    expect(told(first)).toEqual(expected.appended(1));
    const rest = await upload.append(bytes.subarray(1), { offset: 1, complete: false });
    expect(told(rest)).toEqual(expected.appended(3000));
    expect(told(await upload.retrieve())).toEqual(expected.retrieved(3000, { complete: false }));
    expect(stage.requestsFor(target)).toEqual([]);
    const end = await upload.append('', { offset: 3000, complete: true });
    expect(told(end)).toEqual(expected.answered(OK, 3000));
    expectOneRequest(client, target, bytes);
  });

  test('a creation can bring a first part, and keeps its method', async () => {
    const client = open();
    const { expected } = client;
    const target = targetFor('first-part');
    const bytes = randomBytes(2000, seed);
    const headers = [...creationLines(client.dialect, { complete: false }), ...LINES];
    const created = await client.send({ method: 'PUT', target, headers, body: bytes.subarray(0, 700) });
    const url = created.header('Location')!;
    expect(told(created)).toEqual(expected.created(url, 700));
    expect(created.interims.map((interim) => told(interim))).toEqual(expected.interims(url));
    const answer = await client.at(url).append(bytes.subarray(700), { offset: 700, complete: true });
    expect(told(answer)).toEqual(expected.answered(OK, 2000));
    expectOneRequest(client, target, bytes, { method: 'PUT' });
  });

  test.each([1, 2])('an upload of %i byte(s) reaches the origin, at once or by an append', async (size) => {
    const client = open();
    const bytes = randomBytes(size, seed);
    const target = targetFor(`at-once-${size}`);
    const headers = [...creationLines(client.dialect, { complete: true }), ...LINES];
    const answer = await client.send({ method: 'POST', target, headers, body: bytes });
    const location = client.expected.answerHasLocation ? answer.interims[0]!.header('Location') : undefined;
    expect(told(answer)).toEqual(client.expected.answered(OK, size, location));
    expectOneRequest(client, target, bytes);
    const later = targetFor(`later-${size}`);
    const upload = await client.place({ target: later, lines: LINES, length: size });
    const appended = await upload.append(bytes, { offset: 0, complete: true, length: size });
    expect(told(appended)).toEqual(client.expected.answered(OK, size));
    expectOneRequest(client, later, bytes);
  });

  test('content that is coded stays as it is, and offsets count its coded bytes', async () => {
    const client = open();
    const target = targetFor('gzip');
    const bytes = gzipSync(randomBytes(5000, seed));
    const lines: HeaderLine[] = [
      ['Content-Encoding', 'gzip'],
      ['Content-Type', 'text/plain; charset=utf-8'],
    ];
    const upload = await client.place({ target, lines, length: bytes.length });
    const headers = appendLines(client.dialect, { offset: 0, complete: true });
    const request = { method: 'PATCH', target: upload.target, headers, body: bytes };
    expect(told(await client.send(request))).toEqual(client.expected.answered(OK, bytes.length));
    expectOneRequest(client, target, bytes, { lines });
  });
});

/** tus-js-client as `ietf-draft-03` and `-05` never sends the end of an upload of nothing. */
test.each(VARIANTS)(
  'over $transport, interop $interop, a creation of nothing with more to come is whole only where the client never sends the end',
  async ({ transport, interop, seed }) => {
    const client = new StageClient(stage, transport, interop);
    const target = `/shapes/tus-js?seed=${seed}`;
    const headers = [...creationLines(client.dialect, { complete: false, length: 0 }), ...LINES];
    const response = await client.send({ method: 'POST', target, headers, body: '' });
    const url = response.header('Location')!;
    if (interop === '5' || interop === '6') {
      expect(told(response)).toEqual(client.expected.answered(OK, 0, url));
      expectOneRequest(client, target, Buffer.alloc(0));
      return;
    }
    expect(told(response)).toEqual(client.expected.created(url, 0));
    expect(stage.requestsFor(target)).toEqual([]);
    expect(told(await client.at(url).append('', { offset: 0, complete: true }))).toEqual(
      client.expected.answered(OK, 0),
    );
    expectOneRequest(client, target, Buffer.alloc(0));
  },
);
