import { expect, test } from '@jest/globals';
import { ResponseHeads } from '../../src/delivery/undici-socket.js';

const FINAL = 'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n';

/** What a parser would see of these bytes in pieces of this size. */
function passed(bytes: string, size: number): string {
  const heads = new ResponseHeads();
  heads.expectHead();
  let out = '';
  for (let at = 0; at < bytes.length; at += size)
    out += heads.filter(Buffer.from(bytes.slice(at, at + size), 'latin1')).toString('latin1');
  return out + (heads.flush()?.toString('latin1') ?? '');
}

const cases: readonly [name: string, bytes: string, expected: string][] = [
  ['a final response alone', FINAL, FINAL],
  ['a 100 before it', `HTTP/1.1 100 Continue\r\n\r\n${FINAL}`, `HTTP/1.1 199 Continue\r\n\r\n${FINAL}`],
  [
    'several interim responses with fields',
    `HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 100\r\nA: 100\r\n\r\nHTTP/1.1 100 C\r\n\r\n${FINAL}`,
    `HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 199\r\nA: 100\r\n\r\nHTTP/1.1 199 C\r\n\r\n${FINAL}`,
  ],
  ['garbage', 'SMTP ready\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n', 'SMTP ready\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n'],
  ['a head that is cut', 'HTTP/1.1 100 Contin', 'HTTP/1.1 100 Contin'],
  ['a status line that is cut', 'HTTP/1', 'HTTP/1'],
];

for (const size of [1, 2, 7, 23, 10_000])
  test.each(cases)(`in pieces of ${size}: %s`, (_name, bytes, expected) => {
    expect(passed(bytes, size)).toBe(expected);
  });

test('nothing is touched while no response is expected', () => {
  const bytes = Buffer.from('HTTP/1.1 100 Continue\r\n\r\n');
  expect(new ResponseHeads().filter(bytes)).toBe(bytes);
});

test('an interim head without end is not held for ever', () => {
  const heads = new ResponseHeads();
  heads.expectHead();
  const start = Buffer.from('HTTP/1.1 103 Early\r\n');
  const filler = Buffer.alloc(70_000, 'x');
  expect(heads.filter(start)).toHaveLength(0);
  expect(heads.filter(filler)).toHaveLength(start.length + filler.length);
});

const OCTETS = String.fromCharCode(...Array.from({ length: 128 }, (_, at) => 128 + at));
const phrases: readonly [line: string, status: number, reason: string | undefined][] = [
  ['HTTP/1.1 200 OK\r\n', 200, 'OK'],
  [`HTTP/1.1 200 ${OCTETS}\r\n`, 200, OCTETS],
  ['HTTP/1.1 404 Nie znaleziono \xc5\xbc\r\n', 404, 'Nie znaleziono \xc5\xbc'],
  ['HTTP/1.0 500 \xff\n', 500, '\xff'],
  ['HTTP/1.1 204 \r\n', 204, ''],
  ['HTTP/1.1 204\r\n', 204, ''],
  [`HTTP/1.1 200 ${'x'.repeat(9000)}\r\n`, 200, undefined],
  ['SMTP ready\r\n', 200, undefined],
];

for (const size of [1, 2, 7, 10_000])
  test.each(phrases)(`the reason phrase is seen as it is, in pieces of ${size}: %j`, (line, status, reason) => {
    const heads = new ResponseHeads();
    for (let round = 0; round < 2; round++) {
      heads.expectHead();
      const bytes = Buffer.from(`HTTP/1.1 103 Early\r\n\r\n${line}Content-Length: 0\r\n\r\n`, 'latin1');
      for (let at = 0; at < bytes.length; at += size) heads.filter(bytes.subarray(at, at + size));
      expect(heads.reasonOf(status)).toBe(reason);
    }
  });
