import { describe, expect, test } from '@jest/globals';
import { connect } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { play, type Stage } from '../support/pass-through-front.js';
import type { RawExchange } from '../support/raw-origin.js';

/** An origin that says much before its answer. */
async function announce(exchange: RawExchange): Promise<void> {
  await exchange.interim(102);
  await exchange.interim(103, [
    ['Link', '</a.css>; rel=preload'],
    ['link', '</b.css>; rel=preload'],
    ['Connection', 'x-hop'],
    ['X-Hop', '1'],
  ]);
  await exchange.interim(104, [['Upload-Offset', '5']]);
  await exchange.interim(199);
  await exchange.readBody();
  await exchange.respond({ status: 200, body: 'ok' });
}

async function interimsOf({ front }: Stage): Promise<number[]> {
  const client = await connect(front.url);
  const { interims, status } = await client.request({ method: 'POST', target: '/', body: 'hello' });
  client.destroy();
  expect(status).toBe(200);
  return interims.map((interim) => interim.status);
}

describe('interim responses of the origin', () => {
  test('are lost with http-proxy alone', async () => {
    expect(await play('bare', interimsOf, { script: announce })).toEqual([]);
  });

  test('reach the client, in their order', async () => {
    expect(await play('ours', interimsOf, { script: announce })).toEqual([102, 103, 104, 199]);
  });

  test('keep their end-to-end fields and lose the others', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        const { interims } = await client.request({ method: 'GET', target: '/' });
        client.destroy();
        expect(interims[1]!.headerLines).toEqual([
          ['Link', '</a.css>; rel=preload'],
          ['link', '</b.css>; rel=preload'],
        ]);
        expect(interims[2]!.headerLines).toEqual([['Upload-Offset', '5']]);
      },
      { script: announce },
    );
  });

  test('come before the body is there', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.sendHead('POST', '/', [['Content-Length', '5']]);
        expect((await client.readInterim()).status).toBe(102);
        expect((await client.readInterim()).status).toBe(103);
        await client.send('hello');
        expect((await client.readFinal()).status).toBe(200);
        client.destroy();
      },
      { script: announce },
    );
  });

  test('are kept from an HTTP/1.0 client', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.send('GET / HTTP/1.0\r\nHost: x\r\n\r\n');
        const answer = await client.readFinal();
        client.destroy();
        expect(answer.status).toBe(200);
        expect(answer.interims).toEqual([]);
      },
      { script: announce },
    );
  });

  test('reach an HTTP/2 client', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connectH2(front.url);
        const { interims, status } = await client.request({ method: 'POST', target: '/', body: 'hello' });
        await client.close();
        expect(status).toBe(200);
        expect(interims.map((interim) => interim.status)).toEqual([102, 103, 104, 199]);
        expect(interims[1]!.header('link')).toBe('</a.css>; rel=preload, </b.css>; rel=preload');
        expect(interims[1]!.header('x-hop')).toBeUndefined();
      },
      { script: announce, speaks: 'h2c' },
    );
  });
});

/** Sends a head that expects 100, and tells what comes before the body is sent. */
async function expectContinue({ front, origin }: Stage): Promise<{ first: number; asked: string | undefined }> {
  const client = await connect(front.url);
  await client.sendHead('POST', '/', [
    ['Content-Length', '5'],
    ['Expect', '100-continue'],
  ]);
  const first = await client.readHead();
  client.destroy();
  return { first: first!.status, asked: (await origin.exchange(0)).header('expect') };
}

async function refuse(exchange: RawExchange): Promise<void> {
  await exchange.respond({ status: 417, headers: [['Connection', 'close']], body: 'not this one' });
  exchange.end();
}

async function letContinue(exchange: RawExchange): Promise<void> {
  await exchange.interim(100);
  await exchange.readBody();
  await exchange.respond({ status: 201, body: 'made' });
}

describe('Expect: 100-continue', () => {
  test('is answered by nobody but the front server with http-proxy alone', async () => {
    expect(await play('bare', expectContinue, { script: refuse })).toEqual({ first: 100, asked: '100-continue' });
  });

  test('is answered by the origin: a refusal comes without 100, and the body stays where it is', async () => {
    expect(await play('ours', expectContinue, { script: refuse })).toEqual({ first: 417, asked: '100-continue' });
  });

  test('a refusal ends the connection in good order, because a body may or may not follow', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        await client.sendHead('POST', '/', [
          ['Content-Length', '5'],
          ['Expect', '100-continue'],
        ]);
        const answer = await client.readFinal();
        expect(answer.header('connection')).toBe('close');
        expect(answer.body.toString()).toBe('not this one');
        expect(await client.readHead()).toBeUndefined();
        client.destroy();
      },
      { script: refuse },
    );
  });

  test("the origin's 100 becomes ours, once, and the body follows", async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connect(front.url);
        await client.sendHead('POST', '/', [
          ['Content-Length', '5'],
          ['Expect', '100-continue'],
        ]);
        expect((await client.readInterim()).status).toBe(100);
        await client.send('hello');
        const answer = await client.readFinal();
        expect(answer.interims).toEqual([]);
        expect(answer.status).toBe(201);
        expect((await client.request({ method: 'GET', target: '/' })).status).toBe(201);
        client.destroy();
        expect(origin.exchanges[0]!.body.bytes.toString()).toBe('hello');
      },
      { script: letContinue },
    );
  });

  test('a client that does not wait is not held up', async () => {
    await play('ours', async ({ front, origin }) => {
      const client = await connect(front.url);
      await client.sendHead('POST', '/', [
        ['Content-Length', '5'],
        ['Expect', '100-continue'],
      ]);
      await client.send('hello');
      expect((await client.readFinal()).status).toBe(200);
      client.destroy();
      expect(origin.exchanges[0]!.body.bytes.toString()).toBe('hello');
    });
  });

  test('a 100 that the client did not ask for is left out', async () => {
    await play(
      'ours',
      async ({ front }) => {
        const client = await connect(front.url);
        const answer = await client.request({ method: 'POST', target: '/', body: 'hello' });
        client.destroy();
        expect(answer.interims).toEqual([]);
        expect(answer.status).toBe(201);
      },
      { script: letContinue },
    );
  });

  test('of an HTTP/1.0 client means nothing (RFC 9110 §10.1.1)', async () => {
    await play('ours', async ({ front, origin }) => {
      const client = await connect(front.url);
      await client.send('POST / HTTP/1.0\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello');
      expect((await client.readFinal()).status).toBe(200);
      client.destroy();
      expect(origin.exchanges[0]!.header('expect')).toBeUndefined();
    });
  });

  test('is honoured over HTTP/2', async () => {
    await play(
      'ours',
      async ({ front, origin }) => {
        const client = await connectH2(front.url);
        const exchange = client.start({ method: 'POST', target: '/', headers: [['Expect', '100-continue']] });
        expect((await exchange.readInterim()).status).toBe(100);
        await exchange.send('hello');
        exchange.end();
        expect((await exchange.readFinal()).status).toBe(201);
        await client.close();
        expect(origin.exchanges[0]!.body.bytes.toString()).toBe('hello');
      },
      { script: letContinue, speaks: 'h2c' },
    );
  });
});
