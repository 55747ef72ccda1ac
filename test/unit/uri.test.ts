import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { rebaseReference, resolveReference } from '../../src/model/uri.js';
import { canonicalTarget, MAX_READINGS, mayBeBelow, otherReadings, readTarget } from '../../src/server/request-head.js';
import { cases } from '../support/thoroughness.js';

describe('references', () => {
  describe('a reference at a target', () => {
    // RFC 3986 §5.4.1 and §5.4.2, without the authority.
    test.each([
      ['g:h', 'g:h'],
      ['g', '/b/c/g'],
      ['./g', '/b/c/g'],
      ['g/', '/b/c/g/'],
      ['/g', '/g'],
      ['//g', '//g'],
      ['?y', '/b/c/d;p?y'],
      ['g?y', '/b/c/g?y'],
      ['#s', '/b/c/d;p?q#s'],
      ['g#s', '/b/c/g#s'],
      ['g?y#s', '/b/c/g?y#s'],
      [';x', '/b/c/;x'],
      ['g;x', '/b/c/g;x'],
      ['g;x?y#s', '/b/c/g;x?y#s'],
      ['', '/b/c/d;p?q'],
      ['.', '/b/c/'],
      ['./', '/b/c/'],
      ['..', '/b/'],
      ['../', '/b/'],
      ['../g', '/b/g'],
      ['../..', '/'],
      ['../../', '/'],
      ['../../g', '/g'],
      ['../../../g', '/g'],
      ['../../../../g', '/g'],
      ['g.', '/b/c/g.'],
      ['.g', '/b/c/.g'],
      ['g..', '/b/c/g..'],
      ['..g', '/b/c/..g'],
      ['./../g', '/b/g'],
      ['./g/.', '/b/c/g/'],
      ['g/./h', '/b/c/g/h'],
      ['g/../h', '/b/c/h'],
      ['g;x=1/./y', '/b/c/g;x=1/y'],
      ['g;x=1/../y', '/b/c/y'],
      ['g?y/./x', '/b/c/g?y/./x'],
      ['g?y/../x', '/b/c/g?y/../x'],
      ['g#s/./x', '/b/c/g#s/./x'],
      ['g#s/../x', '/b/c/g#s/../x'],
      ['http:g', 'http:g'],
      ['..//g', '/b//g'],
      ['../..//g', '/.//g'],
      ['gr\xc3\xbc\xff', '/b/c/gr\xc3\xbc\xff'],
    ])('%s → %s', (reference, expected) => {
      expect(resolveReference('/b/c/d;p?q', reference)).toBe(expected);
    });

    test.each([
      ['/files', '7', '/7'],
      ['/files/', '7', '/files/7'],
      ['/', '7', '/7'],
      ['/a/b?x=/c/d', '7', '/a/7'],
      ['/a/b?x', '?y', '/a/b?y'],
      ['/a/b', '#f', '/a/b#f'],
      // A creation's target is the client's own, and what is made of it never leads to another host.
      ['//evil/a/b', '?y', '/.//evil/a/b?y'],
      ['//evil/a/b', '#f', '/.//evil/a/b#f'],
      ['//evil/a/b', '', '/.//evil/a/b'],
      ['//evil/a/b', '7', '/.//evil/a/7'],
      ['//evil', '7', '/.//7'],
      ['/\\evil/a', '?y', '/./\\evil/a?y'],
      ['/\\evil/a', '7', '/./\\evil/7'],
    ])('at %s, %s → %s', (base, reference, expected) => {
      expect(resolveReference(base, reference)).toBe(expected);
    });
  });

  describe('an absolute reference to the origin', () => {
    const PUBLIC = 'https://files.example/app';
    test.each([
      ['http://10.0.0.7:3000', 'http://10.0.0.7:3000/files/7?a#b', `${PUBLIC}/files/7?a#b`],
      ['http://10.0.0.7:3000', '//10.0.0.7:3000/files/7', `${PUBLIC}/files/7`],
      ['http://10.0.0.7:3000', 'HTTPS://10.0.0.7:3000/files/7', `${PUBLIC}/files/7`],
      ['http://10.0.0.7:3000', 'http://10.0.0.7:3001/files/7', 'http://10.0.0.7:3001/files/7'],
      ['http://10.0.0.7:3000', 'http://10.0.0.7/files/7', 'http://10.0.0.7/files/7'],
      ['http://10.0.0.7:3000', 'http://10.0.0.7:3000', PUBLIC],
      ['http://10.0.0.7:3000', 'http://10.0.0.7:3000?a', `${PUBLIC}?a`],
      ['http://app', 'http://APP:80/x', `${PUBLIC}/x`],
      ['http://app', 'https://app/x', `${PUBLIC}/x`],
      ['https://app', 'https://app:443/x', `${PUBLIC}/x`],
      ['http://[::1]:3000', 'http://[::1]:3000/x', `${PUBLIC}/x`],
      ['http://app/base', 'http://app/base/x', `${PUBLIC}/x`],
      ['http://app/base', 'http://app/base', PUBLIC],
      ['http://app/base', 'http://app/based/x', 'http://app/based/x'],
      ['http://app/base', 'http://app/x', 'http://app/x'],
      ['http://app', 'http://app.example/x', 'http://app.example/x'],
      ['http://app', 'http://user@app/x', 'http://user@app/x'],
      ['http://app', 'ftp://app/x', 'ftp://app/x'],
      ['http://app/base', 'http://app/base/../z', 'http://app/base/../z'],
      ['http://app/base', 'http://app/z/../base/./x?a/../b', `${PUBLIC}/x?a/../b`],
      ['http://app/base', '/base/x?a#b', '/app/x?a#b'],
      ['http://app/base', 'https://files.example/base/x', `${PUBLIC}/x`],
      ['http://app/base', 'https://files.example/app/x', 'https://files.example/app/x'],
      ['http://app', 'https://files.example/x', 'https://files.example/x'],
      ['http://app/base', '/base', '/app/'],
      ['http://app/base', '/base?a', '/app/?a'],
      ['http://app/base', '/base/', '/app/'],
      ['http://app/base', '/base//evil/x', '/app/.//evil/x'],
      ['http://app/base', '/z/../base/x', '/app/x'],
      ['http://app/base', '/base/../z', '/base/../z'],
      ['http://app/base', '/based/x', '/based/x'],
      ['http://app/base', '/x', '/x'],
      ['http://app/base', 'base/x', 'base/x'],
      ['http://app/base', '?base', '?base'],
      ['http://app', '/x', '/x'],
      ['http://app', 'x', 'x'],
      ['http://app', '', ''],
    ])('of %s, %s → %s', (origin, reference, expected) => {
      expect(rebaseReference(reference, origin, PUBLIC)).toBe(expected);
    });
  });
});

describe('request targets', () => {
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

  test.each([
    '',
    'a',
    '*',
    'a.example:80',
    'ftp://a.example/',
    'http:///b',
    'http://u@a.example/',
    '/a#b',
    'http://a/#',
  ])('GET %j is malformed', (received) => {
    expect(readTarget('GET', received)).toBeUndefined();
  });

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
        cases(300),
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
      cases(2000),
    );
  });
});
