import type { Attack, AttackBuilder } from './hostile-messages.js';

const PARTIAL = 'Content-Type: application/partial-upload';

/** None of them is a structured field's Integer of 10, which would be right. */
// prettier-ignore
const WRONG_NUMBERS = [
  '-1', '-0', '0', '9', '11', '+10', '10.0', '0x0a', '1e1', '', '10, 10', '10 10', '1_0', '"10"', ':MTA=:', '?1',
  '999999999999999', '9999999999999999', '9007199254740993', '99999999999999999999999', '18446744073709551626', 'NaN',
  'Infinity', 'null', '\xb2', '10;', '10;=', '10;A=1', '10;a=\x80', '(10)', '10,', '@10', '%31%30', '010;;',
];
// prettier-ignore
const WRONG_BOOLEANS = [
  'true', '1', '?2', '?', '"?1"', '', '?1, ?1', '?1 ?0', '?01', '??1', 'yes', '\xbf1', '?1;', '?0;A', '(?1)',
];
const ODD_BOOLEANS = [...WRONG_BOOLEANS, '?1', '?0', '?1;x=1', '  ?1', '?0;a;b="c"'];
// prettier-ignore
const VERSIONS = [
  '3', '4', '5', '6', '7', '8', '9', '10', '11', '2', '0', '-1', '6, 6', '6;x=1', '6.0', 'six', '', '999999999999999',
  '?1',
];
// prettier-ignore
const WRONG_TYPES = [
  'text/plain', 'application/json', 'application/partial-upload2', 'application/offset+octet-stream',
  'partial-upload', 'multipart/form-data; boundary=x', 'application/partial-upload, text/plain', 'x', '/', ';', '',
  'a'.repeat(2000),
];
// prettier-ignore
const WRONG_DIGESTS = [
  'sha-256=:AAAA:', 'sha-256=AAAA', 'sha-256=:AAAA', 'sha-256', 'sha-256=::', 'sha-256=:!!!!:', 'SHA-256=:AAAA:',
  'sha-256=?1', 'sha-512=:AAAA:', ',', '=', 'sha-256=:AAAA:,', 'sha-256=:AAAA:, sha-256=:BBBB:', 'a'.repeat(3000),
];

/** Requests on uploads and targets in which something that counts is wrong. */
export const UPLOAD_FAMILIES: readonly ((builder: AttackBuilder) => Attack)[] = [
  wrongAppend,
  wrongMethod,
  oddCreation,
  oddAppend,
  oddPath,
];

/** An append that is right but for one thing: refused, and the upload stays as it is. */
function wrongAppend(builder: AttackBuilder): Attack {
  const right = { offset: 'Upload-Offset: 10', complete: 'Upload-Complete: ?0', type: PARTIAL, length: '' };
  const wrong = builder.of([
    () => ({ offset: `Upload-Offset: ${builder.of(WRONG_NUMBERS)}` }),
    () => ({ offset: '' }),
    () => ({ offset: 'Upload-Offset: 10\r\nUpload-Offset: 10' }),
    () => ({ complete: `Upload-Complete: ${builder.of(WRONG_BOOLEANS)}` }),
    () => ({ complete: 'Upload-Complete: ?0\r\nUpload-Complete: ?1' }),
    () => ({ type: `Content-Type: ${builder.of(WRONG_TYPES)}` }),
    () => ({ length: `Upload-Length: ${builder.of(['99', '101', '5', '0', '999999999999999'])}` }),
    () => ({ complete: 'Upload-Complete: ?1' }),
    () => ({ length: 'Tus-Resumable: 1.0.0' }),
  ])();
  const lines = Object.values({ ...right, ...wrong }).filter((line) => line !== '');
  const body = 'x'.repeat(1 + builder.below(80));
  const whole = builder.whole('PATCH', builder.victim.target, ['Upload-Draft-Interop-Version: 6', ...lines], body);
  // The answer must not wait for a body that changes nothing.
  const bytes = builder.happens(0.3) ? whole.slice(0, -body.length) : whole;
  return { family: 'wrong append', bytes, then: 'wait', verdict: 'refused' };
}

function wrongMethod(builder: AttackBuilder): Attack {
  const method = builder.of(['POST', 'PUT', 'TRACE', 'LOCK', 'PROPFIND', 'MKCOL', 'LINK', 'PURGE', 'M-SEARCH']);
  const bytes = builder.whole(method, builder.victim.target, [`Upload-Complete: ${builder.of(ODD_BOOLEANS)}`], 'abc');
  return { family: 'wrong method', bytes, then: 'wait', verdict: 'refused' };
}

/** Whether these are creations, plain requests or mistakes is for the proxy to say; not that it answers. */
function oddCreation(builder: AttackBuilder): Attack {
  const method = builder.of(['POST', 'PUT', 'PATCH', 'GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE', 'REPORT']);
  const lines = [
    `Upload-Draft-Interop-Version: ${builder.of(VERSIONS)}`,
    `${builder.of(['Upload-Complete', 'Upload-Complete', 'Upload-Incomplete'])}: ${builder.of(ODD_BOOLEANS)}`,
    `Upload-Length: ${builder.of([...WRONG_NUMBERS, '3', '100'])}`,
    `Upload-Offset: ${builder.of([...WRONG_NUMBERS, '10'])}`,
    `Content-Type: ${builder.of([...WRONG_TYPES, 'application/partial-upload'])}`,
    `Repr-Digest: ${builder.of(WRONG_DIGESTS)}`,
    `Content-Digest: ${builder.of(WRONG_DIGESTS)}`,
    `Want-Repr-Digest: ${builder.of(['sha-256=1', 'sha-256=99', 'md5', 'sha-512=-1', ','])}`,
    'Tus-Resumable: 1.0.0',
    `X-HTTP-Method-Override: ${builder.of(['PATCH', 'DELETE', 'CONNECT', '../', ''])}`,
    'Access-Control-Request-Method: PATCH',
  ].filter(() => builder.happens(0.5));
  const target = `/files/${builder.of(['a', '', '%00', '..%2f', '?x=1', 'a?upload=1', '%E2%98%83', '\xe9'])}`;
  return {
    family: 'odd creation',
    bytes: builder.whole(method, target, lines, 'abc'),
    then: 'wait',
    verdict: 'answered',
  };
}

/** At the right place, and then everything else at random: may complete, invalidate or cancel what nobody needs. */
function oddAppend(builder: AttackBuilder): Attack {
  const method = builder.of(['PATCH', 'PATCH', 'PATCH', 'POST', 'GET', 'HEAD', 'DELETE', 'OPTIONS']);
  const lines = [
    'Upload-Offset: 10',
    PARTIAL,
    `Upload-Draft-Interop-Version: ${builder.of(VERSIONS)}`,
    `Upload-Complete: ${builder.of(ODD_BOOLEANS)}`,
    `Content-Digest: ${builder.of(WRONG_DIGESTS)}`,
    `Repr-Digest: ${builder.of(WRONG_DIGESTS)}`,
    'X-HTTP-Method-Override: PATCH',
    'Expect: 100-continue',
  ].filter(() => builder.happens(0.8));
  const body = 'y'.repeat(builder.of([0, 1, 90, 91, 5000]));
  const bytes = builder.whole(method, builder.victim.expendable, lines, body);
  return { family: 'odd append', bytes, then: 'wait', verdict: 'answered' };
}

// prettier-ignore
const PLACES = [
  '/.uploads/', '/.uploads/', '/.uploads//', '//.uploads/', '/%2euploads/', '/.%75ploads/', '/x/../.uploads/',
  '/.uploads/./', '/.Uploads/', '/.uploads%2f', '/.uploads', '/.uploads/../.uploads/', '/.uploads/%2e%2e/',
  '/a/%2E%2E/.uploads/', '/.uploads;/',
];
// prettier-ignore
const TOKENS = [
  '', '.', '..', '%2e%2e', '%2e%2e%2f', '../../etc/passwd', '..%2f..%2f..%2fetc%2fpasswd', '..\\..\\data', '%5c..%5c',
  '..;/', '%00', 'a%00b', '%0d%0aX-Injected:%20yes', '%', '%zz', '%c0%ae%c0%ae%c0%af', '....//', 'con',
  'last-start.json', '../lock', 'a'.repeat(31), 'a'.repeat(32), 'a'.repeat(33), 'a'.repeat(64), '-'.repeat(32),
  '_'.repeat(32), 'A'.repeat(9000), '+'.repeat(32), '0b0b5f2c-6d5c-4f44-8b41-5e8a0a8f9d11',
  '24e533e02ec3bc40c387f1a0e460e216', '1', '*', '\xe9\xff', '~root', '$(id)', '{{7*7}}', "' or 1=1",
];

/** Names of uploads that are none. */
function oddPath(builder: AttackBuilder): Attack {
  const id = builder.victim.target.split('/').at(-1)!;
  const token = builder.of([
    ...TOKENS,
    `${id}/`,
    `${id}/..`,
    `${id}.log`,
    `${id}%00`,
    `x${id}`,
    id.slice(1),
    `../spool/${id}/chunk-1`,
  ]);
  const target = builder.of(PLACES) + token.replaceAll(' ', '%20');
  const method = builder.of(['HEAD', 'GET', 'PATCH', 'DELETE', 'OPTIONS']);
  const lines = ['Upload-Draft-Interop-Version: 6', 'Upload-Offset: 10', 'Upload-Complete: ?1', PARTIAL];
  const bytes = method === 'PATCH' ? builder.whole(method, target, lines, 'abc') : builder.head(method, target);
  const isOurs = resolved(target).startsWith('/.uploads/') && method !== 'OPTIONS';
  return { family: 'odd path', bytes, then: 'wait', verdict: isOurs ? 'refused' : 'answered' };
}

/** Where an origin could take the target to lead. */
export function resolved(target: string): string {
  try {
    return new URL(
      `http://a${target.replace(/%(2e|75)/gi, (_all, hex: string) => String.fromCharCode(parseInt(hex, 16)))}`,
    ).pathname;
  } catch {
    return target;
  }
}
