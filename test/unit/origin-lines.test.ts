import { describe, expect, test } from '@jest/globals';
import { fieldValue, type HeaderLine, forwardableHeaders, forwardableTrailers } from '../../src/model/headers.js';
import type { RequestHead } from '../../src/model/request-head.js';
import { framingOf, headersForOrigin } from '../../src/origin/headers.js';

function headOf(part: Partial<RequestHead>): RequestHead {
  return {
    method: 'GET',
    target: '/',
    path: '/',
    httpVersion: '1.1',
    scheme: 'https',
    authority: 'example.org',
    headers: [['Host', 'example.org']],
    hasBody: false,
    expectsContinue: false,
    connection: {
      peerAddress: '192.0.2.1',
      clientAddress: '192.0.2.1',
      encrypted: true,
      peerIsTrusted: false,
      relaysInterim: true,
      isClientsOwn: true,
    },
    ...part,
  };
}

function linesOf(part: Partial<RequestHead>, host = 'example.org'): HeaderLine[] {
  return headersForOrigin(headOf(part), host);
}

const LENGTH: HeaderLine = ['Content-Length', '5'];
const CHUNKED: HeaderLine = ['Transfer-Encoding', 'chunked'];

interface FramingCase {
  readonly name: string;
  readonly part: Partial<RequestHead>;
  readonly length?: string;
  readonly coding?: string;
}

describe('what delimits the body', () => {
  const cases: FramingCase[] = [
    { name: 'nothing for a GET', part: {} },
    { name: 'zero for a POST without content', part: { method: 'POST' }, length: '0' },
    { name: 'zero for an unknown method', part: { method: 'REPORT' }, length: '0' },
    { name: 'a zero as it came', part: { method: 'GET', headers: [['content-length', '0']] }, length: '0' },
    { name: 'no length of a body that is not sent', part: { method: 'OPTIONS', headers: [LENGTH] } },
    { name: 'the length', part: { hasBody: true, contentLength: 5, headers: [LENGTH] }, length: '5' },
    {
      name: 'the length that Connection named',
      part: { hasBody: true, contentLength: 5, headers: [LENGTH, ['Connection', 'Content-Length']] },
      length: '5',
    },
    { name: 'chunks of an HTTP/2 stream', part: { httpVersion: '2.0', hasBody: true }, coding: 'chunked' },
    {
      name: 'chunks alone, whatever else is said',
      part: { method: 'DELETE', hasBody: true, headers: [LENGTH, CHUNKED] },
      coding: 'chunked',
    },
  ];

  test.each(cases)('$name', ({ part, length, coding }) => {
    const lines = linesOf(part);
    expect(fieldValue(lines, 'content-length')).toBe(length);
    expect(fieldValue(lines, 'transfer-encoding')).toBe(coding);
    const expected = coding ?? (length === undefined || length === '0' ? 'none' : 'length');
    expect(framingOf(headOf(part))).toBe(expected);
  });
});

describe('Host', () => {
  test('keeps its place and case, and comes once', () => {
    const headers: HeaderLine[] = [
      ['X-A', '1'],
      ['HOST', 'old'],
      ['X-B', '2'],
    ];
    expect(linesOf({ headers }, 'new').slice(0, 3)).toEqual([
      ['X-A', '1'],
      ['HOST', 'new'],
      ['X-B', '2'],
    ]);
  });

  test('comes first when there was none', () => {
    expect(linesOf({ headers: [['X-A', '1']] }, 'new').slice(0, 2)).toEqual([
      ['Host', 'new'],
      ['X-A', '1'],
    ]);
  });

  test('cannot be taken away by Connection', () => {
    const headers: HeaderLine[] = [
      ['Host', 'a'],
      ['Connection', 'host'],
    ];
    expect(linesOf({ headers }, 'a')[0]).toEqual(['Host', 'a']);
  });
});

describe('the expectation', () => {
  const headers: HeaderLine[] = [['Expect', '100-continue']];

  test('is passed on by a client that waits', () => {
    expect(fieldValue(linesOf({ headers, hasBody: true, expectsContinue: true }), 'expect')).toBe('100-continue');
  });

  test('is not passed on by one that does not', () => {
    expect(fieldValue(linesOf({ headers }), 'expect')).toBeUndefined();
  });
});

describe('trailers', () => {
  const headers: HeaderLine[] = [
    ['Trailer', 'X-Sum'],
    ['TE', 'gzip, Trailers'],
    ['Connection', 'TE'],
  ];

  test('are announced where they can follow', () => {
    expect(fieldValue(linesOf({ headers, hasBody: true }), 'trailer')).toBe('X-Sum');
    expect(fieldValue(linesOf({ headers, hasBody: true, contentLength: 5 }), 'trailer')).toBeUndefined();
  });

  test('are accepted from the origin as the client does', () => {
    const lines = linesOf({ headers });
    expect([fieldValue(lines, 'te'), fieldValue(lines, 'connection')]).toEqual(['trailers', 'keep-alive, TE']);
    expect(fieldValue(linesOf({ headers: [['TE', 'gzip']] }), 'te')).toBeUndefined();
  });

  test('are passed on without those that frame, route or describe the content', () => {
    const trailers: HeaderLine[] = [
      ['X-Sum', '1'],
      ['Content-Length', '5'],
      ['Transfer-Encoding', 'chunked'],
      ['HOST', 'x'],
      ['Content-Type', 'a/b'],
      ['ETag', '"1"'],
    ];
    expect(forwardableTrailers(trailers)).toEqual([
      ['X-Sum', '1'],
      ['ETag', '"1"'],
    ]);
  });
});

test('lines of one hop end here', () => {
  const lines: HeaderLine[] = [
    ['Connection', 'X-Mine, close'],
    ['X-Mine', '1'],
    ['Keep-Alive', 'timeout=5'],
    ['Upgrade', 'h2c'],
    ['Proxy-Authorization', 'Basic x'],
    ['Transfer-Encoding', 'chunked'],
    ['X-Other', '2'],
    ['Trailer', 'X'],
  ];
  expect(forwardableHeaders(lines, false)).toEqual([['X-Other', '2']]);
  expect(forwardableHeaders(lines, true)).toEqual([
    ['X-Other', '2'],
    ['Trailer', 'X'],
  ]);
});
