import { describe, expect, test } from '@jest/globals';
import { play, type Stage } from '../support/pass-through-front.js';
import { connect } from '../support/raw-client.js';

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
    const seen = await play('bare', (stage) => sendHiddenRequest(stage, method));
    expect(seen).toContain('GET /smuggled HTTP/1.1');
  });

  test.each(['DELETE', 'OPTIONS', 'GET', 'POST', 'PATCH', 'PROPFIND'])('of a %s stays its body', async (method) => {
    const bodies = await play('ours', async (stage) => {
      const seen = await sendHiddenRequest(stage, method);
      expect(seen).toEqual([`${method} /outer HTTP/1.1`, 'GET /next HTTP/1.1']);
      expect(stage.origin.connections).toHaveLength(1);
      const [outer] = stage.origin.exchanges;
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
