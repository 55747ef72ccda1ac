import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import type { Page } from 'playwright-core';
import { apiUrl, bundled, clientFile, TestBrowser } from '../support/browser.js';
import { blockOf } from '../support/pages-of-docs.js';
import { CuttingProxy } from '../support/network.js';
import { randomBytes, sha256, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { type OriginRequest, startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// The code that the guides of docs/clients show for web pages, as it is printed, in Chromium.

const FILE = randomBytes(6_000_000, 14);

/** What the code of the guide for our client finds in its page. It loads the client without a bundler. */
const PAGE = `<!doctype html>
<meta charset="utf-8" />
<title>Guide</title>
<script type="importmap">{ "imports": { "rufh-proxy/client": "/resumable-fetch.min.js" } }</script>
<input type="file" id="input" />
<progress id="bar" value="0"></progress>
<button id="pauseButton">Pause</button>`;

let browser: TestBrowser;
let origin: TestOrigin;
let app: TestApp;
let network: CuttingProxy;
let directory: TemporaryDirectory;
beforeAll(async () => {
  directory = await temporaryDirectory('rufh-browser-guides-');
  await writeFile(join(directory.path, 'holiday.jpg'), FILE);
  browser = await TestBrowser.start([]);
  origin = await startTestOrigin();
  origin.answerWith(({ method, target }) => {
    if (method !== 'GET') return { status: 201, headers: [['Content-Type', 'application/json']], body: '{"id":7}' };
    const isPage = target === '/page';
    const type = isPage ? 'text/html' : 'text/javascript';
    return { status: 200, headers: [['Content-Type', type]], body: isPage ? PAGE : clientFile() };
  });
  const config = blockOf('docs/clients/tus.md', 'yaml', 'protocols:')
    .replace(/^origin: .*\n/m, '')
    .replace('https://app.example.com', browser.webOrigin())
    .replace("'] }", "'], allow_credentials: true }");
  app = await startTestApp({ origin: origin.url, config: `${config}  - match: { path: /files/** }\n` });
  network = await CuttingProxy.start(Number(new URL(app.url).port));
});
beforeEach(() => {
  origin.requests.length = 0;
});
afterAll(async () => {
  await browser.close();
  await network.stop();
  await app.stop();
  await origin.close();
  await directory.remove();
});

/** The uploads that the origin got. */
function uploads(): OriginRequest[] {
  return origin.requests.filter(({ method }) => method !== 'GET');
}

function expectStored(target: string, authorization?: string): void {
  const seen = uploads().map((request) => ({
    request: `${request.method} ${request.target}`,
    type: request.header('Content-Type'),
    authorization: request.header('Authorization'),
    sha256: request.sha256,
  }));
  expect(seen).toEqual([{ request: `POST ${target}`, type: 'image/jpeg', authorization, sha256: sha256(FILE) }]);
}

/** What a page has written to its console. */
function consoleOf(page: Page): readonly string[] {
  const lines: string[] = [];
  page.on('console', (message) => lines.push(message.text()));
  page.on('pageerror', (error) => lines.push(error.message));
  return lines;
}

/** A page of the API itself, with a chosen file. */
async function openOwnPage(): Promise<Page> {
  const visitor = await browser.newVisitor();
  const page = await visitor.newPage();
  await page.goto(`${network.url}/page`);
  await choose(page, '#input');
  return page;
}

async function choose(page: Page, field: string): Promise<void> {
  await page.setInputFiles(field, join(directory.path, 'holiday.jpg'));
}

/** Runs code as a module of the page. */
async function runModule(page: Page, content: string): Promise<void> {
  await page.addScriptTag({ type: 'module', content });
}

test('the first code of the JavaScript guide prints the answer of the API', async () => {
  const page = await openOwnPage();
  const lines = consoleOf(page);
  await page.evaluate("window.token = 'secret'");
  await runModule(
    page,
    blockOf('docs/clients/javascript.md', 'js', "import { resumableFetch } from 'rufh-proxy/client'"),
  );
  await until(() => lines.length > 0, 'a line on the console');
  expect(lines).toEqual(['201 {id: 7}']);
  expectStored('/files/', 'Bearer secret');
});

test('the second code of the JavaScript guide shows progress and pauses, and the same call goes on', async () => {
  const page = await openOwnPage();
  const code = [
    "import { resumableFetch } from 'rufh-proxy/client';",
    'const [file] = input.files;',
    blockOf('docs/clients/javascript.md', 'js', 'const pause = new AbortController()'),
    'window.ended = upload.then(({ status }) => status, ({ name }) => name);',
  ].join('\n');
  const middle = network.bytes + FILE.length / 2;
  let isInTheMiddle = false;
  network.onBytesThere = () => {
    if (isInTheMiddle || network.bytes < middle) return;
    isInTheMiddle = true;
    network.hang();
  };
  await runModule(page, code);
  await until(() => isInTheMiddle, 'the middle of the upload');
  await page.click('#pauseButton');
  await until(async () => (await page.evaluate('window.ended')) === 'AbortError', 'the pause');
  await network.cut();
  const bytesBefore = network.bytes;
  await network.restore();
  await runModule(page, code.replace('const [file]', 'window.ended = undefined;\nconst [file]'));
  await until(async () => (await page.evaluate('window.ended')) === 201, 'the answer');
  expect(await page.evaluate('bar.value')).toBe(1);
  expect(network.bytes - bytesBefore).toBeLessThan(FILE.length);
  expectStored('/files/');
});

test('the code for tus-js-client gives the answer of the API, also with cookies', async () => {
  const cookies = /`(onBeforeRequest: [^`]*)`/.exec(readFileSync('docs/clients/tus.md', 'utf8'))![1]!;
  const code = blockOf('docs/clients/tus.md', 'js', 'tus-js-client')
    .replace('https://api.example.com', apiUrl(network.url))
    .replace('metadata:', `${cookies},\n      metadata:`);
  browser.resources.set('/send.js', { content: bundled(`${code}\nwindow.send = send;`) });
  const page = await browser.open('send.js');
  await page.context().addCookies([{ name: 'session', value: 'secret', url: apiUrl(network.url) }]);
  await choose(page, '#file');
  const sent =
    "send(document.querySelector('input').files[0], { token: 'secret', onProgress: (part) => (window.part = part) })";
  expect(await page.evaluate(sent)).toEqual({ status: 201, body: '{"id":7}' });
  expect(await page.evaluate('window.part')).toBe(1);
  expectStored('/photos/', 'Bearer secret');
  expect(uploads()[0]!.header('Cookie')).toBe('session=secret');
});

test('the code for Uppy shows its dashboard and prints the answer of the API', async () => {
  const code = blockOf('docs/clients/tus.md', 'js', '@uppy/core').replace(
    'https://api.example.com',
    apiUrl(network.url),
  );
  browser.resources.set('/uppy.js', { content: bundled(code) });
  const page = await browser.open('uppy.js');
  const lines = consoleOf(page);
  await choose(page, '.uppy-Dashboard-input >> nth=0');
  await page.click('.uppy-StatusBar-actionBtn--upload');
  await until(() => lines.length > 0, 'a line on the console');
  expect(lines).toEqual(['the API says {"id":7}']);
  expectStored('/photos/');
});
