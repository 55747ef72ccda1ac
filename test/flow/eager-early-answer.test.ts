import { afterEach, describe, expect, test } from '@jest/globals';
import { openRequest } from '../support/client.js';
import { bodyOf, DeliveryHarness } from '../support/delivery-harness.js';
import { CONTENT, EagerProxy, type EagerProxyOptions, length, MIB } from '../support/eager-proxy.js';
import { type RawExchange, type RawOrigin, type RawScript, startRawOrigin } from '../support/raw-origin.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

describe('while bytes come', () => {
  let proxy: EagerProxy;
  afterEach(() => proxy.close());

  async function open(options?: EagerProxyOptions): Promise<EagerProxy> {
    proxy = await EagerProxy.open(options);
    return proxy;
  }

  /** Says this to the first request, as soon as its head is there, and takes every other one. */
  function atFirst(status: number): (exchange: RawExchange) => Promise<void> {
    return async (exchange) => {
      if (exchange.index > 0) await exchange.readBody();
      await exchange.respond({ status: exchange.index > 0 ? 200 : status, body: `says ${status}` });
    };
  }

  test.each([401, 413, 415])(
    'a %s after the headers stops an upload of 1 GiB before 32 MiB have left',
    async (status) => {
      const { origin } = await open({ script: atFirst(status) });
      const client = await proxy.client();
      await proxy.create(client, [length(1024 * MIB)]);
      let response: Awaited<ReturnType<typeof client.readFinal>> | undefined;
      const answered = client.readFinal().then((final) => (response = final));
      // How soon it hears is the machine's; but it need not send more to hear.
      while (!response && client.socket.bytesWritten < 31 * MIB) await client.send(CONTENT.subarray(0, MIB / 4));
      await answered;
      expect([response?.status, response?.body.toString()]).toEqual([status, `says ${status}`]);
      expect(client.socket.bytesWritten).toBeLessThan(32 * MIB);
      expect(origin.exchanges).toHaveLength(1);
    },
  );

  test('a refusal is kept for a client that did not hear it, and its bytes are not', async () => {
    const { origin } = await open({ script: atFirst(415) });
    const client = await proxy.client();
    const target = await proxy.create(client, [length(CONTENT.length)]);
    await client.send('hello');
    await proxy.exchange(0);
    client.reset();
    const head = await until(async () => {
      const hasEnded = proxy.app.log.some(({ msg, phase }) => msg === 'upload ended' || phase === 'answered');
      const now = await proxy.head(target);
      return hasEnded && now;
    }, 'the refusal to be recorded');
    expect(head.header('upload-complete')).toBe('?0');
    const again = await proxy.client();
    await proxy.append(again, target, Number(head.header('upload-offset')), CONTENT.length - 5);
    const response = await again.readFinal();
    expect([response.status, response.body.toString()]).toEqual([415, 'says 415']);
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a good answer to a part is an answer to the whole: no client goes on for ever to bring the rest', async () => {
    const { origin } = await open({ script: atFirst(200) });
    const client = await proxy.client();
    const target = await proxy.create(client, [length(CONTENT.length)]);
    await client.send('hello');
    const first = await client.readFinal();
    const again = await proxy.client();
    await proxy.append(again, target, 5, CONTENT.length - 5);
    const answers = [first, await again.readFinal()];
    const total = String(CONTENT.length);
    // tus-js-client goes by the offset alone, and sends what follows it until that is the total.
    for (const answer of answers)
      expect([answer.status, answer.header('upload-offset'), answer.header('upload-complete')]).toEqual([
        200,
        total,
        '?1',
      ]);
    const head = await proxy.head(target);
    expect([head.header('upload-offset'), head.header('upload-complete')]).toEqual([total, '?1']);
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a 401 is told at once, and the upload goes on from where it was with other credentials', async () => {
    const { origin } = await open({ script: atFirst(401) });
    const client = await proxy.client();
    const target = await proxy.create(client, [length(CONTENT.length), ['Authorization', 'Bearer old']]);
    await client.send(CONTENT.subarray(0, MIB));
    const refused = await client.readFinal();
    expect([refused.status, refused.header('upload-complete')]).toEqual([401, '?0']);
    client.destroy();
    const offset = Number((await proxy.head(target)).header('upload-offset'));
    const again = await proxy.client();
    await again.sendHead('PATCH', target, [
      ['Upload-Draft-Interop-Version', '10'],
      ['Content-Type', 'application/partial-upload'],
      ['Upload-Offset', `${offset}`],
      ['Upload-Complete', '?1'],
      ['Authorization', 'Bearer new'],
      length(CONTENT.length - offset),
    ]);
    await again.send(CONTENT.subarray(offset));
    expect((await again.readFinal()).status).toBe(200);
    expect(origin.exchanges.map((exchange) => exchange.header('authorization'))).toEqual(['Bearer old', 'Bearer new']);
    expect(origin.exchanges[1]?.body.sha256).toBe(sha256(CONTENT));
  });

  test('a 503 is no answer: the whole is delivered from the spool', async () => {
    const { origin } = await open({ script: atFirst(503) });
    const client = await proxy.client();
    await proxy.create(client, [length(CONTENT.length)]);
    await client.send(CONTENT.subarray(0, MIB));
    await (
      await proxy.exchange(0)
    ).closed;
    await client.send(CONTENT.subarray(MIB));
    expect((await client.readFinal()).status).toBe(200);
    expect(origin.exchanges).toHaveLength(2);
    expect(origin.exchanges[1]?.body.sha256).toBe(sha256(CONTENT));
  });

  test('an origin that is lost on the way costs the client nothing', async () => {
    const { origin } = await open({
      script: async (exchange) => {
        if (exchange.index === 0) return exchange.reset();
        await exchange.readBody();
        await exchange.respond({ status: 201 });
      },
    });
    const client = await proxy.client();
    await proxy.create(client, [length(CONTENT.length)]);
    await client.send(CONTENT.subarray(0, MIB));
    await (
      await proxy.exchange(0)
    ).closed;
    await client.send(CONTENT.subarray(MIB));
    expect((await client.readFinal()).status).toBe(201);
    expect(origin.exchanges).toHaveLength(2);
  });

  test('bytes that are not what their digest says are never whole at the origin', async () => {
    await open();
    const client = await proxy.client();
    const wrong = `sha-256=:${Buffer.from(sha256('something else'), 'hex').toString('base64')}:`;
    await proxy.create(client, [length(CONTENT.length), ['Repr-Digest', wrong]]);
    await client.send(CONTENT);
    expect((await client.readFinal()).status).toBe(400);
    const exchange = await proxy.exchange(0);
    await exchange.closed;
    expect(exchange.body.size).toBeLessThan(CONTENT.length);
  });

  test('bytes that are what their digest says are let go once that is known', async () => {
    const { origin } = await open();
    const client = await proxy.client();
    const right = `sha-256=:${Buffer.from(sha256(CONTENT), 'hex').toString('base64')}:`;
    await proxy.create(client, [length(CONTENT.length), ['Repr-Digest', right]]);
    await client.send(CONTENT);
    expect((await client.readFinal()).status).toBe(200);
    expect(origin.exchanges.map(({ body }) => body.sha256)).toEqual([sha256(CONTENT)]);
  });

  test('an origin that dies over the whole body of a POST is not sent it twice', async () => {
    const { origin } = await open({
      script: async (exchange) => {
        await exchange.readBody();
        exchange.reset();
      },
    });
    const client = await proxy.client();
    await proxy.create(client, [length(CONTENT.length)]);
    await client.send(CONTENT);
    expect((await client.readFinal()).status).toBeGreaterThanOrEqual(500);
    expect(origin.exchanges).toHaveLength(1);
  });

  test('over HTTP/2 an early refusal reaches its client at once as well', async () => {
    const { app } = await open({ script: atFirst(413) });
    const client = await openRequest('HTTP/2', app.url, {
      method: 'POST',
      target: '/files',
      headers: [['upload-draft-interop-version', '10'], ['upload-complete', '?1'], length(1024 * MIB)],
    });
    await client.send(CONTENT.subarray(0, MIB));
    const response = await client.readFinal();
    await client.close();
    expect([response.status, response.body.toString()]).toEqual([413, 'says 413']);
  });
});

describe('after they came', () => {
  let origin: RawOrigin;
  let harness: DeliveryHarness;

  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  const LARGE = randomBytes(8 * 1024 * 1024);
  const REFUSAL = `{"error":"${'too large '.repeat(200)}"}`;

  async function refusedEarly(script: RawScript, times: number): Promise<void> {
    origin = await startRawOrigin(script);
    harness = await DeliveryHarness.open(origin.url);
    for (let count = 0; count < times; count++) {
      const upload = await harness.whole({ body: LARGE });
      const answer = await harness.answer(upload.id);
      expect([answer.status, (await bodyOf(answer)).toString()]).toEqual([413, REFUSAL]);
      expect((await harness.upload(upload.id)).attempts).toMatchObject([{ reached: 'answered', status: 413 }]);
    }
    expect(origin.exchanges).toHaveLength(times);
  }

  test('an origin that refuses while we send, and resets the connection, is heard every time', async () => {
    await refusedEarly(async (exchange) => {
      await exchange.readBytes(100_000);
      await exchange.respond({ status: 413, headers: [['Connection', 'close']], body: REFUSAL });
      // Closing with unread bytes is what makes the kernel send RST, as it happens with real servers.
      exchange.socket.destroy();
    }, 50);
  }, 60_000);

  test('also when it resets without having read anything of the body', async () => {
    await refusedEarly(async (exchange) => {
      await exchange.respond({ status: 413, body: REFUSAL });
      exchange.socket.destroy();
    }, 50);
  }, 60_000);

  test('an origin that refuses while we send and keeps the connection open is heard at once', async () => {
    await refusedEarly(async (exchange) => {
      await exchange.readBytes(100_000);
      await exchange.respond({ status: 413, body: REFUSAL });
      await exchange.closed;
    }, 3);
  });

  test('a refusal whose end is the end of the connection is heard', async () => {
    await refusedEarly(async (exchange) => {
      await exchange.readBytes(100_000);
      await exchange.write(`HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n${REFUSAL}`);
      exchange.end();
      await exchange.closed;
    }, 10);
  });

  test('an early 503 is a failure like any other: the next attempt gets the whole', async () => {
    origin = await startRawOrigin(async (exchange) => {
      if (exchange.index === 0) {
        await exchange.respond({ status: 503, body: 'bad' });
        return exchange.socket.destroy() as unknown as undefined;
      }
      await exchange.readBody();
      await exchange.respond({ status: 201 });
    });
    harness = await DeliveryHarness.open(origin.url);
    const upload = await harness.whole({ body: LARGE });
    expect((await harness.answer(upload.id)).status).toBe(201);
    expect(origin.exchanges[1]!.body.size).toBe(LARGE.length);
  });
});
