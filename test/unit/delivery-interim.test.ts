import { expect, test } from '@jest/globals';
import { InterimResponses } from '../../src/delivery/undici-interim.js';

const FINAL = 'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n';

/** What a parser would see of these bytes in pieces of this size. */
function passed(bytes: string, size: number): string {
  const interim = new InterimResponses();
  interim.expectHead();
  let out = '';
  for (let at = 0; at < bytes.length; at += size)
    out += interim.pass(Buffer.from(bytes.slice(at, at + size), 'latin1')).toString('latin1');
  return out + (interim.rest()?.toString('latin1') ?? '');
}

const cases: readonly [name: string, bytes: string, expected: string][] = [
  ['a final response alone', FINAL, FINAL],
  ['a 100 before it', `HTTP/1.1 100 Continue\r\n\r\n${FINAL}`, `HTTP/1.1 102 Continue\r\n\r\n${FINAL}`],
  [
    'several interim responses with fields',
    `HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 100\r\nA: 100\r\n\r\nHTTP/1.1 100 C\r\n\r\n${FINAL}`,
    `HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 102\r\nA: 100\r\n\r\nHTTP/1.1 102 C\r\n\r\n${FINAL}`,
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
  expect(new InterimResponses().pass(bytes)).toBe(bytes);
});

test('an interim head without end is not held for ever', () => {
  const interim = new InterimResponses();
  interim.expectHead();
  const start = Buffer.from('HTTP/1.1 103 Early\r\n');
  const filler = Buffer.alloc(70_000, 'x');
  expect(interim.pass(start)).toHaveLength(0);
  expect(interim.pass(filler)).toHaveLength(start.length + filler.length);
});
