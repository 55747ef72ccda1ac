import { join } from 'node:path';
import { writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Page } from 'playwright-core';
import { apiUrl, call, TestBrowser } from '../support/browser.js';
import { CuttingProxy } from '../support/network.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import {
  CELLS,
  CONFIG,
  type Ending,
  expectDelivered,
  expectGone,
  FILE,
  FILE_NAME,
  OPTIONS,
  PROTOCOLS,
  type TusOptions,
} from '../support/tus-js-client-table.js';

// Issue 13: the table of test/flow/tus-js-client.test.ts in Chromium, with a page of another web origin.

let browser: TestBrowser;
let page: Page;
let origin: TestOrigin;
let app: TestApp;
let network: CuttingProxy;
let directory: TemporaryDirectory;
beforeAll(async () => {
  directory = await temporaryDirectory('rufh-browser-tus-');
  await writeFile(join(directory.path, FILE_NAME), FILE);
  browser = await TestBrowser.start(['tus-js-client.mjs']);
  origin = await startTestOrigin();
  const config = `cors: { allow_origins: ["${browser.webOrigin()}"] }\n${CONFIG}`;
  app = await startTestApp({ origin: origin.url, config });
  network = await CuttingProxy.start(Number(new URL(app.url).port));
  page = await browser.open('tus-js-client.mjs');
  await page.setInputFiles('#file', join(directory.path, FILE_NAME));
});
afterAll(async () => {
  await browser.close();
  await network.cut();
  await app.stop();
  await origin.close();
  await directory.remove();
});
beforeEach(() => {
  origin.requests.length = 0;
});

function withEndpoint(options: TusOptions): TusOptions {
  return { ...OPTIONS, endpoint: `${apiUrl(network.url)}/files`, ...options };
}

/** The URLs of what a page gave up, and how many uploads its storage has. */
interface Terminated {
  readonly urls: readonly string[];
  readonly stored: number;
}

/** The URL of an upload outside Chromium, which alone knows the name of the API. */
function fromHere(url: string): string {
  return `${app.url}${new URL(url).pathname}`;
}

test.each(CELLS)('$protocol, $mode: the origin answers $answer', async (cell) => {
  origin.answerWith(cell.script);
  const { isStream, isResumed, protocol } = cell;
  const options = withEndpoint({ ...cell.options, protocol });
  if (isResumed) await call(page, 'uploadFirstPiece', { options });
  const bytesBefore = network.bytes;
  expect(await call<Ending>(page, 'upload', { options, isStream, isResumed })).toEqual(cell.ending);
  expectDelivered(origin.requests, cell.requests);
  if (isResumed) expect(network.bytes - bytesBefore).toBeLessThan(FILE.length);
});

describe.each(PROTOCOLS)('%s', (protocol) => {
  test('what it gives up is gone, and never reaches the origin', async () => {
    const options = withEndpoint({ protocol, chunkSize: 100_000 });
    const { urls, stored } = await call<Terminated>(page, 'terminate', { options });
    await expectGone([fromHere(urls[0]!)]);
    expect(stored).toBe(0);
    expect(origin.requests).toEqual([]);
  });
});

test('what it gives up in the middle of its parts is gone, and the same file starts anew', async () => {
  const options = withEndpoint({ parallelUploads: 3, chunkSize: 40_000 });
  const { urls } = await call<Terminated>(page, 'terminate', { options });
  expect(urls).toHaveLength(3);
  await expectGone(urls.map(fromHere));
  expect(origin.requests).toEqual([]);
  origin.answerWith({ status: 201, body: 'stored' });
  expect(await call<Ending>(page, 'upload', { options, isResumed: true })).toEqual({ end: 'success', body: 'stored' });
  expectDelivered(origin.requests);
});
