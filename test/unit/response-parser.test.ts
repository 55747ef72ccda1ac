import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import type { ResponseHead } from '../../src/origin/response-head.js';
import { ResponseParser } from '../../src/origin/response-parser.js';

/** What a parser has reported of the bytes of one connection. */
class Seen {
  readonly heads: ResponseHead[] = [];
  content = '';
  trailers: readonly HeaderLine[] | undefined;

  onHead(head: ResponseHead): void {
    this.heads.push(head);
  }

  onContent(bytes: Buffer): void {
    this.content += bytes.toString('latin1');
  }

  onEnd(trailers: readonly HeaderLine[]): void {
    this.trailers = trailers;
  }
}

/** Parses a response in pieces of this size. `rest`: the bytes after its end, of the piece in which it ended. */
function parse(text: string, size: number, method = 'GET'): { seen: Seen; parser: ResponseParser; rest: string } {
  const seen = new Seen();
  const parser = new ResponseParser(seen);
  parser.begin(method);
  const bytes = Buffer.from(text, 'latin1');
  for (let at = 0; at < bytes.length; at += size) {
    const piece = Buffer.from(bytes.subarray(at, at + size));
    const used = parser.parse(piece);
    if (used < piece.length) return { seen, parser, rest: piece.toString('latin1', used) };
  }
  return { seen, parser, rest: '' };
}

const SIZES = [1, 2, 3, 7, 64, 100_000];

describe('responses', () => {
  for (const size of SIZES) {
    test(`with a length, in pieces of ${size}`, () => {
      const { seen } = parse('HTTP/1.1 200 Fine\r\nX-A: 1\r\nx-a:  2 \r\nContent-Length: 5\r\n\r\nhello', size);
      expect(seen.heads).toMatchObject([{ status: 200, reason: 'Fine', contentLength: 5, isPersistent: true }]);
      expect(seen.heads[0]!.headers).toEqual([
        ['X-A', '1'],
        ['x-a', '2'],
        ['Content-Length', '5'],
      ]);
      expect(seen.content).toBe('hello');
      expect(seen.trailers).toEqual([]);
    });

    test(`in chunks with extensions and trailers, in pieces of ${size}`, () => {
      const chunks = '2;a="b"\r\nhe\r\n0000000000000003\r\nllo\r\n0\r\nX-T: 1\r\nx-t: 2\r\n\r\n';
      const { seen } = parse(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`, size);
      expect(seen.content).toBe('hello');
      expect(seen.trailers).toEqual([
        ['X-T', '1'],
        ['x-t', '2'],
      ]);
    });

    test(`in many chunks of one byte, in pieces of ${size}`, () => {
      const content = Array.from({ length: 300 }, (_, at) => String.fromCharCode(97 + (at % 26))).join('');
      const chunks = content.replace(/./g, '1\r\n$&\r\n');
      const { seen } = parse(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}0\r\n\r\n`, size);
      expect(seen.content).toBe(content);
      expect(seen.trailers).toEqual([]);
    });

    test(`after interim ones, with octets as they are, in pieces of ${size}`, () => {
      const interims = 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n';
      const { seen } = parse(`${interims}HTTP/1.1 404 Nie \xc5\xbc\r\nX: \xff\r\nContent-Length: 0\r\n\r\n`, size);
      expect(seen.heads.map(({ status, reason }) => [status, reason])).toEqual([
        [100, 'Continue'],
        [103, 'Early'],
        [404, 'Nie \xc5\xbc'],
      ]);
      expect(seen.heads[2]!.headers[0]).toEqual(['X', '\xff']);
      expect(seen.trailers).toEqual([]);
    });

    test(`without a length end with the connection, in pieces of ${size}`, () => {
      const { seen, parser } = parse('HTTP/1.1 200 OK\r\n\r\nhello', size);
      expect(seen.content).toBe('hello');
      expect(seen.trailers).toBeUndefined();
      expect(parser.finish()).toBe(true);
      expect(seen.trailers).toEqual([]);
    });
  }

  test('have as many interim ones before them as the limit allows, for each request', () => {
    const text = 'HTTP/1.1 102 Go\r\n\r\n'.repeat(1000) + 'HTTP/1.1 204 OK\r\n\r\n';
    const { parser, seen } = parse(text, 1000);
    parser.begin('GET');
    parser.parse(Buffer.from(text));
    expect(seen.heads).toHaveLength(2002);
  });

  test('leave bytes after their end, and after 101, to the caller', () => {
    expect(parse('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1', 100).rest).toBe('HTTP/1.1');
    expect(parse('HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nother', 100).rest).toBe('other');
  });

  // RFC 9112 §6.3 and §9.3: what ends the content; whether the origin keeps the connection, with an end beyond doubt; whether
  // content that must not be there may follow.
  test.each<[head: string, framing: string, isPersistent: boolean, isForbidden: boolean, method?: string]>([
    ['1.1 200\nContent-Length: 2', 'length', true, false],
    ['1.1 200\nContent-Length: 2\nConnection: close', 'length', false, false],
    ['1.1 200\nContent-Length: 2\nConnection: x, Close', 'length', false, false],
    ['1.1 200\nContent-Length: 2\nConnection: keep-alive\nConnection: close', 'length', false, false],
    ['1.1 200\nContent-Length: 0', 'length', true, false],
    ['1.1 200\nTransfer-Encoding: chunked', 'chunks', true, false],
    ['1.1 200\nTransfer-Encoding:  CHUNKED ', 'chunks', true, false],
    ['1.1 200', 'connection', false, false],
    ['1.1 200\nConnection: keep-alive', 'connection', false, false],
    ['1.0 200\nContent-Length: 2', 'length', false, false],
    ['1.0 200\nContent-Length: 2\nConnection: Keep-Alive', 'length', true, false],
    ['1.0 200\nTransfer-Encoding: chunked\nConnection: keep-alive', 'chunks', false, false],
    ['1.1 204', 'none', true, false],
    ['1.1 204\nContent-Length: 0', 'none', true, false],
    ['1.1 204\nContent-Length: 2', 'none', true, true],
    ['1.1 204\nTransfer-Encoding: chunked', 'none', true, true],
    ['1.1 304\nContent-Length: 2', 'none', true, true],
    ['1.1 304\nTransfer-Encoding: chunked', 'none', true, true],
    ['1.1 200', 'none', true, false, 'HEAD'],
    ['1.1 200\nContent-Length: 2', 'none', true, true, 'HEAD'],
    ['1.1 200\nTransfer-Encoding: chunked', 'none', true, true, 'HEAD'],
    ['1.1 404\nContent-Length: 2', 'none', true, true, 'HEAD'],
    ['1.1 103\nContent-Length: 2', 'none', true, true],
    ['1.1 100\nTransfer-Encoding: chunked', 'none', true, true],
    ['1.1 101\nContent-Length: 2', 'switched', true, false],
    ['1.1 599\nContent-Length: 2', 'length', true, false],
    ['1.1 999\nContent-Length: 2', 'length', true, false],
  ])('%j', (text, framing, isPersistent, announcesForbiddenContent, method = 'GET') => {
    const [head] = parse(`HTTP/${text.replaceAll('\n', '\r\n')}\r\n\r\n`, 100, method).seen.heads;
    expect(head).toMatchObject({ framing, isPersistent, announcesForbiddenContent });
  });

  test.each([
    ['HEAD', '200 OK', 'Content-Length: 5'],
    ['GET', '204 No Content', 'Content-Length: 5'],
    ['GET', '304 Not Modified', 'Transfer-Encoding: chunked'],
  ])('to %s with %s and %s end with the head', (method, line, field) => {
    const { seen, rest } = parse(`HTTP/1.1 ${line}\r\n${field}\r\n\r\nhello`, 100, method);
    expect(seen.trailers).toEqual([]);
    expect(seen.content).toBe('');
    expect(rest).toBe('hello');
  });

  test('say for how long the connection is kept', () => {
    const text = 'HTTP/1.1 200 OK\r\nKeep-Alive: timeout=7, max=3\r\nContent-Length: 0\r\n\r\n';
    expect(parse(text, 100).seen.heads[0]!.keepAliveSeconds).toBe(7);
  });

  test.each([
    ['another protocol', 'SMTP ready\r\n', 'HPE_INVALID_CONSTANT'],
    ['another case', 'http/1.1 200 OK\r\n\r\n', 'HPE_INVALID_CONSTANT'],
    ['a short status', 'HTTP/1.1 20 OK\r\n\r\n', 'HPE_INVALID_CONSTANT'],
    ['a status below 100', 'HTTP/1.1 099 OK\r\n\r\n', 'HPE_INVALID_CONSTANT'],
    ['an unknown version', 'HTTP/1.2 200 OK\r\n\r\n', 'HPE_INVALID_CONSTANT'],
    ['the version of another protocol', 'HTTP/2.0 200 OK\r\n\r\n', 'HPE_INVALID_CONSTANT'],
    ['empty lines without end', '\r\n'.repeat(1000), 'HPE_INVALID_CONSTANT'],
    ['lines that all end with LF', 'HTTP/1.1 200 OK\nA: 1\n\n', 'HPE_INVALID_HEADER_TOKEN'],
    ['a bare LF', 'HTTP/1.1 200 OK\r\nA: 1\nB: 2\r\n\r\n', 'HPE_INVALID_HEADER_TOKEN'],
    ['a bare CR', 'HTTP/1.1 200 OK\r\nA: 1\rB: 2\r\n\r\n', 'HPE_INVALID_HEADER_TOKEN'],
    ['a folded line', 'HTTP/1.1 200 OK\r\nA: 1\r\n 2\r\n\r\n', 'HPE_INVALID_HEADER_TOKEN'],
    ['a blank before the colon', 'HTTP/1.1 200 OK\r\nA : 1\r\n\r\n', 'HPE_INVALID_HEADER_TOKEN'],
    ['a line without a colon', 'HTTP/1.1 200 OK\r\nA\r\n\r\n', 'HPE_INVALID_HEADER_TOKEN'],
    ['a NUL', 'HTTP/1.1 200 OK\r\nA: \0\r\n\r\n', 'HPE_INVALID_HEADER_TOKEN'],
    [
      'two lengths',
      'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n',
      'HPE_UNEXPECTED_CONTENT_LENGTH',
    ],
    ['a list of lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n', 'HPE_INVALID_CONTENT_LENGTH'],
    ['a length with a sign', 'HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n', 'HPE_INVALID_CONTENT_LENGTH'],
    ['an empty length', 'HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n', 'HPE_INVALID_CONTENT_LENGTH'],
    ['the status 000', 'HTTP/1.1 000 OK\r\n\r\n', 'HPE_INVALID_CONSTANT'],
    ['a version without a minor one', 'HTTP/0.9 200 OK\r\n\r\n', 'HPE_INVALID_CONSTANT'],
    ['two codings', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n', 'HPE_INVALID_TRANSFER_ENCODING'],
    [
      'two lines of codings',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n',
      'HPE_INVALID_TRANSFER_ENCODING',
    ],
    ['no coding', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n', 'HPE_INVALID_TRANSFER_ENCODING'],
    ['an empty coding', 'HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n', 'HPE_INVALID_TRANSFER_ENCODING'],
    [
      'a coding that seems to be chunked',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n',
      'HPE_INVALID_TRANSFER_ENCODING',
    ],
    ['a length in hex', 'HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n', 'HPE_INVALID_CONTENT_LENGTH'],
    [
      'a length beyond all numbers',
      'HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n',
      'HPE_INVALID_CONTENT_LENGTH',
    ],
    ['thousands of lines', `HTTP/1.1 200 OK\r\n${'A: 1\r\n'.repeat(2001)}\r\n`, 'HPE_HEADER_OVERFLOW'],
    [
      'thousands of trailers',
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${'A: 1\r\n'.repeat(2001)}\r\n`,
      'HPE_HEADER_OVERFLOW',
    ],
    ['interim responses without end', 'HTTP/1.1 102 Go\r\n\r\n'.repeat(1001), 'HPE_TOO_MANY_INTERIMS'],
    [
      'large interim responses',
      `HTTP/1.1 103 Go\r\nA: ${'x'.repeat(1000)}\r\n\r\n`.repeat(300),
      'HPE_TOO_MANY_INTERIMS',
    ],
    [
      'trailers that end with LF',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: 1\n\n',
      'HPE_INVALID_HEADER_TOKEN',
    ],
    [
      'a length and chunks',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n',
      'HPE_INVALID_CONTENT_LENGTH',
    ],
    [
      'a chunk size with a blank',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok',
      'HPE_INVALID_CHUNK_SIZE',
    ],
    [
      'a chunk size that ends with LF',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok',
      'HPE_INVALID_CHUNK_SIZE',
    ],
    [
      'a huge chunk size',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000\r\n',
      'HPE_INVALID_CHUNK_SIZE',
    ],
    [
      'a chunk longer than its size',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n',
      'HPE_STRICT',
    ],
    ['a head without end', `HTTP/1.1 200 OK\r\nA: ${'x'.repeat(300_000)}`, 'HPE_HEADER_OVERFLOW'],
    [
      'trailers without end',
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ${'x'.repeat(300_000)}`,
      'HPE_HEADER_OVERFLOW',
    ],
    [
      'a chunk extension without end',
      `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;${'x'.repeat(20_000)}`,
      'HPE_CHUNK_EXTENSIONS_OVERFLOW',
    ],
  ])('with %s are refused', (_, text, code) => {
    for (const size of [5, 1000, 1_000_000]) expect(() => parse(text, size)).toThrow(expect.objectContaining({ code }));
  });
});
