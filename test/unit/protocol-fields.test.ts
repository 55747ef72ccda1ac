import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import type { Headers } from '../../src/model/headers.js';
import type { DigestAlgorithm, Upload } from '../../src/model/upload.js';
import {
  digestField,
  readBoolean,
  readDictionary,
  readDigests,
  readInteger,
  readWantedDigest,
} from '../../src/protocol/structured-fields.js';
import { RepresentationHashes } from '../../src/uploads/digests.js';
import { newUpload } from '../support/delivery-harness.js';
import { sha256 } from '../support/temporary.js';
import { cases } from '../support/thoroughness.js';

describe('structured fields', () => {
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
      expect(typeof read === 'string' ? read : Buffer.from(read.get('sha-256') as ArrayBuffer).toString('hex')).toBe(
        hex,
      );
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
      cases(2000),
    );
  });
});

describe('digests', () => {
  const sha256 = createHash('sha256').update('hello').digest();
  const sha512 = createHash('sha512').update('hello').digest();
  const field256 = `sha-256=:${sha256.toString('base64')}:`;
  const field512 = `sha-512=:${sha512.toString('base64')}:`;
  const digest256 = { algorithm: 'sha-256', value: sha256.toString('hex') };
  const digest512 = { algorithm: 'sha-512', value: sha512.toString('hex') };

  describe.each(['Content-Digest', 'Repr-Digest'] as const)('%s', (field) => {
    test.each([
      ['one digest', field256, [digest256]],
      ['the other one', field512, [digest512]],
      ['both: all that we know are to be verified', `${field512}, ${field256}`, [digest256, digest512]],
      ['missing padding', field256.replace(/=:$/, ':'), [digest256]],
      ['parameters', `${field256};x=1`, [digest256]],
      ['an algorithm of the app’s own', 'xxh64=:YQ==:', []],
      ['an unknown algorithm of another type', 'xxh64=abc, md5=?0', []],
      ['known and unknown together', `md5=:YQ==:, ${field256}, crc32c=:YQ==:`, [digest256]],
      ['a repeated algorithm, of which the last counts', `sha-256=:YQ==:, ${field256}`, [digest256]],
      ['nothing in it', '', []],
    ])('takes %s', (_, value, digests) => {
      expect(readDigests([[field, value]], field)).toEqual(digests);
    });

    test('takes lines apart or together', () => {
      const lines = [
        [field, field512],
        [field.toLowerCase(), field256],
      ] as const;
      expect(readDigests(lines, field)).toEqual([digest256, digest512]);
    });

    test('need not be there', () => {
      expect(readDigests([], field)).toEqual([]);
    });

    test.each([
      ['what is no Dictionary', 'sha-256:abc', `${field} is not a Dictionary of Byte Sequences.`],
      ['upper case', field256.toUpperCase(), `${field} is not a Dictionary of Byte Sequences.`],
      ['bad base64', 'sha-256=:a-b_:', `${field} is not a Dictionary of Byte Sequences.`],
      ['hex', `sha-256=${sha256.toString('hex')}`, `${field} is not a Dictionary of Byte Sequences.`],
      ['a Token', 'sha-256=abc', `${field} gives no Byte Sequence for sha-256.`],
      ['an Inner List', 'sha-256=(:YQ==:)', `${field} gives no Byte Sequence for sha-256.`],
      ['no value', 'sha-512', `${field} gives no Byte Sequence for sha-512.`],
      ['a short value', 'sha-256=:YQ==:', `${field} gives 1 bytes for sha-256, which has 32.`],
      [
        'a value of the other algorithm',
        field512.replace('512', '256'),
        `${field} gives 64 bytes for sha-256, which has 32.`,
      ],
      ['one wrong of two', `${field256}, sha-512=::`, `${field} gives 0 bytes for sha-512, which has 64.`],
    ])('refuses %s', (_, value, detail) => {
      expect(readDigests([[field, value]], field)).toEqual({
        reason: 'malformed',
        detail: `${detail} Write it as sha-256=:base64: (RFC 9530), or leave it out.`,
      });
    });
  });

  describe('Want-Repr-Digest', () => {
    test.each<[string, DigestAlgorithm | undefined]>([
      ['sha-256=10', 'sha-256'],
      ['sha-512=1', 'sha-512'],
      ['sha-256=10, sha-512=3', 'sha-256'],
      ['sha-256=3, sha-512=10', 'sha-512'],
      ['sha-512=5, sha-256=5', 'sha-256'],
      ['md5=10, sha-512=1', 'sha-512'],
      ['sha-256=0, sha-512=1', 'sha-512'],
      ['sha-256=0', undefined],
      ['md5=10', undefined],
      ['sha-256=11, sha-512=2', 'sha-512'],
      ['sha-256=-1', undefined],
      ['sha-256', undefined],
      ['sha-256=5.0', undefined],
      ['sha-256="10"', undefined],
      ['', undefined],
      ['sha-256=10,', undefined],
    ])('%j wants %p', (value, wanted) => {
      expect(readWantedDigest([['Want-Repr-Digest', value]])).toBe(wanted);
    });

    test('need not be there', () => {
      expect(readWantedDigest([])).toBeUndefined();
    });
  });

  test('a digest is written as it is read', () => {
    expect(digestField({ algorithm: 'sha-256', value: sha256.toString('hex') })).toBe(field256);
    expect(
      readDigests([['Repr-Digest', digestField({ algorithm: 'sha-512', value: digest512.value })]], 'Repr-Digest'),
    ).toEqual([digest512]);
  });
});

describe('hashes of representations', () => {
  /** What is committed, by whichever node. */
  let content: Buffer;
  let readFrom: number[];
  let hashes: RepresentationHashes;

  beforeEach(() => {
    content = Buffer.alloc(0);
    readFrom = [];
    const chunks = () => Promise.resolve([{ name: 'chunk-1', start: 0, size: content.length }]);
    const read = (_id: string, _chunks: unknown, range: { start?: number; end?: number } = {}): Readable => {
      readFrom.push(range.start ?? 0);
      return Readable.from([content.subarray(range.start, range.end)]);
    };
    hashes = new RepresentationHashes({ chunks }, { read });
  });

  function upload(): Upload {
    const known = { ...newUpload('an-upload-of-two-nodes'), wantedReprDigest: 'sha-256' } as const;
    return { ...known, phase: 'receiving', offset: content.length, attempts: [], attemptCount: 0 };
  }

  function lease(token: number) {
    return { token, signal: new AbortController().signal };
  }

  /** Bytes of this node's writer; not all of them need come to be committed. */
  function write(token: number, bytes: string, committed = bytes): void {
    hashes.track(upload(), lease(token));
    hashes.update(upload().id, token, content.length, [Buffer.from(bytes)]);
    if (committed === '') return;
    content = Buffer.concat([content, Buffer.from(committed)]);
    hashes.noteCommitted(upload(), token);
  }

  async function digest(token: number): Promise<string> {
    return (await hashes.digest(upload(), 'sha-256', lease(token))).value;
  }

  test('bytes that were hashed as they came and are committed are not read again', async () => {
    write(1, 'hello');
    write(2, ' world');
    expect(await digest(3)).toBe(sha256('hello world'));
    expect(readFrom).toEqual([]);
  });

  test('what another node wrote meanwhile is read, and nothing else', async () => {
    write(1, 'hello');
    content = Buffer.from('hello world');
    expect(await digest(3)).toBe(sha256('hello world'));
    expect(readFrom).toEqual([5]);
  });

  test('bytes that were never committed are no part of it, however far another node has come', async () => {
    write(1, 'hello');
    write(2, ' old bytes', '');
    content = Buffer.from('hello new bytes, and more');
    expect(await digest(4)).toBe(sha256('hello new bytes, and more'));
  });

  test('bytes of which only the first were committed are no part of it either', async () => {
    write(1, 'hello old', 'hello');
    content = Buffer.from('hello new bytes');
    expect(await digest(3)).toBe(sha256('hello new bytes'));
  });

  test('a writer that was passed over changes no digest', async () => {
    write(1, 'hello');
    hashes.track(upload(), lease(2));
    hashes.update(upload().id, 1, 5, [Buffer.from(' late')]);
    hashes.noteCommitted({ ...upload(), offset: 10 }, 1);
    expect(await digest(2)).toBe(sha256('hello'));
  });
});
