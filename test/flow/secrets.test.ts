import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { requestOnce } from '../support/client.js';
import { clientDialect, createUpload, type ResumableUpload } from '../support/resumable-client.js';
import { storedIdOf } from '../support/stored-id.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

const AUTHORIZATION: HeaderLine = ['Authorization', 'Bearer of-the-client'];
const OWN: HeaderLine = ['X-Own', 'value-of-the-field'];
const RETRIES = 'delivery: { client_keys: true, retry: { attempts: 1 } }\n';

let origin: TestOrigin;
let directory: TemporaryDirectory;
let app: TestApp | undefined;
let isTaken: boolean;

beforeEach(async () => {
  [origin, directory] = await Promise.all([startTestOrigin(), temporaryDirectory()]);
  isTaken = true;
  origin.answerWith(() => (isTaken ? { status: 201, body: 'taken' } : { status: 503 }));
});
afterEach(async () => {
  await app?.stop();
  await origin.close();
  await directory.remove();
});

const file = (name: string): string => join(directory.path, name);

async function start(config = ''): Promise<void> {
  await app?.stop();
  app = await startTestApp({ origin: origin.url, config: RETRIES + config, data: file('data') });
}

function send({ headers = [], ...request }: WireRequest): Promise<WireResponse> {
  return requestOnce(app!.url, { ...request, headers });
}

function create(...headers: readonly HeaderLine[]): Promise<ResumableUpload> {
  return createUpload(clientDialect('10'), send, { method: 'POST', target: '/files', headers });
}

const recordOf = (upload: ResumableUpload): Promise<string> =>
  readFile(file(`data/uploads/${storedIdOf(upload.url)}.log`), 'latin1');

/** The lines of the newest request at the origin that have this name. */
function got(name: string): string[] {
  const headers = origin.requests.at(-1)?.headers ?? [];
  return headers.filter(([line]) => line.toLowerCase() === name.toLowerCase()).map(([, value]) => value);
}

const END = { offset: 0, complete: true } as const;

describe('credentials that are kept', () => {
  test('are those of the creation for a delivery after a restart', async () => {
    await start('secrets: { headers: [X-Own] }');
    const upload = await create(AUTHORIZATION, OWN, ['X-Api-Key', 'not-named-here']);
    const record = await recordOf(upload);
    expect(record).not.toContain('of-the-client');
    expect(record).not.toContain(OWN[1]);
    expect(record).toContain('not-named-here');
    await start('secrets: { headers: [X-Own] }');
    expect((await upload.append('whole', END)).status).toBe(201);
    expect([got('Authorization'), got('X-Own')]).toEqual([[AUTHORIZATION[1]], [OWN[1]]]);
  });

  test('give way to newer ones, which a later request without any leaves as they are', async () => {
    const config =
      'delivery: { retry: { attempts: 20, first_delay: 100ms, longest_delay: 100ms }, breaker: { failures: 100 } }\n';
    app = await startTestApp({ origin: origin.url, config, data: file('data') });
    const upload = await create(AUTHORIZATION);
    isTaken = false;
    const first = upload.append('whole', END, [['Authorization', 'Bearer newer']]);
    await until(() => origin.requests.length > 0, 'the first attempt');
    const referer: HeaderLine = ['Referer', `http://here${upload.target}`];
    const second = upload.append('', { offset: 5, complete: true }, [referer]);
    const sent = origin.requests.length;
    // The later request waits for the same delivery by then.
    await until(() => origin.requests.length > sent + 1, 'two more attempts');
    isTaken = true;
    expect((await second).status).toBe(201);
    expect([(await first).status, got('Authorization')]).toEqual([201, ['Bearer newer']]);
  });

  test('are under a key of the configuration, if it has one', async () => {
    await start('secrets: { keys: [the-first-of-two-keys] }');
    const upload = await create(AUTHORIZATION);
    expect(existsSync(file('data/secrets.keys'))).toBe(false);
    await writeFile(file('keys'), 'a-newer-key-in-front\nthe-first-of-two-keys\n', { mode: 0o600 });
    await start(`secrets: { keys_file: ${file('keys')} }`);
    expect((await upload.append('whole', END)).status).toBe(201);
    expect(got('Authorization')).toEqual([AUTHORIZATION[1]]);
  });

  test('without their key, nothing is sent before a client brings them again', async () => {
    await start('secrets: { keys: [a-key-that-will-be-lost] }');
    const upload = await create(AUTHORIZATION, OWN);
    const keyed: HeaderLine = ['Idempotency-Key', 'once'];
    const again = await create(AUTHORIZATION, keyed);
    await start('secrets: { keys: [another-key-than-before] }');
    const refused = await upload.append('whole', END);
    expect(refused.status).toBe(503);
    expect(refused.body.toString()).toContain('wants other credentials');
    expect(origin.requests).toEqual([]);
    const undelivered = app!.log.filter(({ msg }) => msg === 'upload kept: not delivered');
    expect(undelivered).toEqual([
      expect.objectContaining({ problem: expect.stringMatching(/^authorization: .*`secrets`/) }),
    ]);
    const taken = await upload.append('', { offset: 5, complete: true }, [AUTHORIZATION]);
    expect(taken.status).toBe(201);
    expect([got('Authorization'), got('X-Own')]).toEqual([[AUTHORIZATION[1]], [OWN[1]]]);
    // The URL of an upload cannot be told then, and no second upload is made in its place.
    const repeated = await create(AUTHORIZATION, keyed).catch((error: unknown) => String(error));
    expect(repeated).toMatch(/answered with 503/);
    expect((await again.retrieve()).status).toBe(204);
  });
});

describe('credentials that are not kept', () => {
  const KEEP_NOT = 'secrets: { keep: false }';

  test('are those of the request that completes the upload', async () => {
    await start(KEEP_NOT);
    const upload = await create(AUTHORIZATION, ['X-Api-Key', 'key-of-the-client']);
    expect(await recordOf(upload)).not.toContain('sealed');
    expect((await upload.append('whole', END)).status).toBe(503);
    expect(origin.requests).toEqual([]);
    const fresh: HeaderLine[] = [AUTHORIZATION, ['X-Api-Key', 'newer-key']];
    expect((await upload.append('', { offset: 5, complete: true }, fresh)).status).toBe(201);
    expect([got('Authorization'), got('X-Api-Key')]).toEqual([[AUTHORIZATION[1]], ['newer-key']]);
  });

  test('are enough for an upload in one request, and gone after a restart', async () => {
    await start(KEEP_NOT);
    const headers: HeaderLine[] = [['Upload-Complete', '?1'], ['Upload-Draft-Interop-Version', '8'], AUTHORIZATION];
    const whole = await send({
      method: 'POST',
      target: '/files',
      headers: [...headers, ['Content-Length', '5']],
      body: 'whole',
    });
    expect([whole.status, got('Authorization')]).toEqual([201, [AUTHORIZATION[1]]]);
    const upload = await create(AUTHORIZATION);
    isTaken = false;
    expect((await upload.append('whole', END, [AUTHORIZATION])).status).toBe(503);
    isTaken = true;
    await start(KEEP_NOT);
    const { length } = origin.requests;
    expect((await upload.append('', { offset: 5, complete: true })).status).toBe(503);
    expect(origin.requests).toHaveLength(length);
    expect((await upload.append('', { offset: 5, complete: true }, [AUTHORIZATION])).status).toBe(201);
  });
});

describe('rotation', () => {
  async function ask(method: string, path: string, query = ''): Promise<Record<string, unknown>> {
    const request = { method, path, query: new URLSearchParams(query), headers: { host: 'localhost' } };
    const { status, body = '{}' } = await app!.operators.respond(request);
    return { status, ...(JSON.parse(body) as object) };
  }
  const keysInFile = async (): Promise<string[]> =>
    (await readFile(file('data/secrets.keys'), 'utf8')).split('\n').filter((line) => line !== '');

  test('every record is under the new key before the old one goes, whenever the process is killed', async () => {
    await start();
    const uploads = [
      await create(AUTHORIZATION),
      await create(AUTHORIZATION, ['Idempotency-Key', 'once']),
      await create(),
    ];
    const [old] = await keysInFile();
    expect(await ask('POST', '/keys')).toMatchObject({ status: 201, isNew: true });
    expect(await keysInFile()).toHaveLength(2);
    // Nothing is dropped that a record needs.
    expect(await ask('DELETE', '/keys/older')).toMatchObject({ status: 409, kind: 'in-use', uploads: 2 });
    await start();
    expect(await ask('POST', '/keys/reseal')).toMatchObject({ status: 200, resealed: 2, unreadable: 0 });
    await start();
    expect(await ask('POST', '/keys/reseal')).toMatchObject({ resealed: 0 });
    expect(await ask('DELETE', '/keys/older')).toMatchObject({ status: 200, kind: 'dropped' });
    expect(await keysInFile()).toEqual([expect.not.stringMatching(old!)]);
    await start();
    for (const upload of uploads.slice(0, 2)) {
      expect((await upload.append('whole', END)).status).toBe(201);
      expect(got('Authorization')).toEqual([AUTHORIZATION[1]]);
    }
    const again = await create(AUTHORIZATION, ['Idempotency-Key', 'once']);
    expect(new URL(again.url).pathname).toBe(uploads[1]!.target);
  });

  test('keys of the configuration stay there, and other paths are unknown', async () => {
    await start('secrets: { keys: [the-newer-of-the-keys, the-older-of-the-keys] }');
    expect(await ask('POST', '/keys')).toMatchObject({ status: 201, isNew: false });
    expect(await ask('DELETE', '/keys/older')).toMatchObject({ status: 200, kind: 'not-ours' });
    expect(await ask('GET', '/keys')).toMatchObject({ status: 405 });
    expect(await ask('POST', '/keys/else')).toMatchObject({ status: 404 });
  });
});
