import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { untilSpooled } from '../support/disk.js';
import { comparable, FEWER_VARIANTS, FlowClient, VARIANTS } from '../support/flow-client.js';
import {
  appendLines,
  clientDialect,
  creationLines,
  type ResumableUpload,
  versionLines,
} from '../support/resumable-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { framed, receivedLines, replayedLines, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

describe('refusals', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
  const BYTES = randomBytes(1000);

  describe.each(FEWER_VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
    const client = (): FlowClient => new FlowClient(proxy, transport, interop);
    const { order } = clientDialect(interop);
    const targetFor = (subject: string): string => `/refusals/${subject}?seed=${seed}`;

    /** An upload that stands at offset 400 of its 1000 bytes. */
    async function begun(subject: string, length?: number): Promise<ResumableUpload> {
      const upload = await client().place({ target: targetFor(subject), length });
      await upload.append(BYTES.subarray(0, 400), { offset: 0, complete: false });
      return upload;
    }

    function patch(upload: ResumableUpload, headers: readonly HeaderLine[], body: Uint8Array): Promise<WireResponse> {
      const lines = [...versionLines(client().dialect), ...headers];
      return client().send({ method: 'PATCH', target: upload.target, headers: lines, body });
    }

    /** The refusal has changed nothing: the rest still fits. */
    async function expectUnharmed(upload: ResumableUpload, subject: string): Promise<void> {
      expect(proxy.requestsFor(targetFor(subject))).toEqual([]);
      expect(await upload.offset()).toBe(400);
      const answer = await upload.append(BYTES.subarray(400), { offset: 400, complete: true });
      expect(comparable(answer)).toEqual(client().expected.answered(OK, 1000));
      expect(proxy.requestsFor(targetFor(subject))).toMatchObject([{ sha256: sha256(BYTES) }]);
    }

    test('an append at another offset is refused and told the right one', async () => {
      const upload = await begun('offset');
      for (const offset of [0, 399, 401, 999_999_999_999_999]) {
        const response = await upload.append(BYTES.subarray(400), { offset, complete: true });
        const refusal = { status: 409, type: 'mismatching-upload-offset', offset: 400, limits: true } as const;
        const members = { 'expected-offset': 400, 'provided-offset': offset };
        expect(comparable(response)).toEqual(client().expected.refused({ ...refusal, members }));
      }
      await expectUnharmed(upload, 'offset');
    });

    test.each([
      ['without an offset', []],
      ['with an offset that is no Integer', [['Upload-Offset', '400.0'] as const]],
      ['with two offsets', [['Upload-Offset', '400'] as const, ['Upload-Offset', '400'] as const]],
      ['with a negative offset', [['Upload-Offset', '-400'] as const]],
    ])('an append %s is refused', async (subject, offsetLines) => {
      const upload = await begun(subject.replace(/ /g, '-'));
      const lines = appendLines(client().dialect, { offset: 400, complete: true });
      const others = lines.filter(([name]) => !/^upload-(?:offset|draft)/i.test(name));
      const response = await patch(upload, [...others, ...offsetLines], BYTES.subarray(400));
      expect(comparable(response)).toEqual(client().expected.refused({ status: 400, limits: true }));
      await expectUnharmed(upload, subject.replace(/ /g, '-'));
    });

    test('an append that does not say whether it is the last one is the last one up to interop 6, and refused later', async () => {
      const { dialect, expected } = client();
      const upload = await begun('unsaid');
      const lines = appendLines(dialect, { offset: 400, complete: true });
      const others = lines.filter(([name]) => name !== dialect.completeness && !/^upload-draft/i.test(name));
      const garbage: HeaderLine = [dialect.completeness, 'true'];
      const refused = expected.refused({ status: 400, limits: true });
      expect(comparable(await patch(upload, [...others, garbage], BYTES.subarray(400)))).toEqual(refused);
      const response = await patch(upload, others, BYTES.subarray(400));
      if (order <= 6) return expect(comparable(response)).toEqual(expected.answered(OK, 1000));
      expect(comparable(response)).toEqual(refused);
      await expectUnharmed(upload, 'unsaid');
    });

    test('an append of another media type is refused where the dialect has one', async () => {
      const { dialect, expected } = client();
      const upload = await begun('type');
      const lines = appendLines(dialect, { offset: 400, complete: true });
      const others = lines.filter(([name]) => !/^(?:content-type|upload-draft)/i.test(name));
      const rest = BYTES.subarray(400);
      if (order >= 6) {
        const advice: HeaderLine[] = [['Accept-Patch', 'application/partial-upload']];
        const refused = expected.refused({ status: order === 6 ? 400 : 415, limits: true, advice });
        expect(comparable(await patch(upload, [...others, ['Content-Type', 'image/png']], rest))).toEqual(refused);
        expect(comparable(await patch(upload, others, rest))).toEqual(refused);
        return expectUnharmed(upload, 'type');
      }
      expect(comparable(await patch(upload, [...others, ['Content-Type', 'image/png']], rest))).toEqual(
        expected.answered(OK, 1000),
      );
    });

    test('lengths that contradict each other are refused, and the upload stays', async () => {
      const { expected, dialect } = client();
      const upload = await begun('lengths', 1000);
      const refused = expected.refused({ status: 400, type: 'inconsistent-upload-length', offset: 400, limits: true });
      const rest = BYTES.subarray(400);
      expect(comparable(await upload.append(rest, { offset: 400, complete: true, length: 1001 }))).toEqual(refused);
      expect(comparable(await upload.append(rest, { offset: 400, complete: false, length: 300 }))).toEqual(refused);
      expect(comparable(await upload.append(rest.subarray(1), { offset: 400, complete: true }))).toEqual(refused);
      await expectUnharmed(upload, 'lengths');
      const headers = creationLines(dialect, { complete: true, length: 999 });
      const created = await client().send({ method: 'POST', target: targetFor('creation'), headers, body: BYTES });
      expect(comparable(created)).toEqual(
        expected.refused({ status: 400, type: 'inconsistent-upload-length', limits: true }),
      );
      expect(created.interims).toEqual([]);
      expect(proxy.requestsFor(targetFor('creation'))).toEqual([]);
    });

    test('content that ends before the announced length does not complete the upload', async () => {
      const { expected } = client();
      const upload = await begun('short', 1000);
      const part = await client().append(upload, { offset: 400, complete: true });
      await part.send(BYTES.subarray(400, 900));
      await part.end();
      expect(comparable(await part.readFinal())).toEqual(
        expected.refused({ status: 400, type: 'inconsistent-upload-length', offset: 900, limits: true }),
      );
      expect(proxy.requestsFor(targetFor('short'))).toEqual([]);
      const answer = await upload.append(BYTES.subarray(900), { offset: 900, complete: true });
      expect(comparable(answer)).toEqual(expected.answered(OK, 1000));
    });

    test.each([
      ['announced', 601],
      ['unannounced', undefined],
    ])('content beyond the length, %s, ends the upload', async (subject, bytes) => {
      const { expected } = client();
      const upload = await begun(subject, 1000);
      const part = await client().append(upload, { offset: 400, complete: false, bytes });
      await part.send(randomBytes(601));
      await part.end();
      expect(comparable(await part.readFinal())).toEqual(
        expected.refused({ status: 400, type: 'inconsistent-upload-length', limits: true }),
      );
      expect(comparable(await upload.retrieve())).toEqual(expected.unknownToHead('gone'));
      const rest = { offset: 400, complete: true };
      expect(comparable(await upload.append(BYTES.subarray(400), rest))).toEqual(expected.unknown('gone'));
      expect(comparable(await upload.cancel())).toEqual(expected.unknown('gone'));
      expect(proxy.requestsFor(targetFor(subject))).toEqual([]);
    });
  });
});

describe('shapes', () => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await TestProxy.open();
  });

  afterAll(async () => {
    await proxy.close();
  });

  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };
  /** `delivery.keep_answer`: the rest of an answered upload's life. */
  const KEPT = { maxAgeSeconds: 3600 };
  const LINES: readonly HeaderLine[] = [['X-App', 'photos']];

  function expectOneRequest(
    { proxy, transport }: FlowClient,
    target: string,
    bytes: Uint8Array,
    { method = 'POST', lines = LINES }: { method?: string; lines?: readonly HeaderLine[] } = {},
  ): void {
    const [request, ...others] = proxy.requestsFor(target);
    expect(others).toEqual([]);
    expect(request).toMatchObject({ method, size: bytes.length, sha256: sha256(bytes), trailers: [] });
    const expected = replayedLines(transport, { host: proxy.host, lines, length: bytes.length });
    expect(receivedLines(request!)).toEqual(expected);
  }

  describe.each(VARIANTS)('over $transport, interop $interop', ({ transport, interop, seed }) => {
    const open = (): FlowClient => new FlowClient(proxy, transport, interop);
    const targetFor = (subject: string): string => `/shapes/${subject}?seed=${seed}`;

    test('an upload of unknown length is cut, goes on with more of unknown length, and reaches the origin with its length', async () => {
      const client = open();
      const { expected } = client;
      const target = targetFor('unknown-length');
      const bytes = randomBytes(40_000 + seed, seed);
      const { request, upload } = await client.begin({ target, lines: LINES, length: undefined });
      await request.send(bytes.subarray(0, 9000));
      await request.send(bytes.subarray(9000, 20_000));
      // Whatever came last may be the end: it waits for what follows.
      await untilSpooled(proxy.app.data, upload.url, 19_999);
      request.leave('reset');
      expect(comparable(await upload.retrieve())).toEqual(expected.retrieved(19_999, { complete: false }));
      const part = await client.append(upload, { offset: 19_999, complete: false });
      await part.send(bytes.subarray(19_999, 30_000));
      await part.end();
      expect(comparable(await part.readFinal())).toEqual(expected.appended(30_000));
      const last = await client.append(upload, { offset: 30_000, complete: true });
      await last.send(bytes.subarray(30_000));
      await last.end();
      expect(comparable(await last.readFinal())).toEqual(expected.answered(OK, bytes.length));
      expectOneRequest(client, target, bytes);
      const whole = { complete: true, length: bytes.length };
      expect(comparable(await upload.retrieve(), KEPT)).toEqual(expected.retrieved(bytes.length, whole));
    });

    test('an upload of nothing that is complete at once reaches the origin as an empty request', async () => {
      const client = open();
      const target = targetFor('nothing');
      const headers = [...creationLines(client.dialect, { complete: true }), ...LINES];
      const answer = await client.send({ method: 'POST', target, headers, body: '' });
      const url = answer.interims[0]?.header('Location') ?? '';
      const location = client.expected.answerHasLocation ? url : undefined;
      expect(comparable(answer)).toEqual(client.expected.answered(OK, 0, location));
      expect(answer.interims.map((interim) => comparable(interim))).toEqual(client.expected.interims(url));
      expectOneRequest(client, target, Buffer.alloc(0));
      if (url === '') return;
      const nothing = { complete: true, length: 0 };
      expect(comparable(await client.at(url).retrieve(), KEPT)).toEqual(client.expected.retrieved(0, nothing));
    });

    test('a place that was asked for first is filled by parts, and an append of nothing ends it', async () => {
      const client = open();
      const { expected } = client;
      const target = targetFor('careful');
      const bytes = randomBytes(3000, seed);
      const upload = await client.place({ target, lines: LINES, length: undefined });
      expect(comparable(await upload.retrieve())).toEqual(expected.retrieved(0, { complete: false }));
      expect(comparable(await upload.append('', { offset: 0, complete: false }))).toEqual(expected.appended(0));
      const first = await upload.append(bytes.subarray(0, 1), { offset: 0, complete: false });
      expect(comparable(first)).toEqual(expected.appended(1));
      const rest = await upload.append(bytes.subarray(1), { offset: 1, complete: false });
      expect(comparable(rest)).toEqual(expected.appended(3000));
      expect(comparable(await upload.retrieve())).toEqual(expected.retrieved(3000, { complete: false }));
      expect(proxy.requestsFor(target)).toEqual([]);
      const end = await upload.append('', { offset: 3000, complete: true });
      expect(comparable(end)).toEqual(expected.answered(OK, 3000));
      expectOneRequest(client, target, bytes);
    });

    test('a creation can bring a first part, and keeps its method', async () => {
      const client = open();
      const { expected } = client;
      const target = targetFor('first-part');
      const bytes = randomBytes(2000, seed);
      const headers = [...creationLines(client.dialect, { complete: false }), ...LINES];
      const created = await client.send({ method: 'PUT', target, headers, body: bytes.subarray(0, 700) });
      const url = created.header('Location')!;
      expect(comparable(created)).toEqual(expected.created(url, 700));
      expect(created.interims.map((interim) => comparable(interim))).toEqual(expected.interims(url));
      const answer = await client.at(url).append(bytes.subarray(700), { offset: 700, complete: true });
      expect(comparable(answer)).toEqual(expected.answered(OK, 2000));
      expectOneRequest(client, target, bytes, { method: 'PUT' });
    });

    test.each([1, 2])('an upload of %i byte(s) reaches the origin, at once or by an append', async (size) => {
      const client = open();
      const bytes = randomBytes(size, seed);
      const target = targetFor(`at-once-${size}`);
      const headers = [...creationLines(client.dialect, { complete: true }), ...LINES];
      const answer = await client.send({ method: 'POST', target, headers, body: bytes });
      const location = client.expected.answerHasLocation ? answer.interims[0]!.header('Location') : undefined;
      expect(comparable(answer)).toEqual(client.expected.answered(OK, size, location));
      expectOneRequest(client, target, bytes);
      const later = targetFor(`later-${size}`);
      const upload = await client.place({ target: later, lines: LINES, length: size });
      const appended = await upload.append(bytes, { offset: 0, complete: true, length: size });
      expect(comparable(appended)).toEqual(client.expected.answered(OK, size));
      expectOneRequest(client, later, bytes);
    });

    test('content that is coded stays as it is, and offsets count its coded bytes', async () => {
      const client = open();
      const target = targetFor('gzip');
      const bytes = gzipSync(randomBytes(5000, seed));
      const lines: HeaderLine[] = [
        ['Content-Encoding', 'gzip'],
        ['Content-Type', 'text/plain; charset=utf-8'],
      ];
      const upload = await client.place({ target, lines, length: bytes.length });
      const headers = appendLines(client.dialect, { offset: 0, complete: true });
      const request = { method: 'PATCH', target: upload.target, headers, body: bytes };
      expect(comparable(await client.send(request))).toEqual(client.expected.answered(OK, bytes.length));
      expectOneRequest(client, target, bytes, { lines });
    });
  });

  /** tus-js-client as `ietf-draft-03` and `-05` never sends the end of an upload of nothing. */
  test.each(VARIANTS)(
    'over $transport, interop $interop, a creation of nothing with more to come is whole only where the client never sends the end',
    async ({ transport, interop, seed }) => {
      const client = new FlowClient(proxy, transport, interop);
      const target = `/shapes/tus-js?seed=${seed}`;
      const headers = [...creationLines(client.dialect, { complete: false, length: 0 }), ...LINES];
      const response = await client.send({ method: 'POST', target, headers, body: '' });
      const url = response.header('Location')!;
      if (interop === '5' || interop === '6') {
        expect(comparable(response)).toEqual(client.expected.answered(OK, 0, url));
        expectOneRequest(client, target, Buffer.alloc(0));
        return;
      }
      expect(comparable(response)).toEqual(client.expected.created(url, 0));
      expect(proxy.requestsFor(target)).toEqual([]);
      expect(comparable(await client.at(url).append('', { offset: 0, complete: true }))).toEqual(
        client.expected.answered(OK, 0),
      );
      expectOneRequest(client, target, Buffer.alloc(0));
    },
  );
});
