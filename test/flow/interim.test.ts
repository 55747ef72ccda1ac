import { execFile } from 'node:child_process';
import { request as httpRequest } from 'node:http';
import { connect as connectTcp } from 'node:net';
import { promisify } from 'node:util';
import { afterEach, describe, expect, test } from '@jest/globals';
import type { RequestHead } from '../../src/model/request-head.js';
import type { Reply } from '../../src/protocol/protocol.js';
import type { Exchange } from '../../src/server/exchange.js';
import {
  type InterimOptions,
  InterimResponses,
  sendContinue,
  sendInterim,
} from '../../src/server/interim-responses.js';
import { readHead } from '../../src/server/request-head.js';
import { sendReply } from '../../src/server/response.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';
import { connect } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { makeCertificate, until } from '../support/temporary.js';
import { closeListeners, openListener } from '../support/test-listener.js';

describe('interim responses', () => {
  const run = promisify(execFile);
  const tls = makeCertificate();
  const supported: Reply = {
    status: 104,
    reason: 'Upload Resumption Supported',
    headers: [
      ['Upload-Draft-Interop-Version', '8'],
      ['Location', 'http://a.example/u/1'],
      ['Connection', 'x-hop'],
    ],
  };
  const created: Reply = { status: 201, headers: [['X-Final', '1']], body: 'whole' };

  /** Preface, empty SETTINGS, and HEADERS of a POST whose body does not come. */
  const HTTP2_REQUEST = Buffer.concat([
    Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    Buffer.from('000000040000000000', 'hex'),
    Buffer.from('00000601040000000183868441', 'hex'),
    Buffer.from('0161', 'hex'),
  ]);

  afterEach(closeListeners);

  /** Reads the body to its end and then gives the final answer. */
  function finish(exchange: Exchange): void {
    exchange.req.resume();
    exchange.req.on('end', () => void sendReply(exchange, created));
  }

  describe.each([
    ['cleartext', undefined],
    ['TLS', tls],
  ])('104 over %s', (_what, secure) => {
    test('comes before the body is sent, byte for byte as it should be, and the final answer after it', async () => {
      const listener = await openListener(
        (exchange) => {
          expect(sendInterim(exchange, supported)).toBe(true);
          finish(exchange);
        },
        { tls: secure },
      );
      const client = await connect(listener.url);
      for (let round = 0; round < 2; round++) {
        await client.sendHead('POST', '/', [['Content-Length', '3']]);
        const interim = await client.readInterim();
        expect(interim.statusLine).toBe('HTTP/1.1 104 Upload Resumption Supported');
        expect(interim.headerLines).toEqual(supported.headers.slice(0, 2));
        await client.send(Buffer.from('abc'));
        const response = await client.readFinal();
        expect([response.status, response.header('x-final'), response.body.toString()]).toEqual([201, '1', 'whole']);
        expect(response.header('location')).toBeUndefined();
      }
      client.destroy();
    });

    test('comes before the body is sent over HTTP/2', async () => {
      const listener = await openListener(
        (exchange) => {
          expect(sendInterim(exchange, supported)).toBe(true);
          finish(exchange);
        },
        { tls: secure },
      );
      const h2 = await connectH2(listener.url);
      const asked = h2.start({ method: 'POST', target: '/' });
      const interim = await asked.readInterim();
      expect(interim.status).toBe(104);
      expect(interim.headerLines).toEqual([
        ['upload-draft-interop-version', '8'],
        ['location', 'http://a.example/u/1'],
      ]);
      await asked.send('abc');
      asked.end();
      expect(await asked.readFinal()).toMatchObject({ status: 201 });
      await h2.close();
    });
  });

  describe('104 and 100', () => {
    const both = (exchange: Exchange): void => {
      sendInterim(exchange, supported);
      sendContinue(exchange);
      finish(exchange);
    };

    test('curl sees 104, then 100, sends its body at once and takes the final answer', async () => {
      const listener = await openListener(both);
      const options = ['-sv', '--expect100-timeout', '20', '-H', 'Expect: 100-continue', '-d', 'abc'];
      const { stdout, stderr } = await run('curl', [...options, listener.url]);
      const statuses = [...stderr.matchAll(/^< HTTP\/1\.1 (\d+)/gm)].map(([, status]) => status);
      expect(statuses).toEqual(['104', '100', '201']);
      expect(stderr).toContain('< Location: http://a.example/u/1');
      expect(stdout).toBe('whole');
    });

    test.each([['--http2-prior-knowledge'], ['--http2']])('curl %s sees 104 and the final answer', async (option) => {
      const listener = await openListener(both, option === '--http2' ? { tls } : {});
      const { stdout, stderr } = await run('curl', ['-skv', option, '-d', 'abc', listener.url]);
      const statuses = [...stderr.matchAll(/^< HTTP\/2 (\d+)/gm)].map(([, status]) => status);
      expect(statuses).toEqual(['104', '201']);
      expect(stdout).toBe('whole');
    });

    test('a Node client that waits for 100 goes on after it', async () => {
      const listener = await openListener(both);
      const seen: string[] = [];
      const request = httpRequest(listener.url, { method: 'POST', headers: { Expect: '100-continue' } });
      request.on('information', ({ statusCode }) => void seen.push(`${statusCode}`));
      request.on('continue', () => request.end('abc'));
      request.flushHeaders();
      const status = await new Promise((resolve) => {
        request.on('response', (response) => {
          response.resume();
          resolve(response.statusCode);
        });
      });
      expect([...seen, status]).toEqual(['104', '100', 201]);
    });

    test('100 is sent once, and never before somebody asks for it', async () => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange));
      const client = await connect(listener.url);
      await client.sendHead('POST', '/', [
        ['Content-Length', '3'],
        ['Expect', '100-continue'],
      ]);
      await until(() => waiting.length === 1, 'the request');
      expect(client.socket.bytesRead).toBe(0);
      expect([sendContinue(waiting[0]!), sendContinue(waiting[0]!)]).toEqual([true, false]);
      finish(waiting[0]!);
      await client.send(Buffer.from('abc'));
      const response = await client.readFinal();
      expect(response.interims.map(({ status }) => status)).toEqual([100]);
      client.destroy();
    });
  });

  describe('an interim response is left out', () => {
    test('for HTTP/1.0', async () => {
      const sent: boolean[] = [];
      const listener = await openListener((exchange) => {
        sent.push(sendInterim(exchange, supported), sendContinue(exchange));
        finish(exchange);
      });
      const client = await connect(listener.url);
      await client.send('POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc');
      const response = await client.readFinal();
      expect([response.status, response.interims.length, sent]).toEqual([201, 0, [false, false]]);
      client.destroy();
    });

    test.each(['1.1', '2'])('once the final response has begun, over HTTP/%s', async (version) => {
      const sent: boolean[] = [];
      const listener = await openListener((exchange) => {
        async function* body() {
          yield Buffer.from('one,');
          sent.push(sendInterim(exchange, supported));
          await Promise.resolve();
          yield Buffer.from('two');
        }
        exchange.req.resume();
        void sendReply(exchange, { status: 200, headers: [], body: body() }).then(() => {
          sent.push(sendInterim(exchange, supported));
        });
      });
      const h1 = await connect(listener.url);
      const h2 = await connectH2(listener.url);
      const response = await (version === '2' ? h2 : h1).request({ method: 'GET', target: '/' });
      expect([response.body.toString(), response.interims.length]).toEqual(['one,two', 0]);
      await until(() => sent.length === 2, 'both tries');
      expect(sent).toEqual([false, false]);
      h1.destroy();
      await h2.close();
    });

    test('behind a pipelined response that is not finished, which it would run ahead of', async () => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange));
      const client = await connect(listener.url);
      await client.send('GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n');
      await until(() => waiting.length === 2, 'both requests');
      expect(waiting.map((exchange) => sendInterim(exchange, supported))).toEqual([true, false]);
      await sendReply(waiting[0]!, created);
      await until(() => sendInterim(waiting[1]!, supported), 'the second response to get its turn');
      await sendReply(waiting[1]!, created);
      const responses = [await client.readFinal(), await client.readFinal()];
      expect(responses.map(({ interims }) => interims.length)).toEqual([1, 1]);
      client.destroy();
    });

    test.each(['1.1', '2'])('when the client has left, over HTTP/%s', async (version) => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange));
      if (version === '2') {
        const h2 = await connectH2(listener.url);
        h2.start({ method: 'POST', target: '/' });
        await until(() => waiting.length === 1, 'the request');
        h2.cut();
      } else {
        const h1 = await connect(listener.url);
        await h1.sendHead('POST', '/', [['Content-Length', '3']]);
        await until(() => waiting.length === 1, 'the request');
        h1.reset();
      }
      waiting[0]!.req.on('error', () => undefined);
      await until(() => listener.connections === 0, 'the client to be gone');
      expect([sendInterim(waiting[0]!, supported), sendContinue(waiting[0]!)]).toEqual([false, false]);
    });

    test.each(['1.1', '2'])('when the client reads nothing, over HTTP/%s: memory has a bound', async (version) => {
      const waiting: Exchange[] = [];
      const listener = await openListener((exchange) => void waiting.push(exchange));
      const client = connectTcp(Number(new URL(listener.url).port), '127.0.0.1');
      client.write(version === '2' ? HTTP2_REQUEST : 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n');
      await until(() => waiting.length === 1, 'the request');
      const long: Reply = { ...supported, headers: [['X-Long', 'x'.repeat(4000)]] };
      let sent = 0;
      let refused = false;
      while (!refused && sent < 100_000) {
        refused = !sendInterim(waiting[0]!, long);
        if (!refused && ++sent % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      expect(refused).toBe(true);
      client.destroy();
    });

    test.each([
      ['its own limit', 20_000, 10_000],
      ['what can be sent', 100_000, undefined],
    ])('when it is over %s over HTTP/2, and the session goes on', async (_what, size, maxHeaderListSize) => {
      const headers = Array.from({ length: size / 1000 }, (_, at) => [`X-Field-${at}`, 'x'.repeat(980)] as const);
      const sent: boolean[] = [];
      const listener = await openListener((exchange) => {
        sent.push(sendInterim(exchange, { ...supported, headers }), sendInterim(exchange, supported));
        finish(exchange);
      });
      const h2 = await connectH2(listener.url, { settings: { maxHeaderListSize } });
      for (const method of ['POST', 'PUT']) {
        const { status, interims } = await h2.request({ method, target: '/', body: 'abc' });
        expect([status, interims.map((interim) => interim.status)]).toEqual([201, [104]]);
      }
      expect(sent).toEqual([false, true, false, true]);
      await h2.close();
    });

    test('and nothing can be smuggled into it', async () => {
      const failures: unknown[] = [];
      const listener = await openListener((exchange) => {
        for (const line of [
          ['Location', 'a\r\nX: y'],
          ['X\r\nY', 'a'],
          ['Ungültig', 'a'],
        ] as const) {
          try {
            sendInterim(exchange, { status: 104, headers: [line] });
          } catch (error) {
            failures.push((error as NodeJS.ErrnoException).code);
          }
        }
        finish(exchange);
      });
      const client = await connect(listener.url);
      const response = await client.request({ method: 'POST', target: '/', body: 'abc' });
      expect(response.interims).toEqual([]);
      expect(failures).toEqual(['ERR_INVALID_CHAR', 'ERR_INVALID_HTTP_TOKEN', 'ERR_INVALID_HTTP_TOKEN']);
      client.destroy();
    });
  });
});

describe('their budget', () => {
  const supported: Reply = { status: 104, headers: [['Location', 'http://a.example/u/1']] };

  afterEach(closeListeners);

  describe('the interim responses of one request', () => {
    let now = 0;
    const trust = new TrustedProxies([]);
    const withInterims =
      (mode: InterimOptions['mode'], tell: (interims: InterimResponses) => unknown) => (exchange: Exchange) => {
        const head = readHead(exchange.req, trust) as RequestHead;
        tell(new InterimResponses(exchange, head, { mode, monotonic: () => now }));
        exchange.req.resume();
        exchange.req.on('end', () => void sendReply(exchange, { status: 201, headers: [] }));
      };
    const seenBy = async (url: string, headers: readonly (readonly [string, string])[] = []): Promise<number[]> => {
      const client = await connect(url);
      const response = await client.request({ method: 'POST', target: '/', headers, body: 'abc' });
      client.destroy();
      return response.interims.map(({ status }) => status);
    };
    const progress = (interims: InterimResponses, seconds: number): boolean => {
      now += seconds * 1000;
      return interims.progress(() => supported);
    };

    test('are at most four, ever farther apart', async () => {
      const due: boolean[] = [];
      const listener = await openListener(
        withInterims('auto', (interims) => {
          interims.announce(() => supported);
          for (const seconds of [0, 0.999, 0.001, 7.9, 0.1, 63, 1, 10_000, 10_000])
            due.push(progress(interims, seconds));
        }),
      );
      expect(await seenBy(listener.url)).toEqual([104, 104, 104, 104]);
      expect(due).toEqual([false, false, true, false, true, false, true, false, false]);
    });

    test('leave room for 100, which has to come', async () => {
      const listener = await openListener(
        withInterims('auto', (interims) => {
          interims.announce(() => supported);
          for (let count = 0; count < 5; count++) progress(interims, 10_000);
          interims.continue();
          interims.continue();
          progress(interims, 10_000);
        }),
      );
      expect(await seenBy(listener.url, [['Expect', '100-continue']])).toEqual([104, 104, 104, 100]);
    });

    test('do not include 100 for a client that did not ask', async () => {
      const listener = await openListener(withInterims('always', (interims) => interims.continue()));
      expect(await seenBy(listener.url)).toEqual([]);
    });

    test.each([
      ['auto', [], [104]],
      ['auto', [['Via', '1.1 somebody']], []],
      ['auto', [['X-Forwarded-For', '192.0.2.1']], []],
      ['always', [['Via', '1.1 somebody']], [104]],
      ['never', [], []],
    ] as const)('%s with %j: %j', async (mode, headers, expected) => {
      const listener = await openListener(withInterims(mode, (interims) => interims.announce(() => supported)));
      expect(await seenBy(listener.url, headers)).toEqual(expected);
    });

    test('are not even put together where they cannot be sent, and none is sent where there is nothing to say', async () => {
      let asked = 0;
      const ask = (): undefined => {
        asked++;
      };
      const listener = await openListener(
        withInterims('never', (interims) => {
          interims.announce(ask);
          interims.progress(ask);
        }),
      );
      expect(await seenBy(listener.url)).toEqual([]);
      expect(asked).toBe(0);
      const willing = await openListener(withInterims('always', (interims) => interims.announce(ask)));
      expect(await seenBy(willing.url)).toEqual([]);
      expect(asked).toBe(1);
    });
  });
});
