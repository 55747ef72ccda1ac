import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { canonicalTarget, mayBeBelow, MAX_READINGS, otherReadings, readTarget } from '../../src/server/request-head.js';

test.each([
  ['/', '/'],
  ['/a/b?c=/../d', '/a/b'],
  ['/a/../b', '/b'],
  ['/a/./b/', '/a/b/'],
  ['/a/b/..', '/a/'],
  ['/../../etc/passwd', '/etc/passwd'],
  ['/%61p%69/x', '/api/x'],
  ['/%7euser', '/~user'],
  ['/a%20b', '/a%20b'],
  ['/a%3fb', '/a%3Fb'],
  ['/gr\xc3\xbcn', '/gr%C3%BCn'],
  ['/gr%c3%bcn', '/gr%C3%BCn'],
  ['/a;b=c', '/a;b=c'],
  ['/a"b', '/a%22b'],
  ['/100%25', '/100%25'],
  ['/...', '/...'],
  ['/a?', '/a'],
])('the path of %j is matched as %j, and the target stays as it is', (received, path) => {
  expect(readTarget('GET', received)).toEqual({ target: received, path });
});

test.each([
  ['/a/%2e%2e/b', 'an escaped dot segment'],
  ['/a/%2E./b', 'an escaped dot segment'],
  ['/a/.%2e', 'an escaped dot segment'],
  ['/a/%2e/b', 'an escaped dot segment'],
  ['/a%2fb', 'an escaped slash or backslash'],
  ['/a%2Fb', 'an escaped slash or backslash'],
  ['/a%5cb', 'an escaped slash or backslash'],
  ['/a\\..\\b', 'a backslash'],
  ['//evil.example/x', 'an empty segment (//)'],
  ['/a//b', 'an empty segment (//)'],
  ['/a//', 'an empty segment (//)'],
  ['/a/..;/b', 'a dot segment with parameters'],
  ['/a/.;x=1/b', 'a dot segment with parameters'],
  ['/a%00', 'a control character'],
  ['/a%0d%0ab', 'a control character'],
  ['/a%7f', 'a control character'],
  ['/a\x01', 'a control character'],
  ['/a%', 'a % that begins no escape'],
  ['/a%zz', 'a % that begins no escape'],
  ['/a%u002fb', 'a % that begins no escape'],
  ['/a%252e%252e/b', 'characters that are escaped twice'],
  ['/a%252fb', 'characters that are escaped twice'],
  ['/a%25252Fb', 'characters that are escaped twice'],
  ['/a%c0%afb', 'an overlong UTF-8 sequence'],
  ['/a%e0%80%afb', 'an overlong UTF-8 sequence'],
  ['/a%ef%bc%8fb', 'a character that some servers take for a slash or a dot'],
  ['/a/%ef%bc%8e%ef%bc%8e/b', 'a character that some servers take for a slash or a dot'],
])('%j has several readings: %s', (received, pathAmbiguity) => {
  expect(readTarget('GET', received)).toMatchObject({ target: received, pathAmbiguity });
});

test.each([
  ['GET', 'http://a.example/b?c', { target: '/b?c', path: '/b', authority: 'a.example' }],
  ['GET', 'HTTPS://a.example:8443', { target: '/', path: '/', authority: 'a.example:8443' }],
  ['GET', 'http://a.example?c', { target: '/?c', path: '/', authority: 'a.example' }],
  ['OPTIONS', 'http://a.example', { target: '*', path: '*', authority: 'a.example' }],
  ['OPTIONS', '*', { target: '*', path: '*' }],
])('%s %s is taken apart', (method, received, target) => {
  expect(readTarget(method, received)).toEqual(target);
});

test.each(['', 'a', '*', 'a.example:80', 'ftp://a.example/', 'http:///b', 'http://u@a.example/', '/a#b', 'http://a/#'])(
  'GET %j is malformed',
  (received) => {
    expect(readTarget('GET', received)).toBeUndefined();
  },
);

test.each([
  ['/a/../b?c=/../d', '/b?c=/../d'],
  ['/%61?%61', '/a?%61'],
  ['/gr\xc3\xbcn', '/gr%C3%BCn'],
])('%j is %j in canonical form', (received, canonical) => {
  expect(canonicalTarget(readTarget('GET', received)!)).toBe(canonical);
});

test.each(['/', '/a/b', '/a%20b', '/a,b=c:d@e', '/.hidden', '/a.b/c'])('%j has no other reading', (received) => {
  expect(otherReadings(readTarget('GET', received)!)).toEqual([]);
});

test.each([
  ['/a/../p/x', '/a/-/p/x'],
  ['/p/../a/x', '/p/-/a/x'],
  ['//p/x', '/p/x'],
  ['//host/p/x', '/p/x'],
  ['/a/%2e%2e/p/x', '/p/x'],
  ['/a/..%2fp/x', '/p/x'],
  ['/a/..;/p/x', '/p/x'],
  ['/p;a/x', '/p/x'],
  ['/p%2fx', '/p/x'],
  ['/p%252fx', '/p/x'],
  ['/p%5cx', '/p/x'],
  ['/a\\..\\p\\x', '/p/x'],
  ['/p%3fx', '/p'],
  ['/p%23x', '/p'],
  ['/p%00x', '/p'],
  ['/%09p', '/p'],
  ['/p./x', '/p/x'],
  ['/p%20/x', '/p/x'],
  ['/p/', '/p'],
  ['/%2570', '/p'],
  ['/%u0070', '/p'],
  ['/p%c0%afx', '/p/x'],
  ['/%ef%bd%90', '/p'],
  ['/a/%2e%2e%2f%2e%2e%2fp', '/p'],
  ['/p%uff0fx', '/p/x'],
  ['/a/%uff0e%uff0e/p', '/p'],
  ['/p%f0%80%80%afx', '/p/x'],
  ['/p%e0%81%9cx', '/p/x'],
  ['/p. . ./x', '/p/x'],
])('some server reads %j as %j', (received, reading) => {
  expect(otherReadings(readTarget('GET', received)!)).toContain(reading);
});

/** Each may be read in several ways, so that together they multiply. */
const ODDITIES = [
  '%252f',
  ';a',
  '%01',
  '\\',
  '//',
  '/../',
  '%3f',
  '%2e%2e',
  '. ',
  '/',
  '%u002f',
  '%c0%af',
  '%ef%bc%8f',
];

describe('a path with very many readings', () => {
  test.each([
    ['a great length', `/${'a//'.repeat(1000)}`],
    ['everything at once', '//h/%252f;a%01b\\.x//..//../%3f'],
  ])('of %s is not read in all its ways', (_why, target) => {
    expect(otherReadings(readTarget('GET', target)!)).toBeUndefined();
  });

  test('has no more than are worth the time, whatever it is made of', () => {
    const piece = fc.constantFrom('a', ...ODDITIES);
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const readings = otherReadings(readTarget('GET', `/${pieces.join('')}`.replaceAll('#', ''))!);
        expect(readings?.length ?? 0).toBeLessThanOrEqual(MAX_READINGS);
      }),
      { numRuns: 300 },
    );
  });

  // Each of them once took seconds, because a step took the square of a run's length.
  test.each(['.', ' ', '%20', '/', ';', '%25', '\\', '..;/', '%', '%2f', './', 'a'])(
    'is read in time that its length bounds, with a long run of %j',
    (run) => {
      for (const before of ODDITIES) {
        const long = run.repeat(Math.floor(900 / run.length));
        const head = readTarget('GET', `//h/%252f;a%01b\\${before}${long}x//..//../%3f`)!;
        expect(otherReadings(head)?.length ?? 0).toBeLessThanOrEqual(MAX_READINGS);
        expect(mayBeBelow(head, '/.uploads/')).toBe(false);
      }
    },
  );
});

test.each([
  ['/.uploads/x', true],
  ['/a/%2e%2e/.upl%6fads/x', true],
  ['/.%2575pl%u006fads', true],
  ['/.up%01loads;a/x', true],
  ['/.uplo%25%0061ds', true],
  ['/%ef%bd%95ploads', true],
  [`/${'a//'.repeat(1000)}.uploads`, true],
  ['/upload', false],
  ['/.uplo/ads', true],
  ['/other', false],
])('%j may lie below /.uploads/: %p', (target, may) => {
  expect(mayBeBelow(readTarget('GET', target)!, '/.uploads/')).toBe(may);
});

test('whatever comes as a target never throws, and a path without an ambiguity has no dot segments', () => {
  const character = fc.constantFrom(...'/.%2eEfF5c\\?#@:*;ab\x80\xff'.split(''));
  fc.assert(
    fc.property(fc.array(character, { maxLength: 30 }), (characters) => {
      const read = readTarget('GET', characters.join(''));
      const segments = read?.pathAmbiguity === undefined ? (read?.path.split('/') ?? []) : [];
      expect(segments.filter((segment) => segment === '.' || segment === '..')).toEqual([]);
    }),
    { numRuns: 2000 },
  );
});
