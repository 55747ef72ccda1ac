import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { TRANSPORTS } from '../support/open-request.js';
import { untilSpooled } from '../support/spooled.js';
import { framed, receivedLines, replayedLines, Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
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
const BYTES = randomBytes(50_000, 11);

describe.each(TRANSPORTS)('over %s', (transport) => {
  const targetFor = (subject: string): string => `/clients/${subject}?over=${encodeURIComponent(transport)}`;

  function expectReceived(target: string, lines: readonly HeaderLine[], added: readonly HeaderLine[] = []): void {
    const [received, ...others] = stage.requestsFor(target);
    expect(others).toEqual([]);
    expect(received).toMatchObject({ method: 'POST', sha256: sha256(BYTES) });
    const sent = { host: stage.host, lines, length: BYTES.length };
    const expected = replayedLines(transport, sent);
    // Behind the host, the connection and what the client sent.
    expected.splice(2 + lines.length, 0, ...added);
    expect(receivedLines(received!)).toEqual(expected);
  }

  test.each(['5', '6'] as const)(
    'tus-js-client in interop %s creates with nothing and appends to the end',
    async (interop) => {
      const client = new StageClient(stage, transport, interop);
      const target = targetFor(`tus-js-${interop}`);
      const own: HeaderLine[] = [['X-Request-ID', '7f']];
      const version: HeaderLine = ['Upload-Draft-Interop-Version', interop];
      const creation: HeaderLine[] = [
        ['Upload-Metadata', 'filename YS5wbmc=,filetype aW1hZ2UvcG5n'],
        ['Upload-Complete', '?0'],
        ['Upload-Length', `${BYTES.length}`],
      ];
      const headers = [version, ...own, ...creation];
      const created = await client.send({ method: 'POST', target, headers, body: '' });
      const url = created.header('Location')!;
      expect(told(created)).toEqual(client.expected.created(url, 0));
      const type: HeaderLine[] = interop === '5' ? [] : [['Content-Type', 'application/partial-upload']];
      const append = (method: string, offset: number, end: number, more: readonly HeaderLine[]) =>
        client.send({
          method,
          target: client.at(url).target,
          headers: [version, ...own, ['Upload-Offset', `${offset}`], ...type, ...more],
          body: BYTES.subarray(offset, end),
        });
      const override: HeaderLine = ['X-HTTP-Method-Override', 'PATCH'];
      const more: HeaderLine = ['Upload-Complete', '?0'];
      expect(told(await append('POST', 0, 20_000, [override, more]))).toEqual(client.expected.appended(20_000));
      expect(told(await append('PATCH', 20_000, 50_000, [more]))).toEqual(client.expected.appended(50_000));
      // When its source has no more to give, the end comes without content and without saying what it is.
      expect(told(await append('PATCH', 50_000, 50_000, []))).toEqual(client.expected.answered(OK, 50_000));
      expectReceived(target, own, [['Content-Type', 'image/png']]);
    },
  );

  test('tus-js-client in interop 6 that brings data with its creation calls that a part; the origin gets no such type', async () => {
    const client = new StageClient(stage, transport, '6');
    const target = targetFor('tus-js-data');
    const headers: HeaderLine[] = [
      ['Upload-Draft-Interop-Version', '6'],
      ['Content-Type', 'application/partial-upload'],
      ['Upload-Complete', '?1'],
      ['Upload-Length', `${BYTES.length}`],
    ];
    const answer = await client.send({ method: 'POST', target, headers, body: BYTES });
    const url = answer.interims[0]!.header('Location');
    expect(told(answer)).toEqual(client.expected.answered(OK, BYTES.length, url));
    expectReceived(target, [['Content-Type', 'application/octet-stream']]);
  });

  test('pyrufh goes on in pieces and says with the last how long it all is', async () => {
    const client = new StageClient(stage, transport, '8');
    const target = targetFor('pyrufh');
    const lines: HeaderLine[] = [['Upload-Length', `${BYTES.length}`]];
    const { request, upload } = await client.begin({ target, lines, length: BYTES.length });
    await request.send(BYTES.subarray(0, 12_345));
    await untilSpooled(stage.app.data, upload.url, 12_345);
    request.leave('reset');
    let offset = await upload.offset();
    for (; offset + 10_000 < BYTES.length; offset += 10_000) {
      const response = await upload.append(BYTES.subarray(offset, offset + 10_000), { offset, complete: false });
      expect(told(response)).toEqual(client.expected.appended(offset + 10_000));
    }
    const end = { offset, complete: true, length: BYTES.length };
    expect(told(await upload.append(BYTES.subarray(offset), end))).toEqual(client.expected.answered(OK, BYTES.length));
    expectReceived(target, []);
  });

  test('the origin gets the credentials of the request that completes the upload, where the first ones stood', async () => {
    const client = new StageClient(stage, transport, '9');
    const target = targetFor('credentials');
    const lines: HeaderLine[] = [
      ['X-Before', '1'],
      ['Authorization', 'Bearer old'],
      ['Cookie', 'session=old'],
      ['X-After', '2'],
    ];
    const upload = await client.place({ target, lines, length: BYTES.length });
    const fresh: HeaderLine[] = [
      ['authorization', 'Bearer new'],
      ['X-Only-Here', 'of this request alone'],
    ];
    const part = BYTES.subarray(0, 100);
    expect(told(await upload.append(part, { offset: 0, complete: false }))).toEqual(client.expected.appended(100));
    const answer = await upload.append(BYTES.subarray(100), { offset: 100, complete: true }, fresh);
    expect(told(answer)).toEqual(client.expected.answered(OK, BYTES.length));
    expectReceived(target, [['X-Before', '1'], fresh[0]!, ['Cookie', 'session=old'], ['X-After', '2']]);
  });
});
