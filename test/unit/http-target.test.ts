import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { canonicalTarget, otherReadings, readTarget } from '../../src/http/request-target.js';

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
])('%j has several readings: %s', (received, flaw) => {
  expect(readTarget('GET', received)).toMatchObject({ target: received, flaw });
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
])('some server reads %j as %j', (received, reading) => {
  expect(otherReadings(readTarget('GET', received)!)).toContain(reading);
});

test('an odd path of great length is not read in all its ways', () => {
  expect(otherReadings(readTarget('GET', `/${'a//'.repeat(1000)}`)!)).toBeUndefined();
});

test('whatever comes as a target never throws, and a path without a flaw has no dot segments', () => {
  const character = fc.constantFrom(...'/.%2eEfF5c\\?#@:*;ab\x80\xff'.split(''));
  fc.assert(
    fc.property(fc.array(character, { maxLength: 30 }), (characters) => {
      const read = readTarget('GET', characters.join(''));
      const segments = read?.flaw === undefined ? (read?.path.split('/') ?? []) : [];
      expect(segments.filter((segment) => segment === '.' || segment === '..')).toEqual([]);
    }),
    { numRuns: 2000 },
  );
});
