import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { describeError } from '../../src/config/errors.js';
import { loadConfig } from '../../src/config/load.js';
import { makeCertificate } from '../support/certificate.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

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
  'unix:///run/redis.sock?db=0; special letters of a password are percent-encoded';

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
      `2:28: store.url: found "${url}", allowed is ${URL_WORDS}; or a list of them`,
    ]);
    expect(configErrors(`store: { type: redis, cluster: true, url: ["${url}"] }`)).toEqual([
      `2:44: store.url[0]: found "${url}", allowed is ${URL_WORDS}`,
    ]);
  });
});

describe('a value that is not allowed is told with what is', () => {
  test.each([
    ['store: { type: memory }', '2:16: store.type: found "memory", allowed is one of embedded, redis'],
    ['store: { type: redis, url: [] }', '2:28: store.url: found [], allowed is at least one URL'],
    [
      'store: { type: redis, url: redis://h, sentinel: {} }',
      '2:39: store.sentinel.master: is missing; allowed is a name without blanks',
    ],
    [
      'store: { type: redis, url: redis://h, sentinel: mymaster }',
      '2:49: store.sentinel: found "mymaster", allowed is a group of settings (name: value)',
    ],
    [
      'store: { type: redis, url: redis://h, username: "a b" }',
      '2:49: store.username: found "a b", allowed is a name without blanks, or null',
    ],
    [
      'store: { type: redis, url: redis://h, password_file: [a] }',
      '2:54: store.password_file: found ["a"], allowed is the path of a file, or null',
    ],
    [
      'store: { type: redis, url: redis://h, prefix: "{rufh}" }',
      '2:47: store.prefix: found "{rufh}", allowed is a name of letters, digits, dots, dashes and underscores, up to 64 of them',
    ],
    [
      'store: { type: redis, url: redis://h, replicas: -1 }',
      '2:49: store.replicas: found -1, allowed is a whole number from 0 to 100',
    ],
    [
      'store: { type: redis, url: redis://h, tls: { server: h } }',
      '2:46: store.tls.server: there is no such setting; known here: ca, cert, key, server_name',
    ],
    ['store: { typ: redis }', '2:10: store.typ: there is no such setting; did you mean type?'],
  ])('%s', (line, configError) => {
    expect(configErrors(line)).toEqual([configError]);
  });
});

describe('settings that are right one by one, but not together', () => {
  const forRedis = 'is for Redis, but the store is embedded; write "type: redis" beside it, or leave it out';
  test.each<[string, string[]]>([
    ['store: { url: redis://h }', [`2:15: store.url: ${forRedis}`]],
    [
      'store: { type: embedded, cluster: true, prefix: mine, wait: 5s }',
      [`2:35: store.cluster: ${forRedis}`, `2:49: store.prefix: ${forRedis}`, `2:61: store.wait: ${forRedis}`],
    ],
    ['store: { type: redis }', ['2:1: store.url: is missing; it says where Redis is, such as redis://127.0.0.1:6379']],
    [
      'store: { type: redis, url: [redis://a, redis://b] }',
      ['2:28: store.url: has 2 servers; say what they are with "cluster: true" or "sentinel", or leave one'],
    ],
    [
      'store: { type: redis, url: redis://a, cluster: true, sentinel: { master: m } }',
      ['2:64: store.sentinel: cannot be used with "cluster: true"; the URLs are one or the other'],
    ],
    [
      'store: { type: redis, url: "unix:///s", cluster: true }',
      ['2:28: store.url: has a socket, which leads to one server only; give hosts and ports'],
    ],
    [
      'store: { type: redis, url: ["unix:///s", redis://b], sentinel: { master: m } }',
      ['2:28: store.url: has a socket, which leads to one server only; give hosts and ports'],
    ],
    [
      'store: { type: redis, url: "unix:///s", tls: {} }',
      ['2:46: store.tls: cannot be used on a socket; leave it out'],
    ],
    [
      'store: { type: redis, cluster: true, url: redis://a/1 }',
      ['2:43: store.url: says database 1; a Redis Cluster has only 0'],
    ],
    [
      'store: { type: redis, cluster: true, url: [redis://a, redis://b/2] }',
      ['2:55: store.url[1]: says database 2; a Redis Cluster has only 0'],
    ],
    [
      'store: { type: redis, sentinel: { master: m }, url: [redis://a/1, redis://b, redis://u:p@c/2, redis://v:q@d/1] }',
      [
        '2:78: store.url[2]: says another database than one before it; say it once',
        '2:95: store.url[3]: says another username than one before it; say it once',
        '2:95: store.url[3]: says another password than one before it; say it once',
      ],
    ],
    [
      'store: { type: redis, cluster: true, url: [redis://a, rediss://b] }',
      ['2:55: store.url[1]: has another scheme than url[0]; either all speak TLS (rediss://) or none'],
    ],
    [
      'store: { type: redis, url: redis://a, username: me }',
      ['2:49: store.username: needs a password as well: `password_file` or `password`'],
    ],
    [
      'store: { type: redis, url: redis://me@a }',
      ['2:28: store.url: needs a password as well: `password_file` or `password`'],
    ],
    [
      'store: { type: redis, url: redis://a, sentinel: { master: m, username: me } }',
      ['2:72: store.sentinel.username: needs a password as well: `password_file` or `password`'],
    ],
    [
      'store: { type: redis, url: redis://a, password: x, password_file: /f }',
      ['2:67: store.password_file: cannot be used together with `password`; leave one of them out'],
    ],
    [
      'store: { type: redis, url: redis://a, sentinel: { master: m, password: x, password_file: /f } }',
      ['2:90: store.sentinel.password_file: cannot be used together with `password`; leave one of them out'],
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
      '2:16: store.type: found "rediss", allowed is one of embedded, redis',
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
    ['tls: { cert: DIR/cert }', '2:52: store.tls.cert: needs its private key as well: `key`'],
    ['tls: { key: DIR/key }', '2:51: store.tls.key: needs its certificate as well: `cert`'],
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
      expect.stringMatching(/^2:44: store.tls: certificate and key cannot be used together: /),
      expect.stringMatching(/^2:\d+: store.tls.ca: holds no certificate: /),
    ]);
  });
});
