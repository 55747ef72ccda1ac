import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { loadConfig } from '../../src/config/load.js';
import type { StoreConfig } from '../../src/config/store.js';
import { makeCertificate } from '../support/certificate.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
beforeEach(async () => {
  directory = await temporaryDirectory();
});
afterEach(() => directory.remove());

interface Given {
  readonly env?: Record<string, string>;
  readonly flags?: Record<string, unknown>;
}

function storeOf(store: string, { env = {}, flags = {} }: Given = {}): StoreConfig {
  const file = join(directory.path, 'rufh-proxy.yaml');
  writeFileSync(file, `origin: http://a\nstore: ${store}\n`);
  const loaded = loadConfig({ file, env, flags });
  if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
  return loaded.config.store;
}

/** A file of the test's directory. */
function written(name: string, content: string): string {
  const file = join(directory.path, name);
  writeFileSync(file, content);
  return file;
}

const alone = {
  type: 'redis',
  kind: 'single',
  nodes: [{ host: '127.0.0.1', port: 6379 }],
  database: 0,
  prefix: 'rufh',
  replicas: 0,
  waitMs: 0,
};

test('Redis needs no more than its type and URL', () => {
  expect(storeOf('{ type: redis, url: redis://127.0.0.1 }')).toEqual(alone);
});

test('settings of the embedded store are no others than its type', () => {
  expect(storeOf('{ type: embedded, url: null, prefix: rufh, wait: 0s, password: "" }')).toEqual({ type: 'embedded' });
});

describe('a URL says where the server is, and who we are', () => {
  const at = (host: string, port = 6379) => ({ nodes: [{ host, port }] });
  test.each([
    ['redis://h', at('h')],
    ['redis://h:7000/', at('h', 7000)],
    ['redis://h:7000/5', { ...at('h', 7000), database: 5 }],
    ['redis://[::1]:7000', at('::1', 7000)],
    ['redis://:pw@h', { ...at('h'), password: 'pw' }],
    ['redis://me:pw@h', { ...at('h'), username: 'me', password: 'pw' }],
    ['redis://m%40e:%2F%3A%25%23@h', { ...at('h'), username: 'm@e', password: '/:%#' }],
    ['rediss://h', { ...at('h'), tls: {} }],
    ['unix:///run/redis.sock', { nodes: [], socketPath: '/run/redis.sock' }],
    ['redis+unix:///run/my%20redis.sock?db=2', { nodes: [], socketPath: '/run/my redis.sock', database: 2 }],
  ])('%s', (url, said) => {
    expect(storeOf(`{ type: redis, url: "${url}" }`)).toEqual({ ...alone, ...said });
  });
});

test('the URLs of a Cluster are some of its nodes', () => {
  const url = '[redis://a:7000, redis://:pw@b:7001, redis://c]';
  expect(storeOf(`{ type: redis, cluster: true, url: ${url} }`)).toEqual({
    ...alone,
    kind: 'cluster',
    password: 'pw',
    nodes: [
      { host: 'a', port: 7000 },
      { host: 'b', port: 7001 },
      { host: 'c', port: 6379 },
    ],
  });
});

test('the URLs of Sentinels have the port of a Sentinel, and Redis and Sentinels passwords of their own', () => {
  const sentinel = `{ master: main, username: watcher, password_file: ${written('sentinel', 'other\n')} }`;
  expect(storeOf(`{ type: redis, url: [redis://me:pw@a/2, redis://b:5000], sentinel: ${sentinel} }`)).toEqual({
    ...alone,
    kind: 'sentinel',
    masterName: 'main',
    username: 'me',
    password: 'pw',
    sentinelUsername: 'watcher',
    sentinelPassword: 'other',
    database: 2,
    nodes: [
      { host: 'a', port: 26379 },
      { host: 'b', port: 5000 },
    ],
  });
});

describe('the password', () => {
  const store = (rest: string) => `{ type: redis, url: redis://me:old@h, ${rest} }`;

  test.each(['s3cret', 's3cret\n', 's3cret\r\n'])('is what the file %j holds, without its line break', (content) => {
    const file = written('password', content);
    expect(storeOf(store(`password_file: ${file}`))).toMatchObject({ username: 'me', password: 's3cret' });
  });

  test('keeps the blanks and the line breaks within it', () => {
    const file = written('password', ' two\nlines \n');
    expect(storeOf(store(`password_file: ${file}`))).toMatchObject({ password: ' two\nlines ' });
  });

  test('and the user, set by themselves, come before those in the URL', () => {
    expect(storeOf(store('username: you, password: new'))).toMatchObject({ username: 'you', password: 'new' });
  });

  test('comes from a variable, be it a number or none at all', () => {
    const text = store('password: ${PASSWORD:-}');
    expect(storeOf(text, { env: { PASSWORD: '007' } })).toMatchObject({ password: '007' });
    expect(storeOf(text)).toMatchObject({ password: 'old' });
  });
});

test('TLS has files and a name of its own, whatever the scheme', () => {
  const { cert, key } = makeCertificate();
  const files = { ca: written('ca.pem', cert), cert: written('cert.pem', cert), key: written('key.pem', key) };
  const tls = `{ ca: ${files.ca}, cert: ${files.cert}, key: ${files.key}, server_name: redis.local }`;
  const expected = { tls: { ...files, serverName: 'redis.local' } };
  expect(storeOf(`{ type: redis, url: redis://h, tls: ${tls} }`)).toMatchObject(expected);
  expect(storeOf(`{ type: redis, url: rediss://h, tls: ${tls} }`)).toMatchObject(expected);
});

test('how much is asked of Redis, and how long it is waited for', () => {
  expect(storeOf('{ type: redis, url: redis://127.0.0.1, prefix: my-app.1, replicas: 2, wait: 1m }')).toEqual({
    ...alone,
    prefix: 'my-app.1',
    replicas: 2,
    waitMs: 60_000,
  });
});

describe('a URL on the command line makes Redis the store', () => {
  test.each<[string, Given]>([
    ['as a flag', { flags: { storeUrl: ['redis://127.0.0.1'] } }],
    ['as a variable', { env: { RUFH_PROXY_STORE_URL: 'redis://127.0.0.1' } }],
  ])('%s', (_how, given) => {
    expect(storeOf('{ type: embedded }', given)).toEqual(alone);
  });

  test('as a list of nodes, beside what the file says', () => {
    const given = { env: { RUFH_PROXY_STORE_URL: 'redis://a, redis://b' } };
    expect(storeOf('{ cluster: true, prefix: mine }', given)).toMatchObject({
      kind: 'cluster',
      prefix: 'mine',
      nodes: [{ host: 'a' }, { host: 'b' }],
    });
  });
});
