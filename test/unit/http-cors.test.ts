import { describe, expect, test } from '@jest/globals';
import { Cors } from '../../src/handler/cors.js';
import { fieldValue, type HeaderLine } from '../../src/model/headers.js';
import type { CorsRules } from '../../src/model/route.js';
import type { Reply } from '../../src/protocol/protocol.js';

const PAGE = 'https://app.example';
const ALLOW = 'Access-Control-Allow-Origin';
const CREDENTIALS = 'Access-Control-Allow-Credentials';
const PREFLIGHT_VARY =
  'Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network';

function rules(allowOrigins: string[], allowCredentials = false): CorsRules {
  return { allowOrigins, allowCredentials, maxAgeSeconds: 86400 };
}

interface PageHead {
  readonly method: string;
  readonly path: string;
  readonly headers: readonly HeaderLine[];
}

function from(origin?: string, ...headers: HeaderLine[]): PageHead {
  const lines: HeaderLine[] = origin === undefined ? headers : [['Origin', origin], ...headers];
  return { method: 'OPTIONS', path: '/files', headers: lines };
}

/** CORS on the only route there is, with these rules. */
class OneRoute {
  private readonly route: { readonly resumable: boolean; readonly cors?: CorsRules };
  private readonly cors: Cors;

  constructor(given: CorsRules) {
    this.route = { resumable: true, ...(given.allowOrigins.length > 0 && { cors: given }) };
    const find = (): never => this.route as never;
    this.cors = new Cors({ find, findResumable: find, all: [find()] });
  }

  preflight(head: PageHead): Reply | undefined {
    return this.cors.preflight({ head, route: this.route });
  }

  apply(reply: Reply, head: PageHead, decides?: 'origin'): Reply {
    return this.cors.apply(reply, { head, route: this.route }, decides);
  }
}

describe('a preflight', () => {
  const wanted: HeaderLine = ['Access-Control-Request-Headers', 'content-type, x-token'];

  test('is left to the origin when no page is allowed', () => {
    expect(new OneRoute(rules([])).preflight(from(PAGE))).toBeUndefined();
  });

  test('from an allowed page allows what uploads use and whatever fields the page asks for', () => {
    expect(new OneRoute(rules([PAGE])).preflight(from(PAGE, wanted))).toEqual({
      status: 204,
      headers: [
        ['Access-Control-Allow-Origin', PAGE],
        ['Access-Control-Allow-Methods', 'POST, HEAD, PATCH, DELETE, OPTIONS, GET, PUT'],
        ['Access-Control-Allow-Headers', 'content-type, x-token'],
        ['Access-Control-Max-Age', '86400'],
        ['Vary', PREFLIGHT_VARY],
      ],
    });
  });

  test.each([
    ['one origin', rules([PAGE]), PAGE, undefined],
    ['any origin', rules(['*']), '*', undefined],
    ['any origin with credentials', rules(['*'], true), PAGE, 'true'],
    ['one origin with credentials', rules(['https://b.example', PAGE], true), PAGE, 'true'],
  ])('to rules for %s names the origin', (_what, given, allowed, credentials) => {
    const headers = new OneRoute(given).preflight(from(PAGE))!.headers;
    expect(fieldValue(headers, 'Access-Control-Allow-Origin')).toBe(allowed);
    expect(fieldValue(headers, 'Access-Control-Allow-Credentials')).toBe(credentials);
  });

  test.each([
    ['of a named page', rules([PAGE]), 'true', 'true'],
    ['of one of several named pages', rules(['https://b.example', PAGE], true), 'true', 'true'],
    ['of a named page beside all others', rules(['*', PAGE]), 'true', 'true'],
    ['of any page', rules(['*']), 'true', undefined],
    ['of any page with credentials', rules(['*'], true), 'true', undefined],
    ['of another page', rules(['https://b.example']), 'true', undefined],
    ['of a page of a named pattern', rules(['https://*.example']), 'true', 'true'],
    ['that is none', rules([PAGE]), 'false', undefined],
    ['that is left out', rules([PAGE]), undefined, undefined],
  ])('with a wish for a private network %s', (_what, given, wish, expected) => {
    const wishes: HeaderLine[] = wish === undefined ? [] : [['Access-Control-Request-Private-Network', wish]];
    const { headers } = new OneRoute(given).preflight(from(PAGE, ...wishes))!;
    expect(fieldValue(headers, 'Access-Control-Allow-Private-Network')).toBe(expected);
  });

  test('with that wish of a page without an origin of its own does not get it, also where it may upload', () => {
    const head = from('null', ['Access-Control-Request-Private-Network', 'true']);
    const { headers } = new OneRoute(rules(['null'])).preflight(head)!;
    expect(fieldValue(headers, 'Access-Control-Allow-Origin')).toBe('null');
    expect(fieldValue(headers, 'Access-Control-Allow-Private-Network')).toBeUndefined();
  });

  test.each([undefined, 'bad header\r\n', ''])('with %j as its list of fields gets the usual ones', (asked) => {
    const lines: HeaderLine[] = asked === undefined ? [] : [['Access-Control-Request-Headers', asked]];
    const value = fieldValue(
      new OneRoute(rules([PAGE])).preflight(from(PAGE, ...lines))!.headers,
      'Access-Control-Allow-Headers',
    );
    for (const name of [
      'Upload-Offset',
      'Upload-Complete',
      'Upload-Draft-Interop-Version',
      'Tus-Resumable',
      'Authorization',
    ]) {
      expect(value?.split(', ')).toContain(name);
    }
  });

  test.each(['https://evil.example', 'http://app.example', 'null', undefined])('from %j allows nothing', (origin) => {
    expect(new OneRoute(rules([PAGE])).preflight(from(origin))).toEqual({
      status: 204,
      headers: [['Vary', PREFLIGHT_VARY]],
    });
  });
});

test.each<[pattern: string, allowed: string[], others: string[]]>([
  [
    'https://*.example.com',
    ['https://a.example.com', 'https://a-1_b.example.com'],
    [
      'https://example.com',
      'https://.example.com',
      'https://a.b.example.com',
      'https://a.exampleXcom',
      'https://evil.com/.example.com',
      'http://a.example.com',
      'https://a.example.com:8443',
      'https://a.example.com.evil.com',
      'null',
    ],
  ],
  ['https://pr-*.example.com', ['https://pr-7.example.com'], ['https://pr.example.com', 'https://xpr-7.example.com']],
  [
    'http://localhost:*',
    ['http://localhost', 'http://localhost:5173'],
    ['http://localhost.evil.com:1', 'http://localhost:', 'http://localhost:1:2', 'https://localhost:5173'],
  ],
  ['capacitor://localhost', ['capacitor://localhost'], ['ionic://localhost', 'http://localhost']],
  ['http://[::1]:*', ['http://[::1]:80'], ['http://:80', 'http://[::2]:80']],
])('%s is for pages of exactly these origins', (pattern, allowedOrigins, others) => {
  const cors = new OneRoute(rules([pattern]));
  const answerTo = (origin: string): string | undefined =>
    fieldValue(cors.apply({ status: 200, headers: [] }, from(origin)).headers, ALLOW);
  expect(allowedOrigins.map(answerTo)).toEqual(allowedOrigins);
  expect(others.map(answerTo)).toEqual(others.map(() => undefined));
});

describe('a reply', () => {
  const reply = { status: 409, headers: [['Upload-Offset', '5']] as HeaderLine[], body: 'x' };
  const exposed = 'Location, Upload-Offset, Upload-Length, Upload-Limit, Upload-Complete, Upload-Incomplete, ';

  test('is not touched when no page is allowed', () => {
    expect(new OneRoute(rules([])).apply(reply, from(PAGE))).toBe(reply);
  });

  test('can be read by an allowed page, errors included', () => {
    const { status, headers, body } = new OneRoute(rules([PAGE], true)).apply(reply, from(PAGE));
    expect([status, body, headers[0]]).toEqual([409, 'x', ['Upload-Offset', '5']]);
    expect(fieldValue(headers, 'vary')).toBe('Origin');
    expect(fieldValue(headers, 'access-control-allow-origin')).toBe(PAGE);
    expect(fieldValue(headers, 'access-control-allow-credentials')).toBe('true');
    expect(fieldValue(headers, 'access-control-expose-headers')).toContain(exposed);
  });

  test('for everybody says so once and for all caches', () => {
    for (const head of [from(PAGE), from()]) {
      const { headers } = new OneRoute(rules(['*'])).apply(reply, head);
      expect(fieldValue(headers, 'access-control-allow-origin')).toBe('*');
      expect(fieldValue(headers, 'vary')).toBeUndefined();
    }
  });

  test.each([undefined, 'https://evil.example'])(
    'to %j tells caches that it depends on the page, nothing more',
    (origin) => {
      expect(new OneRoute(rules([PAGE])).apply(reply, from(origin)).headers).toEqual([
        ['Upload-Offset', '5'],
        ['Vary', 'Origin'],
      ]);
    },
  );

  test('that passes through keeps what the origin says of CORS, and is extended in place', () => {
    const headers: HeaderLine[] = [
      ['Access-Control-Allow-Origin', 'https://other.example'],
      ['access-control-expose-headers', 'X-Total, location'],
      ['vary', 'Accept-Encoding'],
      ['Content-Type', 'text/plain'],
    ];
    const extended = new OneRoute(rules([PAGE], true)).apply({ status: 200, headers }, from(PAGE), 'origin').headers;
    expect(extended.map(([name]) => name)).toEqual([
      'Access-Control-Allow-Origin',
      'Access-Control-Expose-Headers',
      'Vary',
      'Content-Type',
    ]);
    expect(extended[0]![1]).toBe('https://other.example');
    expect(extended[1]![1]).toMatch(/^X-Total, location, Upload-Offset, /);
    expect(extended[2]![1]).toBe('Accept-Encoding, Origin');
  });

  test.each<[given: string, setting: CorsRules, permission: HeaderLine[], expected: HeaderLine[]]>([
    ['another page', rules([PAGE]), [[ALLOW, 'https://other.example']], [[ALLOW, PAGE]]],
    [
      'every page, without credentials',
      rules([PAGE], true),
      [[ALLOW, '*']],
      [
        [ALLOW, PAGE],
        [CREDENTIALS, 'true'],
      ],
    ],
    [
      'this page, without credentials',
      rules([PAGE], true),
      [[ALLOW, PAGE]],
      [
        [ALLOW, PAGE],
        [CREDENTIALS, 'true'],
      ],
    ],
    ['every page', rules([PAGE]), [[ALLOW, '*']], [[ALLOW, '*']]],
    [
      'this page',
      rules(['*']),
      [
        [ALLOW, PAGE],
        [CREDENTIALS, 'true'],
      ],
      [
        [ALLOW, PAGE],
        [CREDENTIALS, 'true'],
      ],
    ],
    ['no page, but credentials', rules([PAGE]), [[CREDENTIALS, 'true']], [[ALLOW, PAGE]]],
  ])('to an upload whose origin allows %s has one permission, for the page', (_what, setting, permission, expected) => {
    const { headers } = new OneRoute(setting).apply({ status: 200, headers: permission }, from(PAGE));
    expect(headers.filter(([name]) => name.startsWith('Access-Control-Allow'))).toEqual(expected);
  });

  test('to a page that is not allowed keeps the permission of the origin', () => {
    const headers: HeaderLine[] = [[ALLOW, 'https://b.example']];
    expect(new OneRoute(rules([PAGE])).apply({ status: 200, headers }, from('https://b.example')).headers).toEqual([
      ...headers,
      ['Vary', 'Origin'],
    ]);
  });

  test.each(['*', 'Accept, origin'])('whose Vary is %s keeps it', (vary) => {
    const { headers } = new OneRoute(rules([PAGE])).apply({ status: 200, headers: [['Vary', vary]] }, from());
    expect(headers).toEqual([['Vary', vary]]);
  });
});
