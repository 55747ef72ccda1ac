import { expect, test } from '@jest/globals';
import {
  address,
  boolean,
  cidr,
  duration,
  httpUrl,
  httpUrlOrNull,
  integer,
  oneOf,
  size,
  sizeOrNull,
} from '../../src/config/values.js';

test.each([
  ['0', 0],
  [1000, 1000],
  ['1000', 1000],
  ['7B', 7],
  ['1kB', 1000],
  ['5MB', 5_000_000],
  ['1.5GB', 1_500_000_000],
  ['1KiB', 1024],
  ['64 MiB', 64 * 2 ** 20],
  ['10GiB', 10 * 2 ** 30],
  ['2TiB', 2 * 2 ** 40],
])('the size %p is %p bytes', (written, bytes) => {
  expect(size().parse(written)).toBe(bytes);
});

test.each(['', '10XB', '-1', -1, 1.5, '1.0001KiB', '10gib', 'MiB', null, true, '99999999TiB'])(
  '%p is no size',
  (written) => {
    expect(size().safeParse(written).success).toBe(false);
  },
);

test('a size may be null only where there need not be a limit', () => {
  expect(sizeOrNull().parse(null)).toBeNull();
  expect(sizeOrNull().parse('')).toBeNull();
  expect(size().safeParse(null).success).toBe(false);
});

test.each([
  ['500ms', 500],
  ['30s', 30_000],
  ['0.5s', 500],
  ['5m', 300_000],
  ['24h', 86_400_000],
  ['7d', 604_800_000],
])('the time %p is %p milliseconds', (written, ms) => {
  expect(duration().parse(written)).toBe(ms);
});

test.each(['30', 30, '-1s', '1w', '', null, 's', '25d'])('%p is no time', (written) => {
  expect(duration().safeParse(written).success).toBe(false);
});

test('a time that no timer waits for may be longer than a timer can be', () => {
  expect(duration({ maxMs: Infinity }).parse('90d')).toBe(90 * 86_400_000);
});

test.each([
  ['127.0.0.1:8080', { kind: 'tcp', host: '127.0.0.1', port: 8080 }],
  ['0.0.0.0:0', { kind: 'tcp', host: '0.0.0.0', port: 0 }],
  ['[::1]:9090', { kind: 'tcp', host: '::1', port: 9090 }],
  ['localhost:80', { kind: 'tcp', host: 'localhost', port: 80 }],
  ['unix:/run/rufh.sock', { kind: 'unix', path: '/run/rufh.sock' }],
])('%p is an address', (written, parsed) => {
  expect(address().parse(written)).toEqual(parsed);
});

test.each(['8080', ':8080', '::1:80', '[zz]:80', '127.0.0.1:65536', 'http://127.0.0.1:80', 'unix:', 'a b:1', 8080])(
  '%p is no address',
  (written) => {
    expect(address().safeParse(written).success).toBe(false);
  },
);

test.each([
  ['http://127.0.0.1:3000', 'http://127.0.0.1:3000'],
  ['http://127.0.0.1:3000/', 'http://127.0.0.1:3000'],
  ['https://API.example.com:443/v1/', 'https://api.example.com/v1'],
])('the URL %p is kept as %p', (written, kept) => {
  expect(httpUrl().parse(written)).toBe(kept);
});

test.each(['127.0.0.1:3000', 'ftp://a', 'http://', 'http://a/?q=1', 'http://a/#b', 'http://me:secret@a/', 7])(
  '%p is no URL of an origin',
  (written) => {
    expect(httpUrl().safeParse(written).success).toBe(false);
  },
);

test('a URL that is not wanted is null or empty', () => {
  expect([httpUrlOrNull().parse(null), httpUrlOrNull().parse('')]).toEqual([null, null]);
});

test.each([
  ['10.0.0.0/8', '10.0.0.0/8'],
  ['192.168.1.7', '192.168.1.7/32'],
  ['fd00::/8', 'fd00::/8'],
  ['::1', '::1/128'],
  ['unix', 'unix'],
])('the range %p is kept as %p', (written, kept) => {
  expect(cidr().parse(written)).toBe(kept);
});

test.each(['::ffff:10.0.0.0/8', '::ffff:0:0/95', '10.0.0.0/33', '10.1', '256.0.0.1', 'example.com', '', 4])(
  '%p is no range',
  (written) => {
    expect(cidr().safeParse(written).success).toBe(false);
  },
);

test('numbers and truth values are read from text too, as variables bring them', () => {
  expect(integer({ min: 1, max: 10 }).parse('7')).toBe(7);
  expect(boolean().parse('false')).toBe(false);
  expect(oneOf(['always', 'group']).parse('group')).toBe('group');
});

test.each([
  [integer({ min: 1, max: 10 }), 11, 'a whole number from 1 to 10'],
  [integer({ min: 1, max: 10 }), '1.5', 'a whole number from 1 to 10'],
  [boolean(), 'yes', 'true or false'],
  [oneOf(['always', 'group']), 'never', 'one of always, group'],
  [size({ min: 65535 }), 1, 'a size such as 10GiB, 5MB or a number of bytes, at least 65535'],
])('a wrong value is answered with what is allowed (%#)', (kind, written, allowed) => {
  expect(kind.safeParse(written).error?.issues[0]?.message).toBe(allowed);
});
