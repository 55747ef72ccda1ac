import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { configSummary } from '../../src/cli/check.js';
import { describeError } from '../../src/config/errors.js';
import { loadConfig } from '../../src/config/load.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

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
