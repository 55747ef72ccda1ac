import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { exchangeOver, openRequest, type Transport, TRANSPORTS } from '../support/client.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions } from '../support/delivery-harness.js';
import { made, originFaults } from '../support/delivery-matrix.js';
import { type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { appendLines, clientDialect, creationLines } from '../support/resumable-client.js';
import { randomBytes, sha256, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

describe('requests', () => {
  let origin: RawOrigin;
  let harness: DeliveryHarness;

  beforeEach(async () => {
    origin = await startRawOrigin();
  });

  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  async function open(options: DeliveryHarnessOptions = {}): Promise<void> {
    harness = await DeliveryHarness.open(origin.url, options);
  }

  test('the origin gets one ordinary request: fields in their order and case, exact length, nothing of the upload', async () => {
    await open();
    const upload = await harness.whole({
      body: 'hello world',
      cutAt: [1, 6],
      request: {
        target: '/api/files?name=a%20b&x=1',
        headers: [
          ['Host', 'files.example'],
          ['X-First', '1'],
          ['upload-complete', '?0'],
          ['Upload-Draft-Interop-Version', '6'],
          ['Content-Type', 'image/png'],
          ['content-length', '3'],
          ['x-twice', 'a'],
          ['Connection', 'keep-alive, X-Hop'],
          ['X-Hop', 'one connection only'],
          ['X-TWICE', 'b'],
          ['Expect', '100-continue'],
          ['Authorization', 'Bearer stored'],
          ['Content-Encoding', 'gzip'],
          ['Repr-Digest', 'sha-256=:abc=:'],
          ['Content-Digest', 'sha-256=:def=:'],
        ],
      },
    });
    await harness.answer(upload.id);
    const { headText, body } = origin.exchanges[0]!;
    expect(headText).toBe(
      [
        'POST /api/files?name=a%20b&x=1 HTTP/1.1',
        'host: files.example',
        'connection: keep-alive',
        'X-First: 1',
        'Content-Type: image/png',
        'x-twice: a',
        'X-TWICE: b',
        'Authorization: Bearer stored',
        'Content-Encoding: gzip',
        'Repr-Digest: sha-256=:abc=:',
        'Forwarded: for=192.0.2.7;host=files.example;proto=http',
        'X-Forwarded-For: 192.0.2.7',
        'X-Forwarded-Host: files.example',
        'X-Forwarded-Proto: http',
        'Via: 1.1 rufh-proxy',
        `Idempotency-Key: ${upload.deliveryKey}`,
        'content-length: 11',
        '',
        '',
      ].join('\r\n'),
    );
    expect((await body.readAll()).toString()).toBe('hello world');
    expect(origin.connections[0]!.receivedSize).toBe(headText.length + 11);
  });

  test('the bytes arrive in order and unchanged however many chunks they are in', async () => {
    await open();
    const bytes = randomBytes(3_500_000);
    const upload = await harness.whole({ body: bytes, cutAt: [1, 65_536, 65_537, 2_000_000] });
    await harness.answer(upload.id);
    expect(sha256(await origin.exchanges[0]!.readBody())).toBe(sha256(bytes));
  });

  test.each(['POST', 'PUT', 'PATCH'])('an empty upload is a %s with Content-Length: 0', async (method) => {
    await open();
    const upload = await harness.whole({ body: '', request: { method } });
    expect((await harness.answer(upload.id)).status).toBe(200);
    expect(origin.exchanges[0]!.header('content-length')).toBe('0');
  });

  test('credentials of the completing request take the place of the stored ones, each by itself', async () => {
    await open();
    const upload = await harness.whole({
      request: {
        headers: [
          ['authorization', 'Bearer old'],
          ['Cookie', 'session=old'],
          ['X-Last', '1'],
        ],
      },
    });
    await harness.result(upload.id, {
      credentials: [
        ['Authorization', 'Bearer new'],
        ['X-Other', 'not a credential'],
      ],
    });
    const names = origin.exchanges[0]!.headerLines.map(([name, value]) => `${name}: ${value}`);
    expect(names.slice(2, 5)).toEqual(['Authorization: Bearer new', 'Cookie: session=old', 'X-Last: 1']);
    expect(origin.exchanges[0]!.header('x-other')).toBeUndefined();
  });

  test('the base path of the origin stands before the target, and its own host is sent where the route wants that', async () => {
    await open({ basePath: '/base/path', rules: { preserveHost: false } });
    const upload = await harness.whole({ request: { target: '/files?q=1' } });
    await harness.answer(upload.id);
    expect(origin.exchanges[0]!.target).toBe('/base/path/files?q=1');
    expect(origin.exchanges[0]!.header('host')).toBe(`127.0.0.1:${origin.port}`);
  });

  test('a client’s own Idempotency-Key is kept', async () => {
    await open();
    const upload = await harness.whole({ request: { headers: [['idempotency-key', 'mine']] } });
    await harness.answer(upload.id);
    expect(origin.exchanges[0]!.header('idempotency-key')).toBe('mine');
  });

  test('uploads that follow each other and may be repeated share a connection', async () => {
    await open();
    for (let count = 0; count < 5; count++) {
      const upload = await harness.whole({ request: { method: 'PUT' }, body: `upload ${count}` });
      expect(await bodyOf(await harness.answer(upload.id))).toEqual(Buffer.from('ok'));
    }
    expect(origin.exchanges).toHaveLength(5);
    expect(origin.connections).toHaveLength(1);
  });

  test('uploads at the same time have a connection each', async () => {
    const release = origin.holdAnswers();
    await open();
    const uploads = await Promise.all([1, 2, 3].map((count) => harness.whole({ body: randomBytes(500_000, count) })));
    const answers = Promise.all(uploads.map(({ id }) => harness.answer(id)));
    await until(() => origin.exchanges.length === 3, 'all three at the origin');
    release();
    expect((await answers).map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(origin.connections).toHaveLength(3);
  });

  test('the spool does not keep what the origin has answered', async () => {
    await open();
    const upload = await harness.whole({ body: 'hello', cutAt: [2] });
    expect(await harness.files()).toEqual(['chunk-0', 'chunk-2']);
    await bodyOf(await harness.answer(upload.id));
    await harness.delivery.stop();
    expect(await harness.files()).toEqual([]);
  });
});

describe('clients', () => {
  /** The delivery matrix as real clients see it, over both versions of HTTP: what stands in its cells is on the wire. */
  const CONFIG = `
delivery:
  wait: 30s
  retry: { attempts: 4, first_delay: 10ms, longest_delay: 20ms, while_waiting: 30s, in_background: 0s }
`;
  const BYTES = randomBytes(1024 * 1024, 9);
  const dialect = clientDialect('10');
  const faults = new Map(originFaults().map((fault) => [fault.name, fault]));

  let origin: RawOrigin;
  let app: TestApp;

  beforeEach(async () => {
    origin = await startRawOrigin(made);
    app = await startTestApp({ origin: origin.url, config: CONFIG });
  });

  afterEach(async () => {
    await app.stop();
    await origin.close();
  });

  function meets(name: string): void {
    const fault = faults.get(name)!;
    origin.setScript((exchange) => (exchange.index === 0 ? fault.script(exchange, Promise.resolve()) : made(exchange)));
  }

  function create(transport: Transport, method: string): Promise<WireResponse> {
    const headers = creationLines(dialect, { complete: true, length: BYTES.length });
    return exchangeOver(transport, app.url, { method, target: '/files', headers, body: BYTES });
  }

  /** Sends the end of the upload again: the held-back last byte, as complete. */
  function complete(transport: Transport, url: string, authorization?: string): Promise<WireResponse> {
    const headers = [
      ...appendLines(dialect, { offset: BYTES.length - 1, complete: true }),
      ...(authorization === undefined ? [] : [['Authorization', authorization] as const]),
    ];
    const target = new URL(url).pathname;
    return exchangeOver(transport, app.url, { method: 'PATCH', target, headers, body: BYTES.subarray(-1) });
  }

  function said(response: WireResponse) {
    return [response.status, response.header('Upload-Complete'), response.header('Upload-Offset')];
  }

  function urlIn({ interims }: WireResponse): string {
    return interims.find(({ status }) => status === 104)!.header('location')!;
  }

  const WHOLE = String(BYTES.length);
  const HELD_BACK = String(BYTES.length - 1);

  describe.each(TRANSPORTS)('over %s', (transport) => {
    test.each([
      ['answers 503', 'POST', [201, '?1', WHOLE], 2],
      ['answers 429', 'POST', [429, '?1', HELD_BACK], 1],
      ['answers slowly', 'POST', [200, '?1', HELD_BACK], 1],
      ['answers and closes', 'PUT', [200, '?1', WHOLE], 1],
      ['refuses early with 413', 'POST', [413, '?1', HELD_BACK], 1],
      ['resets after half the body', 'PUT', [201, '?1', WHOLE], 2],
      ['cuts its answer', 'PUT', [201, '?1', WHOLE], 2],
      ['answers with garbage', 'PUT', [201, '?1', WHOLE], 2],
    ])('an origin that %s: its client’s %s', async (name, method, expected, requests) => {
      meets(name);
      expect(said(await create(transport, method))).toEqual(expected);
      expect(origin.exchanges).toHaveLength(requests);
    });

    test.each(['resets after the headers', 'resets after half the body', 'cuts its answer', 'answers with garbage'])(
      'an origin that %s gets a POST once, and again only when its client, which was told, asks for it',
      async (name) => {
        meets(name);
        const response = await create(transport, 'POST');
        expect(said(response)).toEqual([503, '?0', HELD_BACK]);
        expect(Number(response.header('Retry-After'))).toBeGreaterThan(0);
        expect(response.body.toString()).toContain('Appending its end again sends it once more.');
        expect(origin.exchanges).toHaveLength(1);
        const url = urlIn(response);
        expect(said(await complete(transport, url))).toEqual([201, '?1', WHOLE]);
        expect(said(await complete(transport, url))).toEqual([201, '?1', WHOLE]);
        expect(origin.exchanges).toHaveLength(2);
      },
    );

    test('a 401 of the origin is relayed, not as the end: the same upload goes out with new credentials', async () => {
      meets('refuses early with 401');
      const first = await create(transport, 'POST');
      expect([said(first), first.body.toString()]).toEqual([[401, '?0', HELD_BACK], 'no']);
      const url = urlIn(first);
      const again = await complete(transport, url);
      expect([said(again), again.body.toString()]).toEqual([[401, '?0', HELD_BACK], 'no']);
      expect(origin.exchanges).toHaveLength(1);
      expect(said(await complete(transport, url, 'Bearer fresh'))).toEqual([201, '?1', WHOLE]);
      expect(origin.exchanges[1]!.header('authorization')).toBe('Bearer fresh');
    });

    test('a client that leaves, and is back when the answer is there, gets it', async () => {
      let release: () => void;
      const released = new Promise<void>((resolve) => (release = resolve));
      const fault = faults.get('answers 500')!;
      origin.setScript((exchange) => fault.script(exchange, released));
      const headers = creationLines(dialect, { complete: true, length: BYTES.length });
      const leaving = await openRequest(transport, app.url, { method: 'POST', target: '/files', headers });
      const interim = await leaving.readInterim();
      await leaving.send(BYTES);
      await leaving.end();
      await origin.exchange(0);
      leaving.leave('reset');
      release!();
      const url = interim.header('location')!;
      await until(() => app.log.some(({ msg }) => msg === 'upload ended'), 'the answer to be recorded');
      expect(said(await complete(transport, url))).toEqual([500, '?1', HELD_BACK]);
      expect(origin.exchanges).toHaveLength(1);
    });
  });
});

describe('connections', () => {
  let origin: RawOrigin;
  let harness: DeliveryHarness;

  beforeEach(async () => {
    origin = await startRawOrigin();
  });

  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  async function open(options: DeliveryHarnessOptions = {}): Promise<void> {
    harness = await DeliveryHarness.open(origin.url, options);
  }

  async function deliver(method: string): Promise<string> {
    const { id } = await harness.whole({ request: { method } });
    return (await bodyOf(await harness.answer(id))).toString();
  }

  async function answer(exchange: RawExchange, fields: readonly (readonly [string, string])[] = []): Promise<void> {
    await exchange.readBody();
    await exchange.respond({ status: 200, headers: fields, body: 'ok' });
  }

  /** How an origin treats a connection that has carried one answer. */
  const endings: [string, (exchange: RawExchange) => Promise<void>][] = [
    ['keeps it', (exchange) => answer(exchange)],
    [
      'closes it without a word',
      async (exchange) => {
        await answer(exchange);
        exchange.end();
      },
    ],
    [
      'says that it closes it, and does',
      async (exchange) => {
        await answer(exchange, [['Connection', 'close']]);
        exchange.end();
      },
    ],
    ['says that it closes it, and does not', (exchange) => answer(exchange, [['Connection', 'close']])],
    [
      'closes it when the next request comes',
      async (exchange) => {
        if (origin.connections.some(({ requests }) => requests > 1)) return exchange.reset();
        await answer(exchange);
      },
    ],
    [
      'reads nothing more from it',
      async (exchange) => {
        await answer(exchange);
        exchange.socket.pause();
      },
    ],
  ];

  test.each(endings)('an origin that %s gets every POST once, each on a connection of its own', async (_, play) => {
    origin.setScript(play);
    await open({ rules: { timeoutMs: 10_000 } });
    for (let count = 0; count < 4; count++) expect(await deliver('POST')).toBe('ok');
    expect(origin.exchanges).toHaveLength(4);
    expect(origin.connections.map(({ requests }) => requests)).toEqual([1, 1, 1, 1]);
  });

  test('a POST goes out on a fresh connection, although one waits that a PUT has left', async () => {
    origin.setScript((exchange) => answer(exchange));
    await open();
    expect([await deliver('PUT'), await deliver('PUT'), await deliver('POST')]).toEqual(['ok', 'ok', 'ok']);
    expect(origin.connections.map(({ requests }) => requests)).toEqual([2, 1]);
  });

  test('connections that nobody will use again are closed, not kept', async () => {
    origin.setScript((exchange) => answer(exchange));
    await open();
    for (let count = 0; count < 3; count++) await deliver('POST');
    await until(() => origin.openConnections === 0, 'the connections to be closed');
    expect(origin.exchanges).toHaveLength(3);
  });
});

describe('TLS', () => {
  let directory: TemporaryDirectory;
  let cert: string;
  let key: string;
  let server: Server;
  let harness: DeliveryHarness;

  beforeAll(async () => {
    directory = await temporaryDirectory();
    const files = { cert: join(directory.path, 'cert.pem'), key: join(directory.path, 'key.pem') };
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'];
    const key256 = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    execFileSync('openssl', ['req', '-x509', ...key256, ...subject, '-out', files.cert, '-keyout', files.key], {
      stdio: 'ignore',
    });
    cert = readFileSync(files.cert, 'utf8');
    key = readFileSync(files.key, 'utf8');
  });

  afterEach(async () => {
    await harness.close();
    await new Promise((resolve) => server.close(resolve));
  });

  afterAll(() => directory.remove());

  async function open(play: (socket: TLSSocket) => void, ca: string | undefined): Promise<void> {
    server = createServer({ cert, key }, play);
    server.on('tlsClientError', () => undefined);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    harness = await DeliveryHarness.open(`https://127.0.0.1:${port}`, { ca });
  }

  const LARGE = randomBytes(8 * 1024 * 1024);
  const REFUSAL = 'too large '.repeat(200);

  test('an origin behind TLS that refuses while we send, and resets the connection, is heard every time', async () => {
    await open((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => {
        socket.pause();
        const head = `HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: ${REFUSAL.length}\r\n\r\n`;
        socket.write(head + REFUSAL, () => socket.destroy());
      });
    }, cert);
    for (let count = 0; count < 25; count++) {
      const upload = await harness.whole({ body: LARGE });
      const answer = await harness.answer(upload.id);
      expect([answer.status, (await bodyOf(answer)).toString()]).toEqual([413, REFUSAL]);
    }
  }, 60_000);

  test('uploads for other hosts share the connection, whose certificate is the origin’s own', async () => {
    let connections = 0;
    await open((socket) => {
      connections++;
      socket
        .on('error', () => undefined)
        .on('data', (bytes: Buffer) => {
          // Head and body may come one after the other: they get one answer.
          if (bytes.toString().endsWith('hello')) socket.write('HTTP/1.1 204 No Content\r\n\r\n');
        });
    }, cert);
    for (const authority of ['a.example', 'b.example']) {
      const upload = await harness.whole({ request: { authority, method: 'PUT' } });
      expect((await harness.answer(upload.id)).status).toBe(204);
    }
    expect(connections).toBe(1);
  });

  test('an origin whose certificate nobody vouches for never gets a byte', async () => {
    let received = 0;
    await open(
      (socket) => socket.on('error', () => undefined).on('data', (bytes: Buffer) => (received += bytes.length)),
      undefined,
    );
    const upload = await harness.whole();
    const result = await harness.result(upload.id);
    expect(result).toMatchObject({ kind: 'undelivered', failure: { reason: 'unreachable' } });
    const { attempts } = await harness.upload(upload.id);
    expect(attempts.map(({ reached }) => reached)).toEqual(['never-sent', 'never-sent', 'never-sent']);
    expect(attempts[0]!.problem).toMatch(/certificate/);
    expect(received).toBe(0);
  });
});
