import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import type { RelayedAnswer } from '../../src/model/messages.js';
import { connect, type Transport } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { comparable, FEWER_VARIANTS, FlowClient, VARIANTS } from '../support/flow-client.js';
import { connectH2 } from '../support/http2-client.js';
import {
  appendLines,
  clientDialect,
  createUpload,
  creationLines,
  DIALECTS,
  type ResumableUpload,
  type Send,
} from '../support/resumable-client.js';
import {
  randomBytes,
  seededRandom,
  sha256,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
  within,
} from '../support/temporary.js';
import { framed, receivedLines, replayedLines, TestProxy } from '../support/test-proxy.js';
import { GatedUploads, ReceivingHarness, StoreReach } from '../support/upload-harness.js';
import { UploadWriters } from '../support/upload-writers.js';

describe('cut requests', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  /** End-to-end lines with duplicates and mixed case, in an order of their own. */
  const OWN_LINES: readonly HeaderLine[] = [
    ['X-First', '1'],
    ['authorization', 'Bearer t0ken'],
    ['x-Twice', 'a'],
    ['x-Twice', 'b, c'],
    ['Content-Type', 'image/png'],
    ['COOKIE', 'a=1; b=2'],
    ['Content-Disposition', 'attachment; filename="a b.png"'],
  ];

  const ANSWER = {
    status: 201,
    lines: [['X-Answer', 'one'] as const, ['Location', '/files/9'] as const],
    body: 'made',
  };
  const RELAYED = { ...ANSWER, lines: framed(ANSWER.lines, ANSWER.body) };

  /** `delivery.keep_answer`: the rest of an answered upload's life. */
  const KEPT = { maxAgeSeconds: 3600 };

  /** One client, one file, one target. */
  interface Play {
    readonly client: FlowClient;
    readonly random: () => number;
    readonly target: string;
    readonly bytes: Buffer;
    readonly cutAt: number;
  }

  function play({ transport, interop, seed }: (typeof VARIANTS)[number], subject: string): Play {
    const random = seededRandom(seed);
    const client = new FlowClient(proxy, transport, interop);
    const bytes = randomBytes(50_000 + Math.floor(random() * 200_000), seed);
    const target = `/api/files/${subject}?seed=${seed}&name=a%20b%2Fc&x`;
    proxy.answer(target, { status: ANSWER.status, headers: ANSWER.lines, body: ANSWER.body });
    return { client, random, target, bytes, cutAt: 1 + Math.floor(random() * (bytes.length - 1)) };
  }

  /** Begins the upload as its dialect does, and loses the connection when `cutAt` bytes have arrived. */
  async function createAndCut({ client, target, bytes, cutAt, random }: Play): Promise<ResumableUpload> {
    const { request, upload } = await client.begin({ target, lines: OWN_LINES, length: bytes.length });
    await request.send(bytes.subarray(0, cutAt));
    await untilSpooled(proxy.app.data, upload.url, cutAt);
    request.leave(random() < 0.5 ? 'end' : 'reset');
    return upload;
  }

  function expectOneRequest({ client, target, bytes }: Play, url: string): void {
    const [request, ...others] = proxy.requestsFor(target);
    expect(others).toEqual([]);
    expect(request).toMatchObject({ method: 'POST', size: bytes.length, sha256: sha256(bytes), trailers: [] });
    const sent = { host: proxy.host, lines: OWN_LINES, length: bytes.length };
    expect(receivedLines(request!)).toEqual(replayedLines(client.transport, sent));
    expect(url).not.toContain(request!.header('Idempotency-Key'));
  }

  describe.each(VARIANTS)('over $transport, interop $interop', (variant) => {
    test('an upload that was cut at a random byte goes on there with one append', async () => {
      const flow = play(variant, 'one');
      const { bytes, cutAt } = flow;
      const { expected } = flow.client;
      const { length } = bytes;
      const upload = await createAndCut(flow);
      const retrieved = await upload.retrieve();
      expect(comparable(retrieved)).toEqual(expected.retrieved(cutAt, { complete: false, length }));
      expect(proxy.requestsFor(flow.target)).toEqual([]);
      const answer = await upload.append(bytes.subarray(cutAt), { offset: cutAt, complete: true });
      expect(comparable(answer)).toEqual(expected.answered(RELAYED, length));
      expect([...retrieved.interims, ...answer.interims]).toEqual([]);
      expectOneRequest(flow, upload.url);
      expect(comparable(await upload.retrieve(), KEPT)).toEqual(expected.retrieved(length, { complete: true, length }));
    });

    test('an upload that was cut at a random byte goes on there in several appends', async () => {
      const flow = play(variant, 'several');
      const { bytes, cutAt, random } = flow;
      const { expected } = flow.client;
      const { length } = bytes;
      const upload = await createAndCut(flow);
      let offset = cutAt;
      expect(comparable(await upload.retrieve())).toEqual(expected.retrieved(offset, { complete: false, length }));
      const parts = [random(), random(), 0].sort((a, b) => a - b);
      for (const end of parts.map((part) => cutAt + Math.floor(part * (length - cutAt)))) {
        const response = await upload.append(bytes.subarray(offset, end), { offset, complete: false });
        expect(comparable(response)).toEqual(expected.appended(end));
        expect(response.interims).toEqual([]);
        offset = end;
      }
      expect(comparable(await upload.retrieve())).toEqual(expected.retrieved(offset, { complete: false, length }));
      expect(proxy.requestsFor(flow.target)).toEqual([]);
      const answer = await upload.append(bytes.subarray(offset), { offset, complete: true });
      expect(comparable(answer)).toEqual(expected.answered(RELAYED, length));
      expectOneRequest(flow, upload.url);
    });

    test('an upload that is not cut gets its answer at once', async () => {
      const flow = play(variant, 'whole');
      const { client, target, bytes } = flow;
      proxy.answer(target, { status: 202, body: 'later' });
      const headers = [...creationLines(client.dialect, { complete: true }), ...OWN_LINES];
      const answer = await client.send({ method: 'POST', target, headers, body: bytes });
      const url = answer.interims[0]?.header('Location') ?? '';
      const relayed = { status: 202, lines: framed([], 'later'), body: 'later' };
      const location = client.expected.answerHasLocation ? url : undefined;
      expect(comparable(answer)).toEqual(client.expected.answered(relayed, bytes.length, location));
      expect(answer.interims.map((interim) => comparable(interim))).toEqual(client.expected.interims(url));
      expectOneRequest(flow, url);
    });
  });
});

describe('connections', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  /** Everything a client may do, one request after the other on one connection. */
  async function playAll(send: Send, transport: Transport): Promise<void> {
    for (const [number, name] of DIALECTS.entries()) {
      const dialect = clientDialect(name);
      const target = `/one-connection/${name}?over=${encodeURIComponent(transport)}`;
      const bytes = randomBytes(200_000 + number, number + 1);
      const upload = await createUpload(dialect, send, { method: 'POST', target, body: bytes.subarray(0, 1000) });
      const refused = await upload.append(bytes.subarray(1000), { offset: 999, complete: true });
      expect(refused.status).toBe(409);
      expect((await upload.finish(bytes, 70_000)).status).toBe(200);
      expect(await upload.offset()).toBe(bytes.length);
      expect((await upload.cancel()).status).toBe(204);
      expect((await upload.retrieve()).status).toBe(404);
      const plain = await send({ method: 'PUT', target: `${target}&plain`, body: 'plain' });
      expect(plain.body.toString()).toBe('ok');
      const headers = creationLines(dialect, { complete: true });
      const whole = await send({ method: 'POST', target: `${target}&whole`, headers, body: bytes });
      expect(whole.header('Upload-Offset')).toBe(`${bytes.length}`);
      for (const asked of [target, `${target}&whole`])
        expect(proxy.requestsFor(asked)).toMatchObject([{ method: 'POST', sha256: sha256(bytes) }]);
    }
  }

  test('one HTTP/1.1 connection serves uploads of every dialect, refusals and ordinary requests in a row', async () => {
    const client = await connect(proxy.app.url);
    await playAll((request) => client.request(request), 'HTTP/1.1');
    expect(client.socket.readableEnded).toBe(false);
    client.destroy();
  });

  test('one HTTP/2 connection serves them too', async () => {
    const client = await connectH2(proxy.app.url);
    await playAll((request) => client.request(request), 'HTTP/2');
    expect(client.session.destroyed).toBe(false);
    await client.close();
  });

  test('one HTTP/2 connection carries many uploads at the same time', async () => {
    const client = await connectH2(proxy.app.url);
    const uploads = Array.from({ length: 20 }, async (_, number) => {
      const dialect = clientDialect(DIALECTS[number % DIALECTS.length]!);
      const target = `/at-once/${number}`;
      const bytes = randomBytes(300_000, number + 1);
      const request = { method: 'POST', target, headers: creationLines(dialect, { complete: true }), body: bytes };
      const answer = await client.request(request);
      expect(answer.status).toBe(200);
      expect(proxy.requestsFor(target)).toMatchObject([{ sha256: sha256(bytes) }]);
    });
    await Promise.all(uploads);
    await client.close();
  });
});

describe('Expect', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open({ config: 'limits: { max_size: 100000 }' });
  });

  afterAll(async () => {
    await proxy.close();
  });

  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
  const BYTES = randomBytes(5000);
  const EXPECT: HeaderLine = ['Expect', '100-continue'];
  const CONTINUE = { status: 100, lines: [] };

  describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
    const client = (): FlowClient => new FlowClient(proxy, transport, interop, 'max-size=100000, min-size=0');
    const length = (bytes: number): HeaderLine => ['Content-Length', `${bytes}`];

    test('a creation that expects to be told to continue is told where to go on first, and then to continue', async () => {
      const { dialect, expected } = client();
      const target = `/expect?seed=${seed}`;
      const headers = [...creationLines(dialect, { complete: true }), EXPECT, length(5000)];
      const request = await proxy.begin(transport, { method: 'POST', target, headers });
      if (dialect.version !== undefined) await request.readInterim();
      expect(comparable(await request.readInterim())).toEqual(CONTINUE);
      await request.send(BYTES);
      await request.end();
      const answer = await request.readFinal();
      const url = answer.interims[0]!.header('Location') ?? '';
      expect(answer.interims.map((interim) => comparable(interim))).toEqual([...expected.interims(url), CONTINUE]);
      const location = expected.answerHasLocation ? url : undefined;
      expect(comparable(answer)).toEqual(expected.answered(OK, 5000, location));
      expect(proxy.requestsFor(target)).toMatchObject([{ sha256: sha256(BYTES) }]);
      expect(proxy.requestsFor(target)[0]!.header('Expect')).toBeUndefined();
    });

    test('an append that expects to be told to continue is told to, or refused without', async () => {
      const { dialect, expected } = client();
      const upload = await client().place({ target: `/expect-append?seed=${seed}`, length: 5000 });
      const begin = (offset: number) =>
        proxy.begin(transport, {
          method: 'PATCH',
          target: upload.target,
          headers: [...appendLines(dialect, { offset, complete: true }), EXPECT, length(5000)],
        });
      const refused = await (await begin(1)).readFinal();
      const refusal = {
        status: 409,
        type: 'mismatching-upload-offset',
        offset: 0,
        limits: true,
        closes: true,
      } as const;
      const members = { 'expected-offset': 0, 'provided-offset': 1 };
      expect(comparable(refused)).toEqual(expected.refused({ ...refusal, members }));
      expect(refused.interims).toEqual([]);
      const request = await begin(0);
      expect(comparable(await request.readInterim())).toEqual(CONTINUE);
      await request.send(BYTES);
      await request.end();
      const answer = await request.readFinal();
      expect(comparable(answer)).toEqual(expected.answered(OK, 5000));
      expect(answer.interims).toHaveLength(1);
    });

    test('a creation that cannot be is refused without a place and without being told to continue', async () => {
      const { dialect, expected } = client();
      const target = `/expect-too-large?seed=${seed}`;
      const headers = [...creationLines(dialect, { complete: true }), EXPECT, length(100_001)];
      const request = await proxy.begin(transport, { method: 'POST', target, headers });
      const refused = await request.readFinal();
      expect(comparable(refused)).toEqual(expected.refused({ status: 413, limits: true, closes: true }));
      expect(refused.interims).toEqual([]);
      expect(proxy.requestsFor(target)).toEqual([]);
    });
  });

  test('HTTP/1.0 gets no interim response', async () => {
    const client = await connect(proxy.app.url);
    await client.send(
      `POST /old HTTP/1.0\r\nHost: ${proxy.host}\r\nUpload-Draft-Interop-Version: 6\r\nUpload-Complete: ?1\r\n` +
        'Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc',
    );
    const answer = await client.readFinal();
    client.destroy();
    expect(answer.interims).toEqual([]);
    expect(answer.status).toBe(200);
    expect(answer.header('Upload-Offset')).toBe('3');
    expect(proxy.requestsFor('/old')).toMatchObject([{ sha256: sha256('abc') }]);
  });
});

describe('the last byte', () => {
  /** Clients take "offset = length" for success, so what they call the end is not shown as long as it is not. */
  const END = { complete: true } as const;

  const FORBIDDEN: RelayedAnswer = {
    status: 403,
    reason: 'Forbidden',
    headers: [],
    bodySize: 0,
    body: (async function* () {})(),
    trailers: () => [],
  };

  describe('the end of a body, known with its last bytes, of an upload whose length nobody declared', () => {
    let harness: ReceivingHarness;

    beforeEach(async () => {
      harness = await ReceivingHarness.open({ reach: new StoreReach(), pace: { bytes: 0, everyMs: 0 } });
    });
    afterEach(() => harness.close());

    test('is not shown to a client that is turned away with it, and that completes it later', async () => {
      const id = await harness.empty();
      const turnAway = { mayComplete: () => Promise.resolve(FORBIDDEN) };
      expect(await harness.send(id, 'hello', END, turnAway)).toMatchObject({ kind: 'turned-away' });
      expect(await harness.head(id)).toMatchObject({ kind: 'retrieved', upload: { phase: 'receiving', offset: 4 } });
      expect(await harness.send(id, 'o', { ...END, offset: 4 })).toMatchObject({
        kind: 'pending',
        upload: { offset: 5 },
      });
    });

    test('is not shown to a request that comes while it is looked at, and passes it over', async () => {
      const id = await harness.empty();
      let asked = false;
      const decide = new Promise<undefined>(() => undefined);
      const { stream } = harness.append(id, END, { mayComplete: () => ((asked = true), decide) });
      stream.push('hello');
      stream.push(null);
      await until(() => asked, 'the question whether it may complete');
      expect(await within(harness.head(id), 'the offset')).toMatchObject({ upload: { phase: 'receiving', offset: 4 } });
    });

    test('counts with its digest', async () => {
      const id = await harness.empty({ reprDigests: [{ algorithm: 'sha-256', value: sha256(Buffer.from('hello')) }] });
      const outcome = await harness.send(id, 'hello', END);
      expect(outcome).toMatchObject({
        kind: 'pending',
        upload: { offset: 5, heldBack: { lastByte: 'o'.charCodeAt(0) } },
      });
    });
  });

  describe('a process that dies over the completion', () => {
    let directory: TemporaryDirectory;

    beforeEach(async () => (directory = await temporaryDirectory()));
    afterEach(() => directory.remove());

    test.each([true, false])('counts nothing that was not committed, with its length declared: %j', async (length) => {
      const options = { directory: join(directory.path, 'data'), pace: { bytes: 0, everyMs: 0 }, graceMs: 60_000 };
      const gated = await GatedUploads.open(options);
      const writers = new UploadWriters(gated, Buffer.from('hello'), { length, digest: false });
      await writers.create(0, { complete: true, isSized: false, isDigested: false });
      gated.gate.hold();
      writers.end(0);
      // The file is made, written and synced; then comes the commit.
      for (let stops = 0; stops < 6; stops++) {
        await gated.gate.quiet();
        gated.gate.letGo(0);
      }
      writers.forget();
      await gated.kill();
      const next = await GatedUploads.open(options);
      const asked = await next.uploads.retrieve({ kind: 'retrieve', id: writers.id });
      expect(asked).toMatchObject({ kind: 'retrieved', upload: { phase: 'receiving', offset: 0 } });
      await next.close();
    });
  });
});
