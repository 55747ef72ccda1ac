import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { TestBrowser } from '../support/browser.js';
import { CuttingProxy } from '../support/network.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import {
  randomBytes,
  serverPort,
  sha256,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
} from '../support/temporary.js';

/** The part of examples/browser/upload.js that the tests use. */
interface UploadOptions {
  readonly method?: string;
  readonly pieceSize?: number;
  readonly storage: MemoryStorage;
  readonly firstPauseMs?: number;
  readonly onProgress?: (offset: number, size: number) => void;
}
interface Upload {
  send(): Promise<Response>;
  pause(): void;
  cancel(): Promise<void>;
}
interface UploadModule {
  readonly Upload: new (file: File, target: string, options: UploadOptions) => Upload;
  readonly unfinishedNames: (storage: MemoryStorage) => string[];
}

/** A `localStorage` that outlives a page. As there, the keys are properties of the object. */
type MemoryStorage = Record<string, string>;

function memoryStorage(): MemoryStorage {
  const storage = Object.create({
    getItem: (key: string) => storage[key] ?? null,
    setItem: (key: string, value: string) => (storage[key] = value),
    removeItem: (key: string) => Reflect.deleteProperty(storage, key),
  }) as MemoryStorage;
  return storage;
}

const { Upload, unfinishedNames } = (await import(
  new URL('../../examples/browser/upload.js', import.meta.url).href
)) as UploadModule;

const WHOLE = randomBytes(3_000_000, 11);

let directory: TemporaryDirectory | undefined;
let api: ChildProcess | undefined;
/** What the API says it has taken, one line a request. */
const taken: string[] = [];
let proxy: ProxyProcess | undefined;
/** The network between the clients and the proxy. */
let network: CuttingProxy | undefined;
let url: string;

beforeAll(async () => {
  directory = await temporaryDirectory('rufh-examples-');
  const port = `${await serverPort()}`;
  const env = { ...process.env, PORT: port, UPLOADS: directory.path };
  api = spawn(process.execPath, ['examples/express/server.mjs'], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = createInterface({ input: api.stdout! });
  const listening = once(lines, 'line');
  const config = readFileSync('examples/express/rufh-proxy.yaml', 'utf8')
    .replace('127.0.0.1:3000', `127.0.0.1:${port}`)
    .replace('127.0.0.1:8080', '127.0.0.1:0');
  proxy = await startProxy({ config });
  await listening;
  lines.on('line', (line) => taken.push(line));
  network = await CuttingProxy.start(Number(new URL(proxy.url).port));
  url = `http://127.0.0.1:${network.port}`;
});

afterEach(() => {
  network!.onBytesThere = () => undefined;
  taken.length = 0;
});

afterAll(async () => {
  await network?.stop();
  await proxy?.stop();
  api?.kill('SIGKILL');
  await directory?.remove();
});

/** Cuts every connection once, when so many more bytes have come through, and lets new ones in. */
function cutAfter(bytes: number): () => boolean {
  const cutting = network!;
  const limit = cutting.bytes + bytes;
  let isDone = false;
  cutting.onBytesThere = () => {
    if (isDone || cutting.bytes < limit) return;
    isDone = true;
    void cutting.cut().then(() => cutting.restore());
  };
  return () => isDone;
}

/** What the API has taken, once it has said so often. */
async function takenByApi(count: number): Promise<string[]> {
  await until(() => taken.length >= count, 'the API to say what it has taken');
  return taken;
}

async function contentOf(path: string): Promise<string> {
  return sha256(new Uint8Array(await (await fetch(url + path)).arrayBuffer()));
}

test('curl.sh loses its connection, goes on, and prints the answer of the API', async () => {
  const file = join(directory!.path, 'big.bin');
  await writeFile(file, WHOLE);
  const args = ['examples/curl.sh', `${url}/files/big.bin`, file, 'PUT'];
  const { stdout, stderr } = await promisify(execFile)('sh', args);
  expect(JSON.parse(stdout)).toEqual({ name: 'big.bin', size: WHOLE.length });
  expect(stderr).toContain('The connection is lost.');
  const [offset] = /(?<=goes on at byte )\d+/.exec(stderr)!;
  expect(Number(offset)).toBeLessThan(WHOLE.length);
  expect(await contentOf('/files/big.bin')).toBe(sha256(WHOLE));
  expect(await takenByApi(1)).toHaveLength(1);
});

test('curl.sh says so where no uploads can be resumed', async () => {
  const file = join(directory!.path, 'small.bin');
  await writeFile(file, 'small');
  const failure = promisify(execFile)('sh', ['examples/curl.sh', `${url}/nothing/here`, file]);
  await expect(failure).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining('404 Not Found') as unknown });
});

test('upload.js in pieces goes on after a cut, and the API gets one PUT with every byte', async () => {
  const isCut = cutAfter(1_600_000);
  const offsets: number[] = [];
  const upload = new Upload(new File([WHOLE], 'in pieces.bin'), `${url}/files/in%20pieces.bin`, {
    method: 'PUT',
    storage: memoryStorage(),
    pieceSize: 700_000,
    firstPauseMs: 10,
    onProgress: (offset) => offsets.push(offset),
  });
  const answer = await upload.send();
  expect(answer.status).toBe(201);
  expect(await answer.json()).toEqual({ name: 'in pieces.bin', size: WHOLE.length });
  expect(isCut()).toBe(true);
  expect(offsets).toEqual(offsets.toSorted((one, other) => one - other));
  expect(offsets.slice(0, 2)).toEqual([0, 700_000]);
  expect(offsets.at(-1)).toBe(WHOLE.length);
  expect(await contentOf('/files/in%20pieces.bin')).toBe(sha256(WHOLE));
  expect(await takenByApi(1)).toHaveLength(1);
});

test('upload.js in one go goes on after a cut, and multer gets one form with the name, the type and every byte', async () => {
  const isCut = cutAfter(1_000_000);
  const photo = new File([WHOLE], "Grüße (it's 1).jpg", { type: 'image/jpeg' });
  const upload = new Upload(photo, `${url}/photos`, {
    storage: memoryStorage(),
    pieceSize: Infinity,
    firstPauseMs: 10,
  });
  const answer = await upload.send();
  expect(isCut()).toBe(true);
  const { id, ...seen } = (await answer.json()) as { id: string };
  expect(seen).toEqual({ name: photo.name, type: photo.type, size: WHOLE.length });
  expect(await contentOf(`/photos/${id}`)).toBe(sha256(WHOLE));
  expect(await takenByApi(1)).toHaveLength(1);
});

test('upload.js goes on with what an earlier page has begun', async () => {
  const storage = memoryStorage();
  const file = new File([WHOLE], 'reload.bin', { lastModified: 1 });
  const options = { method: 'PUT', pieceSize: 1_000_000, storage };
  const offsets: number[] = [];
  const before: Upload = new Upload(file, `${url}/files/reload.bin`, {
    ...options,
    onProgress: (offset) => offset > 0 && before.pause(),
  });
  await expect(before.send()).rejects.toMatchObject({ name: 'AbortError' });
  expect(unfinishedNames(storage)).toEqual(['reload.bin']);
  const after = new Upload(file, `${url}/files/reload.bin`, {
    ...options,
    onProgress: (offset) => offsets.push(offset),
  });
  expect((await after.send()).status).toBe(201);
  expect(offsets).toEqual([1_000_000, 2_000_000, 3_000_000]);
  expect(unfinishedNames(storage)).toEqual([]);
  expect(await contentOf('/files/reload.bin')).toBe(sha256(WHOLE));
  expect(await takenByApi(1)).toHaveLength(1);
});

test('upload.js cancels: the upload is gone, and the API hears nothing of it', async () => {
  const storage = memoryStorage();
  const file = new File([WHOLE], 'cancelled.bin');
  const cancelled = new Promise<void>((resolve, reject) => {
    const upload: Upload = new Upload(file, `${url}/files/cancelled.bin`, {
      method: 'PUT',
      pieceSize: 1_000_000,
      storage,
      onProgress: (offset) => {
        if (offset === 0) return;
        const [uploadUrl] = Object.values(storage);
        const isGone = async (): Promise<void> =>
          expect((await fetch(uploadUrl!, { method: 'HEAD' })).status).toBe(404);
        upload.cancel().then(isGone).then(resolve, reject);
      },
    });
    upload.send().then(reject, (error: unknown) => (error as Error).name === 'AbortError' || reject(error as Error));
  });
  await cancelled;
  expect(unfinishedNames(storage)).toEqual([]);
  expect((await fetch(`${url}/files/cancelled.bin`)).status).toBe(404);
  expect(taken).toEqual([]);
});

test('upload.js tells the refusal of a path without resumable uploads', async () => {
  const upload = new Upload(new File(['bytes'], 'x'), `${url}/nothing/here`, { storage: memoryStorage() });
  await expect(upload.send()).rejects.toMatchObject({ response: { status: 404 } });
});

test.each([
  { kind: 'file', request: /^PUT \/files\/holiday\.jpg \{"name":"holiday\.jpg","size":3000000\}$/ },
  {
    kind: 'photo',
    request: /^POST \/photos \{"id":"\w+","name":"holiday\.jpg","type":"image\/jpeg","size":3000000\}$/,
  },
])('the page in Chromium is reloaded in the middle and goes on ($kind)', async ({ kind, request }) => {
  const file = join(directory!.path, 'holiday.jpg');
  await writeFile(file, WHOLE);
  const browser = await TestBrowser.start([]);
  try {
    const page = await (await browser.newVisitor()).newPage();
    await page.goto(url);
    const send = async (): Promise<void> => {
      await page.setInputFiles('[name=file]', file);
      await page.check(`[name=kind][value=${kind}]`);
      await page.click('text=Send');
    };
    const isCut = cutAfter(1_600_000);
    await send();
    await until(isCut, 'the middle of the upload');
    await network!.restore();
    await page.reload();
    const output = async (): Promise<string> => (await page.textContent('output')) ?? '';
    expect(await output()).toBe('Unfinished: holiday.jpg. Pick the same file and send it to go on.');
    const bytesBefore = network!.bytes;
    await send();
    await until(async () => (await output()).startsWith('The API answers with 201: '), 'the answer of the API');
    expect(network!.bytes - bytesBefore).toBeLessThan(WHOLE.length);
    expect(await takenByApi(1)).toEqual([expect.stringMatching(request)]);
    const { id = 'holiday.jpg' } = JSON.parse((await output()).split('201: ')[1]!) as { id?: string };
    expect(await contentOf(`/${kind === 'photo' ? 'photos' : 'files'}/${id}`)).toBe(sha256(WHOLE));
  } finally {
    await browser.close();
  }
});

test('the Express example serves the page, and still takes an ordinary form', async () => {
  expect(await (await fetch(url)).text()).toContain("from './upload.js'");
  const script = await fetch(`${url}/upload.js`);
  expect(script.headers.get('Content-Type')).toContain('text/javascript');
  expect(await script.text()).toBe(await readFile('examples/browser/upload.js', 'utf8'));
  const body = new FormData();
  body.set('photo', new File(['bytes'], 'x.jpg', { type: 'image/jpeg' }));
  const answer = await fetch(`${url}/photos`, { method: 'POST', body });
  expect(await answer.json()).toMatchObject({ name: 'x.jpg', type: 'image/jpeg', size: 5 });
  expect(proxy!.log.filter(({ level }) => Number(level) >= 40)).toEqual([]);
});
