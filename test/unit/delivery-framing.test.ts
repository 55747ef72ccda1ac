import { Readable } from 'node:stream';
import { expect, test } from '@jest/globals';
import { frameBody } from '../../src/delivery/origin-body.js';
import type { Upload } from '../../src/model/upload.js';
import type { Spool } from '../../src/spool/spool.js';

const raw = { kind: 'raw' } as const;

const chunks = [
  { name: 'a', start: 0, size: 3 },
  { name: 'b', start: 3, size: 2 },
];

function spoolWith(...pieces: string[]): Spool {
  return { read: () => Readable.from(pieces.map((piece) => Buffer.from(piece))) } as unknown as Spool;
}

function upload(offset: number): Upload {
  return { id: 'upload', offset } as Upload;
}

async function all(body: Readable | undefined): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of body ?? []) pieces.push(piece as Buffer);
  return Buffer.concat(pieces).toString();
}

test('the body is the chunks, its size their sum', async () => {
  const { size, body } = frameBody(upload(5), raw, chunks, spoolWith('abc', 'de'));
  expect(size).toBe(5);
  expect(await all(body)).toBe('abcde');
});

test('an empty upload has no body', () => {
  expect(frameBody(upload(0), raw, [], spoolWith())).toEqual({ size: 0 });
});

test('chunks that do not add up to the offset are not sent', () => {
  expect(() => frameBody(upload(6), raw, chunks, spoolWith('abc', 'def'))).toThrow(
    expect.objectContaining({ code: 'BYTES_LOST' }),
  );
});

test.each([
  ['fewer', ['abc', 'd']],
  ['more', ['abc', 'def']],
  ['no', []],
])('a spool that gives %s bytes makes the body fail', async (_what, pieces) => {
  const { body } = frameBody(upload(5), raw, chunks, spoolWith(...pieces));
  await expect(all(body)).rejects.toMatchObject({ code: 'BYTES_LOST' });
});

test('a spool that fails makes the body fail with the same reason', async () => {
  const failure = new Error('no such disk');
  const spool = {
    read: () =>
      new Readable({
        read() {
          this.destroy(failure);
        },
      }),
  } as unknown as Spool;
  await expect(all(frameBody(upload(5), raw, chunks, spool).body)).rejects.toBe(failure);
});

test('a body that nobody wants any more lets go of the spool', async () => {
  const source = new Readable({ read: () => undefined });
  const { body } = frameBody(upload(5), raw, chunks, { read: () => source } as unknown as Spool);
  const closed = new Promise((resolve) => source.once('close', resolve));
  body!.destroy();
  await closed;
  expect(source.destroyed).toBe(true);
});
