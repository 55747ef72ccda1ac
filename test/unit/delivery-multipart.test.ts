import { Readable } from 'node:stream';
import { expect, test } from '@jest/globals';
import { filenameOf } from '../../src/delivery/filename.js';
import { framed } from '../../src/delivery/framing.js';
import { type Multipart, multipartType } from '../../src/delivery/multipart.js';
import { targetOf } from '../../src/delivery/target.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { StoredRequest, Upload } from '../../src/model/upload.js';
import type { Spool } from '../../src/spool/spool.js';

const form: Multipart = { kind: 'multipart', field: 'file', fields: [], fieldsFromHeaders: [] };

function request(headers: HeaderLine[], target = '/files'): StoredRequest {
  return { method: 'POST', target, headers } as unknown as StoredRequest;
}

function upload(size: number, headers: HeaderLine[]): Upload {
  return { id: 'id', offset: size, deliveryKey: 'k-1', request: request(headers) } as Upload;
}

async function bodyOf(content: string, framing: Multipart, headers: HeaderLine[] = []): Promise<string> {
  const bytes = Buffer.from(content);
  const spool = { read: () => Readable.from([bytes]) } as unknown as Spool;
  const chunks = bytes.length === 0 ? [] : [{ name: 'a', start: 0, size: bytes.length }];
  const { size, body } = framed(upload(bytes.length, headers), framing, chunks, spool);
  const pieces: Buffer[] = [];
  for await (const piece of body!) pieces.push(piece as Buffer);
  const whole = Buffer.concat(pieces);
  expect(whole.length).toBe(size);
  return whole.toString('utf8');
}

test('the file is one field of a form, with its name and type', async () => {
  const headers: HeaderLine[] = [
    ['Content-Type', 'image/png'],
    ['Content-Disposition', 'inline; filename="a.png"'],
  ];
  expect(await bodyOf('PNG', form, headers)).toBe(
    '--rufh-k-1\r\n' +
      'Content-Disposition: form-data; name="file"; filename="a.png"\r\n' +
      'Content-Type: image/png\r\n\r\nPNG\r\n--rufh-k-1--\r\n',
  );
  expect(multipartType({ deliveryKey: 'k-1' })).toBe('multipart/form-data; boundary=rufh-k-1');
});

test('fixed fields and fields from headers stand before the file; a header that is missing gives none', async () => {
  const framing: Multipart = {
    ...form,
    field: 'photo',
    fields: [['album', '7 "ü"']],
    fieldsFromHeaders: [
      ['title', 'X-Title'],
      ['none', 'X-None'],
    ],
  };
  const raw = Buffer.from('Grüße', 'utf8').toString('latin1');
  expect(await bodyOf('x', framing, [['x-title', raw]])).toBe(
    '--rufh-k-1\r\nContent-Disposition: form-data; name="album"\r\n\r\n7 "ü"\r\n' +
      '--rufh-k-1\r\nContent-Disposition: form-data; name="title"\r\n\r\nGrüße\r\n' +
      '--rufh-k-1\r\nContent-Disposition: form-data; name="photo"; filename="upload"\r\n' +
      'Content-Type: application/octet-stream\r\n\r\nx\r\n--rufh-k-1--\r\n',
  );
});

test('an empty upload is an empty file; the type of a piece is not its type; its coding goes with it', async () => {
  const headers: HeaderLine[] = [
    ['Content-Type', 'application/partial-upload'],
    ['Content-Encoding', 'gzip'],
  ];
  expect(await bodyOf('', form, headers)).toBe(
    '--rufh-k-1\r\nContent-Disposition: form-data; name="file"; filename="upload"\r\n' +
      'Content-Type: application/octet-stream\r\nContent-Encoding: gzip\r\n\r\n\r\n--rufh-k-1--\r\n',
  );
});

test('names cannot break out of their quotes', async () => {
  const headers: HeaderLine[] = [['Content-Disposition', 'inline; filename="a\\"b.png"']];
  expect(await bodyOf('x', { ...form, field: 'f"\r\n' }, headers)).toContain(
    'form-data; name="f%22%0D%0A"; filename="a%22b.png"\r\n',
  );
});

test.each<[string, string | undefined]>([
  ['inline; filename="file name.jpg"; filename*=UTF-8\'\'file%20n%C3%A4me.jpg', 'file näme.jpg'],
  ["attachment; filename*=ISO-8859-1'en'%A3.txt", '£.txt'],
  ["attachment; filename*=KOI8-R''x; filename=plain.txt", 'plain.txt'],
  ['attachment; filename=plain.txt', 'plain.txt'],
  ['attachment; filename="..\\\\..\\\\etc/passwd"', 'passwd'],
  ['attachment; filename=".."', undefined],
  ['attachment; filename=""', undefined],
  ['attachment', undefined],
])('%s names %s', (value, expected) => {
  expect(filenameOf(request([['Content-Disposition', value]]))).toBe(expected);
});

test.each([
  [undefined, '/api/files?a=1&b=2'],
  ['/v2/upload', '/v2/upload'],
  ['/v2{path}?from=proxy&{query}', '/v2/api/files?from=proxy&a=1&b=2'],
  ['/store/{filename}', '/store/a%20b%3F.png'],
  ['{target}', '/api/files?a=1&b=2'],
  ['/{unknown}', '/{unknown}'],
])('template %s makes %s', (template, expected) => {
  const headers: HeaderLine[] = [['Content-Disposition', 'inline; filename="folder/a b?.png"']];
  expect(targetOf(request(headers, '/api/files?a=1&b=2'), template)).toBe(expected);
});
