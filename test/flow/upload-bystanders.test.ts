import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { TRANSPORTS } from '../support/open-request.js';
import { untilSpooled } from '../support/spooled.js';
import { framed, Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { told } from '../support/told.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open({ config: 'limits: { min_size: 1000 }' });
});

afterAll(async () => {
  await stage.close();
});

const ANSWER_LINES: readonly HeaderLine[] = [
  ['X-Answer', 'one'],
  ['x-answer', 'two'],
  ['Upload-Offset', 'the own word of the origin'],
];
const LARGE = randomBytes(5000);
const SMALL = Buffer.from('{"name":"IMG_0001.HEIC","favourite":true}');

describe.each(TRANSPORTS)('over %s', (transport) => {
  const lower = (name: string): string => (transport === 'HTTP/1.1' ? name : name.toLowerCase());

  /** The request reached the origin as the client wrote it, and the answer the client as the origin wrote it. */
  async function expectUntouched(
    target: string,
    request: { readonly method?: string; readonly lines: readonly HeaderLine[]; readonly body: Uint8Array },
  ): Promise<void> {
    stage.answer(target, { status: 201, headers: ANSWER_LINES, body: 'done' });
    const { method = 'POST', lines, body } = request;
    const answer = await stage.send(transport, { method, target, headers: lines, body });
    expect(answer.interims).toEqual([]);
    const relayed = framed(ANSWER_LINES, 'done').map(([name, value]) => `${lower(name)}: ${value}`);
    const kept = transport === 'HTTP/1.1' ? ['Connection: keep-alive', 'Keep-Alive: timeout=75'] : [];
    expect(told(answer)).toEqual({ status: 201, lines: [...relayed, ...kept], body: 'done' });
    const [received, ...others] = stage.requestsFor(target);
    expect(others).toEqual([]);
    expect(received).toMatchObject({ method, size: body.length, sha256: sha256(body) });
    expect(received!.headers).toEqual(expect.arrayContaining(lines.map(([name, value]) => [lower(name), value])));
    expect(received!.header('Idempotency-Key')).toBeUndefined();
  }

  test.each(['2', '11', '99', '6.0', 'abc', '"6"', '-6'])(
    'a whole upload that names version %s, which nobody knows, passes through',
    async (version) => {
      const lines: HeaderLine[] = [
        ['Upload-Draft-Interop-Version', version],
        ['Upload-Complete', '?1'],
      ];
      await expectUntouched(`/by/version?${encodeURIComponent(version + transport)}`, { lines, body: LARGE });
    },
  );

  test('an upload in an unknown version with more to come is served by the newest rules, without a version', async () => {
    const target = `/by/unknown-more?${encodeURIComponent(transport)}`;
    const client = new StageClient(stage, transport, 'final', 'min-size=1000');
    const headers: HeaderLine[] = [
      ['Upload-Draft-Interop-Version', '11'],
      ['Upload-Complete', '?0'],
      ['Upload-Length', '5000'],
    ];
    const created = await client.send({ method: 'POST', target, headers, body: LARGE.subarray(0, 2000) });
    const url = created.header('Location')!;
    expect(told(created)).toEqual(client.expected.created(url, 2000));
    expect(created.interims).toEqual([]);
    const answer = await client.at(url).append(LARGE.subarray(2000), { offset: 2000, complete: true });
    expect(answer.status).toBe(200);
    expect(stage.requestsFor(target)).toMatchObject([{ sha256: sha256(LARGE) }]);
  });

  test.each(['3', '5', '6', '9'])('a small JSON request of an iOS app, interop %s, passes through', async (version) => {
    const lines: HeaderLine[] = [
      ['Content-Type', 'application/json'],
      ['Accept', '*/*'],
      ['Upload-Draft-Interop-Version', version],
      version === '3' ? ['Upload-Incomplete', '?0'] : ['Upload-Complete', '?1'],
      ['User-Agent', 'Photos/3 CFNetwork/1568.200.51 Darwin/24.1.0'],
      ['Authorization', 'Bearer t0ken'],
      ['Content-Length', `${SMALL.length}`],
    ];
    await expectUntouched(`/by/json?${encodeURIComponent(version + transport)}`, { lines, body: SMALL });
  });

  test.each(['true', '1', '?2', '', '?1, ?1', '"?1"'])(
    'a request whose completeness is %j is none of ours and passes through',
    async (value) => {
      const lines: HeaderLine[] = [
        ['Upload-Draft-Interop-Version', '8'],
        ['Upload-Complete', value],
      ];
      await expectUntouched(`/by/garbage?${encodeURIComponent(value + transport)}`, { lines, body: LARGE });
    },
  );

  test('the completeness field of another version is none', async () => {
    const older: HeaderLine[] = [
      ['Upload-Draft-Interop-Version', '3'],
      ['Upload-Complete', '?1'],
    ];
    const newer: HeaderLine[] = [
      ['Upload-Draft-Interop-Version', '4'],
      ['Upload-Incomplete', '?0'],
    ];
    await expectUntouched(`/by/older?${encodeURIComponent(transport)}`, { lines: older, body: LARGE });
    await expectUntouched(`/by/newer?${encodeURIComponent(transport)}`, { lines: newer, body: LARGE });
  });

  test('ordinary requests pass through beside an upload that is under way', async () => {
    const client = new StageClient(stage, transport, '8', 'min-size=1000');
    const target = `/by/beside?${encodeURIComponent(transport)}`;
    const { request, upload } = await client.begin({ target, length: LARGE.length });
    await request.send(LARGE.subarray(0, 2000));
    await untilSpooled(stage.app.data, upload.url, 2000);
    const own: HeaderLine[] = [['X-Own', 'yes']];
    for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'])
      await expectUntouched(`${target}&method=${method}`, { method, lines: own, body: SMALL });
    await request.send(LARGE.subarray(2000));
    await request.end();
    expect((await request.readFinal()).status).toBe(200);
    expect(stage.requestsFor(target)).toMatchObject([{ sha256: sha256(LARGE) }]);
  });
});
