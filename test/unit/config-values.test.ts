import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { configSummary } from '../../src/cli/check.js';
import { describeError } from '../../src/config/errors.js';
import { loadConfig } from '../../src/config/load.js';
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
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('value types', () => {
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
});

describe('secrets', () => {
  let directory: TemporaryDirectory;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  /** Everything that "check" says about a configuration. */
  function told(yaml: string, env: Record<string, string> = {}): string[] {
    const file = join(directory.path, 'rufh-proxy.yaml');
    writeFileSync(file, yaml);
    const loaded = loadConfig({ file, env, flags: {} });
    return 'configErrors' in loaded ? loaded.configErrors.map(describeError) : configSummary(loaded.config);
  }

  const STORE = 'origin: http://a\nstore:\n  type: redis\n';

  test.each([
    ['a URL that is none', `${STORE}  url: redis://me:geheim@h:port`],
    ['a password with letters that had to be encoded', `${STORE}  url: redis://me:ge/heim@geheim#geheim@h`],
    ['a URL without a host', `${STORE}  url: redis://:geheim`],
    ['a URL in a list', `${STORE}  url: [redis://h, "redis://:geheim@"]`],
    ['a URL where a group belongs', 'origin: http://a\nstore: redis://:geheim@h'],
    ['a group where a list belongs', 'origin: http://a\ntrusted_proxies: { password: geheim, secret: geheim }'],
    ['an origin with a password', 'origin: http://me:geheim@a'],
    ['a password that is a list', `${STORE}  url: redis://h\n  password: [geheim]`],
    [
      'a password of a Sentinel that is a group',
      `${STORE}  url: redis://h\n  sentinel: { master: m, password: { geheim: 1 } }`,
    ],
    ['a secret that is too short', `origin: http://a\ncluster: { listen: a:1, advertise: http://a:1, secret: geheim }`],
    ['a password that looks like an alias', `${STORE}  password: *geheim`],
    ['a password that looks like a tag', `${STORE}  password: !geheim x`],
    ['a password that looks like a block', `${STORE}  password: |geheim`],
    ['passwords that contradict each other', `${STORE}  url: [redis://:geheim@h, redis://:geheim2@i]\n  cluster: true`],
    ['a password that is not for this store', 'origin: http://a\nstore: { password: geheim }'],
  ])('%s is a mistake that does not show it', (_what, yaml) => {
    const configErrors = told(yaml);
    expect(configErrors.join('\n')).toMatch(/rufh-proxy\.yaml:\d+:\d+: /);
    expect(configErrors.join('\n')).not.toContain('geheim');
  });

  test('a URL from the environment is a mistake that names the variable and does not show the password', () => {
    expect(told('origin: http://a', { RUFH_PROXY_STORE_URL: 'redis://me:geheim@h/x' })).toEqual([
      expect.stringMatching(/^RUFH_PROXY_STORE_URL: store\.url\[0\]: found "redis:\/\/\*\*\*@h\/x", expected /),
    ]);
  });

  test('a comma in a password makes no list of a variable', () => {
    const env = { RUFH_PROXY_STORE_URL: 'redis://me:ge,heim@h/1, redis://i' };
    expect(told('origin: http://a\nstore: { cluster: true }', env)).toEqual([
      'RUFH_PROXY_STORE_URL: store.url[0]: selects database 1, but a Redis Cluster has only database 0',
    ]);
  });

  test('what would be served is told without passwords', () => {
    writeFileSync(join(directory.path, 'file'), 'geheim-geheim-geheim');
    const yaml = `${STORE}  url: redis://me:geheim@h/2
  sentinel: { master: main, username: you, password: geheim }
cluster: { listen: 0.0.0.0:8081, advertise: http://10.0.0.5:8081, secret_file: ${directory.path}/file }`;
    expect(told(yaml)).toEqual(expect.arrayContaining([expect.stringContaining('user me')]));
    expect(told(yaml).join('\n')).not.toContain('geheim');
  });
});
