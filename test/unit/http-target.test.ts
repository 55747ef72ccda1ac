import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { readTarget } from '../../src/http/request-target.js';

test.each([
  ['/', '/'],
  ['/a/b?c=/../d', '/a/b'],
  ['/a/../b', '/b'],
  ['/a/./b/', '/a/b/'],
  ['/../../etc/passwd', '/etc/passwd'],
  ['/a/%2e%2e/b', '/b'],
  ['/a/%2E./b', '/b'],
  ['/%61p%69/x', '/api/x'],
  ['/a%2fb', '/a%2Fb'],
  ['/a\\..\\b', '/b'],
  ['//evil.example/x', '//evil.example/x'],
  ['//evil.example/../x', '//x'],
  ['/a%', '/a%'],
  ['/a%zz', '/a%zz'],
  ['/gr\xc3\xbcn', '/gr%C3%BCn'],
  ['/a;b=c', '/a;b=c'],
  ['/a?', '/a'],
])('the path of %j is matched as %j, and the target stays as it is', (received, path) => {
  expect(readTarget('GET', received)).toEqual({ target: received, path });
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

test('whatever comes as a target never throws, and a path has no dot segments', () => {
  const character = fc.constantFrom(...'/.%2eEfF5c\\?#@:*ab\x80\xff'.split(''));
  fc.assert(
    fc.property(fc.array(character, { maxLength: 30 }), (characters) => {
      const read = readTarget('GET', characters.join(''));
      const segments = read?.path.split('/') ?? [];
      expect(segments.filter((segment) => segment === '.' || segment === '..')).toEqual([]);
    }),
    { numRuns: 2000 },
  );
});
