import { seededRandom } from './temporary.js';

/** What an attacker sends over one connection. */
export interface Attack {
  readonly family: string;
  /** Latin-1. */
  readonly bytes: string;
  /** What the client does when it has sent them. */
  readonly then: 'wait' | 'end' | 'reset' | 'linger';
  /**
   * `refused`: 4xx or 5xx, and the origin sees nothing. `answered`: some final response. `anything`: whatever comes, if
   * anything does, is a proper response.
   */
  readonly verdict: 'refused' | 'answered' | 'anything';
  /** Nothing that follows on this connection may be acted upon. */
  readonly closes?: boolean;
  /** The request ended before its end: the origin must not take it for whole. */
  readonly isCut?: boolean;
}

/** What an attack is aimed at. */
export interface Victim {
  /** Path of an upload of ten bytes so far and a length of a hundred, created with interop 6. */
  readonly target: string;
  /** Of an upload nobody needs any more. */
  readonly expendable: string;
  readonly host: string;
}

/** They must never be seen in a log. */
const SECRETS = { authorization: 'Bearer hush-hush-token', cookie: 'session=hush-hush-cookie' };

/** Chance with a seed, and the request texts that every family is made of. */
export class AttackBuilder {
  private readonly random: () => number;

  constructor(
    seed: number,
    readonly victim: Victim,
    /** Carried by every request that has a header section, so that the origin's requests can be told apart. */
    readonly marker: string,
  ) {
    this.random = seededRandom(seed);
  }

  of<T>(choices: readonly T[]): T {
    return choices[Math.floor(this.random() * choices.length)]!;
  }

  below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  happens(probability: number): boolean {
    return this.random() < probability;
  }

  /** A request line and a header section as a well-behaved client writes them, but for what is given. */
  head(method: string, target: string, lines: readonly string[] = [], version = 'HTTP/1.1'): string {
    const secrets = this.happens(0.5) ? [`Authorization: ${SECRETS.authorization}`, `Cookie: ${SECRETS.cookie}`] : [];
    const all = [`Host: ${this.victim.host}`, `X-Marker: ${this.marker}`, ...secrets, ...lines];
    return `${method} ${target} ${version}\r\n${all.map((line) => `${line}\r\n`).join('')}\r\n`;
  }

  /** The same with a body of its announced length. */
  whole(method: string, target: string, lines: readonly string[], body: string): string {
    return this.head(method, target, [...lines, `Content-Length: ${body.length}`]) + body;
  }

  /** A request that hides behind another. */
  smuggled(): string {
    return `GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Smuggled: ${this.marker}\r\n\r\n`;
  }
}

/** Messages that break the rules of HTTP/1.1 itself, or that end too early. */
export const MESSAGE_FAMILIES: readonly ((builder: AttackBuilder) => Attack)[] = [
  ambiguousFraming,
  brokenChunks,
  brokenHead,
  brokenHost,
  flood,
  oddTarget,
  brokenTarget,
  oddMessage,
  unmetExpectation,
  cutShort,
  cutShort,
  garbage,
];

/** Two readers could disagree about where it ends: refused, and what follows is not a request. */
function ambiguousFraming(builder: AttackBuilder): Attack {
  const lines = builder.of([
    ['Content-Length: 5', 'Transfer-Encoding: chunked'],
    ['Transfer-Encoding: chunked', 'Content-Length: 5'],
    ['Content-Length: 5', 'Content-Length: 6'],
    ['Content-Length: 5', 'Content-Length: 5'],
    ...['5, 5', '-5', '+5', '0x5', '5.0', '5a', '1e1', '', '"5"', '18446744073709551621', '9223372036854775813'].map(
      (size) => [`Content-Length: ${size}`],
    ),
    ...[
      'chunked, chunked',
      'xchunked',
      'chunked, identity',
      'identity',
      'gzip, chunked',
      '\x0bchunked',
      'chunke d',
      '"chunked"',
      'chunked;q=1',
    ].map((coding) => [`Transfer-Encoding: ${coding}`]),
    ['Transfer-Encoding: chunked', 'Transfer-Encoding: identity'],
    ['Transfer-Encoding: identity', 'Transfer-Encoding: chunked'],
    ['Transfer-Encoding : chunked'],
    ['Transfer-Encoding:\r\n chunked'],
    ['Content-Length : 5'],
    ['Content-Length\x00: 5'],
    ['X: y\rTransfer-Encoding: chunked', 'Content-Length: 5'],
    ['X: y\nTransfer-Encoding: chunked', 'Content-Length: 5'],
  ]);
  const method = builder.of(['POST', 'PUT', 'GET', 'DELETE', 'OPTIONS']);
  const upload = builder.happens(0.5) ? ['Upload-Draft-Interop-Version: 6', 'Upload-Complete: ?1'] : [];
  const bytes = builder.head(method, '/files/framing', [...upload, ...lines]) + `0\r\n\r\n${builder.smuggled()}`;
  return { family: 'ambiguous framing', bytes, then: 'wait', verdict: 'refused', closes: true };
}

/** The head is fine: what has begun may be answered or broken off, but what follows is not a request. */
function brokenChunks(builder: AttackBuilder): Attack {
  // prettier-ignore
  const chunk = builder.of([
    'g\r\n', '-1\r\n', '\r\n', '0x5\r\n', ' 5\r\n', '5 \r\nabcde\r\n', '5\nabcde\r\n', '5\r\nabcdeX',
    '5\r\nabcde\n0\r\n', '5;a\rb\r\n', 'fffffffffffffffff\r\n', '10000000000000000\r\n', '5\r\nabcde0\r\n',
    `5;${'x'.repeat(20_000)}\r\nabcde\r\n`, '\x00\r\n', '5\r\r\n',
  ]);
  const upload = builder.happens(0.5)
    ? ['Upload-Draft-Interop-Version: 6', `Upload-Complete: ${builder.of(['?0', '?1'])}`]
    : [];
  const head = builder.head(builder.of(['POST', 'PUT']), '/files/chunks', [...upload, 'Transfer-Encoding: chunked']);
  const bytes = `${head}3\r\nabc\r\n${chunk}${builder.smuggled()}`;
  return { family: 'broken chunks', bytes, then: 'wait', verdict: 'anything', closes: true, isCut: true };
}

function brokenHead(builder: AttackBuilder): Attack {
  // prettier-ignore
  const line = builder.of([
    'No-Colon', ': no name', 'Spaced : x', ' Folded: x', 'X:y\r\n folded', 'X:y\r\n\tfolded', 'N\x00l: x',
    'X: n\x00l', 'X: \x07', 'X: \x7f', 'N\xe4me: x', 'X@Y: x', 'X Y: x', '(X): y', 'X: y\rZ: z', 'X: y\nZ: z', '\x01',
    '"X": y',
  ]);
  const bareLines = builder.head('GET', '/files/head').replaceAll('\r\n', '\n');
  const bytes = (builder.happens(0.1) ? bareLines : builder.head('GET', '/files/head', [line])) + builder.smuggled();
  return { family: 'broken head', bytes, then: 'wait', verdict: 'refused', closes: true };
}

/** RFC 9112 §3.2: refused, but nobody can be in doubt about where the message ends. */
function brokenHost(builder: AttackBuilder): Attack {
  // prettier-ignore
  const hosts = [
    'a b', 'a,b', 'user@a', 'a:b:c', 'a/b', '[::1', 'a\\b', 'a\tb', 'a?b', '<a>', 'a\r\nHost: a', 'a:x', '%zz',
  ];
  const bytes = builder.head('GET', '/files/host').replace(/Host: .*/, `Host: ${builder.of(hosts)}`);
  return { family: 'broken host', bytes, then: 'wait', verdict: 'refused' };
}

function flood(builder: AttackBuilder): Attack {
  const lines = builder.of([
    Array.from({ length: 12_000 }, (_, at) => `X-${at}: y`),
    Array.from({ length: 1000 }, () => `X: ${'y'.repeat(100)}`),
    [`X: ${'y'.repeat(100_000)}`],
    [`${'X'.repeat(100_000)}: y`],
    [`Cookie: ${'a=b; '.repeat(20_000)}`],
    [`Upload-Complete: ?1${';a'.repeat(50_000)}`],
  ]);
  const target = builder.happens(0.2) ? `/files/${'a'.repeat(100_000)}` : '/files/flood';
  return {
    family: 'flood',
    bytes: builder.head('POST', target, lines),
    then: 'wait',
    verdict: 'refused',
    closes: true,
  };
}

function oddTarget(builder: AttackBuilder): Attack {
  const [method, target] = builder.of([
    ['OPTIONS', '*'],
    ['GET', `http://${builder.victim.host}/files/absolute`],
    ['GET', 'http://elsewhere.example/files/absolute'],
    ['GET', 'https://elsewhere.example/'],
    ['HEAD', `http://elsewhere.example${builder.victim.target}`],
    ['GET', 'HTTP://elsewhere.example'],
    ['GET', '//elsewhere.example/files'],
    ['GET', '/..//../../etc/passwd'],
    ['GET', '/files/%2e%2e/%2e%2e/%00'],
    ['GET', '/?/../../.uploads/'],
    ['GET', `/${'../'.repeat(500)}etc/passwd`],
    ['OPTIONS', 'http://elsewhere.example'],
  ] as const);
  return { family: 'odd target', bytes: builder.head(method, target), then: 'wait', verdict: 'answered' };
}

function brokenTarget(builder: AttackBuilder): Attack {
  const [method, target] = builder.of([
    ...[
      '*',
      'files',
      'files/a',
      '?a',
      '.',
      'a:80',
      'ftp://a/',
      'http://',
      'http:///a',
      'http://user@a/',
      'javascript:alert(1)',
      '\\\\a',
    ].map((broken) => ['GET', broken] as const),
    ...['/a#b', '/a b', '/a\x00b', '/\x7f', '/a\tb', '/a\rb', ''].map((broken) => ['GET', broken] as const),
    ...['a:443', '/', '*', builder.victim.host].map((broken) => ['CONNECT', broken] as const),
    ...['BREW', 'get', 'G\x00T', 'GE T', '', 'PO\xd6ST', 'X'.repeat(5000), '"GET"', 'PRI'].map(
      (broken) => [broken, '/files'] as const,
    ),
  ]);
  // A target that makes no sense does not make it doubtful where its request ends.
  const rest = method === 'GET' ? '' : builder.smuggled();
  return {
    family: 'broken target',
    bytes: builder.head(method, target) + rest,
    then: 'wait',
    verdict: 'refused',
    closes: method !== 'GET',
  };
}

/** Unusual, but nothing that must be refused. */
function oddMessage(builder: AttackBuilder): Attack {
  const body = 'x'.repeat(builder.below(2000));
  const bytes = builder.of([
    () => builder.whole('HEAD', '/files/odd', [], body),
    () => builder.whole('GET', '/files/odd', ['Upload-Complete: ?1', 'Upload-Draft-Interop-Version: 6'], body),
    () => builder.whole('OPTIONS', '/files/odd', [], body),
    () => builder.whole('DELETE', '/files/odd', ['Upload-Complete: ?1'], body),
    () => builder.whole('TRACE', '/files/odd', [], body),
    () => builder.whole('HEAD', builder.victim.target, [], body),
    () => builder.head('GET', '/files/odd', ['Connection: host, content-length, x-marker2, upload-complete, close']),
    () => builder.head('GET', '/files/odd', ['Connection: Upgrade', 'Upgrade: klingon/1.0']),
    () =>
      builder.head('GET', '/files/odd', [
        'Connection: Upgrade, HTTP2-Settings',
        'Upgrade: h2c',
        'HTTP2-Settings: AAMAAABkAAQAAP__',
      ]),
    () => builder.head('GET', builder.victim.target, ['Connection: Upgrade', 'Upgrade: websocket']),
    () =>
      builder.whole('POST', '/files/odd', ['Connection: Upgrade', 'Upgrade: klingon/1.0', 'Upload-Complete: ?1'], body),
    () => builder.head('GET', '/files/odd', ['Range: bytes=0-0,0-0,0-0', 'If-Match: *', 'TE: trailers, chunked']),
    () => `\r\n\r\n${builder.head('GET', '/files/odd')}`,
    () =>
      builder.head('GET', '/files/odd', [
        'Forwarded: for="',
        'X-Forwarded-For: \xff, ::::, ../',
        'X-Forwarded-Host: a b\\',
      ]),
    () => builder.head('GET', '/files/odd', [], 'HTTP/1.0'),
    () =>
      builder
        .whole('POST', '/files/odd', ['Upload-Complete: ?1', 'Upload-Draft-Interop-Version: 6'], body)
        .replace('HTTP/1.1', 'HTTP/1.0'),
  ])();
  return { family: 'odd message', bytes, then: 'wait', verdict: 'answered' };
}

function unmetExpectation(builder: AttackBuilder): Attack {
  // prettier-ignore
  const expectation = builder.of([
    'miracle', '100-continue, miracle', '101-continue', '100-continue; x=1', '"100-continue"', '200-ok',
  ]);
  const lines = [
    `Expect: ${expectation}`,
    'Content-Length: 1000',
    'Upload-Complete: ?1',
    'Upload-Draft-Interop-Version: 6',
  ];
  return {
    family: 'unmet expectation',
    bytes: builder.head('POST', '/files/expect', lines),
    then: 'wait',
    verdict: 'refused',
  };
}

/** A good request that ends anywhere before its end. */
function cutShort(builder: AttackBuilder): Attack {
  const body = 'z'.repeat(builder.below(3000));
  const version = ['Upload-Draft-Interop-Version: 6'];
  const good = builder.of([
    () => builder.whole('POST', '/files/cut', [...version, 'Upload-Complete: ?1'], body),
    () => builder.whole('POST', '/files/cut', [...version, 'Upload-Complete: ?0'], body),
    () => builder.whole('PUT', '/files/cut', [], body),
    () => builder.head('GET', '/files/cut'),
    () => builder.head('DELETE', '/files/cut'),
    () =>
      `${builder.head('POST', '/files/cut', [...version, 'Upload-Complete: ?1', 'Transfer-Encoding: chunked'])}3\r\nabc\r\n0\r\n\r\n`,
    () => builder.head('GET', '/files/cut', ['Connection: Upgrade', 'Upgrade: websocket']),
    () =>
      builder.whole('PATCH', builder.victim.expendable, [...version, 'Upload-Offset: 10', 'Upload-Complete: ?1'], body),
  ])();
  const bytes = good.slice(0, builder.below(good.length));
  return { family: 'cut short', bytes, then: builder.of(['end', 'reset', 'linger']), verdict: 'anything', isCut: true };
}

function garbage(builder: AttackBuilder): Attack {
  const noise = Array.from({ length: 1 + builder.below(400) }, () => String.fromCharCode(builder.below(256))).join('');
  const bytes = builder.of([
    () => `${noise}\r\n\r\n`,
    () => `GET ${noise} HTTP/1.1\r\n\r\n`,
    () => '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
    () => `${'\r\n'.repeat(2000)}${noise}\r\n\r\n`,
    () => '\x00'.repeat(20_000),
    () => `HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n${builder.smuggled()}`,
    () => builder.head('GET', '/files/noise', [noise.replace(/[\r\n]/g, '')]),
  ])();
  return { family: 'garbage', bytes, then: builder.of(['end', 'reset']), verdict: 'anything' };
}
