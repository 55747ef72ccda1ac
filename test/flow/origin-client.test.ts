import { EventEmitter, once } from 'node:events';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { FileRefused, PeerFilesClient } from '../../src/cluster/peer-files.js';
import { HttpOrigin } from '../../src/delivery/http-origin.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { OriginClient, type OutgoingRequest } from '../../src/origin/origin-client.js';
import type { ClientConnection, ExchangeListener, OriginExchange } from '../../src/origin/origin-exchange.js';
import type { ResponseHead } from '../../src/origin/response-head.js';
import { sendShortRequest } from '../../src/origin/short-request.js';
import { PeerSignature } from '../../src/proxy/peer-auth.js';
import { connect } from '../support/client.js';
import { play } from '../support/pass-through-front.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { until, within } from '../support/temporary.js';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const FORGED = 'HTTP/1.1 200 Forged\r\nContent-Length: 6\r\n\r\nforged';

/** Records the events of an exchange. A callback of `calls` is called first. */
class Listener implements ExchangeListener {
  readonly interims: number[] = [];
  head: ResponseHead | undefined;
  body = '';
  hasEnded = false;
  readonly closed: Promise<Error | undefined>;
  private resolve!: (error: Error | undefined) => void;

  constructor(private readonly calls: { readonly [name in keyof ExchangeListener]?: () => void } = {}) {
    this.closed = new Promise((resolve) => (this.resolve = resolve));
  }

  onInterim({ status }: ResponseHead): void {
    this.interims.push(status);
    this.calls.onInterim?.();
  }

  onHead(head: ResponseHead): void {
    this.head = head;
    this.calls.onHead?.();
  }

  onContent(bytes: Buffer): void {
    this.body += bytes.toString('latin1');
    this.calls.onContent?.();
  }

  onEnd(): void {
    this.hasEnded = true;
    this.calls.onEnd?.();
  }

  onSwitched(): void {
    this.calls.onSwitched?.();
  }

  onDrain(): void {
    this.calls.onDrain?.();
  }

  onClosed(error: Error | undefined): void {
    this.resolve(error);
  }
}

let client: OriginClient;
let origin: RawOrigin;

beforeEach(async () => {
  client = new OriginClient();
  origin = await startRawOrigin();
});

afterEach(async () => {
  client.close();
  await until(() => client.openConnections === 0, 'the end of every connection');
  await origin.close();
});

function open(listener: Listener, request: Partial<OutgoingRequest> = {}): OriginExchange {
  const headers: HeaderLine[] = [['Host', 'x']];
  return client.open(
    { origin: origin.url, method: 'GET', target: '/', headers, connection: 'kept', ...request },
    listener,
  );
}

/** A whole request without a body, and its response. */
async function ask(request: Partial<OutgoingRequest> = {}): Promise<Listener> {
  const listener = new Listener();
  open(listener, request).end();
  const error = await within(listener.closed, 'the end of the exchange');
  if (error) throw error;
  return listener;
}

/** The connection of a client that logs in by NTLM. */
function loginClient(): Partial<OutgoingRequest> & { readonly connection: 'kept' } {
  const connection = Object.assign(new EventEmitter(), { destroyed: false }) as unknown as ClientConnection;
  const headers: HeaderLine[] = [
    ['Host', 'x'],
    ['Authorization', 'NTLM abc'],
  ];
  return { headers, client: connection, connection: 'kept' };
}

describe('a kept connection', () => {
  /** The first response, and whether the next request may use the same connection (RFC 9112 §6.3, §9.3). */
  const CASES: readonly (readonly [what: string, response: string, isKept: boolean, method?: string])[] = [
    ['a length', OK, true],
    ['chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n', true],
    ['no content', 'HTTP/1.1 204 None\r\n\r\n', true],
    ['a response to HEAD without a length', 'HTTP/1.1 200 OK\r\n\r\n', true, 'HEAD'],
    ['interim responses', `HTTP/1.1 103 Early\r\n\r\n${OK}`, true],
    ['keep-alive of HTTP/1.0', OK.replace('1.1', '1.0').replace('\r\n', '\r\nConnection: keep-alive\r\n'), true],
    ['HTTP/1.0', OK.replace('1.1', '1.0'), false],
    [
      'chunks in HTTP/1.0',
      'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      false,
    ],
    ['Connection: close', OK.replace('\r\n', '\r\nConnection: close\r\n'), false],
    ['an idle time of zero', OK.replace('\r\n', '\r\nKeep-Alive: timeout=0\r\n'), false],
    ['a length of a response to HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n', false, 'HEAD'],
    ['chunks of a response to HEAD', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', false, 'HEAD'],
    ['the length of a 204', 'HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n', false],
    ['the length of a 304', 'HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n', false],
    ['the length of a 103', `HTTP/1.1 103 Early\r\nContent-Length: 5\r\n\r\n${OK}`, false],
    ['chunks of a 100', `HTTP/1.1 100 Go\r\nTransfer-Encoding: chunked\r\n\r\n${OK}`, false],
    ['a second response', OK + FORGED, false],
    ['a byte after the response', `${OK}!`, false],
    ['an empty line after the response', `${OK}\r\n`, false],
    ['an empty line after the last chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\r\n', false],
    ['content of a response to HEAD', OK, false, 'HEAD'],
    ['content of a 204', `HTTP/1.1 204 None\r\n\r\n${FORGED}`, false],
  ];

  test.each(CASES)('after %s', async (_, response, isKept, method = 'GET') => {
    origin.setScript((exchange) => exchange.write(exchange.index === 0 ? response : OK));
    await ask({ method });
    const { head, body } = await ask();
    expect([head?.reason, body]).toEqual(['OK', 'ok']);
    expect(origin.connections.length).toBe(isKept ? 1 : 2);
  });

  test('ends when bytes arrive that belong to no request', async () => {
    // A connection without a limit of its idle time.
    const login = loginClient();
    origin.setScript((exchange) => exchange.write(OK));
    await ask(login);
    origin.connections[0]!.socket.write(FORGED);
    await within(origin.connections[0]!.closed, 'the end of the connection');
    expect((await ask(login)).body).toBe('ok');
  });

  test('is not used with bytes that wait in its socket', async () => {
    const [start, end] = [`HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n${'a'.repeat(10_000)}`, 'b'.repeat(10_000)];
    origin.setScript((exchange) => exchange.write(exchange.index === 0 ? start : OK));
    const login = loginClient();
    const listener = new Listener({ onContent: () => exchange.pause() });
    const exchange = open(listener, login);
    exchange.end();
    await until(() => listener.body !== '', 'the beginning of the content');
    let sent = start.length;
    for (const bytes of [end, FORGED]) {
      origin.connections[0]!.socket.write(bytes);
      sent += bytes.length;
      await until(() => exchange.socket!.bytesRead === sent, 'the bytes in the socket');
    }
    // It begins at the moment when the first one ends.
    const next = ask(login);
    exchange.resume();
    expect((await next).body).toBe('ok');
    expect(listener.body.length).toBe(20_000);
  });

  test('of a login is not used with bytes that belong to no request', async () => {
    const login = loginClient();
    origin.setScript((exchange) => exchange.write(exchange.index === 0 ? OK + FORGED : OK));
    const all = await Promise.all([ask(login), ask(login)]);
    expect(all.map(({ body }) => body)).toEqual(['ok', 'ok']);
    expect(origin.connections.length).toBe(2);
  });

  test('of a login survives a response to HEAD', async () => {
    const login = loginClient();
    origin.setScript((exchange) =>
      exchange.write(exchange.method === 'HEAD' ? 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n' : OK),
    );
    await ask({ ...login, method: 'HEAD' });
    expect((await ask(login)).body).toBe('ok');
    expect(origin.connections.length).toBe(1);
  });

  test('is not used when the request ends in the middle of what is received', async () => {
    origin.setScript((exchange) => exchange.write(exchange.index === 0 ? OK + FORGED : OK));
    const login = loginClient();
    const headers: HeaderLine[] = [...login.headers!, ['Content-Length', '5']];
    const listener = new Listener({ onEnd: () => exchange.end() });
    const exchange = open(listener, { ...login, method: 'POST', headers });
    exchange.write(Buffer.from('hello'));
    const next = ask(login);
    expect(await listener.closed).toBeUndefined();
    expect((await next).body).toBe('ok');
    expect(origin.connections.length).toBe(2);
  });

  test('is not used after its origin has closed it, even before its own event', async () => {
    origin.setScript((exchange) => exchange.write(OK));
    for (const request of [{}, loginClient()]) {
      const socket = await socketOf(request);
      const asked = new Promise((resolve) => socket.once('end', () => resolve(ask({ ...request, method: 'POST' }))));
      origin.connections.at(-1)!.socket.end();
      expect(await asked).toMatchObject({ body: 'ok' });
    }
  });

  async function socketOf(request: Partial<OutgoingRequest>) {
    const listener = new Listener();
    const exchange = open(listener, request);
    exchange.end();
    await listener.closed;
    return exchange.socket!;
  }

  test('ends before the time that its origin announces', async () => {
    origin.setScript((exchange) => exchange.write(OK.replace('\r\n', '\r\nKeep-Alive: timeout=1\r\n')));
    for (const request of [{}, loginClient()]) {
      expect((await socketOf(request)).timeout).toBe(500);
      await origin.connections.at(-1)!.closed;
    }
  });

  test('may be idle as the last response says', async () => {
    origin.setScript((exchange) =>
      exchange.write(exchange.index === 0 ? OK.replace('\r\n', '\r\nKeep-Alive: timeout=2\r\n') : OK),
    );
    expect((await socketOf({})).timeout).toBe(1500);
    expect((await socketOf({})).timeout).toBe(4000);
    expect(origin.connections.length).toBe(1);
  });

  test('has no idle time while it is used', async () => {
    await ask();
    const listener = new Listener();
    const exchange = open(listener);
    expect(exchange.isReused).toBe(true);
    expect(exchange.socket!.timeout).toBe(0);
    exchange.end();
    await listener.closed;
  });
});

describe('the length of a request', () => {
  test.each([
    ['shorter', '12345678', /shorter than announced/],
    ['longer', '12345678901', /longer than announced/],
  ])('a body that is %s than announced ends the connection', async (_, body, problem) => {
    const listener = new Listener();
    const exchange = open(listener, { method: 'POST', headers: [['Content-Length', '10']] });
    exchange.write(Buffer.from(body));
    exchange.end();
    expect((await listener.closed)?.message).toMatch(problem);
    await until(() => origin.openConnections === 0, 'the end of the connection');
    expect((await ask()).body).toBe('ok');
    expect(origin.exchanges.at(-1)!.requestLine).toBe('GET / HTTP/1.1');
  });

  test.each<[string, Partial<OutgoingRequest>]>([
    [
      'two lengths',
      {
        headers: [
          ['Content-Length', '5'],
          ['content-length', '5'],
        ],
      },
    ],
    [
      'a length and chunks',
      {
        headers: [
          ['Content-Length', '5'],
          ['Transfer-Encoding', 'chunked'],
        ],
      },
    ],
    ['another coding', { headers: [['Transfer-Encoding', 'gzip, chunked']] }],
    ['a malformed length', { headers: [['Content-Length', '+5']] }],
    ['a line break in a field', { headers: [['X', 'a\r\nb']] }],
    ['a field name with a blank', { headers: [['X ', 'a']] }],
    ['a blank in the target', { target: '/a b' }],
    ['a blank in the method', { method: 'GE T' }],
    ['CONNECT', { method: 'CONNECT' }],
  ])('%s is never sent', (_, request) => {
    expect(() => open(new Listener(), { method: 'POST', ...request })).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_CHAR' }),
    );
    expect(client.openConnections).toBe(0);
  });

  test('trailers that cannot be sent end the connection', async () => {
    const listener = new Listener();
    const exchange = open(listener, { method: 'POST', headers: [['Transfer-Encoding', 'chunked']] });
    exchange.end([['X', 'a\nb']]);
    expect(await listener.closed).toMatchObject({ code: 'ERR_INVALID_CHAR' });
    await until(() => origin.openConnections === 0, 'the end of the connection');
  });
});

describe('an origin that breaks the rules', () => {
  test.each([
    ['two codings', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['lines that end with LF', 'HTTP/1.1 200 OK\nContent-Length: 2\n\nok'],
    ['a LF in the second packet', 'HTTP/1.1 200 OK\r\nA: b', '\n'],
    ['thousands of header lines', `HTTP/1.1 200 OK\r\n${'A: b\r\n'.repeat(3000)}\r\n`],
    ['a status below 100', 'HTTP/1.1 099 Odd\r\n\r\n', OK],
    ['empty lines without end', '\r\n'.repeat(600), '\r\n'.repeat(600)],
    ['interim responses without end', 'HTTP/1.1 103 Early\r\n\r\n'.repeat(1001)],
  ])('is refused: %s', async (_, ...pieces) => {
    const script = async (exchange: RawExchange): Promise<void> => {
      for (const piece of pieces) {
        await exchange.write(piece);
        // As packets of their own.
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    await play(
      'ours',
      async ({ front }) => {
        const browser = await connect(front.url);
        await browser.sendHead('GET', '/');
        const { status, body } = await browser.readFinal();
        expect([status, body.toString()]).toEqual([502, expect.stringContaining('origin')]);
        browser.destroy();
      },
      { script },
    );
    origin.setScript(script);
    const sender = new HttpOrigin();
    const request = { origin: origin.url, method: 'POST', target: '/', headers: [], content: {}, timeoutMs: 10_000 };
    const sent = sender.send({ ...request, connection: 'fresh' }, new AbortController().signal);
    await expect(sent).rejects.toMatchObject({ reached: 'sent' });
    await sender.close();
  });

  test('has as long for an early answer as for any other', async () => {
    origin.setScript((exchange) => exchange.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx'));
    const sender = new HttpOrigin();
    const body = new Readable({ read: () => undefined });
    body.push('some');
    const content = { size: 1000, body };
    const request = { origin: origin.url, method: 'POST', target: '/', headers: [], content } as const;
    const limits = { timeoutMs: 60_000, answerTimeoutMs: 50, connection: 'fresh' } as const;
    const answer = await sender.send({ ...request, ...limits }, new AbortController().signal);
    const failed = once(answer.body.resume(), 'error') as Promise<[Error]>;
    expect((await within(failed, 'the end of the answer'))[0].message).toMatch(/not complete after 0.05 s/);
    await sender.close();
  });

  test('has not stored a file that it did not get completely', async () => {
    origin.setScript((exchange) => exchange.respond({ status: 204 }));
    const files = new PeerFilesClient({ signature: new PeerSignature('a secret of all nodes', 'old', Date.now) });
    const body = new Readable({ read: () => undefined });
    body.push('some');
    const path = { id: 'a'.repeat(32), name: 'chunk-1-0' };
    const put = files.put({ name: 'new', url: origin.url } as never, path, 1000, body, new AbortController().signal);
    await expect(within(put, 'the refusal')).rejects.toBeInstanceOf(FileRefused);
    files.close();
  });
});

describe('an error in a listener', () => {
  const error = new Error('a fault of our own');
  const fail = (): never => {
    throw error;
  };

  test.each<[keyof ExchangeListener, string]>([
    ['onInterim', `HTTP/1.1 103 Early\r\n\r\n${OK}`],
    ['onHead', OK],
    ['onContent', OK],
    ['onEnd', OK],
    ['onEnd', 'HTTP/1.1 200 OK\r\n\r\nok'],
    ['onSwitched', 'HTTP/1.1 101 Other\r\nUpgrade: x\r\n\r\n'],
  ])('in %s ends the exchange and its connection', async (name, response) => {
    origin.setScript(async (exchange) => {
      await exchange.write(response);
      if (!response.includes('Length')) exchange.end();
    });
    const listener = new Listener({ [name]: fail });
    open(listener).end();
    expect(await within(listener.closed, 'the end of the exchange')).toBe(error);
    await until(() => client.openConnections === 0, 'the end of the connection');
  });

  test('in onDrain ends the exchange and its connection', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
    });
    const listener = new Listener({ onDrain: fail });
    const exchange = open(listener, { method: 'POST', headers: [['Content-Length', '10000000']] });
    exchange.write(Buffer.alloc(10_000_000));
    expect(await within(listener.closed, 'the end of the exchange')).toBe(error);
  });
});

describe('a client that is closed', () => {
  test('ends requests that wait for the connection of a login, and opens no other', async () => {
    const release = origin.holdAnswers();
    const login = loginClient();
    const asked = [ask(login), ask(login), ask(login)].map((each) => expect(each).rejects.toThrow());
    await origin.exchange(0);
    client.close();
    await Promise.all(asked);
    release();
    expect(() => open(new Listener())).toThrow('connections to origins are closed');
    expect([client.openConnections, origin.connections.length]).toEqual([0, 1]);
  });

  test('does not repeat a short request', async () => {
    await ask();
    origin.setScript(() => client.close());
    const request = {
      url: `${origin.url}/`,
      method: 'GET',
      headers: [],
      timeoutMs: 10_000,
      connection: 'kept',
    } as const;
    await expect(sendShortRequest(client, request)).rejects.toThrow();
    expect(origin.exchanges.length).toBe(2);
  });
});

describe('a short request', () => {
  const short = () =>
    ({ url: `${origin.url}/`, method: 'GET', headers: [], timeoutMs: 10_000, connection: 'kept' }) as const;

  test('is repeated once, on a fresh connection, when the kept one is closed instead of an answer', async () => {
    await ask();
    origin.setScript(({ socket }) => {
      socket.destroy();
      origin.setScript((next) => next.respond({ status: 204 }));
    });
    expect((await sendShortRequest(client, short())).status).toBe(204);
    expect([origin.exchanges.length, origin.connections.length]).toEqual([3, 2]);
  });

  test('is not repeated when a fresh connection is closed', async () => {
    origin.setScript(({ socket }) => void socket.destroy());
    await expect(sendShortRequest(client, short())).rejects.toThrow();
    expect(origin.exchanges.length).toBe(1);
  });

  test('is not repeated after a malformed answer', async () => {
    await ask();
    origin.setScript(({ socket }) => void socket.end('HTTP/1.1 nonsense\r\n\r\n'));
    await expect(sendShortRequest(client, short())).rejects.toThrow();
    expect(origin.exchanges.length).toBe(2);
  });
});

test('a request that waits for its login keeps its body, and continues when the connection is free', async () => {
  const release = origin.holdAnswers();
  const login = loginClient();
  const first = ask(login);
  let drains = 0;
  const listener = new Listener({ onDrain: () => drains++ });
  const headers: HeaderLine[] = [...login.headers!, ['Content-Length', '5']];
  const second = open(listener, { ...login, method: 'POST', headers });
  expect(second.write(Buffer.from('hello'))).toBe(false);
  second.end();
  expect([second.needsDrain, second.isConnected, drains]).toEqual([true, false, 0]);
  release();
  await first;
  expect(await listener.closed).toBeUndefined();
  expect(drains).toBe(1);
  expect((await origin.exchanges[1]!.readBody()).toString()).toBe('hello');
  expect(origin.connections.length).toBe(1);
});
