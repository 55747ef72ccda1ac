import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Page } from 'playwright-core';
import type { HeaderLine } from '../../src/model/headers.js';
import { apiUrl, call, TestBrowser } from '../support/browser.js';
import { requestOnce } from '../support/client.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// CORS as a real browser enforces it: what pages of three web origins can see under four settings (docs/decisions/0036).

/** The hosts of pages. */
const NAMED = 'app.uploads.test';
const PATTERN = 'pr-7.app.uploads.test';
const STRANGER = 'stranger.uploads.test';
const HOSTS = [NAMED, PATTERN, STRANGER];

interface Setting {
  readonly name: string;
  /** The settings, for a port of the pages. */
  readonly cors: (port: string) => string;
  readonly allows: readonly string[];
  readonly credentials?: true;
}

const SETTINGS: readonly Setting[] = [
  { name: 'exact', cors: (port) => `allow_origins: ["http://${NAMED}:${port}"]`, allows: [NAMED] },
  { name: 'any', cors: () => 'allow_origins: ["*"]', allows: HOSTS },
  { name: 'pattern', cors: () => `allow_origins: ["http://*.${NAMED}:*"]`, allows: [PATTERN] },
  {
    name: 'credentials',
    cors: (port) =>
      `allow_origins: ["http://${NAMED}:${port}", "http://pr-*.${NAMED}:${port}"], allow_credentials: true`,
    allows: [NAMED, PATTERN],
    credentials: true,
  },
];

/** A request as a page sends it. */
interface PageRequest {
  readonly method: string;
  readonly target: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** What a page sees of the response. */
interface Seen {
  readonly status?: number;
  readonly fields?: readonly string[];
  readonly body?: string;
  readonly error?: string;
}

const TUS = { 'Tus-Resumable': '1.0.0' };
const APPEND = { ...TUS, 'Content-Type': 'application/offset+octet-stream' };
const BYTES = 'twenty bytes of body';

let browser: TestBrowser;
let origin: TestOrigin;
let app: TestApp;
const pages = new Map<string, Page>();

beforeAll(async () => {
  browser = await TestBrowser.start(['requests.mjs']);
  origin = await startTestOrigin();
  const { port } = new URL(browser.webOrigin());
  const routes = SETTINGS.flatMap(({ name, cors }) => [
    `  - { match: { path: /${name}/dead }, origin: "http://127.0.0.1:1", delivery: { breaker: { failures: 1000 }, retry: { attempts: 1, in_background: 0s } }, cors: { ${cors(port)} } }\n`,
    `  - { match: { path: /${name}/refuses }, plain_bodies: refuse, cors: { ${cors(port)} } }\n`,
    `  - { match: { path: /${name}/** }, limits: { max_size: 5000, min_size: 3 }, cors: { ${cors(port)} } }\n`,
  ]);
  app = await startTestApp({
    origin: origin.url,
    config: `routes:\n${routes.join('')}`,
  });
  for (const host of HOSTS) pages.set(host, await browser.open('requests.mjs', { host }));
});
afterAll(async () => {
  await browser.close();
  await app.stop();
  await origin.close();
});

/** Creates an upload as a program does, and gives its path. */
async function created(target: string): Promise<string> {
  const headers: HeaderLine[] = [...Object.entries(TUS), ['Upload-Length', `${BYTES.length}`]];
  const response = await requestOnce(app.url, { method: 'POST', target, headers });
  return new URL(response.header('Location')!).pathname;
}

/** A request on an upload that nothing was sent to yet. */
async function onUpload(target: string, request: Omit<PageRequest, 'target'>): Promise<PageRequest> {
  return { ...request, target: await created(target) };
}

function append(body: string, offset = 0): Omit<PageRequest, 'target'> {
  return { method: 'PATCH', headers: { ...APPEND, 'Upload-Offset': `${offset}` }, body };
}

/** The request on the routes of a setting. */
type RequestBelow = (at: string) => PageRequest | Promise<PageRequest>;

/** Every kind of response that a page can get, with its status. */
const KINDS: readonly (readonly [kind: string, status: number, request: RequestBelow])[] = [
  ['the creation of an upload of tus', 201, (at) => ({ ...creation(TUS), target: `${at}/file` })],
  [
    'the creation of an upload of the draft',
    201,
    (at) => ({ ...creation({ 'Upload-Complete': '?0' }), target: `${at}/file` }),
  ],
  ['an append', 204, (at) => onUpload(`${at}/file`, append('part'))],
  ['an offset', 200, (at) => onUpload(`${at}/file`, { method: 'HEAD', headers: TUS })],
  ['a cancellation', 204, (at) => onUpload(`${at}/file`, { method: 'DELETE', headers: TUS })],
  ['the answer of the origin', 201, (at) => onUpload(`${at}/file`, append(BYTES))],
  ['the failure of the origin', 500, (at) => onUpload(`${at}/fails`, append(BYTES))],
  ['no answer of the origin', 503, (at) => onUpload(`${at}/dead`, append(BYTES))],
  ['a wrong offset', 409, (at) => onUpload(`${at}/file`, append('part', 7))],
  ['another media type', 415, (at) => onUpload(`${at}/file`, { method: 'PATCH', headers: TUS, body: 'part' })],
  [
    'a length beyond the limit',
    413,
    (at) => ({ method: 'POST', target: `${at}/file`, headers: { ...TUS, 'Upload-Length': '5001' } }),
  ],
  ['an upload that is gone', 404, () => ({ method: 'HEAD', target: `/.uploads/${'x'.repeat(32)}`, headers: TUS })],
  ['discovery', 201, (at) => ({ method: 'OPTIONS', target: `${at}/file` })],
  ['an ordinary body that is refused', 428, (at) => ({ method: 'POST', target: `${at}/refuses`, body: 'x' })],
  ['an ordinary body that passes', 201, (at) => ({ method: 'POST', target: `${at}/file`, body: 'x' })],
  [
    'a small upload that passes',
    201,
    (at) => ({ method: 'POST', target: `${at}/file`, headers: { 'Upload-Complete': '?1' }, body: 'x' }),
  ],
];

function creation(headers: Readonly<Record<string, string>>): Omit<PageRequest, 'target'> {
  return { method: 'POST', headers: { ...headers, 'Upload-Length': `${BYTES.length}` } };
}

/** The origin knows nothing of pages, unless the test says so. */
function answer(headers: readonly HeaderLine[] = []): void {
  origin.requests.length = 0;
  origin.answerWith(({ target }) => ({
    status: target.includes('fails') ? 500 : 201,
    headers: [...headers, ['X-Total', '7']],
    body: 'stored',
  }));
}

/** Has a page send requests, with or without its cookies. */
function sendFrom(host: string, requests: readonly PageRequest[], credentials?: 'include'): Promise<Seen[]> {
  const base = apiUrl(app.url);
  const sent = requests.map(({ target, ...request }) => ({ ...request, url: base + target, credentials }));
  return call<Seen[]>(pages.get(host)!, 'sendAll', sent);
}

/** Fields that no page needs: those for the browser itself, and those of the connection. */
const NOT_FOR_PAGES = /^(?:access-control-.*|vary|date|connection|keep-alive|transfer-encoding|x-total)$/;

describe.each(SETTINGS)('on a route whose pages are $name', ({ name, allows, credentials }) => {
  test.each(HOSTS)('a page of %s sees every response if it is allowed, and none otherwise', async (host) => {
    answer();
    // An upload that is gone has no route, so it is readable for the pages of all routes, and others here allow every page.
    const requests: PageRequest[] = [];
    for (const [, , request] of KINDS) requests.push(await request(`/${name}`));
    const seen = await sendFrom(host, requests, credentials && 'include');
    const isAllowed = (kind: string): boolean => allows.includes(host) || (kind.includes('gone') && !credentials);
    const results = KINDS.map(([kind], at) => [kind, seen[at]!.status ?? seen[at]!.error]);
    expect(results).toEqual(KINDS.map(([kind, status]) => [kind, isAllowed(kind) ? status : 'TypeError']));
  });

  test('every field of the proxy is visible', async () => {
    answer();
    const host = allows[0]!;
    for (const [kind, status, request] of KINDS) {
      const [forPage, forProgram] = [await request(`/${name}`), await request(`/${name}`)];
      const [seen] = await sendFrom(host, [forPage], credentials && 'include');
      const { method, target, headers = {}, body } = forProgram;
      const all = await requestOnce(app.url, {
        method,
        target,
        headers: [
          ...Object.entries(headers),
          ...(body === undefined ? [] : [['Content-Length', `${body.length}`] as const]),
        ],
        body,
      });
      const sent = all.headerLines.map(([field]) => field.toLowerCase());
      const hidden = sent.filter((field) => !NOT_FOR_PAGES.test(field) && !seen!.fields!.includes(field));
      expect([kind, all.status, hidden]).toEqual([kind, status, []]);
    }
  });
});

/** CORS fields that origins send by themselves. */
const OWN: readonly (readonly [name: string, headers: readonly HeaderLine[]])[] = [
  ['every page', [['Access-Control-Allow-Origin', '*']]],
  [
    'another page',
    [
      ['Access-Control-Allow-Origin', 'https://other.example'],
      ['Vary', 'Origin'],
    ],
  ],
  [
    'every page and some fields',
    [
      ['Access-Control-Allow-Origin', '*'],
      ['Access-Control-Expose-Headers', 'X-Total'],
    ],
  ],
];

test.each(OWN)(
  'the answer to an upload is readable with credentials where the origin allows %s',
  async (_, headers) => {
    answer(headers);
    const base = apiUrl(app.url);
    await pages
      .get(NAMED)!
      .context()
      .addCookies([{ name: 'session', value: 'secret', url: base }]);
    const upload = await onUpload('/credentials/file', append(BYTES));
    const [seen] = await sendFrom(NAMED, [upload], 'include');
    expect(seen).toMatchObject({ status: 201, body: 'stored' });
    expect(seen!.fields!.includes('x-total')).toBe(headers.length > 1 && headers[1]![1] === 'X-Total');
  },
);

test('a page that the origin allows itself stays allowed, once', async () => {
  const page = new URL(browser.webOrigin('http', STRANGER)).origin;
  answer([
    ['Access-Control-Allow-Origin', page],
    ['Access-Control-Allow-Credentials', 'true'],
  ]);
  const small: PageRequest = { method: 'POST', target: '/exact/file', body: 'x' };
  const [named] = await sendFrom(NAMED, [small]);
  const [stranger] = await sendFrom(STRANGER, [small], 'include');
  // A request that passes through is the origin's, which allows only one of them.
  expect([named!.error, stranger!.status]).toEqual(['TypeError', 201]);
});

test.each(['exact', 'any', 'pattern'])('credentials are refused where pages are %s', async (name) => {
  answer();
  const { allows } = SETTINGS.find((setting) => setting.name === name)!;
  const request: PageRequest = { ...creation(TUS), target: `/${name}/file` };
  expect(await sendFrom(allows[0]!, [request], 'include')).toEqual([{ error: 'TypeError' }]);
});
