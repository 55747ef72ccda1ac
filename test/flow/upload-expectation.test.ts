import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect } from '../support/raw-client.js';
import { appendLines, creationLines } from '../support/resumable-client.js';
import { framed, Stage } from '../support/stage.js';
import { FEWER_VARIANTS, StageClient } from '../support/stage-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { told } from '../support/told.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open({ config: 'limits: { max_size: 100000 }' });
});

afterAll(async () => {
  await stage.close();
});

const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
const BYTES = randomBytes(5000);
const EXPECT: HeaderLine = ['Expect', '100-continue'];
const CONTINUE = { status: 100, lines: [] };

describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
  const client = (): StageClient => new StageClient(stage, transport, interop, 'max-size=100000, min-size=0');
  const length = (bytes: number): HeaderLine => ['Content-Length', `${bytes}`];

  test('a creation that expects to be told to continue is told where to go on first, and then to continue', async () => {
    const { dialect, expected } = client();
    const target = `/expect?seed=${seed}`;
    const headers = [...creationLines(dialect, { complete: true }), EXPECT, length(5000)];
    const request = await stage.begin(transport, { method: 'POST', target, headers });
    if (dialect.version !== undefined) await request.readInterim();
    expect(told(await request.readInterim())).toEqual(CONTINUE);
    await request.send(BYTES);
    await request.end();
    const answer = await request.readFinal();
    const url = answer.interims[0]!.header('Location') ?? '';
    expect(answer.interims.map((interim) => told(interim))).toEqual([...expected.interims(url), CONTINUE]);
    const location = expected.answerHasLocation ? url : undefined;
    expect(told(answer)).toEqual(expected.answered(OK, 5000, location));
    expect(stage.requestsFor(target)).toMatchObject([{ sha256: sha256(BYTES) }]);
    expect(stage.requestsFor(target)[0]!.header('Expect')).toBeUndefined();
  });

  test('an append that expects to be told to continue is told to, or refused without', async () => {
    const { dialect, expected } = client();
    const upload = await client().place({ target: `/expect-append?seed=${seed}`, length: 5000 });
    const begin = (offset: number) =>
      stage.begin(transport, {
        method: 'PATCH',
        target: upload.target,
        headers: [...appendLines(dialect, { offset, complete: true }), EXPECT, length(5000)],
      });
    const refused = await (await begin(1)).readFinal();
    const refusal = { status: 409, type: 'mismatching-upload-offset', offset: 0, limits: true, closes: true } as const;
    const members = { 'expected-offset': 0, 'provided-offset': 1 };
    expect(told(refused)).toEqual(expected.refused({ ...refusal, members }));
    expect(refused.interims).toEqual([]);
    const request = await begin(0);
    expect(told(await request.readInterim())).toEqual(CONTINUE);
    await request.send(BYTES);
    await request.end();
    const answer = await request.readFinal();
    expect(told(answer)).toEqual(expected.answered(OK, 5000));
    expect(answer.interims).toHaveLength(1);
  });

  test('a creation that cannot be is refused without a place and without being told to continue', async () => {
    const { dialect, expected } = client();
    const target = `/expect-too-large?seed=${seed}`;
    const headers = [...creationLines(dialect, { complete: true }), EXPECT, length(100_001)];
    const request = await stage.begin(transport, { method: 'POST', target, headers });
    const refused = await request.readFinal();
    expect(told(refused)).toEqual(expected.refused({ status: 413, limits: true, closes: true }));
    expect(refused.interims).toEqual([]);
    expect(stage.requestsFor(target)).toEqual([]);
  });
});

test('HTTP/1.0 gets no interim response', async () => {
  const client = await connect(stage.app.url);
  await client.send(
    `POST /old HTTP/1.0\r\nHost: ${stage.host}\r\nUpload-Draft-Interop-Version: 6\r\nUpload-Complete: ?1\r\n` +
      'Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc',
  );
  const answer = await client.readFinal();
  client.destroy();
  expect(answer.interims).toEqual([]);
  expect(answer.status).toBe(200);
  expect(answer.header('Upload-Offset')).toBe('3');
  expect(stage.requestsFor('/old')).toMatchObject([{ sha256: sha256('abc') }]);
});
