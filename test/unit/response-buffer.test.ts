import { Readable } from 'node:stream';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { originRequestHead, withCompletingRequest } from '../../src/delivery/origin-request.js';
import type { OriginAnswer } from '../../src/delivery/origin.js';
import { ResponseBuffer, type ResponseBufferDeps } from '../../src/delivery/response-buffer.js';
import { Fault } from '../../src/model/fault.js';
import type { HeaderLine, Headers } from '../../src/model/headers.js';
import type { Upload } from '../../src/model/upload.js';
import { bodyOf, newUpload, REQUEST, routeTo } from '../support/delivery-harness.js';
import { randomBytes, until } from '../support/temporary.js';
import { cases } from '../support/thoroughness.js';

describe('response buffer', () => {
  /** A spool of one chunk in memory. */
  function memoryRooms(
    maxMemoryBytes: number,
    failAfter = Infinity,
  ): ResponseBufferDeps & { file: Buffer | undefined } {
    const deps = {
      id: 'upload',
      name: 'answer-1',
      maxMemoryBytes,
      file: undefined as Buffer | undefined,
      spool: {
        create: () => {
          deps.file = Buffer.alloc(0);
          return Promise.resolve({
            size: 0,
            get extent() {
              return { size: deps.file!.length };
            },
            extentWithoutLastByte: { size: 0 },
            write: (buffers: readonly Uint8Array[]) => {
              deps.file = Buffer.concat([deps.file!, ...buffers]);
              const isFull = deps.file.length > failAfter;
              return isFull ? Promise.reject(new Fault('STORAGE_FULL', 'full', true)) : Promise.resolve();
            },
            sync: () => Promise.resolve(),
            close: () => Promise.resolve(),
            discard: () => {
              deps.file = undefined;
              return Promise.resolve();
            },
          });
        },
        read: (_id: string, [chunk]: readonly { size: number }[], range?: { start: number; end?: number }) =>
          Readable.from([deps.file!.subarray(range?.start, Math.min(range?.end ?? Infinity, chunk!.size))]),
        removeChunk: () => {
          deps.file = undefined;
          return Promise.resolve();
        },
      },
    };
    return deps;
  }

  function answerOf(headers: HeaderLine[] = [], status = 200) {
    const body = new Readable({ read: () => undefined });
    const answer: OriginAnswer = { status, reason: 'OK', headers, body, trailers: () => [['X-T', '1']] };
    return { answer, body };
  }

  test('every reader gets the whole from its start, whenever it comes and wherever the bytes are', async () => {
    const pieces = fc.array(fc.integer({ min: 1, max: 300 }), { maxLength: 12 });
    const readers = fc.array(fc.integer({ min: 0, max: 13 }), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(
        pieces,
        readers,
        fc.integer({ min: 0, max: 1500 }),
        fc.boolean(),
        async (sizes, from, keep, counted) => {
          const whole = randomBytes(sizes.reduce((sum, size) => sum + size, 0));
          const { answer, body } = answerOf(counted ? [['Content-Length', String(whole.length)]] : []);
          const buffered = new ResponseBuffer(answer, memoryRooms(keep));
          const taking = buffered.readToEnd(1);
          const reading: Promise<Buffer>[] = [];
          for (let index = 0, at = 0; index <= sizes.length; index++) {
            for (const start of from)
              if (Math.min(start, sizes.length) === index) reading.push(bodyOf(buffered.relay()));
            const size = sizes[index];
            if (size !== undefined) body.push(whole.subarray(at, (at += size)));
            await new Promise((resolve) => setImmediate(resolve));
          }
          body.push(null);
          const taken = await taking;
          buffered.release();
          expect(taken.answer.bodySize).toBe(whole.length);
          expect(taken.answer.body.in).toBe(whole.length > keep ? 'spool' : 'record');
          if (taken.body) expect(Buffer.from(taken.body)).toEqual(whole);
          for (const read of [...reading, bodyOf(buffered.relay())]) expect((await read).equals(whole)).toBe(true);
        },
      ),
      cases(200),
    );
  });

  test.each([
    ['in memory, which it just fits', 6, 'record'],
    ['in memory, until its last piece is too much', 5, 'spool'],
    ['in the spool from its first piece on', 2, 'spool'],
  ])('readers that come before, between and after its pieces get all of a body %s', async (_, keep, place) => {
    const { answer, body } = answerOf();
    const buffered = new ResponseBuffer(answer, memoryRooms(keep));
    const taking = buffered.readToEnd(1);
    const readings = [bodyOf(buffered.relay())];
    for (const piece of ['abc', 'def']) {
      body.push(piece);
      await new Promise((resolve) => setImmediate(resolve));
      readings.push(bodyOf(buffered.relay()));
    }
    body.push(null);
    expect((await taking).answer.body.in).toBe(place);
    buffered.release();
    readings.push(bodyOf(buffered.relay()));
    expect((await Promise.all(readings)).map(String)).toEqual(Array(4).fill('abcdef'));
  });

  test('the last bytes of a counted body are held back until the answer is recorded', async () => {
    const { answer, body } = answerOf([['Content-Length', '6']]);
    const buffered = new ResponseBuffer(answer, memoryRooms(100));
    const taking = buffered.readToEnd(1);
    const reader = buffered.relay().body[Symbol.asyncIterator]();
    body.push(Buffer.from('abc'));
    expect(String((await reader.next()).value)).toBe('abc');
    let isRecorded = false;
    const last = reader.next().then(({ value }) => [String(value), isRecorded]);
    body.push(Buffer.from('def'));
    body.push(null);
    await taking;
    await new Promise((resolve) => setImmediate(resolve));
    isRecorded = true;
    buffered.release();
    expect(await last).toEqual(['def', true]);
    expect(buffered.relay().trailers()).toEqual([['X-T', '1']]);
  });

  test('without a length the bytes are given as they come, and only the end is held back', async () => {
    const { answer, body } = answerOf();
    const buffered = new ResponseBuffer(answer, memoryRooms(100));
    const taking = buffered.readToEnd(1);
    const reader = buffered.relay().body[Symbol.asyncIterator]();
    body.push(Buffer.from('abc'));
    expect(String((await reader.next()).value)).toBe('abc');
    body.push(null);
    await taking;
    let ended = false;
    const end = reader.next().then(({ done }) => (ended = done === true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(ended).toBe(false);
    buffered.release();
    expect(await end).toBe(true);
  });

  test('a short answer is over before anybody is shown it', async () => {
    const { answer, body } = answerOf();
    const buffered = new ResponseBuffer(answer, memoryRooms(100_000));
    let isShown = false;
    buffered.onLongResponse(() => (isShown = true));
    const taking = buffered.readToEnd(1);
    body.push(Buffer.alloc(60_000));
    body.push(null);
    await taking;
    expect(isShown).toBe(false);
  });

  test.each([
    ['long', Buffer.alloc(70_000)],
    ['slow', Buffer.from('the rest comes later')],
  ])('a %s answer is shown while it comes in, once', async (_how, piece) => {
    const { answer, body } = answerOf();
    const buffered = new ResponseBuffer(answer, memoryRooms(1_000_000));
    let shown = 0;
    buffered.onLongResponse(() => shown++);
    const taking = buffered.readToEnd(1);
    body.push(piece);
    await until(() => shown > 0, 'the answer to be shown');
    body.push(Buffer.alloc(70_000));
    body.push(null);
    await taking;
    expect(shown).toBe(1);
  });

  test('a full disk costs an answer its body: its readers fail, nothing of it stays, and its status is known', async () => {
    const { answer, body } = answerOf([['X-Kind', 'good']], 201);
    const deps = memoryRooms(10, 50);
    const buffered = new ResponseBuffer(answer, deps);
    let unkept = 0;
    buffered.onStorageFailure(() => unkept++);
    const taking = buffered.readToEnd(1);
    const reading = bodyOf(buffered.relay());
    reading.catch(() => undefined);
    body.push(Buffer.alloc(40));
    await until(() => deps.file?.length === 40, 'the first bytes on disk');
    body.push(Buffer.alloc(40));
    await expect(reading).rejects.toMatchObject({ code: 'STORAGE_FULL' });
    body.push(Buffer.alloc(100_000));
    body.push(null);
    expect(await taking).toMatchObject({ answer: { status: 201, bodySize: 100_080, body: { in: 'nowhere' } } });
    expect(deps.file).toBeUndefined();
    expect(unkept).toBe(1);
    buffered.release();
    const relayed = buffered.relay();
    expect(relayed).toMatchObject({
      status: 201,
      headers: [
        ['X-Kind', 'good'],
        ['Content-Type', 'application/problem+json'],
      ],
    });
    expect(JSON.parse((await bodyOf(relayed)).toString())).toMatchObject({ status: 201 });
  });
});

describe('origin requests', () => {
  function upload(headers: Headers, request: Partial<Upload['request']> = {}): Upload {
    const whole = { phase: 'complete', offset: 5, attempts: [], attemptCount: 0 } as const;
    return { ...newUpload('upload-1'), ...whole, request: { ...REQUEST, headers, ...request } };
  }

  /** The lines that came from the client: without what the proxy adds. */
  function kept(headers: Headers, credentials: Headers = []): HeaderLine[] {
    const ours = /^(host|forwarded|x-forwarded-.*|via|idempotency-key)$/i;
    const route = routeTo('http://origin:3000');
    const replay = originRequestHead(withCompletingRequest(upload(headers), route, { credentials }), route);
    return replay.headers.filter(([name]) => !ours.test(name)).map(([name, value]) => [name, value]);
  }

  test.each([
    'Upload-Complete',
    'Upload-Incomplete',
    'Upload-Offset',
    'Upload-Length',
    'Upload-Limit',
    'Upload-Metadata',
    'Upload-Concat',
    'Upload-Defer-Length',
    'Upload-Checksum',
    'Upload-Draft-Interop-Version',
    'Tus-Resumable',
    'Expect',
    'Content-Length',
    'Transfer-Encoding',
    'Content-Digest',
    'Connection',
    'Keep-Alive',
    'Proxy-Authorization',
    'TE',
    'Trailer',
    'Upgrade',
  ])('%s is not passed on, in whatever case', (name) => {
    const lines: Headers = [
      ['X-Before', '1'],
      [name.toUpperCase(), 'x'],
      [name.toLowerCase(), 'y'],
      ['X-After', '2'],
    ];
    expect(kept(lines)).toEqual([
      ['X-Before', '1'],
      ['X-After', '2'],
    ]);
  });

  test.each([
    'Repr-Digest',
    'X-HTTP-Method-Override',
    'Content-Encoding',
    'Content-Disposition',
    'Content-Language',
    'Want-Repr-Digest',
    'Range',
  ])('%s is passed on as it came', (name) => {
    const lines: HeaderLine[] = [
      [name, ' odd  Value'],
      [name.toLowerCase(), 'again'],
    ];
    expect(kept(lines)).toEqual(lines);
  });

  test.each([
    ['application/partial-upload', 'application/octet-stream'],
    ['Application/Offset+Octet-Stream; x=1', 'application/octet-stream'],
    ['image/png', 'image/png'],
    ['multipart/form-data; boundary="a;b"', 'multipart/form-data; boundary="a;b"'],
  ])('content of type %s is sent as %s', (type, expected) => {
    expect(kept([['content-TYPE', type]])).toEqual([['content-TYPE', expected]]);
  });

  test.each([
    'Content-Type',
    'Content-Disposition',
    'Content-Encoding',
    'Content-Language',
    'Content-Location',
    'Content-Range',
    'Content-MD5',
    'Digest',
    'Repr-Digest',
    'Content-Digest',
  ])('%s is about the file, and not said of the form that carries it', (name) => {
    const route = routeTo('http://origin:3000', {
      rules: {
        framing: { kind: 'multipart', field: 'file', fields: [], fieldsFromHeaders: [], fieldsFromMetadata: [] },
      },
    });
    const { headers } = originRequestHead(
      upload([
        [name, 'x/y'],
        ['X-After', '2'],
      ]),
      route,
    );
    const said = headers.filter(([line]) =>
      [name.toLowerCase(), 'x-after', 'content-type'].includes(line.toLowerCase()),
    );
    expect(said).toEqual([
      ['X-After', '2'],
      ['Content-Type', expect.stringMatching(/^multipart\/form-data; boundary=/)],
    ]);
  });

  test('fresh credentials take the place of the stored ones, with all their lines', () => {
    const stored: Headers = [
      ['A', '1'],
      ['Cookie', 'old=1'],
      ['B', '2'],
      ['cookie', 'old=2'],
      ['Authorization', 'Basic old'],
    ];
    const fresh: Headers = [
      ['cookie', 'new=1'],
      ['Cookie', 'new=2'],
      ['X-Ignored', '1'],
    ];
    expect(kept(stored, fresh)).toEqual([
      ['A', '1'],
      ['cookie', 'new=1'],
      ['Cookie', 'new=2'],
      ['B', '2'],
      ['Authorization', 'Basic old'],
    ]);
  });

  test('credentials that were not there before are added', () => {
    expect(kept([['A', '1']], [['Authorization', 'Bearer new']])).toEqual([
      ['A', '1'],
      ['Authorization', 'Bearer new'],
    ]);
  });

  test('fresh credentials go on also where the creation kept its own for one connection', () => {
    const stored: Headers = [
      ['Connection', 'Authorization'],
      ['Authorization', 'Basic old'],
    ];
    expect(kept(stored, [['Authorization', 'Bearer new']])).toEqual([['Authorization', 'Bearer new']]);
  });

  test.each([
    ['http://origin:3000', '/files', 'http://origin:3000', '/files'],
    ['http://origin', '/files?x=/../', 'http://origin', '/files?x=/../'],
    ['https://origin:8443/base', '/', 'https://origin:8443', '/base/'],
    ['http://[::1]:3000/a/b', '//x', 'http://[::1]:3000', '/a/b//x'],
  ])('origin %s and target %s', (origin, target, expectedOrigin, expectedTarget) => {
    const replay = originRequestHead(upload([], { target }), routeTo(origin));
    expect([replay.origin, replay.target]).toEqual([expectedOrigin, expectedTarget]);
  });

  test.each([
    [true, 'files.example', 'files.example'],
    [true, '', 'origin:3000'],
    [false, 'files.example', 'origin:3000'],
  ])('preserve_host %s with the authority "%s" sends the host %s', (preserveHost, authority, expected) => {
    const route = routeTo('http://origin:3000/base', { rules: { preserveHost } });
    const { headers } = originRequestHead(upload([['host', 'spoofed.example']], { authority }), route);
    expect(headers.filter(([name]) => name.toLowerCase() === 'host')).toEqual([['Host', expected]]);
  });

  test('the key of the delivery is sent, unless the client has its own', () => {
    const keys = (headers: Headers) =>
      originRequestHead(upload(headers), routeTo('http://o')).headers.filter(([name]) =>
        /^idempotency-key$/i.test(name),
      );
    expect(keys([])).toEqual([['Idempotency-Key', 'key-of-upload-1']]);
    expect(keys([['IDEMPOTENCY-KEY', 'mine']])).toEqual([['IDEMPOTENCY-KEY', 'mine']]);
  });
});
