import { Readable } from 'node:stream';
import { describe, expect, test } from '@jest/globals';
import {
  envelopeOf,
  filenameOf,
  frameBody,
  type Multipart,
  multipartType,
  representationType,
} from '../../src/delivery/origin-body.js';
import { originRequestHead, targetOf } from '../../src/delivery/origin-request.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { StoredRequest, Upload } from '../../src/model/upload.js';
import type { Spool } from '../../src/spool/spool.js';
import { newUpload, REQUEST, routeTo } from '../support/delivery-harness.js';

describe('framing', () => {
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
});

describe('multipart', () => {
  const form: Multipart = {
    kind: 'multipart',
    field: 'file',
    fields: [],
    fieldsFromHeaders: [],
    fieldsFromMetadata: [],
  };

  function request(headers: HeaderLine[], target = '/files'): StoredRequest {
    return { method: 'POST', target, headers } as unknown as StoredRequest;
  }

  function upload(size: number, headers: HeaderLine[]): Upload {
    return { id: 'id', offset: size, deliveryKey: 'k-1', request: request(headers) } as Upload;
  }

  const plainRoute = routeTo('http://origin:3000');
  const framedRoute = { ...plainRoute, delivery: { ...plainRoute.delivery, framing: form } };

  async function bodyOf(
    content: string,
    framing: Multipart,
    headers: HeaderLine[] = [],
    encoding: BufferEncoding = 'utf8',
  ): Promise<string> {
    const bytes = Buffer.from(content);
    const spool = { read: () => Readable.from([bytes]) } as unknown as Spool;
    const chunks = bytes.length === 0 ? [] : [{ name: 'a', start: 0, size: bytes.length }];
    const { size, body } = frameBody(upload(bytes.length, headers), framing, chunks, spool);
    const pieces: Buffer[] = [];
    for await (const piece of body!) pieces.push(piece as Buffer);
    const whole = Buffer.concat(pieces);
    expect(whole.length).toBe(size);
    return whole.toString(encoding);
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
    ["attachment; filename*=utf-8'en'%E2%82%AC.txt", '€.txt'],
    ["attachment; filename*=UTF-8''a%20b.txt; filename=plain.txt", 'a b.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''a%20b.txt", 'a b.txt'],
    ['attachment; filename*="UTF-8\'\'quoted%20.txt"', 'quoted .txt'],
    // What cannot be read, or names nothing, leaves the plain one.
    ["attachment; filename*=KOI8-R''x; filename=plain.txt", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''bad%ZZ", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''bad%4", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''bad%", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''%FF%FE", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''%ED%A0%80", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''..%2F..", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''%00%0A", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8''gr\xc3\xbc", 'plain.txt'],
    ['attachment; filename=plain.txt; filename*=no-quotes', 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=UTF-8'x", 'plain.txt'],
    ["attachment; filename=plain.txt; filename*=''x", 'plain.txt'],
    ['attachment; filename=plain.txt; filename*=', 'plain.txt'],
    ["attachment; filename*=UTF-8''bad%ZZ", undefined],
    // Quoted pairs, octets beyond ASCII, odd places.
    ['attachment; filename="a\\"b.txt"', 'a"b.txt'],
    ['attachment; filename="f\\oo.html"', 'foo.html'],
    ['attachment; filename="C:\\dir\\a.txt"', 'a.txt'],
    ['attachment; filename="C:\\\\dir\\\\a.txt"', 'a.txt'],
    ['attachment; foo="; filename=evil.txt"; filename=plain.txt', 'plain.txt'],
    ['attachment; filename="a;b.txt"', 'a;b.txt'],
    ['attachment; FILENAME=plain.txt', 'plain.txt'],
    ['attachment; filename = plain.txt', 'plain.txt'],
    ['attachment; filename=first.txt; filename=second.txt', 'first.txt'],
    ['filename=plain.txt', 'plain.txt'],
    ['attachment; filename="gr\xc3\xbc\xc3\x9fe.txt"', 'grüße.txt'],
    ['attachment; filename="gr\xfc\xdfe.txt"', 'grüße.txt'],
    ['attachment; filename=plain.txt', 'plain.txt'],
    ['attachment; filename="..\\\\..\\\\etc/passwd"', 'passwd'],
    ["attachment; filename*=UTF-8''..%5C..%2Fetc%2Fpasswd", 'passwd'],
    ["attachment; filename*=UTF-8''a%00b%0D%0Ac%7F%C2%85.txt", 'abc.txt'],
    ['attachment; filename="a\tb.txt"', 'ab.txt'],
    ['attachment; filename=".."', undefined],
    ['attachment; filename="."', undefined],
    ['attachment; filename="folder/"', undefined],
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

  describe('Upload-Metadata', () => {
    const base64 = (text: string | Buffer): string => Buffer.from(text).toString('base64');
    const told = (metadata: string, more: HeaderLine[] = []): [string | undefined, string] => {
      const creation = request([...more, ['Upload-Metadata', metadata]]);
      return [filenameOf(creation), representationType(creation)];
    };
    const PNG = `filename ${base64('a.png')},filetype ${base64('image/png')}`;
    const UNKNOWN = 'application/octet-stream';

    test.each<[string, string | undefined, string]>([
      [PNG, 'a.png', 'image/png'],
      [`name ${base64('näme.png')}, type ${base64('image/png')}`, 'näme.png', 'image/png'],
      [`contentType ${base64('image/png')}`, undefined, 'image/png'],
      [`name ${base64('second')},filename ${base64('first')}`, 'first', UNKNOWN],
      [`contentType ${base64('a/c')},type ${base64('a/b')},filetype ${base64('a/a')}`, undefined, 'a/a'],
      [`filename ${base64('first')},filename ${base64('second')}`, 'first', UNKNOWN],
      [`filename %%%,name ${base64('readable')}`, 'readable', UNKNOWN],
      [`filename A,name ${base64('readable')}`, 'readable', UNKNOWN],
      [`filename ${base64(Buffer.from([0xff, 0xfe]))}`, undefined, UNKNOWN],
      [`filename ${base64('x')} y`, undefined, UNKNOWN],
      ['filename,filetype', undefined, UNKNOWN],
      [',, ,', undefined, UNKNOWN],
      [`filename ${base64('../../etc/pass\0wd\r\n')}`, 'passwd', UNKNOWN],
      [`filetype ${base64('text/plain; charset=utf-8')}`, undefined, 'text/plain; charset=utf-8'],
      [`filetype ${base64('image/png\r\nX-Evil: 1')},type ${base64('image/gif')}`, undefined, 'image/gif'],
      [`filetype ${base64('png')}`, undefined, UNKNOWN],
      [`filename ${base64('no padding').replace(/=/g, '')}`, 'no padding', UNKNOWN],
    ])('%s', (metadata, filename, type) => {
      expect(told(metadata)).toEqual([filename, type]);
    });

    test.each<[HeaderLine, string, string]>([
      [['Content-Disposition', 'attachment; filename=b.gif'], 'b.gif', 'image/png'],
      [['Content-Disposition', "attachment; filename*=UTF-8''%FF"], 'a.png', 'image/png'],
      [['Content-Type', 'image/gif'], 'a.png', 'image/gif'],
      [['Content-Type', 'application/partial-upload'], 'a.png', 'image/png'],
      [['Content-Type', 'application/octet-stream'], 'a.png', 'image/png'],
      [['Content-Type', ''], 'a.png', 'image/png'],
    ])('counts where %j says nothing', (line, filename, type) => {
      expect(told(PNG, [line])).toEqual([filename, type]);
    });

    test('names the file in a form and in a target', async () => {
      const headers: HeaderLine[] = [['Upload-Metadata', PNG]];
      expect(await bodyOf('PNG', form, headers)).toContain('filename="a.png"\r\nContent-Type: image/png\r\n');
      expect(targetOf(request(headers), '/in/{filename}')).toBe('/in/a.png');
    });
  });

  describe('every pair of Upload-Metadata', () => {
    const pair = (key: string, value: string | Buffer): HeaderLine[] => [
      ['Upload-Metadata', `other YQ==,${key} ${Buffer.from(value).toString('base64')}`],
    ];

    test.each<[string, HeaderLine[], string | undefined]>([
      ['text', pair('album', 'Grüße 🌊'), 'Grüße 🌊'],
      ['a key in another case', pair('ALBUM', 'Sea'), 'Sea'],
      ['no value', [['Upload-Metadata', 'album']], ''],
      ['an empty value', [['Upload-Metadata', 'album ,other YQ==']], ''],
      ['the first of two', [['Upload-Metadata', 'album YQ==,album Yg==']], 'a'],
      // As a browser sends a text area.
      ['line breaks', pair('album', 'a\nb\rc\r\nd\te'), 'a\r\nb\r\nc\r\nd\te'],
      ['control characters', pair('album', 'a\0b\x1bc\x7fd\u0085e\vf'), 'abcdef'],
      ['quotes and semicolons', pair('album', '"a"; name="role"'), '"a"; name="role"'],
      [
        'what looks like a part',
        pair('album', '\r\n--rufh\r\nContent-Disposition: form-data; name="role"\r\n\r\nadmin'),
        '\r\n--rufh\r\nContent-Disposition: form-data; name="role"\r\n\r\nadmin',
      ],
      ['a text of the greatest length', pair('album', 'x'.repeat(20_000)), 'x'.repeat(20_000)],
      ['bytes that are no UTF-8', pair('album', Buffer.from([0x61, 0xff, 0xfe])), undefined],
      ['no Base64', [['Upload-Metadata', 'album %%%']], undefined],
      ['a broken length of Base64', [['Upload-Metadata', 'album A']], undefined],
      ['three words', [['Upload-Metadata', 'album YQ== YQ==']], undefined],
      ['another key', pair('albums', 'a'), undefined],
      ['no metadata', [], undefined],
    ])('is a field of the form: %s', async (_, headers, value) => {
      const framing: Multipart = { ...form, fieldsFromMetadata: [['al"bum', 'album']] };
      const body = await bodyOf('x', framing, headers);
      const [first, second, ...rest] = body.split('--rufh-k-1');
      expect([first, rest.length]).toEqual(['', value === undefined ? 1 : 2]);
      if (value === undefined) expect(second).toContain('name="file"');
      else expect(second).toBe(`\r\nContent-Disposition: form-data; name="al%22bum"\r\n\r\n${value}\r\n`);
    });

    test.each<[string, HeaderLine[], string]>([
      ['text', pair('album', 'Grüße 🌊'), '/a/Gr%C3%BC%C3%9Fe%20%F0%9F%8C%8A/x?q=Gr%C3%BC%C3%9Fe%20%F0%9F%8C%8A'],
      ['a key in another case', pair('Album', 'Sea'), '/a/Sea/x?q=Sea'],
      // Some origins read an encoded slash in a path as a slash.
      ['slashes', pair('album', '../..\\b/c'), '/a/.._.._b_c/x?q=..%2F..%5Cb%2Fc'],
      ['one dot', pair('album', '.'), '/a/unknown/x?q=unknown'],
      ['two dots', pair('album', ' ..\0'), '/a/unknown/x?q=unknown'],
      ['an encoded dot', pair('album', '%2e%2e'), '/a/%252e%252e/x?q=%252e%252e'],
      ['spaces only', pair('album', '  '), '/a/unknown/x?q=unknown'],
      ['a line break', pair('album', 'a\r\nHost: b'), '/a/aHost%3A%20b/x?q=aHost%3A%20b'],
      ['control characters', pair('album', 'a\0\x7f\u0085b'), '/a/ab/x?q=ab'],
      [
        'what is special in a target',
        pair('album', '?#&=+;"<'),
        '/a/%3F%23%26%3D%2B%3B%22%3C/x?q=%3F%23%26%3D%2B%3B%22%3C',
      ],
      ['braces', pair('album', '{path}'), '/a/%7Bpath%7D/x?q=%7Bpath%7D'],
      ['the longest', pair('album', 'x'.repeat(500)), `/a/${'x'.repeat(500)}/x?q=${'x'.repeat(500)}`],
      ['a longer one', pair('album', 'x'.repeat(501)), '/a/unknown/x?q=unknown'],
      ['bytes that are no UTF-8', pair('album', Buffer.from([0x61, 0xff, 0xfe])), '/a/unknown/x?q=unknown'],
      ['no value', [['Upload-Metadata', 'album']], '/a/unknown/x?q=unknown'],
      ['no metadata', [], '/a/unknown/x?q=unknown'],
    ])('fills a target: %s', (_, headers, target) => {
      expect(targetOf(request(headers), '/a/{metadata.album}/x?q={metadata.album}')).toBe(target);
    });
  });

  test.each(['multipart/form-data; boundary=B', 'Multipart/Form-Data;boundary="x"', 'multipart/form-data'])(
    'a body of the type %s is a form already, and stays as it is',
    async (type) => {
      const headers: HeaderLine[] = [['Content-Type', type]];
      expect(await bodyOf('--B--', form, headers)).toBe('--B--');
      const replay = originRequestHead(
        { ...newUpload('u'), request: { ...REQUEST, headers } } as unknown as Upload,
        framedRoute,
      );
      expect(replay.headers.filter(([name]) => name.toLowerCase() === 'content-type')).toEqual(headers);
    },
  );

  test.each([
    [{ ...form, fields: [['role', 'user']] }],
    [{ ...form, fieldsFromHeaders: [['user', 'Remote-User']] }],
    [{ ...form, fieldsFromMetadata: [['user', 'user']] }],
  ] satisfies [Multipart][])(
    'where the route says fields of its own, a form is a file like any other: %j',
    async (framing) => {
      const body = await bodyOf('--B--', framing, [['Content-Type', 'multipart/form-data; boundary=B']]);
      expect(body).toContain('\r\n\r\n--B--\r\n');
    },
  );

  test('what the authorization service says of a header replaces what the client says', () => {
    const framing: Multipart = { ...form, fieldsFromHeaders: [['by', 'Authorization']] };
    const said: HeaderLine[] = [['Authorization', 'Basic mine']];
    const { before } = envelopeOf({ ...upload(1, said), addedHeaders: [['authorization', 'Bearer service']] }, framing);
    expect(before.toString()).toContain('name="by"\r\n\r\nBearer service\r\n');
  });

  test('a field from what hops say is what the head of the request says, and not what a client makes up', () => {
    const framing: Multipart = { ...form, fieldsFromHeaders: [['ip', 'X-Forwarded-For']] };
    const made = upload(1, [['X-Forwarded-For', '198.51.100.9']]);
    const of = (peerIsTrusted: boolean): string => {
      const request = { ...made.request, peerAddress: '192.0.2.1', peerIsTrusted };
      return envelopeOf({ ...made, request }, framing).before.toString();
    };
    expect(of(false)).toContain('name="ip"\r\n\r\n192.0.2.1\r\n');
    expect(of(true)).toContain('name="ip"\r\n\r\n198.51.100.9, 192.0.2.1\r\n');
  });

  test('a type that merely resembles one is a file', async () => {
    expect(await bodyOf('x', form, [['Content-Type', 'multipart/form-data-x']])).toContain('\r\n\r\nx\r\n');
  });

  test('octets of the type pass as they are, control characters of fields do not', async () => {
    const framing: Multipart = { ...form, fieldsFromHeaders: [['t', 'X-T']] };
    const headers: HeaderLine[] = [
      ['Content-Type', 'text/plain; x="\xfc"'],
      ['X-T', 'a\tb\0c\x1b'],
    ];
    const body = await bodyOf('x', framing, headers, 'latin1');
    expect(body).toContain('Content-Type: text/plain; x="\xfc"\r\n');
    expect(body).toContain('\r\n\r\na bc\r\n');
  });
});
