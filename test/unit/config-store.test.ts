import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { describeError } from '../../src/config/errors.js';
import { loadConfig } from '../../src/config/load.js';
import type { StoreConfig } from '../../src/config/store.js';
import { makeCertificate, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('store settings', () => {
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
    expect(storeOf('{ type: embedded, url: null, prefix: rufh, wait: 0s, password: "" }')).toEqual({
      type: 'embedded',
    });
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
});

describe('mistakes in store settings', () => {
  let directory: TemporaryDirectory;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  /** The mistakes as lines, with `DIR` for the directory's path. */
  function configErrors(lines: string): string[] {
    const file = join(directory.path, 'rufh-proxy.yaml');
    writeFileSync(file, `origin: http://a\n${lines.replaceAll('DIR', directory.path)}`);
    const loaded = loadConfig({ file, env: {}, flags: {} });
    if (!('configErrors' in loaded)) return [];
    return loaded.configErrors.map((one) =>
      describeError({ ...one, source: undefined }).replaceAll(directory.path, 'DIR'),
    );
  }

  function write(name: string, content: string): void {
    writeFileSync(join(directory.path, name), content);
  }

  const URL_WORDS =
    'a URL such as redis://127.0.0.1:6379/0, rediss://user:password@redis.example.com:6379 (TLS) or ' +
    'unix:///run/redis.sock?db=0; special characters in a password must be percent-encoded';

  describe('is no URL of Redis:', () => {
    test.each([
      '127.0.0.1:6379',
      'http://h',
      'redis://',
      'redis://h:0',
      'redis://h:65536',
      'redis://h/name',
      'redis://h/1/2',
      'redis://h?db=1',
      'redis://h#1',
      'unix://run/redis.sock',
      'unix:///',
      'unix:///s?database=1',
      'unix:///s?db=x',
    ])('%s', (url) => {
      expect(configErrors(`store: { type: redis, url: "${url}" }`)).toEqual([
        `2:28: store.url: found "${url}", expected ${URL_WORDS}; or a list of them`,
      ]);
      expect(configErrors(`store: { type: redis, cluster: true, url: ["${url}"] }`)).toEqual([
        `2:44: store.url[0]: found "${url}", expected ${URL_WORDS}`,
      ]);
    });
  });

  describe('a value that is not expected told with what is', () => {
    test.each([
      ['store: { type: memory }', '2:16: store.type: found "memory", expected one of embedded, redis'],
      ['store: { type: redis, url: [] }', '2:28: store.url: found [], expected at least one URL'],
      [
        'store: { type: redis, url: redis://h, sentinel: {} }',
        '2:39: store.sentinel.master: is missing; expected a name without spaces',
      ],
      [
        'store: { type: redis, url: redis://h, sentinel: mymaster }',
        '2:49: store.sentinel: found "mymaster", expected a group of settings (name: value)',
      ],
      [
        'store: { type: redis, url: redis://h, username: "a b" }',
        '2:49: store.username: found "a b", expected a name without spaces, or null',
      ],
      [
        'store: { type: redis, url: redis://h, password_file: [a] }',
        '2:54: store.password_file: found ["a"], expected the path of a file, or null',
      ],
      [
        'store: { type: redis, url: redis://h, prefix: "{rufh}" }',
        '2:47: store.prefix: found "{rufh}", expected a name of up to 64 letters, digits, dots, dashes and underscores',
      ],
      [
        'store: { type: redis, url: redis://h, replicas: -1 }',
        '2:49: store.replicas: found -1, expected a whole number from 0 to 100',
      ],
      [
        'store: { type: redis, url: redis://h, tls: { server: h } }',
        '2:46: store.tls.server: unknown setting; known settings here: ca, cert, key, server_name',
      ],
      ['store: { typ: redis }', '2:10: store.typ: unknown setting; did you mean type?'],
    ])('%s', (line, configError) => {
      expect(configErrors(line)).toEqual([configError]);
    });
  });

  describe('settings that are right one by one, but not together', () => {
    const forRedis = 'applies to Redis, but the store is embedded; set "type: redis", or remove it';
    test.each<[string, string[]]>([
      ['store: { url: redis://h }', [`2:15: store.url: ${forRedis}`]],
      [
        'store: { type: embedded, cluster: true, prefix: mine, wait: 5s }',
        [`2:35: store.cluster: ${forRedis}`, `2:49: store.prefix: ${forRedis}`, `2:61: store.wait: ${forRedis}`],
      ],
      [
        'store: { type: redis }',
        ['2:1: store.url: is missing; set it to the address of Redis, such as redis://127.0.0.1:6379'],
      ],
      [
        'store: { type: redis, url: [redis://a, redis://b] }',
        ['2:28: store.url: has 2 servers; set "cluster: true" or "sentinel" to say what they are, or keep one'],
      ],
      [
        'store: { type: redis, url: redis://a, cluster: true, sentinel: { master: m } }',
        [
          '2:64: store.sentinel: cannot be combined with "cluster: true"; the URLs are either Sentinels or nodes of a Cluster',
        ],
      ],
      [
        'store: { type: redis, url: "unix:///s", cluster: true }',
        ['2:28: store.url: contains a socket, which reaches one server only; use hosts and ports'],
      ],
      [
        'store: { type: redis, url: ["unix:///s", redis://b], sentinel: { master: m } }',
        ['2:28: store.url: contains a socket, which reaches one server only; use hosts and ports'],
      ],
      [
        'store: { type: redis, url: "unix:///s", tls: {} }',
        ['2:46: store.tls: cannot be used with a socket; remove it'],
      ],
      [
        'store: { type: redis, cluster: true, url: redis://a/1 }',
        ['2:43: store.url: selects database 1, but a Redis Cluster has only database 0'],
      ],
      [
        'store: { type: redis, cluster: true, url: [redis://a, redis://b/2] }',
        ['2:55: store.url[1]: selects database 2, but a Redis Cluster has only database 0'],
      ],
      [
        'store: { type: redis, sentinel: { master: m }, url: [redis://a/1, redis://b, redis://u:p@c/2, redis://v:q@d/1] }',
        [
          '2:78: store.url[2]: has a different database from an earlier URL; specify it only once',
          '2:95: store.url[3]: has a different username from an earlier URL; specify it only once',
          '2:95: store.url[3]: has a different password from an earlier URL; specify it only once',
        ],
      ],
      [
        'store: { type: redis, cluster: true, url: [redis://a, rediss://b] }',
        ['2:55: store.url[1]: has a different scheme from url[0]; use TLS (rediss://) for all URLs or for none'],
      ],
      [
        'store: { type: redis, url: redis://a, username: me }',
        ['2:49: store.username: also needs a password: set `password_file` or `password`'],
      ],
      [
        'store: { type: redis, url: redis://me@a }',
        ['2:28: store.url: also needs a password: set `password_file` or `password`'],
      ],
      [
        'store: { type: redis, url: redis://a, sentinel: { master: m, username: me } }',
        ['2:72: store.sentinel.username: also needs a password: set `password_file` or `password`'],
      ],
      [
        'store: { type: redis, url: redis://a, password: x, password_file: /f }',
        ['2:67: store.password_file: cannot be combined with `password`; remove one of them'],
      ],
      [
        'store: { type: redis, url: redis://a, sentinel: { master: m, password: x, password_file: /f } }',
        ['2:90: store.sentinel.password_file: cannot be combined with `password`; remove one of them'],
      ],
    ])('%s', (line, expected) => {
      expect(configErrors(line)).toEqual(expected);
    });

    test.each([
      'store: { type: redis, url: redis://a, replicas: 1 }',
      'store: { type: redis, url: redis://a, cluster: true }',
      'store: { type: redis, url: [redis://a, redis://b], cluster: true, replicas: 1 }',
      'store: { type: redis, url: [redis://me:p@a/1, redis://me:p@b/1], sentinel: { master: m } }',
      'store: { type: redis, url: redis://me@a, password: x }',
      'spool: { shared: false }',
    ])('%s is no contradiction', (line) => {
      expect(configErrors(line)).toEqual([]);
    });

    test('are told beside a wrong value of another section, but not where that value may be the reason', () => {
      expect(configErrors('log: { level: loud }\nstore: { type: redis }')).toHaveLength(2);
      expect(configErrors('store: { type: rediss, url: redis://h }\nspool: { shared: true }\nworkers: 2')).toEqual([
        '2:16: store.type: found "rediss", expected one of embedded, redis',
      ]);
    });
  });

  describe('a file that cannot be used', () => {
    const store = (rest: string) => `store: { type: redis, url: redis://h, ${rest} }`;

    test.each([
      ['password_file: DIR/none', '2:54: store.password_file: cannot read DIR/none: ENOENT'],
      ['password_file: DIR', '2:54: store.password_file: cannot read DIR: EISDIR'],
      ['password_file: DIR/empty', '2:54: store.password_file: DIR/empty is empty'],
      [
        'sentinel: { master: m, password_file: DIR/none }',
        '2:77: store.sentinel.password_file: cannot read DIR/none: ENOENT',
      ],
      ['tls: { ca: DIR/none }', '2:50: store.tls.ca: cannot read DIR/none: ENOENT'],
      ['tls: { cert: DIR/cert }', '2:52: store.tls.cert: also needs a private key: set `key`'],
      ['tls: { key: DIR/key }', '2:51: store.tls.key: also needs a certificate: set `cert`'],
    ])('%s', (rest, configError) => {
      write('empty', '\n');
      write('cert', '-');
      write('key', '-');
      expect(configErrors(store(rest))).toEqual([configError]);
    });

    test('is a key of another certificate, or an authority that is none', () => {
      write('cert', makeCertificate().cert);
      write('key', makeCertificate().key);
      write('none', 'no certificate');
      expect(configErrors(store('tls: { cert: DIR/cert, key: DIR/key, ca: DIR/none }'))).toEqual([
        expect.stringMatching(/^2:44: store.tls: the certificate and the key do not work together: /),
        expect.stringMatching(/^2:\d+: store.tls.ca: does not contain a certificate: /),
      ]);
    });
  });
});
