import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { configSummary } from '../../src/cli/check.js';
import { describeError } from '../../src/config/errors.js';
import { loadAdmin, loadConfig } from '../../src/config/load.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

// Issue 9, §5.
const TOKEN = 'sixteen-letters-x';

let directory: TemporaryDirectory;
let tokenFile: string;
beforeEach(async () => {
  directory = await temporaryDirectory();
  tokenFile = join(directory.path, 'token');
  writeFileSync(tokenFile, `${TOKEN}\n`, { mode: 0o600 });
});
afterEach(() => directory.remove());

interface Given {
  readonly env?: Record<string, string>;
  readonly flags?: Record<string, unknown>;
}

function load(yaml: string, { env = {}, flags = {} }: Given = {}) {
  const file = join(directory.path, 'a.yaml');
  writeFileSync(file, `origin: http://a\n${yaml.replaceAll('TOKEN_FILE', tokenFile)}`);
  const say = (text: string): string => text.replaceAll(file, 'FILE').replaceAll(tokenFile, 'TOKEN_FILE');
  const loaded = loadConfig({ file, env, flags });
  if ('configErrors' in loaded)
    return { configErrors: loaded.configErrors.map((one) => say(describeError(one))), warnings: [] };
  return {
    admin: loaded.config.admin,
    config: loaded.config,
    configErrors: [],
    warnings: (loaded.warnings ?? []).map((one) => say(describeError(one))),
  };
}

const EXPOSED = 'can be reached from other machines, where anyone could cancel uploads; set `token_file`';

describe('beyond loopback', () => {
  test.each([
    ['0.0.0.0:9090', false],
    ['[::]:9090', false],
    ['10.0.0.5:9090', false],
    ['[fd00::1]:9090', false],
    ['[::ffff:10.0.0.5]:9090', false],
    ['some.host:9090', false],
    ['localhost.some.host:9090', false],
    ['127.0.0.1:9090', true],
    ['127.8.9.10:9090', true],
    ['[::1]:9090', true],
    ['[::ffff:127.0.0.1]:9090', true],
    ['localhost:9090', true],
    ['LOCALHOST:9090', true],
    ['unix:/run/a.sock', true],
  ])('%s without a token is right: %s; with one, or where it is meant, always', (address, isRight) => {
    const found = isRight ? [] : [expect.stringContaining(`FILE:2:8: admin: ${address} ${EXPOSED}`)];
    expect(load(`admin: '${address}'`).configErrors).toEqual(found);
    expect(load(`admin: { address: '${address}', token_file: TOKEN_FILE }`).configErrors).toEqual([]);
    expect(load(`admin: { address: '${address}', insecure: true }`).configErrors).toEqual([]);
    expect(load(`admin: { address: '${address}', open: [] }`).configErrors).toHaveLength(isRight ? 0 : 1);
  });

  test('is told where it was said', () => {
    expect(load('admin:\n  address: 0.0.0.0:1').configErrors).toEqual([
      expect.stringMatching(/^FILE:3:12: admin\.address: /),
    ]);
    expect(load('', { flags: { admin: '0.0.0.0:1' } }).configErrors).toEqual([
      expect.stringMatching(/^--admin: admin\.address: /),
    ]);
    const variable = load('admin: 127.0.0.1:1', { env: { RUFH_PROXY_ADMIN: '0.0.0.0:1' } });
    expect(variable.configErrors).toEqual([expect.stringMatching(/^RUFH_PROXY_ADMIN: admin\.address: /)]);
  });
});

test.each([
  ['token_file: /no/such/file', '2:22: admin.token_file: cannot read /no/such/file: ENOENT'],
  ['token_file: [a]', /admin\.token_file: found \["a"\], expected the path of a file, or null/],
  ['open: [uploads]', /admin\.open\[0\]: found "uploads", expected one of health, metrics/],
  ['hosts: ["a:80"]', /admin\.hosts\[0\]: found "a:80", expected a host name without a port/],
  ['insecure: yes', /admin\.insecure: found "yes", expected true or false/],
  ["mode: '0600'", /admin\.mode: applies to Unix sockets only/],
  ['tokenfile: a', /admin\.tokenfile: unknown setting; did you mean token_file\?/],
])('admin: { %s } is a mistake', (setting, told) => {
  const expected = typeof told === 'string' ? `FILE:${told}` : expect.stringMatching(told);
  expect(load(`admin: { ${setting} }`).configErrors).toEqual([expected]);
});

test.each([
  ['', 'is empty'],
  ['\n', 'is empty'],
  ['fifteen-letters', 'contains fewer than 16 characters'],
  ['sixteen letters with spaces', 'contains characters that a header field cannot carry'],
  ['sixteen-letters-ä', 'contains characters that a header field cannot carry'],
  ['sixteen-letters\nsixteen-letters', 'contains characters that a header field cannot carry'],
])('a file with %j is no token, and the mistake does not show it', (content, told) => {
  writeFileSync(tokenFile, content);
  const { configErrors } = load('admin: { token_file: TOKEN_FILE }');
  expect(configErrors).toEqual([expect.stringContaining(`FILE:2:22: admin.token_file: TOKEN_FILE ${told}`)]);
  expect(configErrors.join('')).not.toContain('sixteen-letters');
});

test('a directory is no token', () => {
  mkdirSync(join(directory.path, 'd'));
  const { configErrors } = load(`admin: { token_file: ${directory.path}/d }`);
  expect(configErrors).toEqual([expect.stringContaining('d: EISDIR')]);
});

describe('the token', () => {
  test.each<[string, Given]>([
    ['admin: { token_file: TOKEN_FILE }', {}],
    ['admin: { address: 127.0.0.1:1, token_file: TOKEN_FILE }', { flags: { admin: '0.0.0.0:2' } }],
    ['admin: { token_file: TOKEN_FILE }', { env: { RUFH_PROXY_ADMIN: '0.0.0.0:2' } }],
  ])('of %s is kept beside an address from elsewhere', (yaml, given) => {
    expect(load(yaml, given).admin).toMatchObject({ token: TOKEN });
  });

  test('may come from a flag or a variable, whatever form the address has in the file', () => {
    for (const yaml of ['', 'admin: 0.0.0.0:1', 'admin: { address: 0.0.0.0:1 }'])
      for (const given of [
        { env: { RUFH_PROXY_ADMIN_TOKEN_FILE: tokenFile } },
        { flags: { adminTokenFile: tokenFile } },
      ])
        expect(load(yaml, given).admin).toMatchObject({ token: TOKEN, address: { port: yaml === '' ? 9090 : 1 } });
  });

  test('needs no listener', () => {
    expect(load('admin: false', { flags: { adminTokenFile: tokenFile } })).toMatchObject({
      admin: undefined,
      configErrors: [],
    });
  });

  test('is not told with what would be served', () => {
    const summary = configSummary(load('admin: { address: 0.0.0.0:9090, token_file: TOKEN_FILE }').config!).join('\n');
    expect(summary).toContain('admin     0.0.0.0:9090 (with a token, except health)');
    expect(summary).not.toContain(TOKEN);
  });

  test('tells commands its file even where it cannot be read', () => {
    const file = join(directory.path, 'b.yaml');
    writeFileSync(file, 'admin: { token_file: /no/such/file }');
    expect(loadAdmin({ file, env: {}, flags: {} })).toMatchObject({ admin: { tokenFile: '/no/such/file' } });
  });
});

test.each([
  [
    'admin: { insecure: true }',
    [
      'FILE:2:20: admin.insecure: has no effect, because a token is set or no other machine can reach the address; remove it',
    ],
  ],
  [
    'admin: { address: 0.0.0.0:1, insecure: true, token_file: TOKEN_FILE }',
    [expect.stringContaining('admin.insecure: has no effect')],
  ],
  ['admin: { address: 0.0.0.0:1, insecure: true }', []],
  ['admin: { address: false, insecure: true }', []],
  ['admin: { token_file: TOKEN_FILE }', []],
])('%s is doubtful: %j', (yaml, warnings) => {
  expect(load(yaml)).toMatchObject({ configErrors: [], warnings });
});

test.each([
  ['admin: { token_file: TOKEN_FILE }', 'admin.token_file'],
  [
    'cluster: { listen: 10.0.0.5:1, advertise: http://a:1, secret_file: TOKEN_FILE }\nstore: { type: redis, url: redis://r }',
    'cluster.secret_file',
  ],
  ['store: { type: redis, url: redis://r, username: u, password_file: TOKEN_FILE }', 'store.password_file'],
  [
    'store: { type: redis, url: redis://r, sentinel: { master: m, password_file: TOKEN_FILE } }',
    'store.sentinel.password_file',
  ],
])('a secret that every user can read is doubtful: %s', (yaml, setting) => {
  for (const [mode, isOpen] of [
    [0o600, false],
    [0o440, false],
    [0o604, true],
    [0o644, true],
  ] as const) {
    chmodSync(tokenFile, mode);
    const told = [
      expect.stringMatching(new RegExp(`^FILE:\\d+:\\d+: ${setting}: TOKEN_FILE can be read by every user`)),
    ];
    expect(load(yaml)).toMatchObject({ configErrors: [], warnings: isOpen ? told : [] });
  }
});
