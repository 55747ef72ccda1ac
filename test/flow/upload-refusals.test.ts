import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { appendLines, creationLines, versionLines, type ResumableUpload } from '../support/resumable-client.js';
import { framed, Stage } from '../support/stage.js';
import { FEWER_VARIANTS, StageClient } from '../support/stage-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { told } from '../support/told.js';
import type { WireResponse } from '../support/wire-response.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open();
});

afterAll(async () => {
  await stage.close();
});

const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
const BYTES = randomBytes(1000);

describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
  const client = (): StageClient => new StageClient(stage, transport, interop);
  const number = interop === 'final' ? 11 : Number(interop);
  const targetFor = (subject: string): string => `/refusals/${subject}?seed=${seed}`;

  /** An upload that stands at offset 400 of its 1000 bytes. */
  async function begun(subject: string, length?: number): Promise<ResumableUpload> {
    const upload = await client().place({ target: targetFor(subject), length });
    await upload.append(BYTES.subarray(0, 400), { offset: 0, complete: false });
    return upload;
  }

  function patch(upload: ResumableUpload, headers: readonly HeaderLine[], body: Uint8Array): Promise<WireResponse> {
    const lines = [...versionLines(client().dialect), ...headers];
    return client().send({ method: 'PATCH', target: upload.target, headers: lines, body });
  }

  /** The refusal has changed nothing: the rest still fits. */
  async function expectUnharmed(upload: ResumableUpload, subject: string): Promise<void> {
    expect(stage.requestsFor(targetFor(subject))).toEqual([]);
    expect(await upload.offset()).toBe(400);
    const answer = await upload.append(BYTES.subarray(400), { offset: 400, complete: true });
    expect(told(answer)).toEqual(client().expected.answered(OK, 1000));
    expect(stage.requestsFor(targetFor(subject))).toMatchObject([{ sha256: sha256(BYTES) }]);
  }

  test('an append at another offset is refused and told the right one', async () => {
    const upload = await begun('offset');
    for (const offset of [0, 399, 401, 999_999_999_999_999]) {
      const response = await upload.append(BYTES.subarray(400), { offset, complete: true });
      const refusal = { status: 409, type: 'mismatching-upload-offset', offset: 400, limits: true } as const;
      const members = { 'expected-offset': 400, 'provided-offset': offset };
      expect(told(response)).toEqual(client().expected.refused({ ...refusal, members }));
    }
    await expectUnharmed(upload, 'offset');
  });

  test.each([
    ['without an offset', []],
    ['with an offset that is no Integer', [['Upload-Offset', '400.0'] as const]],
    ['with two offsets', [['Upload-Offset', '400'] as const, ['Upload-Offset', '400'] as const]],
    ['with a negative offset', [['Upload-Offset', '-400'] as const]],
  ])('an append %s is refused', async (subject, offsetLines) => {
    const upload = await begun(subject.replace(/ /g, '-'));
    const lines = appendLines(client().dialect, { offset: 400, complete: true });
    const others = lines.filter(([name]) => !/^upload-(?:offset|draft)/i.test(name));
    const response = await patch(upload, [...others, ...offsetLines], BYTES.subarray(400));
    expect(told(response)).toEqual(client().expected.refused({ status: 400, limits: true }));
    await expectUnharmed(upload, subject.replace(/ /g, '-'));
  });

  test('an append that does not say whether it is the last one is the last one up to interop 6, and refused later', async () => {
    const { dialect, expected } = client();
    const upload = await begun('unsaid');
    const lines = appendLines(dialect, { offset: 400, complete: true });
    const others = lines.filter(([name]) => name !== dialect.completeness && !/^upload-draft/i.test(name));
    const garbage: HeaderLine = [dialect.completeness, 'true'];
    const refused = expected.refused({ status: 400, limits: true });
    expect(told(await patch(upload, [...others, garbage], BYTES.subarray(400)))).toEqual(refused);
    const response = await patch(upload, others, BYTES.subarray(400));
    if (number <= 6) return expect(told(response)).toEqual(expected.answered(OK, 1000));
    expect(told(response)).toEqual(refused);
    await expectUnharmed(upload, 'unsaid');
  });

  test('an append of another media type is refused where the dialect has one', async () => {
    const { dialect, expected } = client();
    const upload = await begun('type');
    const lines = appendLines(dialect, { offset: 400, complete: true });
    const others = lines.filter(([name]) => !/^(?:content-type|upload-draft)/i.test(name));
    const rest = BYTES.subarray(400);
    if (number >= 6) {
      const advice: HeaderLine[] = [['Accept-Patch', 'application/partial-upload']];
      const refused = expected.refused({ status: number === 6 ? 400 : 415, limits: true, advice });
      expect(told(await patch(upload, [...others, ['Content-Type', 'image/png']], rest))).toEqual(refused);
      expect(told(await patch(upload, others, rest))).toEqual(refused);
      return expectUnharmed(upload, 'type');
    }
    expect(told(await patch(upload, [...others, ['Content-Type', 'image/png']], rest))).toEqual(
      expected.answered(OK, 1000),
    );
  });

  test('lengths that contradict each other are refused, and the upload stays', async () => {
    const { expected, dialect } = client();
    const upload = await begun('lengths', 1000);
    const refused = expected.refused({ status: 400, type: 'inconsistent-upload-length', offset: 400, limits: true });
    const rest = BYTES.subarray(400);
    expect(told(await upload.append(rest, { offset: 400, complete: true, length: 1001 }))).toEqual(refused);
    expect(told(await upload.append(rest, { offset: 400, complete: false, length: 300 }))).toEqual(refused);
    expect(told(await upload.append(rest.subarray(1), { offset: 400, complete: true }))).toEqual(refused);
    await expectUnharmed(upload, 'lengths');
    const headers = creationLines(dialect, { complete: true, length: 999 });
    const created = await client().send({ method: 'POST', target: targetFor('creation'), headers, body: BYTES });
    expect(told(created)).toEqual(expected.refused({ status: 400, type: 'inconsistent-upload-length', limits: true }));
    expect(created.interims).toEqual([]);
    expect(stage.requestsFor(targetFor('creation'))).toEqual([]);
  });

  test('content that ends before the announced length does not complete the upload', async () => {
    const { expected } = client();
    const upload = await begun('short', 1000);
    const part = await client().append(upload, { offset: 400, complete: true });
    await part.send(BYTES.subarray(400, 900));
    await part.end();
    expect(told(await part.readFinal())).toEqual(
      expected.refused({ status: 400, type: 'inconsistent-upload-length', offset: 900, limits: true }),
    );
    expect(stage.requestsFor(targetFor('short'))).toEqual([]);
    const answer = await upload.append(BYTES.subarray(900), { offset: 900, complete: true });
    expect(told(answer)).toEqual(expected.answered(OK, 1000));
  });

  test.each([
    ['announced', 601],
    ['unannounced', undefined],
  ])('content beyond the length, %s, ends the upload', async (subject, bytes) => {
    const { expected } = client();
    const upload = await begun(subject, 1000);
    const part = await client().append(upload, { offset: 400, complete: false, bytes });
    await part.send(randomBytes(601));
    await part.end();
    expect(told(await part.readFinal())).toEqual(
      expected.refused({ status: 400, type: 'inconsistent-upload-length', limits: true }),
    );
    expect(told(await upload.retrieve())).toEqual(expected.unknownToHead('gone'));
    const rest = { offset: 400, complete: true };
    expect(told(await upload.append(BYTES.subarray(400), rest))).toEqual(expected.unknown('gone'));
    expect(told(await upload.cancel())).toEqual(expected.unknown('gone'));
    expect(stage.requestsFor(targetFor(subject))).toEqual([]);
  });
});
