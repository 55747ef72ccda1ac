import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Page } from 'playwright-core';
import type { HeaderLine } from '../../src/model/headers.js';
import { apiUrl, call, TestBrowser } from '../support/browser.js';
import { requestOnce } from '../support/client.js';
import { Front, FRONTS } from '../support/front-proxies.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// Issue 13: a page that is refused in the middle of a large body sees why, and not a broken network.

const MIB = 1024 * 1024;
const BYTES = 30 * MIB;
const DRAFT = { 'Upload-Complete': '?1' };
const TUS = { 'Tus-Resumable': '1.0.0' };
const BODY = { 'Content-Type': 'application/offset+octet-stream' };

/** What a page asks for, with a body of 30 MiB. */
interface PageRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** What a page sees of the response. */
interface Seen {
  readonly status?: number;
  readonly body?: string;
  readonly error?: string;
}

const WAYS = [
  { way: 'the proxy directly', scheme: 'http' },
  { way: 'nginx with TLS and HTTP/2', scheme: 'https' },
] as const;

/** Every kind of refusal, with its status and a word of its body. */
const KINDS: readonly (readonly [kind: string, status: number, word: RegExp, request: () => Promise<PageRequest>])[] = [
  ['a length beyond the limit', 413, /at most/, () => post('/small', DRAFT)],
  [
    'a length beyond the limit, from tus',
    413,
    /at most/,
    () => post('/small', { ...TUS, ...BODY, 'Upload-Length': `${BYTES}` }),
  ],
  ['an ordinary body beyond the limit', 413, /at most/, () => post('/small', {})],
  ['no room', 507, /room|full|space/, () => post('/full', DRAFT)],
  ['no permission', 403, /no entry/, () => post('/guarded', DRAFT)],
  ['a wrong offset', 409, /offset/, () => appendAt(7)],
];

let browser: TestBrowser;
let origin: TestOrigin;
let app: TestApp;
let front: Front;
const pages = new Map<string, Page>();

function post(target: string, headers: PageRequest['headers']): Promise<PageRequest> {
  return Promise.resolve({ method: 'POST', target, headers });
}

/** Creates an upload as a program does, and gives its path. */
async function created(target: string, length: number): Promise<string> {
  const headers: HeaderLine[] = [...Object.entries(TUS), ['Upload-Length', `${length}`]];
  const response = await requestOnce(app.url, { method: 'POST', target, headers });
  expect(response.status).toBe(201);
  return new URL(response.header('Location')!).pathname;
}

async function appendAt(offset: number): Promise<PageRequest> {
  const headers = { ...TUS, ...BODY, 'Upload-Offset': `${offset}` };
  return { method: 'PATCH', target: await created('/any', BYTES), headers };
}

beforeAll(async () => {
  browser = await TestBrowser.start(['requests.mjs']);
  origin = await startTestOrigin();
  origin.answerWith(({ target }) =>
    target === '/may-i' ? { status: 403, body: 'no entry' } : { status: 200, body: 'stored' },
  );
  app = await startTestApp({
    origin: origin.url,
    config: `trusted_proxies: [{ cidr: 127.0.0.1 }]
cors: { allow_origins: [${WAYS.map(({ scheme }) => `"${browser.webOrigin(scheme)}"`).join(', ')}] }
routes:
  - { match: { path: /small }, limits: { max_size: 1MiB } }
  - { match: { path: /full }, limits: { max_spooled: 40MiB } }
  - { match: { path: /guarded }, authorize: { forward_auth: { url: "${origin.url}/may-i" } } }
  - { match: { path: /any } }
`,
  });
  await created('/full', 20 * MIB);
  const { host } = new URL(app.url);
  front = await Front.start(
    FRONTS.find(({ name }) => name === 'nginx')!,
    { proxy: host, application: host },
  );
  for (const { scheme } of WAYS) pages.set(scheme, await browser.open('requests.mjs', { scheme }));
});
afterAll(async () => {
  await browser.close();
  await front.stop();
  await app.stop();
  await origin.close();
});

describe.each(WAYS)('through $way', ({ scheme }) => {
  test.each(KINDS)('a page sees that there is %s', async (_, status, word, prepare) => {
    const { target, ...request } = await prepare();
    const url = apiUrl(`${scheme === 'http' ? app.url : front.url}${target}`);
    const seen = await call<Seen>(pages.get(scheme)!, 'send', { ...request, url, bytes: BYTES });
    expect(seen).toMatchObject({ status, body: expect.stringMatching(word) });
  });
});
