import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { RelayedAnswer } from '../../src/model/messages.js';
import { bodyOf, DeliveryHarness, type DeliveryHarnessOptions, neverAborted } from '../support/delivery-harness.js';
import { answerOk, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

describe('answers', () => {
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

  async function seen(answer: RelayedAnswer) {
    const body = (await bodyOf(answer)).toString();
    const { status, reason, headers } = answer;
    return { status, reason, headers, body, trailers: answer.trailers() };
  }

  test('an answer keeps status, reason, order, case and duplicates; what belongs to the connection is left out', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond({
        status: 201,
        reason: 'Made It',
        headers: [
          ['LOCATION', '/files/1'],
          ['Set-Cookie', 'a=1; Path=/'],
          ['x-odd-Case', 'ü'],
          ['Connection', 'X-Private'],
          ['X-Private', 'hop'],
          ['Keep-Alive', 'timeout=5'],
          ['set-cookie', 'b=2'],
        ],
        body: 'made',
      });
    });
    await open();
    const upload = await harness.whole();
    const expected = {
      status: 201,
      reason: 'Made It',
      headers: [
        ['LOCATION', '/files/1'],
        ['Set-Cookie', 'a=1; Path=/'],
        ['x-odd-Case', 'ü'],
        ['set-cookie', 'b=2'],
        ['Content-Length', '4'],
      ],
      body: 'made',
      trailers: [],
    };
    expect(await seen(await harness.answer(upload.id))).toEqual(expected);
    expect(await seen(await harness.answer(upload.id))).toEqual(expected);
    await harness.restart();
    expect(await seen(await harness.answer(upload.id))).toEqual(expected);
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a chunked answer keeps its trailers, now and later', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond({
        status: 200,
        headers: [
          ['Transfer-Encoding', 'chunked'],
          ['Trailer', 'X-Check'],
        ],
        body: 'in chunks',
        trailers: [['X-Check', 'sum']],
      });
    });
    await open();
    const upload = await harness.whole();
    const trailers = [['X-Check', 'sum']];
    const expected = { status: 200, reason: 'OK', headers: [['Trailer', 'X-Check']], body: 'in chunks', trailers };
    expect(await seen(await harness.answer(upload.id))).toEqual(expected);
    expect(await seen(await harness.answer(upload.id))).toEqual(expected);
  });

  test.each([
    { status: 204, headers: [['ETag', '"1"']] as const },
    { status: 304, headers: [['ETag', '"1"']] as const },
    { status: 200, headers: [['Content-Length', '0']] as const },
  ])('an answer that is only a head ($status) is whole when it is given', async ({ status, headers }) => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond({ status, headers });
    });
    await open();
    const upload = await harness.whole();
    const answer = await harness.answer(upload.id);
    expect(answer.bodySize).toBe(0);
    expect(answer.upload).toMatchObject({ phase: 'answered', answer: { status, bodySize: 0 } });
    expect(await seen(answer)).toMatchObject({ status, headers, body: '' });
  });

  // RFC 9112 §6.3: these end with their head, whatever it announces. Origins announce the length that another status would have.
  describe.each([204, 304])('an answer of %i', (status) => {
    test.each([
      ['a length of none', 'Content-Length: 0', ''],
      ['a length', 'Content-Length: 9757', ''],
      ['chunks', 'Transfer-Encoding: chunked', ''],
      ['chunks that end', 'Transfer-Encoding: chunked', '0\r\n\r\n'],
      ['a length and has that content', 'Content-Length: 4', 'body'],
    ])('is whole although it announces %s', async (_what, line, rest) => {
      origin.setScript(async (exchange) => {
        await exchange.readBody();
        await exchange.write(`HTTP/1.1 ${status} Fine\r\nETag: "1"\r\n${line}\r\n\r\n${rest}`);
      });
      await open();
      for (const [count, method] of ['POST', 'PUT', 'PUT'].entries()) {
        const upload = await harness.whole({ request: { method } });
        const answer = await harness.answer(upload.id);
        expect(answer.upload).toMatchObject({ phase: 'answered', answer: { status, bodySize: 0 }, attemptCount: 1 });
        expect(await seen(answer)).toMatchObject({ status, reason: 'Fine', body: '' });
        expect(origin.exchanges).toHaveLength(count + 1);
      }
    });
  });

  test('interim responses of the origin are skipped, a 100 that nobody asked for as well', async () => {
    origin.setScript(async (exchange) => {
      await exchange.interim(100);
      await exchange.interim(104, [['Location', '/theirs']]);
      await exchange.readBody();
      await exchange.interim(102);
      await exchange.write('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    });
    await open();
    for (let count = 0; count < 3; count++) {
      // A method that may be repeated: only its requests share a connection.
      const upload = await harness.whole({ body: randomBytes(100_000), request: { method: 'PUT' } });
      expect(await seen(await harness.answer(upload.id))).toMatchObject({ status: 200, body: 'ok' });
    }
    expect(origin.connections).toHaveLength(1);
  });

  test('an answer that ends with the connection is whole when that ends in good order', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.write('HTTP/1.0 200 OK\r\n\r\nold style');
      exchange.end();
    });
    await open();
    const upload = await harness.whole();
    expect(await seen(await harness.answer(upload.id))).toMatchObject({ status: 200, body: 'old style' });
  });

  test('whoever has seen the end of an answer can rely on its being kept', async () => {
    await open();
    for (const body of ['a', 'bb', 'ccc']) {
      const upload = await harness.whole({ body });
      await bodyOf(await harness.answer(upload.id));
      expect((await harness.upload(upload.id)).phase).toBe('answered');
    }
  });

  test('a short answer is recorded before its client sees anything of it: no crash can take back what it says', async () => {
    await open();
    const upload = await harness.whole();
    expect((await harness.answer(upload.id)).upload.phase).toBe('answered');
  });

  test('the head is given before the body is there, and the body as it comes', async () => {
    let release: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst');
      await released;
      await exchange.write('later');
    });
    await open();
    const upload = await harness.whole();
    const answer = await harness.answer(upload.id);
    expect(answer.bodySize).toBeUndefined();
    const pieces = answer.body[Symbol.asyncIterator]();
    expect(String((await pieces.next()).value)).toBe('first');
    release!();
    expect(String((await pieces.next()).value)).toBe('later');
    expect((await pieces.next()).done).toBe(true);
  });

  const BIG = randomBytes(20 * 1024 * 1024, 7);

  test('a large answer is taken at the origin’s speed, whoever reads it and however slowly', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.respond({ status: 200, body: BIG });
    });
    await open();
    const upload = await harness.whole();
    const slow = (await harness.answer(upload.id)).body[Symbol.asyncIterator]();
    const start = (await slow.next()).value as Uint8Array;
    // The slow reader stands still: the origin is done with us nevertheless.
    await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the answer to be recorded');
    expect((await harness.upload(upload.id)).answer?.body).toMatchObject({ in: 'spool', name: 'answer-1-0' });
    const second = await harness.answer(upload.id);
    expect(second.bodySize).toBe(BIG.length);
    expect(sha256(await bodyOf(second))).toBe(sha256(BIG));
    const rest: Uint8Array[] = [start];
    for (let piece = await slow.next(); !piece.done; piece = await slow.next()) rest.push(piece.value);
    expect(sha256(Buffer.concat(rest))).toBe(sha256(BIG));
    await until(async () => (await harness.files()).length === 1, 'the upload’s own bytes to be removed');
    expect(await harness.files()).toEqual(['answer-1-0']);
    await harness.restart();
    expect(sha256(await bodyOf(await harness.answer(upload.id)))).toBe(sha256(BIG));
  });

  test('readers that come while a large answer grows all get it from its start', async () => {
    let release: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.write(`HTTP/1.1 200 OK\r\nContent-Length: ${BIG.length}\r\n\r\n`);
      await exchange.write(BIG.subarray(0, 1_000_000));
      await released;
      await exchange.write(BIG.subarray(1_000_000));
    });
    await open();
    const upload = await harness.whole();
    const readers = [bodyOf(await harness.answer(upload.id)), bodyOf(await harness.answer(upload.id))];
    release!();
    readers.push(bodyOf(await harness.answer(upload.id)));
    for (const reader of readers) expect(sha256(await reader)).toBe(sha256(BIG));
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a large answer that breaks off leaves nothing in the spool', async () => {
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await exchange.write(`HTTP/1.1 200 OK\r\nContent-Length: ${BIG.length}\r\n\r\n`);
      await exchange.write(BIG.subarray(0, 1_000_000));
      exchange.end();
    });
    await open();
    const upload = await harness.whole();
    await expect(bodyOf(await harness.answer(upload.id))).rejects.toThrow(/closed/);
    expect(await harness.result(upload.id)).toMatchObject({
      kind: 'undelivered',
      failure: { reason: 'outcome-unknown' },
    });
    expect(await harness.files()).toEqual(['chunk-0']);
  });

  test('those who ask at the same time share one delivery', async () => {
    await open();
    const upload = await harness.whole();
    const answers = await Promise.all(Array.from({ length: 10 }, () => harness.answer(upload.id)));
    for (const answer of answers) expect((await bodyOf(answer)).toString()).toBe('ok');
    expect(origin.exchanges).toHaveLength(1);
  });

  test('a client that leaves ends its waiting, never the delivery', async () => {
    let release: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    origin.setScript(async (exchange) => {
      await exchange.readBody();
      await released;
      await exchange.respond({ status: 201, body: 'made' });
    });
    await open();
    const upload = await harness.whole();
    const client = new AbortController();
    const waiting = harness.result(upload.id, { to: client.signal });
    await origin.exchange(0);
    client.abort(new Error('the client left'));
    await expect(waiting).rejects.toThrow('the client left');
    release!();
    await until(async () => (await harness.upload(upload.id)).phase === 'answered', 'the answer to be recorded');
    expect(await seen(await harness.answer(upload.id))).toMatchObject({ status: 201, body: 'made' });
    expect(origin.exchanges).toHaveLength(1);
  });

  test('an unknown or cancelled upload is gone', async () => {
    await open();
    const upload = await harness.whole();
    await harness.store.cancel(upload.id);
    expect(await harness.result(upload.id)).toMatchObject({ kind: 'gone', upload: { phase: 'cancelled' } });
    expect(await harness.result('upload-that-never-existed')).toEqual({ kind: 'gone' });
    expect(origin.exchanges).toHaveLength(0);
  });
});

describe('parked', () => {
  const FRESH: HeaderLine = ['Authorization', 'Bearer fresh'];
  const CHALLENGE: HeaderLine = ['WWW-Authenticate', 'Bearer error="invalid_token"'];

  let origin: RawOrigin;
  let harness: DeliveryHarness;

  beforeEach(async () => {
    origin = await startRawOrigin(async (exchange) => {
      if (exchange.header('authorization') === FRESH[1]) return answerOk(exchange);
      await exchange.readBody();
      await exchange.respond({ status: 401, headers: [CHALLENGE], body: 'who are you?' });
    });
    harness = await DeliveryHarness.open(origin.url, { rules: { guarantee: 'at_least_once' } });
  });

  afterEach(async () => {
    await harness.close();
    await origin.close();
  });

  async function parked(result: DeliveryResult): Promise<string> {
    if (result.kind !== 'parked') throw new Error(result.kind);
    expect(result.upload).toMatchObject({ phase: 'undelivered', undelivered: { reason: 'unauthorized', status: 401 } });
    expect(result.answer).toMatchObject({ status: 401, headers: [CHALLENGE, ['Content-Length', '12']] });
    return (await bodyOf(result.answer)).toString();
  }

  describe('an origin’s 401', () => {
    test('reaches the client as it is, also one that comes later, and parks the upload with its bytes', async () => {
      const { id } = await harness.whole();
      expect(await parked(await harness.result(id))).toBe('who are you?');
      expect(await parked(await harness.result(id))).toBe('who are you?');
      await harness.restart();
      expect(await parked(await harness.result(id))).toBe('who are you?');
      expect(await harness.files()).toEqual(['answer-1-0', 'chunk-0']);
      expect(origin.exchanges).toHaveLength(1);
    });

    test('is no end: other credentials deliver the upload', async () => {
      const { id } = await harness.whole();
      await parked(await harness.result(id));
      const result = await harness.delivery.result(id, { credentials: [FRESH], signal: neverAborted() });
      expect(result).toMatchObject({ kind: 'answered', answer: { status: 200 } });
      expect(origin.exchanges[1]!.body.endedCleanly).toBe(true);
      expect((await harness.upload(id)).undelivered).toBeUndefined();
    });

    test('parks it again when those are no better', async () => {
      const { id } = await harness.whole();
      await parked(await harness.result(id));
      const stale: HeaderLine = ['Authorization', 'Bearer stale'];
      const again = await harness.delivery.result(id, { credentials: [stale], signal: neverAborted() });
      expect(await parked(again)).toBe('who are you?');
      expect(origin.exchanges).toHaveLength(2);
    });

    test('leaves it to the operator as well', async () => {
      const { id } = await harness.whole();
      await parked(await harness.result(id));
      origin.setScript(answerOk);
      expect(await harness.delivery.redeliver(id)).toBe('begun');
      await until(async () => (await harness.upload(id)).phase === 'answered', 'the answer');
    });
  });

  describe('the operator', () => {
    test('has an upload delivered again whose outcome nobody knows', async () => {
      const { id } = await harness.whole();
      origin.setScript((exchange) => (exchange.index === 0 ? exchange.reset() : answerOk(exchange)));
      const once = await DeliveryHarness.open(origin.url);
      const upload = await once.whole();
      expect(await once.result(upload.id)).toMatchObject({ failure: { reason: 'outcome-unknown' } });
      expect(await once.delivery.redeliver(upload.id)).toBe('begun');
      await until(async () => (await once.upload(upload.id)).phase === 'answered', 'the answer');
      expect((await once.upload(upload.id)).attempts).toMatchObject([{ number: 1 }, { number: 2, budgetFrom: 2 }]);
      await once.close();
      expect((await harness.upload(id)).phase).toBe('complete');
    });

    test('is told why there is nothing to deliver', async () => {
      const { id } = await harness.whole();
      await harness.delivery.result(id, { credentials: [FRESH], signal: neverAborted() });
      expect(await harness.delivery.redeliver(id)).toBe('answered');
      expect(await harness.delivery.redeliver('upload-that-never-existed')).toBe('unknown');
      const cancelled = await harness.whole();
      await harness.store.cancel(cancelled.id);
      expect(await harness.delivery.redeliver(cancelled.id)).toBe('unknown');
      const other = await harness.whole();
      await harness.delivery.stop();
      expect(await harness.delivery.redeliver(other.id)).toBe('stopping');
      expect(origin.exchanges).toHaveLength(1);
    });
  });
});
