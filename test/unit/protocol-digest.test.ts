import { createHash } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import type { DigestAlgorithm } from '../../src/model/upload.js';
import { digestField, readDigests, readWantedDigest } from '../../src/protocol/structured-fields.js';

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
