import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { appendLines, creationLines, type ResumableUpload } from '../support/resumable-client.js';
import { framed, Stage } from '../support/stage.js';
import { FEWER_VARIANTS, StageClient } from '../support/stage-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { told } from '../support/told.js';
import type { WireResponse } from '../support/wire-response.js';

const LIMITS = 'max-size=100000, min-size=100, max-append-size=40000, min-append-size=1000';

let stage: Stage;

beforeAll(async () => {
  const limits = '{ max_size: 100000, min_size: 100, max_append_size: 40000, min_append_size: 1000 }';
  stage = await Stage.open({ config: `limits: ${limits}` });
});

afterAll(async () => {
  await stage.close();
});

const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
const BYTES = randomBytes(120_000);

describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
  const number = interop === 'final' ? 11 : Number(interop);
  const client = (): StageClient => new StageClient(stage, transport, interop, LIMITS);
  const targetFor = (subject: string): string => `/limits/${subject}?seed=${seed}`;
  const tooLarge = { status: 413, limits: true };
  const tooSmall = { status: 400, limits: true };

  /** A body that does not say how long it will be. */
  async function sendUncounted(method: string, target: string, headers: Head, body: Uint8Array): Promise<WireResponse> {
    const request = await stage.begin(transport, { method, target, headers });
    await request.send(body);
    await request.end();
    return request.readFinal();
  }

  test('a representation beyond max-size is refused before anything is kept, by either length', async () => {
    const { dialect, expected } = client();
    const target = targetFor('max-size');
    for (const creation of [
      { headers: creationLines(dialect, { complete: false, length: 100_001 }), body: '' },
      { headers: creationLines(dialect, { complete: true }), body: BYTES.subarray(0, 100_001) },
    ]) {
      const response = await client().send({ method: 'POST', target, ...creation });
      expect(told(response)).toEqual(expected.refused(tooLarge));
      expect(response.interims).toEqual([]);
    }
    expect(stage.requestsFor(target)).toEqual([]);
  });

  test('bytes beyond max-size that nobody had announced end the upload', async () => {
    const { expected } = client();
    const target = targetFor('uncounted');
    const upload = await client().place({ target, length: undefined });
    for (const offset of [0, 40_000]) {
      const body = BYTES.subarray(offset, offset + 40_000);
      expect(told(await upload.append(body, { offset, complete: false }))).toEqual(expected.appended(offset + 40_000));
    }
    const headers = appendLines(client().dialect, { offset: 80_000, complete: true });
    const response = await sendUncounted('PATCH', upload.target, headers, BYTES.subarray(80_000, 101_000));
    expect(told(response)).toEqual(expected.refused(tooLarge));
    expect(told(await upload.retrieve())).toEqual(expected.unknownToHead('gone'));
    expect(stage.requestsFor(target)).toEqual([]);
  });

  test('an append beyond max-append-size is refused, whether it says so or not, and the upload stays', async () => {
    const { expected, dialect } = client();
    const target = targetFor('max-append-size');
    const upload = await client().place({ target, length: 50_000 });
    const known = await upload.append(BYTES.subarray(0, 40_001), { offset: 0, complete: false });
    expect(told(known)).toEqual(expected.refused({ ...tooLarge, offset: 0 }));
    const headers = appendLines(dialect, { offset: 0, complete: false });
    const uncounted = await sendUncounted('PATCH', upload.target, headers, BYTES.subarray(0, 45_000));
    expect(told(uncounted)).toEqual(expected.refused({ ...tooLarge, offset: 40_000 }));
    const answer = await upload.append(BYTES.subarray(40_000, 50_000), { offset: 40_000, complete: true });
    expect(told(answer)).toEqual(expected.answered(OK, 50_000));
    expect(stage.requestsFor(target)).toMatchObject([{ sha256: sha256(BYTES.subarray(0, 50_000)) }]);
  });

  test('an append below min-append-size is refused, whether it says so or not, unless it is the last', async () => {
    const { expected, dialect } = client();
    const target = targetFor('min-append-size');
    const upload = await client().place({ target, length: undefined });
    const known = await upload.append(BYTES.subarray(0, 999), { offset: 0, complete: false });
    expect(told(known)).toEqual(expected.refused({ ...tooSmall, offset: 0 }));
    const headers = appendLines(dialect, { offset: 0, complete: false });
    const uncounted = await sendUncounted('PATCH', upload.target, headers, BYTES.subarray(0, 999));
    expect(told(uncounted)).toEqual(expected.refused({ ...tooSmall, offset: 0 }));
    expect(told(await upload.retrieve())).toEqual(expected.retrieved(0, { complete: false }));
    const answer = await upload.append(BYTES.subarray(0, 999), { offset: 0, complete: true });
    expect(told(answer)).toEqual(expected.answered(OK, 999));
    expect(stage.requestsFor(target)).toMatchObject([{ sha256: sha256(BYTES.subarray(0, 999)) }]);
  });

  test('limits on appends hold for the content of a creation from interop 9 on', async () => {
    const { expected, dialect } = client();
    const more = { target: targetFor('creation'), headers: creationLines(dialect, { complete: false }) };
    const large = await client().send({ method: 'POST', ...more, body: BYTES.subarray(0, 40_001) });
    const small = await client().send({ method: 'POST', ...more, body: BYTES.subarray(0, 999) });
    if (number >= 9) {
      expect(told(large)).toEqual(expected.refused(tooLarge));
      expect(told(small)).toEqual(expected.refused(tooSmall));
      return;
    }
    expect(told(large)).toEqual(expected.created(large.header('Location')!, 40_001));
    expect(told(small)).toEqual(expected.created(small.header('Location')!, 999));
  });

  test('a representation below min-size passes through if it is whole, and is an upload if more is to come', async () => {
    const { expected, dialect } = client();
    const target = targetFor('min-size');
    const whole = creationLines(dialect, { complete: true });
    const passed = await client().send({ method: 'POST', target, headers: whole, body: BYTES.subarray(0, 99) });
    expect(passed).toMatchObject({ status: 200, interims: [] });
    expect(passed.headerLines.filter(([name]) => /^upload-|^location$/i.test(name))).toEqual([]);
    const [received] = stage.requestsFor(target);
    expect(received).toMatchObject({ size: 99, sha256: sha256(BYTES.subarray(0, 99)) });
    for (const [name, value] of whole) expect(received!.header(name)).toBe(value);
    const headers = creationLines(dialect, { complete: false, length: 99 });
    const response = await client().send({ method: 'POST', target, headers, body: '' });
    expect(told(response)).toEqual(expected.created(response.header('Location')!, 0));
    expect(stage.requestsFor(target)).toHaveLength(1);
  });

  test('an upload within its limits is told them all', async () => {
    const bytes = BYTES.subarray(0, 30_000);
    const target = targetFor('within');
    const { request, upload }: { request: unknown; upload: ResumableUpload } = await client().begin({
      target,
      length: bytes.length,
    });
    expect(request).toBeDefined();
    expect(told(await upload.retrieve())).toEqual(
      client().expected.retrieved(0, { complete: false, length: bytes.length }),
    );
  });
});

type Head = ReturnType<typeof creationLines>;
