import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connectH2 } from '../support/h2-client.js';
import { play, type Stage } from '../support/pass-through-front.js';
import type { RawExchange } from '../support/raw-origin.js';
import { randomBytes, sha256 } from '../support/temporary.js';

const SPEAKS = { speaks: 'h2c' } as const;

async function answer(exchange: RawExchange): Promise<void> {
  await exchange.readBody();
  await exchange.respond({
    status: 200,
    reason: 'A Phrase That HTTP/2 Has No Place For',
    headers: [
      ['Connection', 'X-Hop'],
      ['X-Hop', '1'],
      ['Keep-Alive', 'timeout=5'],
      ['Set-Cookie', 'a=1'],
      ['Set-Cookie', 'b=2'],
      ['X-Content-Type-Options', 'nosniff'],
      ['x-content-type-options', 'nosniff'],
      ['Vary', 'Accept'],
      ['Vary', 'Origin'],
    ],
    body: 'ok',
  });
}

async function getOnce({ front }: Stage): Promise<number> {
  const client = await connectH2(front.url);
  try {
    return (await client.request({ method: 'GET', target: '/a?b=c' })).status;
  } finally {
    await client.close();
  }
}

describe('behind an HTTP/2 front', () => {
  test('http-proxy alone fails over the pseudo-header fields', async () => {
    expect(await play('bare', getOnce, { ...SPEAKS, script: answer })).toBe(500);
  });

  test('a request reaches the origin in the form of HTTP/1.1', async () => {
    await play(
      'ours',
      async (stage) => {
        expect(await getOnce(stage)).toBe(200);
        const [seen] = stage.origin.exchanges;
        const authority = stage.front.url.slice('http://'.length);
        expect(seen!.requestLine).toBe('GET /a?b=c HTTP/1.1');
        expect(seen!.headerLines).toEqual([
          ['host', authority],
          ['Forwarded', `for=127.0.0.1;host="${authority}";proto=http`],
          ['X-Forwarded-For', '127.0.0.1'],
          ['X-Forwarded-Host', authority],
          ['X-Forwarded-Proto', 'http'],
          ['Via', '2.0 rufh-proxy'],
          ['Connection', 'keep-alive'],
        ]);
      },
      { ...SPEAKS, script: answer },
    );
  });

  test('an answer keeps its fields, without those of one hop', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connectH2(front.url);
        const response = await client.request({ method: 'GET', target: '/' });
        await client.close();
        expect(response.headerLines.filter(([name]) => name === 'set-cookie')).toEqual([
          ['set-cookie', 'a=1'],
          ['set-cookie', 'b=2'],
        ]);
        expect(response.header('x-content-type-options')).toBe('nosniff, nosniff');
        expect(response.header('vary')).toBe('Accept, Origin');
        const names = new Set(response.headerLines.map(([name]) => name));
        expect([...names].sort()).toEqual(['content-length', 'date', 'set-cookie', 'vary', 'x-content-type-options']);
        expect(response.body.toString()).toBe('ok');
      },
      { ...SPEAKS, script: answer },
    );
  });

  test('crumbs of a cookie become one line (RFC 9113 §8.2.3)', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const headers: HeaderLine[] = [
          ['Cookie', 'a=1'],
          ['X-Other', '1'],
          ['Cookie', 'b=2'],
        ];
        await client.request({ method: 'GET', target: '/', headers });
        await client.close();
        expect(origin.exchanges[0]!.headerLines.filter(([name]) => name === 'cookie')).toEqual([
          ['cookie', 'a=1; b=2'],
        ]);
      },
      SPEAKS,
    );
  });

  test('a body without length is chunked, one with a length keeps it, none is none', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const body = randomBytes(300_000);
        await client.request({ method: 'PUT', target: '/', body });
        await client.request({ method: 'PUT', target: '/', headers: [['Content-Length', `${body.length}`]], body });
        await client.request({ method: 'DELETE', target: '/', body: 'why' });
        await client.request({ method: 'POST', target: '/' });
        await client.request({ method: 'GET', target: '/' });
        await client.close();
        expect(
          origin.exchanges.map((seen) => [seen.header('content-length'), seen.header('transfer-encoding')]),
        ).toEqual([
          [undefined, 'chunked'],
          ['300000', undefined],
          [undefined, 'chunked'],
          ['0', undefined],
          [undefined, undefined],
        ]);
        expect(origin.exchanges.slice(0, 2).map((seen) => seen.body.sha256)).toEqual([sha256(body), sha256(body)]);
        expect(origin.exchanges[2]!.body.bytes.toString()).toBe('why');
        expect(origin.connections).toHaveLength(1);
      },
      SPEAKS,
    );
  });

  test.each(['GET', 'HEAD'])('a %s of an answer without content ends its stream', async (method) => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connectH2(front.url);
        const response = await client.request({ method, target: '/' });
        await client.close();
        expect(response.status).toBe(204);
        expect(response.body).toHaveLength(0);
      },
      { ...SPEAKS, script: (exchange) => exchange.respond({ status: 204 }) },
    );
  });

  test('streams of one connection do not wait for each other', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const slow = client.start({ method: 'POST', target: '/slow' });
        await slow.send('a beginning');
        await origin.exchange(0);
        for (let round = 0; round < 5; round++) {
          expect((await client.request({ method: 'GET', target: '/fast' })).status).toBe(200);
        }
        slow.end();
        expect((await slow.readFinal()).status).toBe(200);
        await client.close();
      },
      SPEAKS,
    );
  });
});
