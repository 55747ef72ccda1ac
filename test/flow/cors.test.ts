import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { exchangeOver, requestOnce, TRANSPORTS } from '../support/client.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { FILE, STREAM, TUS } from '../support/tus-client.js';
import type { WireResponse } from '../support/wire.js';

const PAGE = 'https://app.example';
const PATTERN_PAGE = 'https://pr-7.app.example';
const LOCAL_PAGE = 'http://localhost:5173';
const PAGES = [
  PAGE,
  PATTERN_PAGE,
  LOCAL_PAGE,
  'https://evil.example',
  'https://app.example.evil.example',
  'null',
  undefined,
];

/** What a setting promises to each page. */
interface Setting {
  readonly name: string;
  readonly cors: string;
  readonly allows: readonly (string | undefined)[];
  /** The value of Access-Control-Allow-Origin; the page itself by default. */
  readonly says?: '*';
  readonly credentials?: true;
  readonly maxAge: string;
}

const SETTINGS: readonly Setting[] = [
  { name: 'exact', cors: `allow_origins: ["https://App.example:443"]`, allows: [PAGE], maxAge: '100' },
  { name: 'any', cors: 'allow_origins: ["*"], max_age: 1h', allows: PAGES, says: '*', maxAge: '3600' },
  {
    name: 'pattern',
    cors: 'allow_origins: ["https://*.app.example", "http://localhost:*"]',
    allows: [PATTERN_PAGE, LOCAL_PAGE],
    maxAge: '100',
  },
  {
    name: 'credentials',
    cors: `allow_origins: ["${PAGE}", "https://pr-*.app.example"], allow_credentials: true`,
    allows: [PAGE, PATTERN_PAGE],
    credentials: true,
    maxAge: '100',
  },
  { name: 'inherited', cors: '', allows: [LOCAL_PAGE], maxAge: '100' },
];

const ORIGINS_OWN: HeaderLine[] = [
  ['Access-Control-Allow-Origin', 'https://other.example'],
  ['Access-Control-Expose-Headers', 'X-Total, Location'],
  ['Vary', 'Accept-Encoding, origin'],
];

let origin: TestOrigin;
let app: TestApp;

function config(dead: string): string {
  const routes = SETTINGS.flatMap(({ name, cors }) => {
    const rules = cors === '' ? '' : `, cors: { ${cors} }`;
    return [
      `{ match: { path: /${name}/dead }, origin: "${dead}", delivery: { breaker: { failures: 1000 }, retry: { attempts: 1, in_background: 0s } }${rules} }`,
      `{ match: { path: /${name}/refuses }, plain_bodies: refuse${rules} }`,
      `{ match: { path: /${name}/post, methods: POST }${rules} }`,
      `{ match: { path: /${name}/** }, limits: { max_size: 5000, min_size: 3 }${rules} }`,
    ];
  });
  const others = [
    '{ match: { path: /left/** }, cors: { allow_origins: [] } }',
    '{ match: { path: /ordinary/** }, resumable: false }',
  ];
  return `cors: { allow_origins: ["${LOCAL_PAGE}"], max_age: 100s }\nroutes:\n${[...routes, ...others].map((route) => `  - ${route}\n`).join('')}`;
}

beforeAll(async () => {
  origin = await startTestOrigin();
  origin.answerWith(({ target }) => ({
    status: target.includes('fails') ? 500 : 201,
    headers: target.includes('own') ? ORIGINS_OWN : [],
    body: 'stored',
  }));
  app = await startTestApp({ origin: origin.url, config: config('http://127.0.0.1:1') });
});
afterAll(async () => {
  await app.stop();
  await origin.close();
});

/** Sends a request as a browser does for a page. */
class Page {
  constructor(
    readonly setting: string,
    readonly origin: string | undefined,
    private readonly url: () => string = () => app.url,
  ) {}

  send(method: string, target: string, headers: readonly HeaderLine[] = [], body?: string | Uint8Array) {
    const from: HeaderLine[] = this.origin === undefined ? [] : [['Origin', this.origin]];
    const length: HeaderLine[] = body === undefined ? [] : [['Content-Length', String(body.length)]];
    const path = target.startsWith('/') ? target : `/${this.setting}/${target}`;
    return requestOnce(this.url(), { method, target: path, headers: [...from, ...headers, ...length], body });
  }

  preflight(method: string, target = 'file', headers: readonly HeaderLine[] = []): Promise<WireResponse> {
    return this.send('OPTIONS', target, [['Access-Control-Request-Method', method], ...headers]);
  }

  /** Creates an upload of tus, and gives its path. */
  async create(target = 'file', length = FILE.length): Promise<string> {
    const created = await this.send('POST', target, [TUS, ['Upload-Length', String(length)]]);
    expect(created.status).toBe(201);
    return new URL(created.header('Location')!).pathname;
  }

  async append(offset: number, bytes: Uint8Array, target = 'file'): Promise<WireResponse> {
    return this.send('PATCH', await this.create(target), [TUS, STREAM, ['Upload-Offset', String(offset)]], bytes);
  }
}

type Answer = (page: Page) => Promise<WireResponse>;

/** Every kind of answer that a page can get on a route that has uploads, by its status. */
const ANSWERS: readonly (readonly [kind: string, status: number, ask: Answer])[] = [
  ['the creation of an upload of tus', 201, (page) => page.send('POST', 'file', [TUS, ['Upload-Length', '9']])],
  ['the creation of an upload of the draft', 201, (page) => page.send('POST', 'file', [['Upload-Complete', '?0']], '')],
  ['an append', 204, (page) => page.append(0, FILE.subarray(0, 9))],
  ['an offset', 200, async (page) => page.send('HEAD', await page.create(), [TUS])],
  ['a cancellation', 204, async (page) => page.send('DELETE', await page.create(), [TUS])],
  ['the status page of an upload', 200, async (page) => page.send('GET', `${await page.create()}/status`)],
  ['OPTIONS on an upload', 204, async (page) => page.send('OPTIONS', await page.create(), [TUS])],
  ['the answer of the origin', 201, (page) => page.append(0, FILE)],
  ['the failure of the origin', 500, (page) => page.append(0, FILE, 'fails')],
  ['no answer of the origin', 503, (page) => page.append(0, FILE, 'dead')],
  ['a wrong offset', 409, (page) => page.append(7, FILE)],
  [
    'a wrong checksum',
    460,
    async (page) =>
      page.send(
        'PATCH',
        await page.create(),
        [TUS, STREAM, ['Upload-Offset', '0'], ['Upload-Checksum', `md5 ${'A'.repeat(22)}==`]],
        FILE,
      ),
  ],
  [
    'an unknown version of tus',
    412,
    (page) =>
      page.send('POST', 'file', [
        ['Tus-Resumable', '9.0.0'],
        ['Upload-Length', '9'],
      ]),
  ],
  ['a length beyond the limit', 413, (page) => page.send('POST', 'file', [TUS, ['Upload-Length', '5001']])],
  [
    'another media type',
    415,
    async (page) =>
      page.send('PATCH', await page.create(), [TUS, ['Content-Type', 'text/plain'], ['Upload-Offset', '0']], 'x'),
  ],
  ['an expectation that nobody meets', 417, (page) => page.send('POST', 'file', [['Expect', 'a-wonder']], 'x')],
  ['discovery', 201, (page) => page.send('OPTIONS', 'file')],
  ['an ordinary body that is refused', 428, (page) => page.send('POST', 'refuses', [], 'x')],
  ['an ordinary body that passes', 201, (page) => page.send('POST', 'file', [], 'x')],
  ['a small upload that passes', 201, (page) => page.send('POST', 'file', [['Upload-Complete', '?1']], 'x')],
  ['an ordinary body that is too long', 413, (page) => page.send('POST', 'file', [], new Uint8Array(5001))],
  ['an ordinary body without an origin', 502, (page) => page.send('POST', 'dead', [], 'x')],
];

const EXPOSED = [
  'Location',
  'Upload-Offset',
  'Upload-Length',
  'Upload-Limit',
  'Upload-Complete',
  'Upload-Incomplete',
  'Upload-Draft-Interop-Version',
  'Upload-Metadata',
  'Upload-Expires',
  'Upload-Defer-Length',
  'Upload-Concat',
  'Tus-Version',
  'Tus-Resumable',
  'Tus-Max-Size',
  'Tus-Extension',
  'Tus-Checksum-Algorithm',
  'Retry-After',
  'Proxy-Status',
];

/** The values of a field, line by line. */
function valuesOf({ headerLines }: WireResponse, name: string): string[] {
  return headerLines.filter(([other]) => other.toLowerCase() === name.toLowerCase()).map(([, value]) => value);
}

function membersOf(response: WireResponse, name: string): string[] {
  return valuesOf(response, name).flatMap((value) => value.toLowerCase().split(/\s*,\s*/));
}

/** The CORS fields that tell whether a page may read a response, and whether caches keep it apart. */
function permission(response: WireResponse): unknown {
  return {
    origin: valuesOf(response, 'Access-Control-Allow-Origin'),
    credentials: valuesOf(response, 'Access-Control-Allow-Credentials'),
    vary: membersOf(response, 'Vary').filter((member) => member === 'origin'),
  };
}

function expected({ allows, says, credentials }: Setting, page: string | undefined): unknown {
  const isAllowed = says === '*' || (page !== undefined && allows.includes(page));
  return {
    origin: isAllowed ? [says ?? page] : [],
    credentials: isAllowed && credentials ? ['true'] : [],
    vary: says === '*' ? [] : ['origin'],
  };
}

describe.each(SETTINGS)('on a route whose pages are $name', (setting) => {
  test.each(ANSWERS)('%s (%i) is readable for exactly these pages', async (_kind, status, ask) => {
    for (const page of PAGES) {
      const response = await ask(new Page(setting.name, page));
      expect([page, response.status, permission(response)]).toEqual([page, status, expected(setting, page)]);
      const exposed = membersOf(response, 'Access-Control-Expose-Headers');
      const isReadable = response.header('Access-Control-Allow-Origin') !== undefined;
      expect(EXPOSED.filter((name) => exposed.includes(name.toLowerCase()))).toEqual(isReadable ? EXPOSED : []);
      expect(new Set(exposed).size).toBe(exposed.length);
    }
  });

  test('a preflight is answered without the origin, on targets and uploads', async () => {
    const before = origin.requests.length;
    for (const page of PAGES) {
      const client = new Page(setting.name, page);
      const asked: HeaderLine[] = [['Access-Control-Request-Headers', 'x-token,tus-resumable']];
      const upload = await client.create();
      for (const response of [
        await client.preflight('POST', 'file', asked),
        await client.preflight('POST', 'post', asked),
        await client.preflight('OPTIONS', 'file', asked),
        await client.preflight('PATCH', upload, asked),
        await client.preflight('DELETE', upload, asked),
      ]) {
        const { origin: allowed, credentials } = expected(setting, page) as { origin: string[]; credentials: string[] };
        expect([response.status, permission(response)]).toEqual([
          204,
          { origin: allowed, credentials, vary: ['origin'] },
        ]);
        const isAllowed = allowed.length > 0;
        const names = ['Access-Control-Max-Age', 'Access-Control-Allow-Headers'];
        expect(names.map((name) => response.header(name))).toEqual(
          isAllowed ? [setting.maxAge, 'x-token,tus-resumable'] : [undefined, undefined],
        );
        const methods = membersOf(response, 'Access-Control-Allow-Methods');
        expect(['post', 'patch', 'head', 'delete', 'put'].every((each) => methods.includes(each))).toBe(isAllowed);
      }
    }
    expect(origin.requests.length).toBe(before);
  });
});

test.each(TRANSPORTS)('over %s a preflight allows a network of its own to named pages only', async (transport) => {
  const allowed = async (setting: string, page: string): Promise<string | undefined> => {
    const headers: HeaderLine[] = [
      ['Origin', page],
      ['Access-Control-Request-Method', 'POST'],
      ['Access-Control-Request-Private-Network', 'true'],
    ];
    const response = await exchangeOver(transport, app.url, { method: 'OPTIONS', target: `/${setting}/file`, headers });
    return response.header('Access-Control-Allow-Private-Network');
  };
  expect(await allowed('exact', PAGE)).toBe('true');
  expect(await allowed('pattern', PATTERN_PAGE)).toBe('true');
  expect(await allowed('any', PAGE)).toBeUndefined();
  expect(await allowed('exact', PATTERN_PAGE)).toBeUndefined();
});

test('a method in lower case, as pages can send it over HTTP/2, is refused readably', async () => {
  const headers: HeaderLine[] = [['Origin', PAGE]];
  const response = await exchangeOver('HTTP/2', app.url, {
    method: 'patch',
    target: '/exact/file',
    headers,
    body: 'x',
  });
  expect([response.status, permission(response)]).toEqual([501, { origin: [PAGE], credentials: [], vary: ['origin'] }]);
});

test('a preflight without a list of fields allows every field of every protocol', async () => {
  const response = await new Page('exact', PAGE).preflight('POST');
  const fields = membersOf(response, 'Access-Control-Allow-Headers');
  for (const name of [
    'Upload-Offset',
    'Upload-Length',
    'Upload-Complete',
    'Upload-Incomplete',
    'Upload-Draft-Interop-Version',
    'Upload-Metadata',
    'Upload-Defer-Length',
    'Upload-Concat',
    'Upload-Checksum',
    'Tus-Resumable',
    'X-HTTP-Method-Override',
    'Content-Digest',
    'Repr-Digest',
    'Want-Repr-Digest',
    'Idempotency-Key',
    'Authorization',
  ])
    expect(fields).toContain(name.toLowerCase());
});

describe('CORS fields of the origin', () => {
  test('give way where the proxy speaks for an upload and its rules allow the page', async () => {
    const allowed = await new Page('credentials', PAGE).append(0, FILE, 'own');
    expect(permission(allowed)).toEqual({ origin: [PAGE], credentials: ['true'], vary: ['origin'] });
    expect(valuesOf(allowed, 'Vary')).toEqual(['Accept-Encoding, origin']);
    expect(valuesOf(allowed, 'Access-Control-Expose-Headers')).toEqual([
      expect.stringMatching(/^X-Total, Location, Upload-Offset, /),
    ]);
    const other = await new Page('credentials', 'https://other.example').append(0, FILE, 'own');
    expect(permission(other)).toEqual({ origin: ['https://other.example'], credentials: [], vary: ['origin'] });
  });

  test('win where a request passes through', async () => {
    const passed = await new Page('credentials', PAGE).send('POST', 'own', [], 'x');
    expect(permission(passed)).toEqual({ origin: ['https://other.example'], credentials: [], vary: ['origin'] });
  });

  test.each(['left', 'ordinary'])('are all there is on a route that is %s to the origin', async (route) => {
    const page = new Page(route, LOCAL_PAGE);
    for (const target of ['own', 'silent']) {
      const passed = await page.send('POST', target, [], 'x');
      expect(passed.headerLines.filter(([name]) => /^(?:access-control|vary)/i.test(name))).toEqual(
        target === 'own' ? ORIGINS_OWN : [],
      );
    }
    const before = origin.requests.length;
    expect((await page.preflight('POST')).status).toBe(201);
    expect(origin.requests[before]).toMatchObject({ method: 'OPTIONS', target: `/${route}/file` });
  });

  test('are all there is for methods that cannot upload', async () => {
    for (const method of ['GET', 'DELETE']) {
      const page = new Page('exact', PAGE);
      const passed = await page.send(method, 'silent');
      expect([passed.status, permission(passed)]).toEqual([201, { origin: [], credentials: [], vary: [] }]);
      const before = origin.requests.length;
      expect((await page.preflight(method)).status).toBe(201);
      expect(origin.requests.length).toBe(before + 1);
    }
  });
});

test('an upload that is gone is a readable 404 for the pages of every route, and nobody else', async () => {
  const own = await startTestApp({
    origin: origin.url,
    config: `routes:
  - { match: { path: /a/** }, cors: { allow_origins: ["${PAGE}"] } }
  - { match: { path: /b/** }, cors: { allow_origins: ["https://*.app.example"], allow_credentials: true } }
  - { match: { path: /c/** }, cors: { allow_origins: ["https://both.example"] } }
  - { match: { path: /d/** }, cors: { allow_origins: ["https://both.example"], allow_credentials: true } }
`,
  });
  const seen = async (page: string): Promise<unknown[]> => {
    const client = new Page('', page, () => own.url);
    const gone = await client.send('HEAD', `/.uploads/${'x'.repeat(32)}`, [TUS]);
    const preflight = await client.preflight('PATCH', `/.uploads/${'x'.repeat(32)}`);
    return [gone.status, permission(gone), preflight.header('Access-Control-Allow-Origin')];
  };
  const vary = ['origin'];
  expect(await seen(PAGE)).toEqual([404, { origin: [PAGE], credentials: [], vary }, PAGE]);
  expect(await seen(PATTERN_PAGE)).toEqual([
    404,
    { origin: [PATTERN_PAGE], credentials: ['true'], vary },
    PATTERN_PAGE,
  ]);
  const both = 'https://both.example';
  expect(await seen(both)).toEqual([404, { origin: [both], credentials: ['true'], vary }, both]);
  expect(await seen('https://evil.example')).toEqual([404, { origin: [], credentials: [], vary }, undefined]);
  await own.stop();
});

test('an upload that is gone is readable with credentials although another route allows every page', async () => {
  const own = await startTestApp({
    origin: origin.url,
    config: `routes:
  - { match: { path: /a/** }, cors: { allow_origins: ["*"] } }
  - { match: { path: /b/** }, cors: { allow_origins: ["${PAGE}"], allow_credentials: true } }
`,
  });
  const seen = async (page: string): Promise<unknown> =>
    permission(await new Page('', page, () => own.url).send('HEAD', `/.uploads/${'x'.repeat(32)}`, [TUS]));
  expect(await seen(PAGE)).toEqual({ origin: [PAGE], credentials: ['true'], vary: ['origin'] });
  expect(await seen('https://evil.example')).toEqual({ origin: ['*'], credentials: [], vary: ['origin'] });
  await own.stop();
});
