import { describe, expect, test } from '@jest/globals';
import { frameBytes, type SmallContent, SmallContents } from '../../src/delivery/small-content.js';
import type { Framing } from '../../src/model/route.js';
import { newRecord } from '../../src/store/embedded/transitions.js';
import { newUpload } from '../contract/sample-upload.js';

const KIB = 1024;

function begin(contents: SmallContents, length: number): SmallContent | undefined {
  return contents.begin({ offset: 0, length });
}

describe('the content of a small upload', () => {
  test('is given once, in order', () => {
    const content = begin(new SmallContents(), 5)!;
    content.add([Buffer.from('ab'), Buffer.from('c')]);
    content.add([Buffer.from('de')]);
    expect(content.take()?.toString()).toBe('abcde');
    expect(content.take()).toBeUndefined();
  });

  test('is not given with a byte missing, nor after its release', () => {
    const [short, released] = [begin(new SmallContents(), 3)!, begin(new SmallContents(), 2)!];
    for (const content of [short, released]) content.add([Buffer.from('ab')]);
    released.release();
    expect([short.take(), released.take()]).toEqual([undefined, undefined]);
  });

  test('is a copy: the buffers it came in may be used again', () => {
    const content = begin(new SmallContents(), 2)!;
    const buffer = Buffer.from('ab');
    content.add([buffer]);
    buffer.fill('x');
    expect(content.take()?.toString()).toBe('ab');
  });

  test('of an upload that turns out longer than it was announced is not kept', () => {
    const content = begin(new SmallContents(), 2)!;
    content.add([Buffer.from('abc')]);
    expect(content.take()).toBeUndefined();
  });

  test('is kept only from the first byte on, for a known length of at most 64 KiB', () => {
    const contents = new SmallContents();
    expect(contents.begin({ offset: 1, length: 10 })).toBeUndefined();
    expect(contents.begin({ offset: 0 })).toBeUndefined();
    expect(begin(contents, 0)).toBeUndefined();
    expect(begin(contents, 64 * KIB + 1)).toBeUndefined();
    expect(begin(contents, 64 * KIB)).toBeDefined();
  });

  test('is kept for 8 MiB of uploads at the same time, each of which gives its room back once', () => {
    const contents = new SmallContents();
    const kept = Array.from({ length: 128 }, () => begin(contents, 64 * KIB)!);
    expect(begin(contents, 1)).toBeUndefined();
    for (let again = 0; again < 2; again++) kept[0]!.release();
    expect(begin(contents, 64 * KIB)).toBeDefined();
    expect(begin(contents, 1)).toBeUndefined();
  });
});

describe('a body made from bytes in memory', () => {
  const upload = { ...newRecord(newUpload({ length: 5 })).upload, offset: 5 };
  const raw: Framing = { kind: 'raw' };

  test('has exactly these bytes', async () => {
    const { size, body } = frameBytes(upload, raw, Buffer.from('abcde'));
    expect(size).toBe(5);
    expect(Buffer.concat(await body!.toArray()).toString()).toBe('abcde');
  });

  test('is a form where the route wants one, with its exact size', async () => {
    const framing: Framing = {
      kind: 'multipart',
      field: 'file',
      fields: [['a', 'b']],
      fieldsFromHeaders: [],
      fieldsFromMetadata: [],
    };
    const { size, body } = frameBytes(upload, framing, Buffer.from('abcde'));
    const form = Buffer.concat(await body!.toArray());
    expect(form).toHaveLength(size!);
    expect(form.toString()).toMatch(/name="a"\r\n\r\nb\r\n[^]*name="file"[^]*\r\n\r\nabcde\r\n--/);
  });

  test('is refused if it is not the whole upload', () => {
    expect(() => frameBytes(upload, raw, Buffer.from('abcd'))).toThrow('4 of 5 bytes');
  });
});
