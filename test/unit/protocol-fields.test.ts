import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { Headers } from '../../src/model/headers.js';
import { readBoolean, readDictionary, readInteger } from '../../src/protocol/structured-fields.js';

const one = (value: string): Headers => [['X', value]];

describe('an Integer is read as RFC 9651 says', () => {
  test.each<[string, number | 'invalid']>([
    ['0', 0],
    ['5', 5],
    ['007', 7],
    ['-0', 0],
    ['999999999999999', 999_999_999_999_999],
    ['  5  ', 5],
    ['5;x=1', 5],
    ['9; relay=?1', 9],
    ['5;a=1.5;b="x, y";c=token;d=:YQ==:;e=?0;f', 5],
    ['5;at=@1659578233;b', 5],
    ['5;at=@-1;b', 5],
    ['5;size="=@7=1.5"', 5],
    ['5;a=1.5555', 'invalid'],
    ['5;at=@1.5', 'invalid'],
    ['1000000000000000', 'invalid'],
    ['-1', 'invalid'],
    ['--1', 'invalid'],
    ['-', 'invalid'],
    ['+5', 'invalid'],
    ['5.0', 'invalid'],
    ['-0.0', 'invalid'],
    [' 5.5;x', 'invalid'],
    ['5.', 'invalid'],
    ['1e3', 'invalid'],
    ['0x5', 'invalid'],
    ['five', 'invalid'],
    ['"5"', 'invalid'],
    ['?1', 'invalid'],
    ['@5', 'invalid'],
    ['(5)', 'invalid'],
    ['', 'invalid'],
    ['   ', 'invalid'],
    ['\t5', 'invalid'],
    ['5\t', 'invalid'],
    ['5 ;x', 'invalid'],
    ['5;', 'invalid'],
    ['5;X=1', 'invalid'],
    ['5 5', 'invalid'],
    ['5, 5', 'invalid'],
    ['٥', 'invalid'],
    ['5\u00a0', 'invalid'],
  ])('%j is %p', (text, value) => {
    expect(readInteger(one(text), 'x')).toBe(value);
  });
});

describe('a Boolean is read as RFC 9651 says', () => {
  test.each<[string, boolean | 'invalid']>([
    ['?1', true],
    ['?0', false],
    [' ?1 ', true],
    ['?1;x=1', true],
    ['?0;foo=bar;baz', false],
    ['?1;at=@1659578233 ', true],
    ['?2', 'invalid'],
    ['?', 'invalid'],
    ['?01', 'invalid'],
    ['1', 'invalid'],
    ['0', 'invalid'],
    ['true', 'invalid'],
    ['"?1"', 'invalid'],
    ['', 'invalid'],
    ['\t?1', 'invalid'],
    ['?1, ?1', 'invalid'],
    ['?1 x', 'invalid'],
    [';x', 'invalid'],
  ])('%j is %p', (text, value) => {
    expect(readBoolean(one(text), 'x')).toBe(value);
  });
});

describe('a Dictionary is read as RFC 9651 says', () => {
  test.each<[string, [string, unknown][] | 'invalid']>([
    ['', []],
    ['  ', []],
    ['a=1', [['a', 1]]],
    ['a=1,b=2', [['a', 1], ['b', 2]]], // prettier-ignore
    ['a=1 \t,\t b=2', [['a', 1], ['b', 2]]], // prettier-ignore
    ['a=1\t', [['a', 1]]],
    ['a', [['a', true]]],
    ['a;x=1', [['a', true]]],
    ['a=1;x=2', [['a', 1]]],
    ['a=1, a=2', [['a', 2]]],
    ['*a_-.1=1', [['*a_-.1', 1]]],
    ['a=5.0', [['a', false]]],
    ['a=@5, b=1', [['a', false], ['b', 1]]], // prettier-ignore
    ['a=1;at=@5, b=1', [['a', 1], ['b', 1]]], // prettier-ignore
    ['A=1', 'invalid'],
    ['1a=1', 'invalid'],
    ['a=', 'invalid'],
    ['a =1', 'invalid'],
    ['a= 1', 'invalid'],
    ['a=1,', 'invalid'],
    [',a=1', 'invalid'],
    ['a=1 b=2', 'invalid'],
    ['\ta=1', 'invalid'],
    ['a=:Y Q==:', 'invalid'],
    ['a=:YQ=', 'invalid'],
  ])('%j is %j', (text, members) => {
    const read = readDictionary(one(text), 'x');
    expect(typeof read === 'string' ? read : [...read]).toEqual(members);
  });

  test.each([
    ['sha-256=:YQ==:', '61'],
    ['sha-256=:YQ:', '61'],
    ['sha-256=:YR==:', '61'],
    ['sha-256=::', ''],
  ])('the Byte Sequence in %j is decoded, padded or not', (text, hex) => {
    const read = readDictionary(one(text), 'X');
    expect(typeof read === 'string' ? read : Buffer.from(read.get('sha-256') as ArrayBuffer).toString('hex')).toBe(hex);
  });
});

test('a field that was not sent is absent, which is not the same as invalid', () => {
  expect(readInteger([], 'x')).toBe('absent');
  expect(readBoolean([], 'x')).toBe('absent');
  expect(readDictionary([], 'x')).toBe('absent');
});

test('field names are found in any case', () => {
  expect(readInteger([['upload-OFFSET', '7']], 'Upload-Offset')).toBe(7);
});

test('repeated lines are joined: two Items are one too many, two Dictionaries are one', () => {
  const twice: Headers = [
    ['x', '5'],
    ['X', '5'],
  ];
  expect(readInteger(twice, 'x')).toBe('invalid');
  expect(readBoolean([...one('?1'), ...one('?1')], 'x')).toBe('invalid');
  const read = readDictionary([...one('a=1'), ...one('b=2')], 'x');
  expect(typeof read === 'string' ? read : [...read.keys()]).toEqual(['a', 'b']);
});

test('no text makes reading fail by throwing, and what is read is in range', () => {
  const texts = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string({ unit: fc.constantFrom(...'? 0 1 ; = @ . : " ( ) , - a % /'.split(' '), ' ', '\t') }),
  );
  fc.assert(
    fc.property(texts, (text) => {
      const integer = readInteger(one(text), 'x');
      expect(integer === 'invalid' || (Number.isSafeInteger(integer) && Number(integer) >= 0)).toBe(true);
      expect([true, false, 'invalid']).toContain(readBoolean(one(text), 'x'));
      const dictionary = readDictionary(one(text), 'x');
      expect(dictionary === 'invalid' || dictionary instanceof Map).toBe(true);
    }),
    { numRuns: 2000 },
  );
});
