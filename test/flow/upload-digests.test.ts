import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { appendLines, creationLines } from '../support/resumable-client.js';
import { untilSpooled } from '../support/spooled.js';
import { framed, receivedLines, replayedLines, Stage } from '../support/stage.js';
import { FEWER_VARIANTS, StageClient } from '../support/stage-client.js';
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
const BYTES = randomBytes(30_000, 7);

function digest(bytes: Uint8Array, algorithm: 'sha-256' | 'sha-512' = 'sha-256'): string {
  return `${algorithm}=:${createHash(algorithm.replace('-', '')).update(bytes).digest('base64')}:`;
}

describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
  const client = (): StageClient => new StageClient(stage, transport, interop);
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
    expect(told(await upload.append(first, step, [wrong]))).toEqual(expected.refused({ ...refusal, offset: 0 }));
    expect(await upload.offset()).toBe(0);
    expect(told(await upload.append(first, step, [good]))).toEqual(expected.appended(10_000));
    const rest = BYTES.subarray(10_000);
    const last = { offset: 10_000, complete: true };
    expect(told(await upload.append(rest, last, [wrong]))).toEqual(expected.refused({ ...refusal, offset: 10_000 }));
    expect(stage.requestsFor(target)).toEqual([]);
    const answer = await upload.append(rest, last, [['Content-Digest', digest(rest, 'sha-512')]]);
    expect(told(answer)).toEqual(expected.answered(OK, BYTES.length));
    expect(stage.requestsFor(target)).toMatchObject([{ sha256: sha256(BYTES) }]);
    expect(stage.requestsFor(target)[0]!.header('Content-Digest')).toBeUndefined();
  });

  test('content with a digest that breaks off cannot be checked: what came of it is kept', async () => {
    const target = targetFor('cut');
    const upload = await client().place({ target, length: BYTES.length });
    const part = await stage.begin(transport, {
      method: 'PATCH',
      target: upload.target,
      headers: [
        ...appendLines(client().dialect, { offset: 0, complete: true }),
        ['Content-Digest', digest(BYTES)],
        ['Content-Length', `${BYTES.length}`],
      ],
    });
    await part.send(BYTES.subarray(0, 9000));
    await untilSpooled(stage.app.data, upload.url, 9000);
    part.leave('reset');
    expect(await upload.offset()).toBe(9000);
    const answer = await upload.append(BYTES.subarray(9000), { offset: 9000, complete: true });
    expect(told(answer)).toEqual(client().expected.answered(OK, BYTES.length));
  });

  test('a creation whose content does not match its digest leaves an upload of nothing', async () => {
    const { expected, dialect } = client();
    const target = targetFor('creation');
    const lines: HeaderLine[] = [['Content-Digest', digest(randomBytes(5))]];
    const headers = [...creationLines(dialect, { complete: true }), ...lines];
    const response = await client().send({ method: 'POST', target, headers, body: BYTES });
    expect(told(response)).toEqual(expected.refused({ status: 400, limits: true, offset: 0 }));
    const url = response.interims[0]?.header('Location') ?? '';
    expect(response.interims.map((interim) => told(interim))).toEqual(expected.interims(url));
    expect(stage.requestsFor(target)).toEqual([]);
    if (url === '') return;
    const answer = await client().at(url).append(BYTES, { offset: 0, complete: true });
    expect(told(answer)).toEqual(expected.answered(OK, BYTES.length));
  });

  test('a representation that matches its digest, over several requests and a cut, reaches the origin with it', async () => {
    const { expected, dialect } = client();
    const target = targetFor('representation');
    const lines: HeaderLine[] = [
      ['Repr-Digest', `${digest(BYTES)}, xxh64=:AAAAAAAAAAA=:, ${digest(BYTES, 'sha-512')}`],
    ];
    const { request, upload } = await client().begin({ target, lines, length: BYTES.length });
    await request.send(BYTES.subarray(0, 11_111));
    await untilSpooled(stage.app.data, upload.url, 11_111);
    request.leave('reset');
    const part = { offset: await upload.offset(), complete: false };
    expect(told(await upload.append(BYTES.subarray(part.offset, 22_222), part))).toEqual(expected.appended(22_222));
    const headers = [...appendLines(dialect, { offset: 22_222, complete: true }), ...lines];
    const last = { method: 'PATCH', target: upload.target, headers, body: BYTES.subarray(22_222) };
    expect(told(await client().send(last))).toEqual(expected.answered(OK, BYTES.length));
    const [received] = stage.requestsFor(target);
    const sent = { host: stage.host, lines, length: BYTES.length };
    expect(receivedLines(received!)).toEqual(replayedLines(transport, sent));
  });

  test('a representation that does not match its digest never reaches the origin, and the upload is gone', async () => {
    const { expected } = client();
    const target = targetFor('wrong-representation');
    const lines: HeaderLine[] = [['Repr-Digest', digest(randomBytes(5), 'sha-512')]];
    const upload = await client().place({ target, lines, length: BYTES.length });
    const answer = await upload.append(BYTES, { offset: 0, complete: true });
    expect(told(answer)).toEqual(expected.refused({ status: 400, limits: true }));
    expect(told(await upload.retrieve())).toEqual(expected.unknownToHead('gone'));
    expect(stage.requestsFor(target)).toEqual([]);
  });

  test('a digest that is none is refused before anything is kept', async () => {
    const { expected, dialect } = client();
    for (const [subject, line] of Object.entries({
      syntax: ['Content-Digest', 'sha-256=abc'],
      size: ['Repr-Digest', 'sha-256=:YWJj:'],
    } as const)) {
      const headers = [...creationLines(dialect, { complete: true }), line];
      const response = await client().send({ method: 'POST', target: targetFor(subject), headers, body: 'abc' });
      expect(told(response)).toEqual(expected.refused({ status: 400, limits: true }));
      expect(response.interims).toEqual([]);
      expect(stage.requestsFor(targetFor(subject))).toEqual([]);
    }
  });

  test('a digest of what is here is told to whoever wants one', async () => {
    const { expected, dialect } = client();
    const target = targetFor('wanted');
    stage.answer(target, { status: 201, headers: [['Location', '/files/1']] });
    const half = BYTES.subarray(0, 15_000);
    const headers = [
      ...creationLines(dialect, { complete: false }),
      ['Want-Repr-Digest', 'sha-256=3, sha-512=10'] as const,
    ];
    const created = await client().send({ method: 'POST', target, headers, body: half });
    const url = created.header('Location')!;
    expect(told(created)).toEqual(expected.created(url, 15_000, [['Repr-Digest', digest(half, 'sha-512')]]));
    const upload = client().at(url);
    expect((await upload.retrieve()).header('Repr-Digest')).toBe(digest(half, 'sha-512'));
    const more = BYTES.subarray(0, 20_000);
    const appended = await upload.append(more.subarray(15_000), { offset: 15_000, complete: false });
    expect(told(appended)).toEqual(expected.appended(20_000, [['Repr-Digest', digest(more, 'sha-512')]]));
    const answer = await upload.append(BYTES.subarray(20_000), { offset: 20_000, complete: true });
    expect(answer.header('Repr-Digest')).toBe(digest(BYTES, 'sha-512'));
    expect(answer.status).toBe(201);
  });
});
