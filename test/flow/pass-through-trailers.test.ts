import { describe, expect, test } from '@jest/globals';
import { fieldValue, type HeaderLine } from '../../src/model/headers.js';
import { connectH2, H2Exchange } from '../support/h2-client.js';
import { play, type Stage } from '../support/pass-through-front.js';
import { connect } from '../support/raw-client.js';
import type { RawExchange } from '../support/raw-origin.js';

const TRAILERS: HeaderLine[] = [
  ['X-Sum', '1'],
  ['x-sum', '2'],
  ['Content-Encoding', 'gzip'],
];
const PASSED: HeaderLine[] = TRAILERS.slice(0, 2);

const answerWithTrailers =
  (announced: boolean) =>
  async (exchange: RawExchange): Promise<void> => {
    await exchange.readBody();
    const headers: HeaderLine[] = [['Transfer-Encoding', 'chunked']];
    if (announced) headers.push(['Trailer', 'X-Sum']);
    await exchange.respond({ status: 200, headers, body: 'ok', trailers: TRAILERS });
  };

async function exchangeTrailers({ front, origin }: Stage, announced: boolean) {
  const client = await connect(front.url);
  const headers: HeaderLine[] = [['Transfer-Encoding', 'chunked']];
  if (announced) headers.push(['Trailer', 'X-Sum']);
  await client.sendHead('POST', '/', headers);
  await client.sendChunk('hello');
  await client.endChunks(TRAILERS);
  const answer = await client.readFinal();
  client.destroy();
  return { answer, sent: origin.exchanges[0]!, atOrigin: origin.exchanges[0]!.body.trailers };
}

describe('trailers', () => {
  test.each([true, false])('are lost in both directions with http-proxy alone (announced: %s)', async (announced) => {
    const script = answerWithTrailers(announced);
    const seen = await play('bare', (stage) => exchangeTrailers(stage, announced), { script });
    expect({ atOrigin: seen.atOrigin, atClient: seen.answer.trailers }).toEqual({ atOrigin: [], atClient: [] });
  });

  test.each([true, false])('are passed on in both directions (announced: %s)', async (announced) => {
    const script = answerWithTrailers(announced);
    const { answer, sent, atOrigin } = await play('ours', (stage) => exchangeTrailers(stage, announced), { script });
    expect(atOrigin).toEqual(PASSED);
    expect(answer.trailers).toEqual(PASSED);
    expect(sent.header('trailer')).toBe(announced ? 'X-Sum' : undefined);
    expect(answer.header('trailer')).toBe(announced ? 'X-Sum' : undefined);
    expect(answer.body.toString()).toBe('ok');
  });

  test('reach an HTTP/2 client, and come from one', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const headers = { ':method': 'POST', ':path': '/' };
        const stream = client.session.request(headers, { waitForTrailers: true });
        stream.once('wantTrailers', () => stream.sendTrailers({ 'x-sum': ['3', '4'] }));
        const exchange = new H2Exchange(stream, 10_000);
        stream.end('hello');
        const answer = await exchange.readFinal();
        await client.close();
        expect(fieldValue(answer.trailers, 'x-sum')).toBe('1, 2');
        expect(fieldValue(answer.trailers, 'content-encoding')).toBeUndefined();
        expect(origin.exchanges[0]!.body.bytes.toString()).toBe('hello');
        expect(origin.exchanges[0]!.body.trailers).toEqual([
          ['x-sum', '3'],
          ['x-sum', '4'],
        ]);
      },
      { script: answerWithTrailers(true), speaks: 'h2c' },
    );
  });

  test('are left out for an HTTP/1.0 client, with their announcement', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.send('GET / HTTP/1.0\r\nHost: x\r\n\r\n');
        const answer = await client.readFinal();
        client.destroy();
        expect(answer.body.toString()).toBe('ok');
        expect(answer.header('trailer')).toBeUndefined();
      },
      { script: answerWithTrailers(true) },
    );
  });

  test('an announcement in the answer to HEAD does no harm', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        expect((await client.request({ method: 'HEAD', target: '/' })).status).toBe(200);
        expect((await client.request({ method: 'GET', target: '/' })).trailers).toEqual(PASSED);
        client.destroy();
      },
      { script: answerWithTrailers(true) },
    );
  });
});

test('TE: trailers is said again for our own hop', async () => {
  await play('ours', async ({ front, origin }) => {
    const client = await connect(front.url);
    await client.request({
      method: 'GET',
      target: '/',
      headers: [
        ['TE', 'trailers, deflate'],
        ['Connection', 'TE'],
      ],
    });
    client.destroy();
    expect(origin.exchanges[0]!.header('te')).toBe('trailers');
    expect(origin.exchanges[0]!.header('connection')).toBe('keep-alive, TE');
  });
});
