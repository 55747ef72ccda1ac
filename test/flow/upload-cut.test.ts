import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { creationLines, type ResumableUpload } from '../support/resumable-client.js';
import { untilSpooled } from '../support/spooled.js';
import { framed, receivedLines, replayedLines, Stage } from '../support/stage.js';
import { StageClient, VARIANTS } from '../support/stage-client.js';
import { randomBytes, seededRandom, sha256 } from '../support/temporary.js';
import { told } from '../support/told.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open();
});

afterAll(async () => {
  await stage.close();
});

/** End-to-end lines with duplicates and mixed case, in an order of their own. */
const OWN_LINES: readonly HeaderLine[] = [
  ['X-First', '1'],
  ['authorization', 'Bearer t0ken'],
  ['x-Twice', 'a'],
  ['x-Twice', 'b, c'],
  ['Content-Type', 'image/png'],
  ['COOKIE', 'a=1; b=2'],
  ['Content-Disposition', 'attachment; filename="a b.png"'],
];

const ANSWER = { status: 201, lines: [['X-Answer', 'one'] as const, ['Location', '/files/9'] as const], body: 'made' };
const RELAYED = { ...ANSWER, lines: framed(ANSWER.lines, ANSWER.body) };

/** `delivery.keep_answer`: the rest of an answered upload's life. */
const KEPT = { maxAgeSeconds: 3600 };

/** One client, one file, one target. */
interface Play {
  readonly client: StageClient;
  readonly random: () => number;
  readonly target: string;
  readonly bytes: Buffer;
  readonly cutAt: number;
}

function play({ transport, interop, seed }: (typeof VARIANTS)[number], subject: string): Play {
  const random = seededRandom(seed);
  const client = new StageClient(stage, transport, interop);
  const bytes = randomBytes(50_000 + Math.floor(random() * 200_000), seed);
  const target = `/api/files/${subject}?seed=${seed}&name=a%20b%2Fc&x`;
  stage.answer(target, { status: ANSWER.status, headers: ANSWER.lines, body: ANSWER.body });
  return { client, random, target, bytes, cutAt: 1 + Math.floor(random() * (bytes.length - 1)) };
}

/** Begins the upload as its dialect does, and loses the connection when `cutAt` bytes have arrived. */
async function createAndCut({ client, target, bytes, cutAt, random }: Play): Promise<ResumableUpload> {
  const { request, upload } = await client.begin({ target, lines: OWN_LINES, length: bytes.length });
  await request.send(bytes.subarray(0, cutAt));
  await untilSpooled(stage.app.data, upload.url, cutAt);
  request.leave(random() < 0.5 ? 'end' : 'reset');
  return upload;
}

function expectOneRequest({ client, target, bytes }: Play, url: string): void {
  const [request, ...others] = stage.requestsFor(target);
  expect(others).toEqual([]);
  expect(request).toMatchObject({ method: 'POST', size: bytes.length, sha256: sha256(bytes), trailers: [] });
  const sent = { host: stage.host, lines: OWN_LINES, length: bytes.length };
  expect(receivedLines(request!)).toEqual(replayedLines(client.transport, sent));
  expect(url).not.toContain(request!.header('Idempotency-Key'));
}

describe.each(VARIANTS)('over $transport, interop $interop', (variant) => {
  test('an upload that was cut at a random byte goes on there with one append', async () => {
    const flow = play(variant, 'one');
    const { bytes, cutAt } = flow;
    const { expected } = flow.client;
    const { length } = bytes;
    const upload = await createAndCut(flow);
    const retrieved = await upload.retrieve();
    expect(told(retrieved)).toEqual(expected.retrieved(cutAt, { complete: false, length }));
    expect(stage.requestsFor(flow.target)).toEqual([]);
    const answer = await upload.append(bytes.subarray(cutAt), { offset: cutAt, complete: true });
    expect(told(answer)).toEqual(expected.answered(RELAYED, length));
    expect([...retrieved.interims, ...answer.interims]).toEqual([]);
    expectOneRequest(flow, upload.url);
    expect(told(await upload.retrieve(), KEPT)).toEqual(expected.retrieved(length, { complete: true, length }));
  });

  test('an upload that was cut at a random byte goes on there in several appends', async () => {
    const flow = play(variant, 'several');
    const { bytes, cutAt, random } = flow;
    const { expected } = flow.client;
    const { length } = bytes;
    const upload = await createAndCut(flow);
    let offset = cutAt;
    expect(told(await upload.retrieve())).toEqual(expected.retrieved(offset, { complete: false, length }));
    const parts = [random(), random(), 0].sort((a, b) => a - b);
    for (const end of parts.map((part) => cutAt + Math.floor(part * (length - cutAt)))) {
      const response = await upload.append(bytes.subarray(offset, end), { offset, complete: false });
      expect(told(response)).toEqual(expected.appended(end));
      expect(response.interims).toEqual([]);
      offset = end;
    }
    expect(told(await upload.retrieve())).toEqual(expected.retrieved(offset, { complete: false, length }));
    expect(stage.requestsFor(flow.target)).toEqual([]);
    const answer = await upload.append(bytes.subarray(offset), { offset, complete: true });
    expect(told(answer)).toEqual(expected.answered(RELAYED, length));
    expectOneRequest(flow, upload.url);
  });

  test('an upload that is not cut gets its answer at once', async () => {
    const flow = play(variant, 'whole');
    const { client, target, bytes } = flow;
    stage.answer(target, { status: 202, body: 'later' });
    const headers = [...creationLines(client.dialect, { complete: true }), ...OWN_LINES];
    const answer = await client.send({ method: 'POST', target, headers, body: bytes });
    const url = answer.interims[0]?.header('Location') ?? '';
    const relayed = { status: 202, lines: framed([], 'later'), body: 'later' };
    const location = client.expected.answerHasLocation ? url : undefined;
    expect(told(answer)).toEqual(client.expected.answered(relayed, bytes.length, location));
    expect(answer.interims.map((interim) => told(interim))).toEqual(client.expected.interims(url));
    expectOneRequest(flow, url);
  });
});
