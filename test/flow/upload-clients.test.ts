import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { connect, openTunnel, type RawClient, TRANSPORTS } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { comparable, ExpectedResponses, FlowClient } from '../support/flow-client.js';
import { clientDialect } from '../support/resumable-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { framed, receivedLines, replayedLines, TestProxy } from '../support/test-proxy.js';

describe('clients', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
  const BYTES = randomBytes(50_000, 11);

  describe.each(TRANSPORTS)('over %s', (transport) => {
    const targetFor = (subject: string): string => `/clients/${subject}?over=${encodeURIComponent(transport)}`;

    function expectReceived(target: string, lines: readonly HeaderLine[], added: readonly HeaderLine[] = []): void {
      const [received, ...others] = proxy.requestsFor(target);
      expect(others).toEqual([]);
      expect(received).toMatchObject({ method: 'POST', sha256: sha256(BYTES) });
      const sent = { host: proxy.host, lines, length: BYTES.length };
      const expected = replayedLines(transport, sent);
      // Behind the host, the connection and what the client sent.
      expected.splice(2 + lines.length, 0, ...added);
      expect(receivedLines(received!)).toEqual(expected);
    }

    test.each(['5', '6'] as const)(
      'tus-js-client in interop %s creates with nothing and appends to the end',
      async (interop) => {
        const client = new FlowClient(proxy, transport, interop);
        const target = targetFor(`tus-js-${interop}`);
        const own: HeaderLine[] = [['X-Request-ID', '7f']];
        const version: HeaderLine = ['Upload-Draft-Interop-Version', interop];
        const creation: HeaderLine[] = [
          ['Upload-Metadata', 'filename YS5wbmc=,filetype aW1hZ2UvcG5n'],
          ['Upload-Complete', '?0'],
          ['Upload-Length', `${BYTES.length}`],
        ];
        const headers = [version, ...own, ...creation];
        const created = await client.send({ method: 'POST', target, headers, body: '' });
        const url = created.header('Location')!;
        expect(comparable(created)).toEqual(client.expected.created(url, 0));
        const type: HeaderLine[] = interop === '5' ? [] : [['Content-Type', 'application/partial-upload']];
        const append = (method: string, offset: number, end: number, more: readonly HeaderLine[]) =>
          client.send({
            method,
            target: client.at(url).target,
            headers: [version, ...own, ['Upload-Offset', `${offset}`], ...type, ...more],
            body: BYTES.subarray(offset, end),
          });
        const override: HeaderLine = ['X-HTTP-Method-Override', 'PATCH'];
        const more: HeaderLine = ['Upload-Complete', '?0'];
        expect(comparable(await append('POST', 0, 20_000, [override, more]))).toEqual(client.expected.appended(20_000));
        expect(comparable(await append('PATCH', 20_000, 50_000, [more]))).toEqual(client.expected.appended(50_000));
        // When its source has no more to give, the end comes without content and without saying what it is.
        expect(comparable(await append('PATCH', 50_000, 50_000, []))).toEqual(client.expected.answered(OK, 50_000));
        expectReceived(target, own, [['Content-Type', 'image/png']]);
      },
    );

    test('tus-js-client in interop 6 that brings data with its creation calls that a part; the origin gets no such type', async () => {
      const client = new FlowClient(proxy, transport, '6');
      const target = targetFor('tus-js-data');
      const headers: HeaderLine[] = [
        ['Upload-Draft-Interop-Version', '6'],
        ['Content-Type', 'application/partial-upload'],
        ['Upload-Complete', '?1'],
        ['Upload-Length', `${BYTES.length}`],
      ];
      const answer = await client.send({ method: 'POST', target, headers, body: BYTES });
      const url = answer.interims[0]!.header('Location');
      expect(comparable(answer)).toEqual(client.expected.answered(OK, BYTES.length, url));
      expectReceived(target, [['Content-Type', 'application/octet-stream']]);
    });

    test('pyrufh goes on in pieces and says with the last how long it all is', async () => {
      const client = new FlowClient(proxy, transport, '8');
      const target = targetFor('pyrufh');
      const lines: HeaderLine[] = [['Upload-Length', `${BYTES.length}`]];
      const { request, upload } = await client.begin({ target, lines, length: BYTES.length });
      await request.send(BYTES.subarray(0, 12_345));
      await untilSpooled(proxy.app.data, upload.url, 12_345);
      request.leave('reset');
      let offset = await upload.offset();
      for (; offset + 10_000 < BYTES.length; offset += 10_000) {
        const response = await upload.append(BYTES.subarray(offset, offset + 10_000), { offset, complete: false });
        expect(comparable(response)).toEqual(client.expected.appended(offset + 10_000));
      }
      const end = { offset, complete: true, length: BYTES.length };
      expect(comparable(await upload.append(BYTES.subarray(offset), end))).toEqual(
        client.expected.answered(OK, BYTES.length),
      );
      expectReceived(target, []);
    });

    test('the origin gets the credentials of the request that completes the upload, where the first ones stood', async () => {
      const client = new FlowClient(proxy, transport, '9');
      const target = targetFor('credentials');
      const lines: HeaderLine[] = [
        ['X-Before', '1'],
        ['Authorization', 'Bearer old'],
        ['Cookie', 'session=old'],
        ['X-After', '2'],
      ];
      const upload = await client.place({ target, lines, length: BYTES.length });
      const fresh: HeaderLine[] = [
        ['authorization', 'Bearer new'],
        ['X-Only-Here', 'of this request alone'],
      ];
      const part = BYTES.subarray(0, 100);
      expect(comparable(await upload.append(part, { offset: 0, complete: false }))).toEqual(
        client.expected.appended(100),
      );
      const answer = await upload.append(BYTES.subarray(100), { offset: 100, complete: true }, fresh);
      expect(comparable(answer)).toEqual(client.expected.answered(OK, BYTES.length));
      expectReceived(target, [['X-Before', '1'], fresh[0]!, ['Cookie', 'session=old'], ['X-After', '2']]);
    });
  });
});

describe('bystanders', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open({ config: 'limits: { min_size: 1000 }' });
  });

  afterAll(async () => {
    await proxy.close();
  });

  const ANSWER_LINES: readonly HeaderLine[] = [
    ['X-Answer', 'one'],
    ['x-answer', 'two'],
    ['Upload-Offset', 'the own word of the origin'],
  ];
  const LARGE = randomBytes(5000);
  const SMALL = Buffer.from('{"name":"IMG_0001.HEIC","favourite":true}');

  describe.each(TRANSPORTS)('over %s', (transport) => {
    const lower = (name: string): string => (transport === 'HTTP/1.1' ? name : name.toLowerCase());

    /** The request reached the origin as the client wrote it, and the answer the client as the origin wrote it. */
    async function expectUntouched(
      target: string,
      request: { readonly method?: string; readonly lines: readonly HeaderLine[]; readonly body: Uint8Array },
    ): Promise<void> {
      proxy.answer(target, { status: 201, headers: ANSWER_LINES, body: 'done' });
      const { method = 'POST', lines, body } = request;
      const answer = await proxy.send(transport, { method, target, headers: lines, body });
      expect(answer.interims).toEqual([]);
      const relayed = framed(ANSWER_LINES, 'done').map(([name, value]) => `${lower(name)}: ${value}`);
      const kept = transport === 'HTTP/1.1' ? ['Connection: keep-alive', 'Keep-Alive: timeout=75'] : [];
      expect(comparable(answer)).toEqual({ status: 201, lines: [...relayed, ...kept], body: 'done' });
      const [received, ...others] = proxy.requestsFor(target);
      expect(others).toEqual([]);
      expect(received).toMatchObject({ method, size: body.length, sha256: sha256(body) });
      expect(received!.headers).toEqual(expect.arrayContaining(lines.map(([name, value]) => [lower(name), value])));
      expect(received!.header('Idempotency-Key')).toBeUndefined();
    }

    test.each(['2', '98', '99', '6.0', 'abc', '"6"', '-6'])(
      'a whole upload that names version %s, which nobody knows, passes through',
      async (version) => {
        const lines: HeaderLine[] = [
          ['Upload-Draft-Interop-Version', version],
          ['Upload-Complete', '?1'],
        ];
        await expectUntouched(`/by/version?${encodeURIComponent(version + transport)}`, { lines, body: LARGE });
      },
    );

    test('an upload in an unknown version with more to come is served by the newest rules, without a version', async () => {
      const target = `/by/unknown-more?${encodeURIComponent(transport)}`;
      const client = new FlowClient(proxy, transport, 'final', 'min-size=1000');
      const headers: HeaderLine[] = [
        ['Upload-Draft-Interop-Version', '98'],
        ['Upload-Complete', '?0'],
        ['Upload-Length', '5000'],
      ];
      const created = await client.send({ method: 'POST', target, headers, body: LARGE.subarray(0, 2000) });
      const url = created.header('Location')!;
      expect(comparable(created)).toEqual(client.expected.created(url, 2000));
      expect(created.interims).toEqual([]);
      const answer = await client.at(url).append(LARGE.subarray(2000), { offset: 2000, complete: true });
      expect(answer.status).toBe(200);
      expect(proxy.requestsFor(target)).toMatchObject([{ sha256: sha256(LARGE) }]);
    });

    test.each(['3', '5', '6', '9'])(
      'a small JSON request of an iOS app, interop %s, passes through',
      async (version) => {
        const lines: HeaderLine[] = [
          ['Content-Type', 'application/json'],
          ['Accept', '*/*'],
          ['Upload-Draft-Interop-Version', version],
          version === '3' ? ['Upload-Incomplete', '?0'] : ['Upload-Complete', '?1'],
          ['User-Agent', 'Photos/3 CFNetwork/1568.200.51 Darwin/24.1.0'],
          ['Authorization', 'Bearer t0ken'],
          ['Content-Length', `${SMALL.length}`],
        ];
        await expectUntouched(`/by/json?${encodeURIComponent(version + transport)}`, { lines, body: SMALL });
      },
    );

    test.each(['true', '1', '?2', '', '?1, ?1', '"?1"'])(
      'a request whose completeness is %j is none of ours and passes through',
      async (value) => {
        const lines: HeaderLine[] = [
          ['Upload-Draft-Interop-Version', '8'],
          ['Upload-Complete', value],
        ];
        await expectUntouched(`/by/garbage?${encodeURIComponent(value + transport)}`, { lines, body: LARGE });
      },
    );

    test('the completeness field of another version is none', async () => {
      const older: HeaderLine[] = [
        ['Upload-Draft-Interop-Version', '3'],
        ['Upload-Complete', '?1'],
      ];
      const newer: HeaderLine[] = [
        ['Upload-Draft-Interop-Version', '4'],
        ['Upload-Incomplete', '?0'],
      ];
      await expectUntouched(`/by/older?${encodeURIComponent(transport)}`, { lines: older, body: LARGE });
      await expectUntouched(`/by/newer?${encodeURIComponent(transport)}`, { lines: newer, body: LARGE });
    });

    test('ordinary requests pass through beside an upload that is under way', async () => {
      const client = new FlowClient(proxy, transport, '8', 'min-size=1000');
      const target = `/by/beside?${encodeURIComponent(transport)}`;
      const { request, upload } = await client.begin({ target, length: LARGE.length });
      await request.send(LARGE.subarray(0, 2000));
      await untilSpooled(proxy.app.data, upload.url, 2000);
      const own: HeaderLine[] = [['X-Own', 'yes']];
      for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'])
        await expectUntouched(`${target}&method=${method}`, { method, lines: own, body: SMALL });
      await request.send(LARGE.subarray(2000));
      await request.end();
      expect((await request.readFinal()).status).toBe(200);
      expect(proxy.requestsFor(target)).toMatchObject([{ sha256: sha256(LARGE) }]);
    });
  });
});

describe('URLSession', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open({ config: 'limits: { min_size: 1000 }' });
  });

  afterAll(async () => {
    await proxy.close();
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
    const client = await connect(proxy.app.url);
    await client.send(`${request} HTTP/1.1\r\nHost: ${proxy.host}\r\n${text(lines)}Connection: keep-alive\r\n\r\n`);
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
      proxy.answer(target, answer);
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
      expect([comparable(interim)]).toEqual(expected.interims(url));
      await creation.send(BYTES.subarray(0, CUT_AT));
      await untilSpooled(proxy.app.data, url, CUT_AT);
      creation.reset();

      const resource = new URL(url).pathname;
      const head = await open(`HEAD ${resource}`, [type, version, ...APP, ['Content-Length', '0']]);
      const length = BYTES.length;
      expect(comparable(await head.readFinal())).toEqual(expected.retrieved(CUT_AT, { complete: false, length }));
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
      expect(comparable(final)).toEqual(expected.answered(relayed, length));
      expect(final.interims).toEqual([]);

      const [received, ...others] = proxy.requestsFor(target);
      expect(others).toEqual([]);
      expect(received).toMatchObject({ method: 'POST', sha256: sha256(BYTES) });
      const sent = { host: proxy.host, lines: [type, ...APP], length };
      expect(receivedLines(received!)).toEqual(replayedLines('HTTP/1.1', sent));
    });

    test('an upload task of a stream has no length, and its small requests are left alone', async () => {
      const stream = `${target}&stream`;
      const creation = await open(`POST ${stream}`, [last, version, ...APP, ['Transfer-Encoding', 'chunked']]);
      const interim = await creation.readInterim();
      expect([comparable(interim)]).toEqual(expected.interims(interim.header('Location')!));
      await creation.sendChunk(BYTES);
      await creation.endChunks();
      const final = await creation.readFinal();
      expect(final.status).toBe(200);
      expect(final.header('Upload-Offset')).toBe(`${BYTES.length}`);
      expect(proxy.requestsFor(stream)).toMatchObject([{ sha256: sha256(BYTES) }]);

      const small = `${target}&small`;
      const body = '{"a":1}';
      await creation.send(
        `POST ${small} HTTP/1.1\r\nHost: ${proxy.host}\r\n${text([last, version, ...APP])}Content-Length: ${body.length}\r\n\r\n`,
      );
      await creation.send(Buffer.from(body));
      const plain = await creation.readFinal();
      creation.destroy();
      expect(plain).toMatchObject({ status: 200, interims: [] });
      expect(plain.header('Upload-Offset')).toBeUndefined();
      expect(proxy.requestsFor(small)).toMatchObject([{ sha256: sha256(body) }]);
    });
  });
});

describe('beside upgrades', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(() => proxy.close());

  test.each(['/.uploads/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', '/x/%2e%2e/.uploads/a/status', '/.uploads/'])(
    'a request to change protocols at %s is refused, and no origin hears of the upload',
    async (target) => {
      const client = await openTunnel(proxy.app.url, '', target);
      const response = await client.readFinal();
      expect(response.status).toBe(400);
      expect(response.header('content-type')).toBe('application/problem+json');
      await client.ended();
      expect(proxy.origin.requests).toEqual([]);
    },
  );

  test('a request to change protocols with a malformed head is told what is wrong with it', async () => {
    const client = await connect(proxy.app.url);
    await client.send('GET /chat HTTP/1.1\r\nHost: %zz\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    const response = await client.readFinal();
    expect(response.status).toBe(400);
    expect(JSON.parse(response.body.toString())).toMatchObject({ detail: 'The Host is malformed.' });
    await client.ended();
  });
});
