import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import * as client from 'tus-js-client';
import { DetailedError, type HttpResponse, Upload, type UploadOptions, type UrlStorage } from 'tus-js-client';
import { CuttingProxy } from '../support/network.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import {
  CELLS,
  CONFIG,
  type Ending,
  expectDelivered,
  expectGone,
  FILE,
  OPTIONS,
  PROTOCOLS,
  type TusOptions,
} from '../support/tus-js-client-table.js';

// Issue 13: the real client in Node; test/e2e/browser-tus.test.ts runs the same table in Chromium.

/** Its types do not name it. */
const { FileUrlStorage } = client as unknown as { readonly FileUrlStorage: new (file: string) => UrlStorage };

let origin: TestOrigin;
let app: TestApp;
let network: CuttingProxy;
let directory: TemporaryDirectory;
beforeAll(async () => {
  directory = await temporaryDirectory('rufh-tus-js-client-');
  origin = await startTestOrigin();
  app = await startTestApp({ origin: origin.url, config: CONFIG });
  network = await CuttingProxy.start(Number(new URL(app.url).port));
});
afterAll(async () => {
  await network.cut();
  await app.stop();
  await origin.close();
  await directory.remove();
});
let storages = 0;
let storage: UrlStorage;
beforeEach(() => {
  origin.requests.length = 0;
  storage = new FileUrlStorage(join(directory.path, `${storages++}.json`));
});

/** An upload with the options of every test. */
function begin(source: Buffer | Readable, options: TusOptions): Upload {
  const all: UploadOptions = { ...OPTIONS, endpoint: `${network.url}/files`, urlStorage: storage, ...options };
  return new Upload(source, all);
}

/** Runs the client to its end; with `isResumed` it continues what the storage has. */
function run(source: Buffer | Readable, options: TusOptions, isResumed?: boolean): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const upload = begin(source, {
      ...options,
      onSuccess: ({ lastResponse }) => resolve({ end: 'success', body: lastResponse.getBody() || '' }),
      onError: (error) => {
        const response: HttpResponse | null = error instanceof DetailedError ? error.originalResponse : null;
        if (response) resolve({ end: response.getStatus(), body: response.getBody() || '' });
        else reject(error);
      },
    });
    if (isResumed) resume(upload).catch(reject);
    else upload.start();
  });
}

async function resume(upload: Upload): Promise<void> {
  const [previous] = await upload.findPreviousUploads();
  upload.resumeFromPreviousUpload(previous!);
  upload.start();
}

/** Uploads the first piece, or one of each part, and stops. */
async function uploadFirstPiece(options: TusOptions): Promise<Upload> {
  const urls = new Set<string>();
  let pieces = 0;
  const upload = begin(FILE, {
    ...options,
    onChunkComplete: () => {
      pieces += 1;
    },
    // A second piece waits for ever, so that the client stops where it should.
    onBeforeRequest: async (request) => {
      if (request.getMethod() !== 'PATCH') return;
      if (urls.has(request.getURL())) await new Promise(() => undefined);
      urls.add(request.getURL());
    },
  });
  upload.start();
  const count = options.parallelUploads ?? 1;
  await until(async () => pieces === count && (await storage.findAllUploads()).length > 0, 'the first piece');
  await upload.abort();
  return upload;
}

/** In Node the client cannot repeat the end of a stream with the drafts, because it sends no completeness there. */
const NODE_CELLS = CELLS.filter(
  ({ protocol, isStream, answer }) => protocol === 'tus-v1' || !isStream || answer === '201',
);

test.each(NODE_CELLS)('$protocol, $mode: the origin answers $answer', async (cell) => {
  origin.answerWith(cell.script);
  const options: TusOptions = { ...cell.options, protocol: cell.protocol };
  if (cell.isResumed) await uploadFirstPiece(options);
  const bytesBefore = network.bytes;
  const source = cell.isStream ? Readable.from([FILE]) : FILE;
  expect(await run(source, options, cell.isResumed)).toEqual(cell.ending);
  expectDelivered(origin.requests, cell.requests);
  if (cell.isResumed) expect(network.bytes - bytesBefore).toBeLessThan(FILE.length);
});

describe.each(PROTOCOLS)('%s', (protocol) => {
  test('goes on where it was when the network comes back', async () => {
    origin.answerWith({ status: 201, body: 'stored' });
    let cuts = 0;
    const onProgress = (sent: number): void => {
      if (sent > 100_000 && cuts++ === 0) void network.cut().then(() => network.restore());
    };
    const ended = await run(FILE, { protocol, chunkSize: 50_000, onProgress, retryDelays: Array<number>(50).fill(20) });
    expect(ended).toEqual({ end: 'success', body: 'stored' });
    expect(cuts).toBeGreaterThan(0);
    expectDelivered(origin.requests);
  });

  test('what it gives up is gone, and never reaches the origin', async () => {
    const upload = await uploadFirstPiece({ protocol, chunkSize: 100_000 });
    await upload.abort(true);
    await expectGone([upload.url!]);
    await until(async () => (await upload.findPreviousUploads()).length === 0, 'the storage to be empty');
    expect(origin.requests).toEqual([]);
  });
});

test('what it gives up in the middle of its parts is gone, and the same file starts anew', async () => {
  const options: TusOptions = { parallelUploads: 3, chunkSize: 40_000 };
  const upload = await uploadFirstPiece(options);
  const [previous] = await upload.findPreviousUploads();
  const parts = previous!.parallelUploadUrls!;
  expect(parts).toHaveLength(3);
  await upload.abort(true);
  await expectGone(parts);
  expect(origin.requests).toEqual([]);
  // The client forgets a single upload that it gave up, but not the parts of one: it finds out that they are gone.
  origin.answerWith({ status: 201, body: 'stored' });
  expect(await run(FILE, options, true)).toEqual({ end: 'success', body: 'stored' });
  expectDelivered(origin.requests);
});
