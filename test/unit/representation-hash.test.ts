import { Readable } from 'node:stream';
import { beforeEach, expect, test } from '@jest/globals';
import type { Upload } from '../../src/model/upload.js';
import { RepresentationHashes } from '../../src/uploads/digests.js';
import { newUpload } from '../support/delivery-room.js';
import { sha256 } from '../support/temporary.js';

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
