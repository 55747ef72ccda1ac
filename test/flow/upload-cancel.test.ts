import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { completenessValue, versionLines, type ResumableUpload } from '../support/resumable-client.js';
import { spooledBytes } from '../support/spooled.js';
import { framed, Stage } from '../support/stage.js';
import { FEWER_VARIANTS, StageClient } from '../support/stage-client.js';
import { until } from '../support/temporary.js';
import { told } from '../support/told.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open();
});

afterAll(async () => {
  await stage.close();
});

const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
  const client = (): StageClient => new StageClient(stage, transport, interop);
  const target = `/cancel?seed=${seed}`;

  async function expectUnknown(upload: ResumableUpload): Promise<void> {
    const { expected, dialect } = client();
    const get = { method: 'GET', target: upload.target, headers: versionLines(dialect) };
    expect(told(await upload.retrieve())).toEqual(expected.unknownToHead());
    expect(told(await client().send(get))).toEqual(expected.unknown());
    expect(told(await upload.append('x', { offset: 0, complete: true }))).toEqual(expected.unknown());
    expect(told(await upload.cancel())).toEqual(expected.unknown());
  }

  test('a cancelled upload is gone with its bytes', async () => {
    const upload = await client().place({ target, length: undefined });
    await upload.append('some bytes', { offset: 0, complete: false });
    expect(told(await upload.cancel())).toEqual(client().expected.cancelled());
    await expectUnknown(upload);
    const id = upload.target.split('/').at(-1)!;
    expect(await spooledBytes(stage.app.data, id)).toBe(0);
    expect(stage.requestsFor(target)).toEqual([]);
  });

  test('an upload that is being fed can be cancelled: its request is given up without an answer', async () => {
    const upload = await client().place({ target, length: undefined });
    const eagerAppend = await client().append(upload, { offset: 0, complete: true, bytes: 1000 });
    await eagerAppend.send('the first part of it');
    const id = upload.target.split('/').at(-1)!;
    await until(async () => (await spooledBytes(stage.app.data, id)) === 20, 'the first part to arrive');
    expect(told(await upload.cancel())).toEqual(client().expected.cancelled());
    await eagerAppend.givenUp();
    await expectUnknown(upload);
    expect(stage.requestsFor(target)).toEqual([]);
  });

  test('an upload that was answered can be cancelled', async () => {
    const done = `${target}&done`;
    const upload = await client().place({ target: done, length: 3 });
    const answer = await upload.append('abc', { offset: 0, complete: true });
    expect(told(answer)).toEqual(client().expected.answered(OK, 3));
    expect(told(await upload.cancel())).toEqual(client().expected.cancelled());
    await expectUnknown(upload);
    expect(stage.requestsFor(done)).toHaveLength(1);
  });

  test('addresses of no upload are unknown, whatever they look like, and never reach the origin', async () => {
    for (const path of ['', 'x', 'A'.repeat(32), 'A'.repeat(4000), '..%2f..%2fetc', '%00', `${'A'.repeat(32)}?x=1`])
      await expectUnknown(client().at(`${stage.app.url}/.uploads/${path}`));
    expect(stage.origin.requests.filter(({ target: asked }) => asked.startsWith('/.uploads'))).toEqual([]);
  });

  test('an append to a target instead of an upload is unknown too, from interop 6 on', async () => {
    const { expected, dialect } = client();
    const nowhere = client().at(`${stage.app.url}/files/definitely-nonexistent-id?seed=${seed}`);
    const response = await nowhere.append('x', { offset: 0, complete: true });
    if (dialect.appendType === undefined) return expect(stage.requestsFor(nowhere.target)).toHaveLength(1);
    expect(told(response)).toEqual(expected.unknown());
    expect(stage.requestsFor(nowhere.target)).toEqual([]);
  });

  test('an upload does not understand POST and PUT', async () => {
    const upload = await client().place({ target, length: 3 });
    for (const method of ['POST', 'PUT']) {
      const request = { method, target: upload.target, headers: versionLines(client().dialect), body: 'abc' };
      const advice: HeaderLine[] = [['Allow', 'HEAD, GET, PATCH, DELETE, OPTIONS']];
      expect(told(await client().send(request))).toEqual(client().expected.refused({ status: 405, advice }));
    }
    expect(told(await upload.retrieve())).toEqual(client().expected.retrieved(0, { complete: false, length: 3 }));
  });

  test('whoever asks for the offset must not state one', async () => {
    const { dialect, expected } = client();
    const upload = await client().place({ target, length: 3 });
    const refused = expected.refused({ status: 400, limits: true });
    for (const line of [
      ['Upload-Offset', '0'],
      ['Upload-Length', '3'],
      [dialect.completeness, completenessValue(dialect, true)],
    ] as const) {
      const headers = [...versionLines(dialect), line];
      const ask = (method: string) => client().send({ method, target: upload.target, headers });
      expect(told(await ask('GET'))).toEqual(refused);
      expect(told(await ask('HEAD'))).toEqual({ ...refused, body: '' });
    }
    const garbage = { method: 'HEAD', target: upload.target, headers: [...versionLines(dialect)] };
    const response = await client().send({ ...garbage, headers: [...garbage.headers, ['Upload-Offset', 'none']] });
    expect(told(response)).toEqual(expected.retrieved(0, { complete: false, length: 3 }));
  });

  test('a cancellation that states an offset is refused where the dialect forbids it', async () => {
    const { dialect, expected } = client();
    const upload = await client().place({ target, length: 3 });
    const headers: HeaderLine[] = [...versionLines(dialect), ['Upload-Offset', '0']];
    const response = await client().send({ method: 'DELETE', target: upload.target, headers });
    const isLenient = ['7', '8', '9'].includes(interop);
    expect(told(response)).toEqual(isLenient ? expected.cancelled() : expected.refused({ status: 400, limits: true }));
  });

  test('GET tells the offset like HEAD', async () => {
    const upload = await client().place({ target, length: 3 });
    const get = { method: 'GET', target: upload.target, headers: versionLines(client().dialect) };
    expect(told(await client().send(get))).toEqual(client().expected.retrieved(0, { complete: false, length: 3 }));
  });
});
