import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { ExpectedResponses } from '../support/expected-responses.js';
import { connect, type RawClient } from '../support/raw-client.js';
import { clientDialect } from '../support/resumable-client.js';
import { untilSpooled } from '../support/spooled.js';
import { framed, receivedLines, replayedLines, Stage } from '../support/stage.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { told } from '../support/told.js';

let stage: Stage;

beforeAll(async () => {
  stage = await Stage.open({ config: 'limits: { min_size: 1000 }' });
});

afterAll(async () => {
  await stage.close();
});

const BYTES = randomBytes(60_000, 3);
const CUT_AT = 20_001;

/** What an app sets on its request: URLSession repeats all of it on HEAD and PATCH. */
const APP = [
  ['Accept', '*/*'],
  ['Authorization', 'Bearer t0ken'],
  ['x-api-key', 'k3y'],
  ['Repr-Digest', 'xxh64=:AAAAAAAAAAA=:'],
  ['Accept-Language', 'de-DE,de;q=0.9'],
  ['Accept-Encoding', 'gzip, deflate'],
  ['User-Agent', 'Photos/3 CFNetwork/1568.200.51 Darwin/24.1.0'],
] as const;

const text = (lines: readonly (readonly [string, string])[]): string =>
  lines.map(([name, value]) => `${name}: ${value}\r\n`).join('');

/** Sends the head as URLSession does: fields of the protocol among those of the app. */
async function open(request: string, lines: readonly (readonly [string, string])[]): Promise<RawClient> {
  const client = await connect(stage.app.url);
  await client.send(`${request} HTTP/1.1\r\nHost: ${stage.host}\r\n${text(lines)}Connection: keep-alive\r\n\r\n`);
  return client;
}

describe.each([
  { name: 'iOS 17', interop: '3', last: ['Upload-Incomplete', '?0'], says: true },
  { name: 'iOS 17 that leaves out what is clear', interop: '3', last: ['Upload-Incomplete', '?0'], says: false },
  { name: 'iOS 18.0', interop: '5', last: ['Upload-Complete', '?1'], says: true },
  { name: 'iOS 18.1 to 27', interop: '6', last: ['Upload-Complete', '?1'], says: true },
] as const)('URLSession of $name', ({ interop, last, says, name }) => {
  const expected = new ExpectedResponses(clientDialect(interop), 'HTTP/1.1', 'min-size=1000');
  const version = ['Upload-Draft-Interop-Version', interop] as const;
  const type = ['Content-Type', 'image/heic'] as const;
  const target = `/api/assets?from=${encodeURIComponent(name)}`;

  test('an upload task goes on where it was cut, and the app gets the answer of its API', async () => {
    const answer = { status: 201, headers: [['Content-Type', 'application/json'] as const], body: '{"id":7}' };
    stage.answer(target, answer);
    const creation = await open(`POST ${target}`, [
      type,
      last,
      ...APP.slice(0, 3),
      version,
      ...APP.slice(3),
      ['Content-Length', `${BYTES.length}`],
    ]);
    const interim = await creation.readInterim();
    const url = interim.header('Location')!;
    expect([told(interim)]).toEqual(expected.interims(url));
    await creation.send(BYTES.subarray(0, CUT_AT));
    await untilSpooled(stage.app.data, url, CUT_AT);
    creation.reset();

    const resource = new URL(url).pathname;
    const head = await open(`HEAD ${resource}`, [type, version, ...APP, ['Content-Length', '0']]);
    const length = BYTES.length;
    expect(told(await head.readFinal())).toEqual(expected.retrieved(CUT_AT, { complete: false, length }));
    head.destroy();

    const patch = await open(`PATCH ${resource}`, [
      interop === '6' ? ['Content-Type', 'application/partial-upload'] : type,
      ...(says ? [last] : []),
      ['Upload-Offset', `${CUT_AT}`],
      version,
      ...APP,
      ['Content-Length', `${length - CUT_AT}`],
    ]);
    await patch.send(BYTES.subarray(CUT_AT));
    const final = await patch.readFinal();
    patch.destroy();
    const relayed = { status: 201, lines: framed(answer.headers, answer.body), body: answer.body };
    expect(told(final)).toEqual(expected.answered(relayed, length));
    expect(final.interims).toEqual([]);

    const [received, ...others] = stage.requestsFor(target);
    expect(others).toEqual([]);
    expect(received).toMatchObject({ method: 'POST', sha256: sha256(BYTES) });
    const sent = { host: stage.host, lines: [type, ...APP], length };
    expect(receivedLines(received!)).toEqual(replayedLines('HTTP/1.1', sent));
  });

  test('an upload task of a stream has no length, and its small requests are left alone', async () => {
    const stream = `${target}&stream`;
    const creation = await open(`POST ${stream}`, [last, version, ...APP, ['Transfer-Encoding', 'chunked']]);
    const interim = await creation.readInterim();
    expect([told(interim)]).toEqual(expected.interims(interim.header('Location')!));
    await creation.sendChunk(BYTES);
    await creation.endChunks();
    const final = await creation.readFinal();
    expect(final.status).toBe(200);
    expect(final.header('Upload-Offset')).toBe(`${BYTES.length}`);
    expect(stage.requestsFor(stream)).toMatchObject([{ sha256: sha256(BYTES) }]);

    const small = `${target}&small`;
    const body = '{"a":1}';
    await creation.send(
      `POST ${small} HTTP/1.1\r\nHost: ${stage.host}\r\n${text([last, version, ...APP])}Content-Length: ${body.length}\r\n\r\n`,
    );
    await creation.send(Buffer.from(body));
    const plain = await creation.readFinal();
    creation.destroy();
    expect(plain).toMatchObject({ status: 200, interims: [] });
    expect(plain.header('Upload-Offset')).toBeUndefined();
    expect(stage.requestsFor(small)).toMatchObject([{ sha256: sha256(body) }]);
  });
});
