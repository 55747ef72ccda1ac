import { describe, expect, test } from '@jest/globals';
import { rebaseReference, resolveReference } from '../../src/model/uri.js';

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
