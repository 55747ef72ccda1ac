import { describe, expect, test } from '@jest/globals';
import { fieldValue, type HeaderLine } from '../../src/model/headers.js';
import { connect } from '../support/client.js';
import { connectH2, H2Exchange } from '../support/http2-client.js';
import { play, type Stage } from '../support/pass-through-front.js';
import type { RawExchange } from '../support/raw-origin.js';
import { randomBytes, sha256 } from '../support/temporary.js';

describe('framing', () => {
  const SMUGGLED = 'GET /smuggled HTTP/1.1\r\nHost: inner\r\n\r\n';

  /** Sends a chunked body that is a request itself, then one more request; tells what the origin took for requests. */
  async function sendHiddenRequest({ front, origin }: Stage, method: string): Promise<string[]> {
    const client = await connect(front.url);
    await client.sendHead(method, '/outer', [['Transfer-Encoding', 'chunked']]);
    await client.sendChunk(SMUGGLED);
    await client.endChunks();
    await client.readFinal();
    await client.request({ method: 'GET', target: '/next' });
    client.destroy();
    return origin.exchanges.map(({ requestLine }) => requestLine);
  }

  describe('a chunked body', () => {
    test.each(['DELETE', 'OPTIONS'])('of a %s becomes a request of its own with http-proxy alone', async (method) => {
      const seen = await play('bare', (setup) => sendHiddenRequest(setup, method));
      expect(seen).toContain('GET /smuggled HTTP/1.1');
    });

    test.each(['DELETE', 'OPTIONS', 'GET', 'POST', 'PATCH', 'PROPFIND'])('of a %s stays its body', async (method) => {
      const bodies = await play('ours', async (setup) => {
        const seen = await sendHiddenRequest(setup, method);
        expect(seen).toEqual([`${method} /outer HTTP/1.1`, 'GET /next HTTP/1.1']);
        expect(setup.origin.connections).toHaveLength(1);
        const [outer] = setup.origin.exchanges;
        expect(outer!.header('transfer-encoding')).toBe('chunked');
        expect(outer!.header('content-length')).toBeUndefined();
        return outer!.body.bytes.toString();
      });
      expect(bodies).toBe(SMUGGLED);
    });
  });

  test.each(['GET', 'DELETE', 'OPTIONS', 'PUT'])('a %s with Content-Length keeps it', async (method) => {
    await play('ours', async ({ front, origin }) => {
      const client = await connect(front.url);
      expect((await client.request({ method, target: '/', body: 'hello' })).status).toBe(200);
      expect((await client.request({ method, target: '/', body: 'again' })).status).toBe(200);
      client.destroy();
      expect(origin.exchanges.map(({ body }) => body.bytes.toString())).toEqual(['hello', 'again']);
      expect(origin.exchanges[0]!.header('content-length')).toBe('5');
      expect(origin.exchanges[0]!.header('transfer-encoding')).toBeUndefined();
    });
  });

  test.each(['POST', 'PUT', 'PATCH'])('a %s without content says so with Content-Length: 0', async (method) => {
    await play('ours', async ({ front, origin }) => {
      const client = await connect(front.url);
      await client.request({ method, target: '/' });
      client.destroy();
      expect(origin.exchanges[0]!.header('content-length')).toBe('0');
      expect(origin.exchanges[0]!.header('transfer-encoding')).toBeUndefined();
    });
  });

  test.each(['GET', 'HEAD', 'DELETE', 'OPTIONS'])('a %s without content gets no framing', async (method) => {
    await play('ours', async ({ front, origin }) => {
      const client = await connect(front.url);
      await client.request({ method, target: '/' });
      client.destroy();
      expect(origin.exchanges[0]!.header('content-length')).toBeUndefined();
      expect(origin.exchanges[0]!.header('transfer-encoding')).toBeUndefined();
    });
  });

  describe('ambiguous requests never reach the origin', () => {
    const heads: [string, string][] = [
      ['Content-Length and Transfer-Encoding', 'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
      ['two lengths', 'Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello'],
      ['a length that is a list', 'Content-Length: 5, 5\r\n\r\nhello'],
      ['a length with a sign', 'Content-Length: +5\r\n\r\nhello'],
      ['a space before the colon', 'Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n'],
      ['chunked twice', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
      ['chunked that is not last', 'Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n'],
      ['a bare line feed', 'X-A: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
      ['a chunk size that is no number', 'Transfer-Encoding: chunked\r\n\r\n5x\r\nhello\r\n0\r\n\r\n'],
    ];

    test.each(heads)('%s', async (_, rest) => {
      await play('ours', async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.send(`POST / HTTP/1.1\r\nHost: x\r\n${rest}`);
        const answer = await client.readFinal();
        expect([400, 501]).toContain(answer.status);
        client.destroy();
        expect(origin.exchanges.filter(({ body }) => body.endedCleanly)).toEqual([]);
      });
    });

    test('a coding other than chunked is answered with 501', async () => {
      await play('ours', async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.sendHead('POST', '/', [['Transfer-Encoding', 'gzip, chunked']]);
        await client.endChunks();
        const answer = await client.readFinal();
        expect(answer.status).toBe(501);
        expect(JSON.parse(answer.body.toString())).toMatchObject({
          status: 501,
          detail: expect.stringContaining('gzip'),
        });
        client.destroy();
        expect(origin.exchanges).toEqual([]);
      });
    });

    test('a folded field arrives as one line or not at all', async () => {
      await play('ours', async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.send('GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n Transfer-Encoding: chunked\r\n\r\n');
        await client.readFinal();
        client.destroy();
        for (const { headText, body } of origin.exchanges) {
          expect(headText).not.toMatch(/\r\n[ \t]/);
          expect(body.framing).toEqual({ length: 0 });
        }
      });
    });
  });

  test('Connection cannot take the framing or the host from a request', async () => {
    await play('ours', async ({ front, origin }) => {
      const client = await connect(front.url);
      const headers = [
        ['Host', 'example.org'],
        ['Connection', 'content-length, host, x-mine'],
        ['X-Mine', '1'],
      ] as const;
      await client.request({ method: 'POST', target: '/', headers, body: 'hello' });
      client.destroy();
      const [seen] = origin.exchanges;
      expect(seen!.body.bytes.toString()).toBe('hello');
      expect(seen!.header('content-length')).toBe('5');
      expect(seen!.header('host')).toBe('example.org');
      expect(seen!.header('x-mine')).toBeUndefined();
      expect(seen!.header('connection')).toBe('keep-alive');
    });
  });
});

describe('trailers', () => {
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
      const seen = await play('bare', (setup) => exchangeTrailers(setup, announced), { script });
      expect({ atOrigin: seen.atOrigin, atClient: seen.answer.trailers }).toEqual({ atOrigin: [], atClient: [] });
    });

    test.each([true, false])('are passed on in both directions (announced: %s)', async (announced) => {
      const script = answerWithTrailers(announced);
      const { answer, sent, atOrigin } = await play('ours', (setup) => exchangeTrailers(setup, announced), { script });
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
});

describe('HTTP/2', () => {
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
        async (setup) => {
          expect(await getOnce(setup)).toBe(200);
          const [seen] = setup.origin.exchanges;
          const authority = setup.front.url.slice('http://'.length);
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
});
