import { describe, expect, test } from '@jest/globals';
import { createLog } from '../../src/observe/log.js';
import {
  clientLimits,
  type ConnectionLimit,
  ConnectionLimits,
  defaultMaxConnections,
  limitKeyOf,
  maxConnections,
  NumberedConnections,
  openFileLimit,
} from '../../src/server/connection-limits.js';

function limitsOf(options: { total?: number; perAddress?: number; exempt?: string }) {
  const refused: ConnectionLimit[] = [];
  const lines: Record<string, unknown>[] = [];
  const write = (line: string): void => void lines.push(JSON.parse(line) as Record<string, unknown>);
  const now = { ms: 0, nearlyFull: 0 };
  const limits = new ConnectionLimits({
    total: options.total ?? 1000,
    perAddress: options.perAddress ?? 1000,
    isExempt: (address) => address === options.exempt,
    onRefused: (limit) => refused.push(limit),
    onNearlyFull: () => now.nearlyFull++,
    log: createLog({ level: 'info', format: 'json', destination: { write } }),
    monotonic: () => now.ms,
  });
  return { limits, refused, lines, now };
}

test.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['2001:db8:1:2::1', '2001:db8:1:2::/64'],
  ['2001:db8:1:2:ffff:ffff:ffff:ffff', '2001:db8:1:2::/64'],
  ['2001:db8:1:3::1', '2001:db8:1:3::/64'],
  ['::1', '0:0:0:0::/64'],
  ['fe80::1%eth0', 'fe80:0:0:0::/64'],
  ['', undefined],
])('%s counts as %s', (address, counted) => {
  expect(limitKeyOf(address)).toBe(counted);
});

// What an address has does not keep others out, and what has ended does not count.
test.each([
  { name: 'one address', perAddress: 2, clients: ['192.0.2.1', '192.0.2.1', '192.0.2.1'], met: 'address' },
  { name: 'one /64', perAddress: 2, clients: ['2001:db8::1', '2001:db8::2', '2001:db8::3'], met: 'address' },
  {
    name: 'one address in both spellings',
    perAddress: 2,
    clients: ['10.0.0.1', '::ffff:10.0.0.1', '10.0.0.1'],
    met: 'address',
  },
  { name: 'all together', total: 2, clients: ['192.0.2.1', '192.0.2.2', '192.0.2.3'], met: 'total' },
  { name: 'a Unix socket too', total: 2, perAddress: 1, clients: ['', '', ''], met: 'total' },
] as const)('the last of three is refused for $name, until one has ended', ({ clients, met, ...options }) => {
  const { limits, refused } = limitsOf(options);
  const [first, second, third] = clients;
  const release = limits.admit(first);
  expect(release).toBeDefined();
  expect(limits.admit(second)).toBeDefined();
  expect(limits.admit(third)).toBeUndefined();
  expect(refused).toEqual([met]);
  if (met === 'address') expect(limits.admit('198.51.100.1')).toBeDefined();
  release!();
  expect(limits.admit(third)).toBeDefined();
  expect(limits.admit(third)).toBeUndefined();
});

test('an address that stands for many clients is free of its limit, not of that for all', () => {
  const { limits, refused } = limitsOf({ total: 3, perAddress: 1, exempt: '10.0.0.1' });
  expect(['10.0.0.1', '10.0.0.1', '10.0.0.1'].map((address) => limits.admit(address) !== undefined)).toEqual([
    true,
    true,
    true,
  ]);
  expect(limits.admit('10.0.0.1')).toBeUndefined();
  expect(refused).toEqual(['total']);
});

test('a flood of refused connections is told once in a while, with how many they were', () => {
  const { limits, refused, lines, now } = limitsOf({ perAddress: 1 });
  limits.admit('192.0.2.1');
  for (let count = 0; count < 500; count++) limits.admit('192.0.2.1');
  now.ms = 10_000;
  limits.admit('192.0.2.1');
  expect(refused).toHaveLength(501);
  expect(lines).toEqual([
    expect.objectContaining({ level: 'warn', limit: 'address', client: '192.0.2.1', most: 1, refused: 1 }),
    expect.objectContaining({ limit: 'address', refused: 500 }),
  ]);
});

test('room is made before all connections are taken, and not for each of many', () => {
  const { limits, now } = limitsOf({ total: 10 });
  for (let count = 1; count <= 8; count++) limits.admit('192.0.2.1');
  expect(now.nearlyFull).toBe(0);
  for (let count = 1; count <= 100; count++) limits.admit('192.0.2.1');
  expect(now.nearlyFull).toBe(1);
  now.ms = 1000;
  limits.admit('192.0.2.1');
  expect(now.nearlyFull).toBe(2);
});

test.each([
  [256, 64],
  [1024, 320],
  [65_536, 16_384],
  [1_048_576, 16_384],
  [Infinity, 16_384],
  [10, 1],
])('a process that may open %d files takes %d connections', (openFiles, connections) => {
  expect(defaultMaxConnections(openFiles)).toBe(connections);
  // Where anything is left at all, the process keeps some of it.
  expect(maxConnections(openFiles)).toBe(openFiles > 128 ? openFiles - 128 : 1);
});

/** As many as are admitted: from as many addresses, or from one. */
function admitted(settings: { total?: number; perAddress?: number }, processes: number, isTrusted = false) {
  let warned = 0;
  const write = (line: string): void => {
    if (line.includes('"wanted"')) warned++;
  };
  const open = () =>
    clientLimits({
      settings,
      processes,
      trust: { trusts: () => isTrusted },
      metrics: { connectionRefused: () => undefined },
      endIdle: () => undefined,
      log: createLog({ level: 'info', format: 'json', destination: { write } }),
      monotonic: () => 0,
      openFiles: 1024,
    });
  const count = (addressOf: (at: number) => string): number => {
    const limits = open();
    let at = 0;
    while (at < 10_000 && limits.admit(addressOf(at))) at++;
    return at;
  };
  const address = (at: number): string => `10.${at >> 16}.${(at >> 8) & 255}.${at & 255}`;
  return { all: count(address), ofOne: count(() => '192.0.2.1'), warned: warned > 0 };
}

describe.each([1, 3])('the limits that %d processes share', (processes) => {
  const [usual, most] = [320 * processes, 896 * processes];

  test.each([
    { name: 'nothing is said', settings: {}, all: usual, ofOne: Math.ceil(usual / 2), warned: false },
    { name: 'a total is said', settings: { total: 11 }, all: 11, ofOne: 6, warned: false },
    { name: 'both are said', settings: { total: 11, perAddress: 2 }, all: 11, ofOne: 2, warned: false },
    { name: 'that of an address is said', settings: { perAddress: 2 }, all: usual, ofOne: 2, warned: false },
    {
      name: 'the total is more than their descriptors',
      settings: { total: most + 1, perAddress: 3 },
      all: most,
      ofOne: 3,
      warned: true,
    },
  ])('where $name', ({ settings, all, ofOne, warned }) => {
    expect(admitted(settings, processes)).toMatchObject({ all, ofOne, warned });
  });

  test('hold in all alone for a trusted proxy', () => {
    expect(admitted({ total: 11, perAddress: 2 }, processes, true)).toMatchObject({ all: 11, ofOne: 11 });
  });
});

test('the limit of this process is known', () => {
  const { userLimits } = process.report.getReport() as unknown as { userLimits: { open_files: { soft: number } } };
  expect(openFileLimit()).toBe(userLimits.open_files.soft);
});

test('numbered connections tell which have ended, also of the time before anybody asked', () => {
  const { limits } = limitsOf({ total: 2 });
  const numbered = new NumberedConnections(limits);
  const first = numbered.admit('192.0.2.1');
  const second = numbered.admit('192.0.2.1');
  // The third is refused.
  numbered.admit('192.0.2.1');
  second!();
  const ended: number[] = [];
  numbered.onEnded((number) => ended.push(number));
  expect(ended).toEqual([2, 3]);
  first!();
  expect(numbered.admit('192.0.2.1')).toBeDefined();
  numbered.admit('192.0.2.1');
  numbered.admit('192.0.2.1');
  expect(ended).toEqual([2, 3, 1, 6]);
});
