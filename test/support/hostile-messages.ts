import type { Attack, Malice } from './hostile-attack.js';

/** Messages that break the rules of HTTP/1.1 itself, or that end too early. */
export const MESSAGE_FAMILIES: readonly ((malice: Malice) => Attack)[] = [
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
function ambiguousFraming(malice: Malice): Attack {
  const lines = malice.of([
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
  const method = malice.of(['POST', 'PUT', 'GET', 'DELETE', 'OPTIONS']);
  const upload = malice.happens(0.5) ? ['Upload-Draft-Interop-Version: 6', 'Upload-Complete: ?1'] : [];
  const bytes = malice.head(method, '/files/framing', [...upload, ...lines]) + `0\r\n\r\n${malice.smuggled()}`;
  return { family: 'ambiguous framing', bytes, then: 'wait', verdict: 'refused', closes: true };
}

/** The head is fine: what has begun may be answered or broken off, but what follows is not a request. */
function brokenChunks(malice: Malice): Attack {
  const chunk = malice.of([
    ...[
      'g\r\n',
      '-1\r\n',
      '\r\n',
      '0x5\r\n',
      ' 5\r\n',
      '5 \r\nabcde\r\n',
      '5\nabcde\r\n',
      '5\r\nabcdeX',
      '5\r\nabcde\n0\r\n',
      '5;a\rb\r\n',
    ],
    ...[
      'fffffffffffffffff\r\n',
      '10000000000000000\r\n',
      '5\r\nabcde0\r\n',
      `5;${'x'.repeat(20_000)}\r\nabcde\r\n`,
      '\x00\r\n',
      '5\r\r\n',
    ],
  ]);
  const upload = malice.happens(0.5)
    ? ['Upload-Draft-Interop-Version: 6', `Upload-Complete: ${malice.of(['?0', '?1'])}`]
    : [];
  const head = malice.head(malice.of(['POST', 'PUT']), '/files/chunks', [...upload, 'Transfer-Encoding: chunked']);
  const bytes = `${head}3\r\nabc\r\n${chunk}${malice.smuggled()}`;
  return { family: 'broken chunks', bytes, then: 'wait', verdict: 'anything', closes: true, isCut: true };
}

function brokenHead(malice: Malice): Attack {
  const line = malice.of([
    ...[
      'No-Colon',
      ': no name',
      'Spaced : x',
      ' Folded: x',
      'X:y\r\n folded',
      'X:y\r\n\tfolded',
      'N\x00l: x',
      'X: n\x00l',
    ],
    ...['X: \x07', 'X: \x7f', 'N\xe4me: x', 'X@Y: x', 'X Y: x', '(X): y', 'X: y\rZ: z', 'X: y\nZ: z', '\x01', '"X": y'],
  ]);
  const bareLines = malice.head('GET', '/files/head').replaceAll('\r\n', '\n');
  const bytes = (malice.happens(0.1) ? bareLines : malice.head('GET', '/files/head', [line])) + malice.smuggled();
  return { family: 'broken head', bytes, then: 'wait', verdict: 'refused', closes: true };
}

/** RFC 9112 §3.2: refused, but nobody can be in doubt about where the message ends. */
function brokenHost(malice: Malice): Attack {
  const hosts = [
    'a b',
    'a,b',
    'user@a',
    'a:b:c',
    'a/b',
    '[::1',
    'a\\b',
    'a\tb',
    'a?b',
    '<a>',
    'a\r\nHost: a',
    'a:x',
    '%zz',
  ];
  const bytes = malice.head('GET', '/files/host').replace(/Host: .*/, `Host: ${malice.of(hosts)}`);
  return { family: 'broken host', bytes, then: 'wait', verdict: 'refused' };
}

function flood(malice: Malice): Attack {
  const lines = malice.of([
    Array.from({ length: 3000 }, (_, at) => `X-${at}: y`),
    Array.from({ length: 200 }, () => `X: ${'y'.repeat(100)}`),
    [`X: ${'y'.repeat(100_000)}`],
    [`${'X'.repeat(100_000)}: y`],
    [`Cookie: ${'a=b; '.repeat(5000)}`],
    [`Upload-Complete: ?1${';a'.repeat(10_000)}`],
  ]);
  const target = malice.happens(0.2) ? `/files/${'a'.repeat(50_000)}` : '/files/flood';
  return { family: 'flood', bytes: malice.head('POST', target, lines), then: 'wait', verdict: 'refused', closes: true };
}

function oddTarget(malice: Malice): Attack {
  const [method, target] = malice.of([
    ['OPTIONS', '*'],
    ['GET', `http://${malice.victim.host}/files/absolute`],
    ['GET', 'http://elsewhere.example/files/absolute'],
    ['GET', 'https://elsewhere.example/'],
    ['HEAD', `http://elsewhere.example${malice.victim.target}`],
    ['GET', 'HTTP://elsewhere.example'],
    ['GET', '//elsewhere.example/files'],
    ['GET', '/..//../../etc/passwd'],
    ['GET', '/files/%2e%2e/%2e%2e/%00'],
    ['GET', '/?/../../.uploads/'],
    ['GET', `/${'../'.repeat(500)}etc/passwd`],
    ['OPTIONS', 'http://elsewhere.example'],
  ] as const);
  return { family: 'odd target', bytes: malice.head(method, target), then: 'wait', verdict: 'answered' };
}

function brokenTarget(malice: Malice): Attack {
  const [method, target] = malice.of([
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
    ...['a:443', '/', '*', malice.victim.host].map((broken) => ['CONNECT', broken] as const),
    ...['BREW', 'get', 'G\x00T', 'GE T', '', 'PO\xd6ST', 'X'.repeat(5000), '"GET"', 'PRI'].map(
      (broken) => [broken, '/files'] as const,
    ),
  ]);
  // A target that makes no sense does not make it doubtful where its request ends.
  const rest = method === 'GET' ? '' : malice.smuggled();
  return {
    family: 'broken target',
    bytes: malice.head(method, target) + rest,
    then: 'wait',
    verdict: 'refused',
    closes: method !== 'GET',
  };
}

/** Unusual, but nothing that must be refused. */
function oddMessage(malice: Malice): Attack {
  const body = 'x'.repeat(malice.below(2000));
  const bytes = malice.of([
    () => malice.whole('HEAD', '/files/odd', [], body),
    () => malice.whole('GET', '/files/odd', ['Upload-Complete: ?1', 'Upload-Draft-Interop-Version: 6'], body),
    () => malice.whole('OPTIONS', '/files/odd', [], body),
    () => malice.whole('DELETE', '/files/odd', ['Upload-Complete: ?1'], body),
    () => malice.whole('TRACE', '/files/odd', [], body),
    () => malice.whole('HEAD', malice.victim.target, [], body),
    () => malice.head('GET', '/files/odd', ['Connection: host, content-length, x-marker2, upload-complete, close']),
    () => malice.head('GET', '/files/odd', ['Connection: Upgrade', 'Upgrade: klingon/1.0']),
    () =>
      malice.head('GET', '/files/odd', [
        'Connection: Upgrade, HTTP2-Settings',
        'Upgrade: h2c',
        'HTTP2-Settings: AAMAAABkAAQAAP__',
      ]),
    () => malice.head('GET', malice.victim.target, ['Connection: Upgrade', 'Upgrade: websocket']),
    () =>
      malice.whole('POST', '/files/odd', ['Connection: Upgrade', 'Upgrade: klingon/1.0', 'Upload-Complete: ?1'], body),
    () => malice.head('GET', '/files/odd', ['Range: bytes=0-0,0-0,0-0', 'If-Match: *', 'TE: trailers, chunked']),
    () => `\r\n\r\n${malice.head('GET', '/files/odd')}`,
    () =>
      malice.head('GET', '/files/odd', [
        'Forwarded: for="',
        'X-Forwarded-For: \xff, ::::, ../',
        'X-Forwarded-Host: a b\\',
      ]),
    () => malice.head('GET', '/files/odd', [], 'HTTP/1.0'),
    () =>
      malice
        .whole('POST', '/files/odd', ['Upload-Complete: ?1', 'Upload-Draft-Interop-Version: 6'], body)
        .replace('HTTP/1.1', 'HTTP/1.0'),
  ])();
  return { family: 'odd message', bytes, then: 'wait', verdict: 'answered' };
}

function unmetExpectation(malice: Malice): Attack {
  const expectation = malice.of([
    'miracle',
    '100-continue, miracle',
    '101-continue',
    '100-continue; x=1',
    '"100-continue"',
    '200-ok',
  ]);
  const lines = [
    `Expect: ${expectation}`,
    'Content-Length: 1000',
    'Upload-Complete: ?1',
    'Upload-Draft-Interop-Version: 6',
  ];
  return {
    family: 'unmet expectation',
    bytes: malice.head('POST', '/files/expect', lines),
    then: 'wait',
    verdict: 'refused',
  };
}

/** A good request that ends anywhere before its end. */
function cutShort(malice: Malice): Attack {
  const body = 'z'.repeat(malice.below(3000));
  const version = ['Upload-Draft-Interop-Version: 6'];
  const good = malice.of([
    () => malice.whole('POST', '/files/cut', [...version, 'Upload-Complete: ?1'], body),
    () => malice.whole('POST', '/files/cut', [...version, 'Upload-Complete: ?0'], body),
    () => malice.whole('PUT', '/files/cut', [], body),
    () => malice.head('GET', '/files/cut'),
    () => malice.head('DELETE', '/files/cut'),
    () =>
      `${malice.head('POST', '/files/cut', [...version, 'Upload-Complete: ?1', 'Transfer-Encoding: chunked'])}3\r\nabc\r\n0\r\n\r\n`,
    () => malice.head('GET', '/files/cut', ['Connection: Upgrade', 'Upgrade: websocket']),
    () =>
      malice.whole('PATCH', malice.victim.expendable, [...version, 'Upload-Offset: 10', 'Upload-Complete: ?1'], body),
  ])();
  const bytes = good.slice(0, malice.below(good.length));
  return { family: 'cut short', bytes, then: malice.of(['end', 'reset', 'linger']), verdict: 'anything', isCut: true };
}

function garbage(malice: Malice): Attack {
  const noise = Array.from({ length: 1 + malice.below(400) }, () => String.fromCharCode(malice.below(256))).join('');
  const bytes = malice.of([
    () => `${noise}\r\n\r\n`,
    () => `GET ${noise} HTTP/1.1\r\n\r\n`,
    () => '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
    () => `${'\r\n'.repeat(2000)}${noise}\r\n\r\n`,
    () => '\x00'.repeat(20_000),
    () => `HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n${malice.smuggled()}`,
    () => malice.head('GET', '/files/noise', [noise.replace(/[\r\n]/g, '')]),
  ])();
  return { family: 'garbage', bytes, then: malice.of(['end', 'reset']), verdict: 'anything' };
}
