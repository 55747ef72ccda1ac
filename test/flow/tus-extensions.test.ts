import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join as joinPath } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce } from '../support/client.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { checksum, expectTus, FILE, STREAM, TUS, TusClient } from '../support/tus-client.js';
import type { WireResponse } from '../support/wire.js';
import { storedIdOf } from '../support/stored-id.js';

let origin: TestOrigin;
let app: TestApp;
const tus = new TusClient(() => app.url);
beforeAll(async () => {
  origin = await startTestOrigin();
  app = await startTestApp({ origin: origin.url, config: 'limits: { max_size: 1MiB }\n' });
});
afterAll(async () => {
  await app.stop();
  await origin.close();
});
beforeEach(() => {
  origin.requests.length = 0;
  origin.answerWith({ status: 201, headers: [['Location', '/files/9']], body: 'stored' });
});

describe('extensions', () => {
  test('creation-with-upload: the first bytes come with the creation, or all of them', async () => {
    const length: HeaderLine = ['Upload-Length', '3000'];
    const part = await tus.send('POST', '/files', [STREAM, length], FILE.subarray(0, 1200));
    expectTus(part, 201);
    expect(part.header('Upload-Offset')).toBe('1200');
    expectTus(await tus.patch(new URL(part.header('Location')!).pathname, 1200, FILE.subarray(1200)), 201);
    const whole = await tus.send('POST', '/files', [STREAM, length], FILE);
    expectTus(whole, 201);
    expect([whole.header('Upload-Offset'), whole.body.toString()]).toEqual(['3000', 'stored']);
    // A client that ends this upload must not delete what the origin has made of it.
    expect(new URL(whole.header('Location')!).pathname).toMatch(/^\/\.uploads\//);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true, true]);
    expectTus(await tus.send('POST', '/files', [['Content-Type', 'text/plain'], length], FILE), 415);
  });

  test('creation-defer-length: the length comes later, with bytes or alone', async () => {
    const target = await tus.create([['Upload-Defer-Length', '1']]);
    expectTus(await tus.patch(target, 0, FILE.subarray(0, 1000)), 204);
    const head = await tus.send('HEAD', target);
    expect([head.header('Upload-Defer-Length'), head.header('Upload-Length')]).toEqual(['1', undefined]);
    expectTus(await tus.patch(target, 1000, FILE.subarray(1000, 2000), [['Upload-Length', '3000']]), 204);
    expect((await tus.send('HEAD', target)).header('Upload-Length')).toBe('3000');
    expectTus(await tus.patch(target, 2000, FILE.subarray(2000)), 201);
    const other = await tus.create([['Upload-Defer-Length', '1']]);
    expectTus(await tus.patch(other, 0, FILE), 204);
    expectTus(await tus.patch(other, 3000, new Uint8Array(), [['Upload-Length', '3000']]), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true, true]);
  });

  test('creation-defer-length: a length that came alone is not shown until there is a good answer', async () => {
    origin.answerWith({ status: 500, body: 'broken' });
    const target = await tus.create([['Upload-Defer-Length', '1']]);
    expectTus(await tus.patch(target, 0, FILE), 204);
    const end = () => tus.patch(target, 3000, new Uint8Array(), [['Upload-Length', '3000']]);
    expectTus(await end(), 500);
    const head = await tus.send('HEAD', target);
    expect(['Upload-Offset', 'Upload-Length', 'Upload-Defer-Length'].map((name) => head.header(name))).toEqual([
      '3000',
      undefined,
      '1',
    ]);
    expect((await end()).body.toString()).toBe('broken');
    expect(origin.requests).toHaveLength(1);
  });

  test.each(['sha1', 'md5', 'sha256', 'sha512'])('checksum: %s', async (algorithm) => {
    const target = await tus.create();
    const first = FILE.subarray(0, 2000);
    const fields = (bytes: Uint8Array): HeaderLine[] => [['Upload-Checksum', checksum(algorithm, bytes)]];
    const mismatch = await tus.patch(target, 0, first, fields(FILE));
    expectTus(mismatch, 460);
    expect(mismatch.reason).toBe('Checksum Mismatch');
    expect(await tus.offsetOf(target)).toBe(0);
    expectTus(await tus.patch(target, 0, first, fields(first)), 204);
    expectTus(await tus.patch(target, 2000, FILE.subarray(2000), fields(first)), 460);
    expect(await tus.offsetOf(target)).toBe(2000);
    expectTus(await tus.patch(target, 2000, FILE.subarray(2000), fields(FILE.subarray(2000))), 201);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
  });

  test('termination: nothing is left, and nothing is delivered', async () => {
    const target = await tus.create();
    expectTus(await tus.patch(target, 0, FILE.subarray(0, 10)), 204);
    expectTus(await tus.send('DELETE', target), 204);
    expectTus(await tus.send('HEAD', target), 404);
    expect(origin.requests).toEqual([]);
  });

  describe('concatenation', () => {
    const PART: HeaderLine = ['Upload-Concat', 'partial'];

    async function createPart(from: number, to: number): Promise<string> {
      const target = await tus.create([PART, ['Upload-Length', String(to - from)]]);
      expectTus(await tus.patch(target, 0, FILE.subarray(from, to)), 204);
      return target;
    }

    function join(parts: readonly string[], fields: readonly HeaderLine[] = []): Promise<WireResponse> {
      return tus.send('POST', '/joined', [['Upload-Concat', `final;${parts.join(' ')}`], ...fields]);
    }

    test('parts become one upload in the order of the list, and one request to the origin', async () => {
      const parts = [await createPart(2000, 3000), await createPart(0, 2000)];
      expect(origin.requests).toEqual([]);
      const [head, other] = await Promise.all(parts.map((part) => tus.send('HEAD', part)));
      expect(['Upload-Offset', 'Upload-Length', 'Upload-Concat'].map((name) => head!.header(name))).toEqual([
        '1000',
        '1000',
        'partial',
      ]);
      expect(other!.header('Upload-Offset')).toBe('2000');
      const type = Buffer.from('image/png').toString('base64');
      const list = [new URL(parts[1]!, app.url).href, parts[0]!];
      const joined = await join(list, [['Upload-Metadata', `filetype ${type}`]]);
      expectTus(joined, 201);
      expect([joined.header('Upload-Offset'), joined.body.toString()]).toEqual(['3000', 'stored']);
      const [request] = await origin.waitForRequests(1);
      expect([request!.target, request!.header('Content-Type')]).toEqual(['/joined', 'image/png']);
      expect(request!.body.equals(FILE)).toBe(true);
      const target = new URL(joined.header('Location')!).pathname;
      const fields = ['Upload-Offset', 'Upload-Length', 'Upload-Concat'];
      const final = await tus.send('HEAD', target);
      expect(fields.map((name) => final.header(name))).toEqual(['3000', '3000', `final;${list.join(' ')}`]);
      expectTus(await tus.patch(target, 3000, new Uint8Array()), 403);
      // A client that has lost the response repeats its request.
      const repeated = await join(list, [['Upload-Metadata', `filetype ${type}`]]);
      expect([repeated.status, repeated.body.toString(), repeated.header('Location')]).toEqual([
        201,
        'stored',
        joined.header('Location'),
      ]);
      expect(origin.requests).toHaveLength(1);
    });

    test('a part may come several times, and in several uploads', async () => {
      const part = await createPart(0, 1000);
      expectTus(await join([part, part]), 201);
      expectTus(await join([part]), 201);
      expect(origin.requests.map(({ size }) => size)).toEqual([2000, 1000]);
    });

    test('an answer that is not good comes again with a repetition, and the origin hears of it once', async () => {
      origin.answerWith({ status: 422, body: 'no' });
      const part = await createPart(0, 1000);
      for (let time = 0; time < 2; time++) {
        const refused = await join([part]);
        expectTus(refused, 422);
        expect(refused.body.toString()).toBe('no');
      }
      expect(origin.requests).toHaveLength(1);
    });

    test('the same parts with other metadata are another upload', async () => {
      const part = await createPart(0, 1000);
      const locations = new Set<string | undefined>();
      for (const name of ['YQ==', 'Yg==', 'YQ=='])
        locations.add((await join([part], [['Upload-Metadata', `filename ${name}`]])).header('Location'));
      expect(locations.size).toBe(2);
      expect(origin.requests).toHaveLength(2);
    });

    test('a list may repeat its parts, but not make a flood of them', async () => {
      const part = await createPart(0, 1000);
      expectTus(await join(Array<string>(8).fill(part)), 201);
      expectTus(await join(Array<string>(9).fill(part)), 400);
    });

    test('only the client of the parts joins them, on their route and by whatever URL it was given', async () => {
      const bound = await startTestApp({
        origin: origin.url,
        config: `uploads: { public_url: https://up.example/base }
routes:
  - { name: users, match: { path: /users/** }, bind_to: [X-User] }
  - { name: teams, match: { path: /teams/** }, bind_to: [X-Team] }
`,
      });
      const ask = (method: string, target: string, fields: HeaderLine[], body = ''): Promise<WireResponse> =>
        requestOnce(bound.url, {
          method,
          target,
          headers: [TUS, ...fields, ['Content-Length', String(body.length)]],
          body,
        });
      const ann: HeaderLine = ['X-User', 'ann'];
      const created = await ask('POST', '/users/f', [ann, STREAM, PART, ['Upload-Length', '5']], 'hello');
      const url = created.header('Location')!;
      expect(url).toMatch(/^https:\/\/up\.example\/base\/\.uploads\//);
      const list: HeaderLine = ['Upload-Concat', `final;${url}`];
      expectTus(await ask('POST', '/users/f', [['X-User', 'bob'], list]), 400);
      expectTus(await ask('POST', '/teams/f', [['X-Team', 'ann'], list]), 400);
      expect(origin.requests).toEqual([]);
      expectTus(await ask('POST', '/users/f', [ann, list]), 201);
      expectTus(await ask('POST', '/users/f', [ann, ['Upload-Concat', `final;${new URL(url).pathname}`]]), 201);
      expect(origin.requests.map(({ body }) => body.toString())).toEqual(['hello']);
      await bound.stop();
    });

    test('a part whose bytes are damaged is given up, and what cannot be joined says so', async () => {
      const part = await createPart(0, 1000);
      await damage(app.data, storedIdOf(part));
      expectTus(await join([part]), 410);
      expectTus(await tus.send('HEAD', part), 410);
      expect(origin.requests).toEqual([]);
    });

    test('what cannot be joined is refused, and the parts stay', async () => {
      const part = await createPart(0, 1000);
      const begun = await tus.create([PART, ['Upload-Length', '5']]);
      const whole = await tus.create();
      for (const parts of [[part, begun], [part, whole], [`/.uploads/${'x'.repeat(32)}`], ['/files/1'], []])
        expectTus(await join(parts), 400);
      expectTus(await join([part], [['Upload-Length', '1000']]), 400);
      expectTus(
        await tus.send('POST', '/joined', [
          ['Upload-Concat', 'partly'],
          ['Upload-Length', '5'],
        ]),
        400,
      );
      expect(await tus.offsetOf(part)).toBe(1000);
      // The draft has no parts: what it calls complete would go to the origin.
      const fields: HeaderLine[] = [
        ['Upload-Draft-Interop-Version', '8'],
        ['Upload-Offset', '1000'],
        ['Upload-Complete', '?1'],
        ['Content-Type', 'application/partial-upload'],
        ['Content-Length', '0'],
      ];
      const completed = await requestOnce(app.url, { method: 'PATCH', target: part, headers: fields });
      expect(completed.status).toBe(400);
      expect(origin.requests).toEqual([]);
    });
  });

  test('X-HTTP-Method-Override stands for the method', async () => {
    const target = await tus.create();
    const fields: HeaderLine[] = [STREAM, ['Upload-Offset', '0'], ['X-HTTP-Method-Override', 'PATCH']];
    expectTus(await tus.send('POST', target, fields, FILE), 201);
    expectTus(await tus.send('POST', target, [['X-HTTP-Method-Override', 'DELETE']]), 204);
  });

  test('OPTIONS announces tus beside the draft', async () => {
    const response = await requestOnce(app.url, { method: 'OPTIONS', target: '/files', headers: [] });
    const names = ['Tus-Version', 'Tus-Max-Size', 'Tus-Extension', 'Tus-Checksum-Algorithm', 'Accept-Patch'];
    const upload = await requestOnce(app.url, { method: 'OPTIONS', target: await tus.create(), headers: [TUS] });
    expect(upload.headerLines.filter(([name]) => /^tus-/i.test(name))).toHaveLength(5);
    expect(names.map((name) => response.header(name))).toEqual([
      '1.0.0',
      '1048576',
      'creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,termination,concatenation',
      'sha1,md5,sha256,sha512',
      'application/partial-upload',
    ]);
  });
});

/** Flips a bit of the upload's first byte on the disk. */
async function damage(data: string, id: string): Promise<void> {
  const directory = joinPath(data, 'spool', id);
  const [name] = await readdir(directory);
  const path = joinPath(directory, name!);
  const bytes = await readFile(path);
  bytes[0]! ^= 1;
  await writeFile(path, bytes);
}
