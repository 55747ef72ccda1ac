import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { describeError, editDistance } from '../../src/config/errors.js';
import { loadConfig } from '../../src/config/load.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
beforeEach(async () => {
  directory = await temporaryDirectory();
});
afterEach(() => directory.remove());

/** The mistakes as lines, with `FILE` for the file's path. */
function mistakesIn(yaml: string, env: Record<string, string> = {}, flags: Record<string, unknown> = {}): string[] {
  const file = join(directory.path, 'rufh-proxy.yaml');
  writeFileSync(file, yaml);
  const loaded = loadConfig({ file, env, flags });
  return 'configErrors' in loaded ? loaded.configErrors.map((one) => describeError(one).replaceAll(file, 'FILE')) : [];
}

test('all mistakes are told at once, from top to bottom, each with its place and what is allowed', () => {
  const yaml = `origin: 127.0.0.1:3000
listen:
  - adress: 127.0.0.1:80
  - 127.0.0.1
limits:
  max_size: 10XB
  idle_timout: 5s
admin: yes please
trusted_proxies: [10.0.0.0/8, { cidr: proxy.local }]
cors: { allow_origins: ["*"], allow_credentials: true }
http2: { stream_window: 16MiB }
routes:
  - match: { path: api, methods: [post] }
    delivery: { retry: 5 }
  - name: x
`;
  expect(mistakesIn(yaml)).toEqual([
    'FILE:1:9: origin: found "127.0.0.1:3000", expected a URL such as http://127.0.0.1:3000, without query, fragment or credentials',
    'FILE:3:5: listen[0].address: is missing; expected HOST:PORT such as 127.0.0.1:8080 or [::1]:8080 (port 0 picks a free port), or unix:/path',
    'FILE:3:5: listen[0].adress: unknown setting; did you mean address?',
    'FILE:4:5: listen[1]: found "127.0.0.1", expected HOST:PORT such as 127.0.0.1:8080 or [::1]:8080 (port 0 picks a free port), or unix:/path',
    'FILE:6:13: limits.max_size: found "10XB", expected a size such as 10GiB, 5MB or a number of bytes, or null',
    'FILE:7:3: limits.idle_timout: unknown setting; did you mean idle_timeout?',
    'FILE:8:8: admin: found "yes please", expected HOST:PORT such as 127.0.0.1:8080 or [::1]:8080 (port 0 picks a free port), or unix:/path, or false',
    'FILE:9:39: trusted_proxies[1].cidr: found "proxy.local", expected an address or range such as 10.0.0.0/8, 192.168.1.7 or fd00::/8, or unix',
    'FILE:10:50: cors.allow_credentials: cannot be true when allow_origins contains *: any page could act on behalf of your users; list the origins',
    'FILE:11:1: http2.session_window: is 8388608, which is less than stream_window (16777216)',
    'FILE:13:20: routes[0].match.path: found "api", expected a path pattern that begins with /, such as /api/files/**',
    'FILE:13:35: routes[0].match.methods[0]: found "post", expected an uppercase method, such as POST',
    'FILE:14:24: routes[0].delivery.retry: found 5, expected a group of settings (name: value)',
    'FILE:15:5: routes[1].match: is missing; expected a group of settings (name: value)',
  ]);
});

test('what only some listeners can have is told where it stands', () => {
  const long = `unix:/run/${'x'.repeat(120)}`;
  expect(
    mistakesIn(
      `origin: http://a\nlisten:\n  - { address: "127.0.0.1:80", mode: '0600' }\n  - ${long}\n  - { address: "unix:/run/a", mode: 0660 }\n`,
    ),
  ).toEqual([
    "FILE:5:37: listen[2].mode: found 660, expected file permissions as octal digits in quotes, such as '0660'",
  ]);
  expect(mistakesIn(`origin: http://a\nlisten:\n  - { address: "127.0.0.1:80", mode: '0600' }\n  - ${long}\n`)).toEqual(
    [
      'FILE:3:38: listen[0].mode: applies to Unix sockets only: a TCP port has no permissions, so anyone who can reach it can connect',
      'FILE:4:5: listen[1]: the path of a Unix socket can be at most 107 bytes long; choose a shorter one',
    ],
  );
});

test('rules for pages that no page can meet, or every page, are mistakes where they stand', () => {
  const origins = [
    'https://a.example/',
    'https://a.example/path',
    'a.example',
    'https://*',
    'https://a.*',
    'https://**.a.example',
    'https://a.example:123456',
    'https://ä.example',
    'https://a.example?x',
  ];
  const yaml = `origin: http://a
cors:
  allow_credentials: true
  allow_origins:
${origins.map((each) => `    - "${each}"\n`).join('')}`;
  expect(mistakesIn(yaml)).toEqual(
    origins.map(
      (each, at) =>
        `FILE:${5 + at}:7: cors.allow_origins[${at}]: found "${each}", expected an origin such as https://app.example.com or https://*.example.com, without a path and in ASCII, or *`,
    ),
  );
  const risk = 'any page could act on behalf of your users; list the origins';
  expect(
    mistakesIn(`origin: http://a
cors: { allow_origins: ["https://a.example"], allow_credentials: true }
routes:
  - match: { path: /a/** }
    cors: { allow_origins: ["*"] }
  - match: { path: /b/** }
    cors: { allow_origins: ["*"], allow_credentials: true }
  - match: { path: /c/** }
    cors: { allow_orgins: ["*"] }
`),
  ).toEqual(['FILE:9:13: routes[2].cors.allow_orgins: unknown setting; did you mean allow_origins?']);
  expect(
    mistakesIn(`origin: http://a
cors: { allow_origins: ["https://a.example"], allow_credentials: true }
routes:
  - match: { path: /a/** }
    cors: { allow_origins: ["*"] }
  - match: { path: /b/** }
    cors: { allow_origins: ["*"], allow_credentials: true }
`),
  ).toEqual([
    `FILE:5:28: routes[0].cors.allow_origins: cannot contain * when allow_credentials is true: ${risk}`,
    `FILE:7:54: routes[1].cors.allow_credentials: cannot be true when allow_origins contains *: ${risk}`,
  ]);
});

describe('a file that cannot be understood', () => {
  test('with a setting that stands there twice names it, and no value', () => {
    expect(mistakesIn('origin: http://a\nlimits: {}\norigin: http://b\n"p: ss": 1\n"p: ss": 1\n')).toEqual([
      'FILE:3:1: not valid YAML: "origin" is defined twice; merge the two, or remove one of them',
      'FILE:5:1: not valid YAML: a key is defined twice; merge the two, or remove one of them',
    ]);
  });

  test('with broken YAML names the line', () => {
    expect(mistakesIn('origin: http://a\nlog: { level: info\n')).toEqual([
      expect.stringMatching(/^FILE:3:1: not valid YAML: /),
    ]);
  });

  test('with a setting given twice is a mistake', () => {
    expect(mistakesIn('origin: http://a\norigin: http://b\n')).toEqual([
      'FILE:2:1: not valid YAML: "origin" is defined twice; merge the two, or remove one of them',
    ]);
  });

  test.each([
    ['origin: *nothing', 'FILE:1:9: not valid YAML: no anchor of this name precedes it; quote text that begins with *'],
    ['origin: !text http://a', 'FILE:1:9: not valid YAML: Unresolved tag; quote text that contains such characters'],
    ['log: { <<: 3 }', 'FILE: not valid YAML: Merge sources must be maps or map aliases'],
  ])('%s is told with what YAML makes of it', (yaml, configError) => {
    expect(mistakesIn(yaml)).toEqual([configError]);
  });

  test('with a list at its top says what it should be', () => {
    expect(mistakesIn('- origin: http://a\n')).toEqual([expect.stringContaining('expected a group of settings')]);
  });

  test('that does not exist is told by its name', () => {
    const loaded = loadConfig({ file: '/nowhere/rufh-proxy.yaml', env: {}, flags: {} });
    expect(loaded).toEqual({
      configErrors: [{ source: '/nowhere/rufh-proxy.yaml', problem: 'cannot be read: ENOENT' }],
    });
  });
});

test('an empty file lacks only the origin', () => {
  expect(mistakesIn('')).toEqual([expect.stringMatching(/^FILE.*origin: is missing; expected a URL/)]);
});

test('without a file a missing origin is told too', () => {
  const loaded = loadConfig({ env: {}, flags: {} });
  expect(loaded).toEqual({
    configErrors: [
      { setting: 'origin', problem: expect.stringMatching(/set it with --origin <url> or RUFH_PROXY_ORIGIN$/) },
    ],
  });
});

test('a variable that is not set is one error, not two', () => {
  expect(mistakesIn('origin: ${ORIGIN}\nlog: { level: "${LEVEL}" }', { LEVEL: 'loud' })).toEqual([
    'FILE:1:9: the variable ORIGIN is not set; set it or write ${ORIGIN:-default}',
    'FILE:2:15: log.level: found "loud", expected one of trace, debug, info, warn, error, fatal, silent',
  ]);
});

test('a mistake in a flag or a variable names it', () => {
  const env = { RUFH_PROXY_SYNC: 'sometimes' };
  expect(mistakesIn('origin: http://a', env, { maxSize: 'huge', listen: ['nonsense'] })).toEqual([
    '--listen: listen[0]: found "nonsense", expected HOST:PORT such as 127.0.0.1:8080 or [::1]:8080 (port 0 picks a free port), or unix:/path',
    'RUFH_PROXY_SYNC: spool.sync: found "sometimes", expected one of always, group, none',
    '--max-size: limits.max_size: found "huge", expected a size such as 10GiB, 5MB or a number of bytes, or null',
  ]);
});

test.each([
  ['store: { type: memory }', 'one of embedded, redis'],
  ['spool: { type: s3 }', 'other spools, such as s3, are not supported yet'],
  ['delivery: { mode: lazy }', 'one of spool, eager'],
  ['plain_bodies: drop', 'pass, refuse, spool, or null'],
  ['routes: []', 'leave `routes` out to make every path resumable'],
  ['uploads: { path: / }', 'is longer than /'],
  ['delivery: { retry: { retry_on: [200] } }', 'a whole number from 400 to 599'],
])('%s is told to be wrong', (line, problem) => {
  expect(mistakesIn(`origin: http://a\n${line}`)).toEqual([expect.stringContaining(problem)]);
});

describe('settings that are right one by one, but not together', () => {
  test.each([
    [
      'limits: { min_size: 2MB, max_size: 1MB }',
      '2:21: limits.min_size: is 2000000, which is more than max_size (1000000)',
    ],
    [
      'limits: { min_append_size: 2MB, max_append_size: 1MB }',
      '2:28: limits.min_append_size: is 2000000, which is more than max_append_size (1000000)',
    ],
    [
      'delivery: { retry: { first_delay: 1m } }',
      '2:35: delivery.retry.first_delay: is 60000ms, which is more than longest_delay (30000ms)',
    ],
    ['listen: [127.0.0.1:80, 127.0.0.1:80]', '2:24: listen[1]: 127.0.0.1:80 is already used by another listener'],
    ['listen: [0.0.0.0:80, 127.0.0.1:80]', '2:22: listen[1]: 0.0.0.0:80 is already used by another listener'],
    ['listen: ["[::]:80", 127.0.0.1:80]', '2:21: listen[1]: [::]:80 is already used by another listener'],
    ['listen: [unix:/s, unix:/s]', '2:19: listen[1]: unix:/s is already used by another listener'],
    [
      'admin: 127.0.0.1:8080',
      '2:8: admin: the admin listener needs its own address; 0.0.0.0:8080 is already used by another listener',
    ],
    [
      'routes: [{ match: { path: /a }, name: default }]',
      '2:39: routes[0].name: "default" is reserved for requests that no route matches; choose another name',
    ],
    [
      'routes: [{ match: { path: /a } }, { match: { path: /a } }]',
      '2:35: routes[1]: has the same name as routes[0], "/a"; give it a unique `name`',
    ],
    [
      'limits: { min_size: 10 }\nroutes: [{ match: { path: /a }, limits: { max_size: 5 } }]',
      '3:33: routes[0].limits.min_size: is 10, which is more than max_size (5)',
    ],
    [
      'routes: [{ match: { path: /a }, resumable: false, plain_bodies: refuse }]',
      '2:65: routes[0].plain_bodies: cannot be refuse when `resumable` is false: clients would have no way to send a body',
    ],
  ])('%s', (line, configError) => {
    const places = mistakesIn(`origin: http://a\n${line}`).map((one) => one.replace(/^FILE:/, ''));
    expect(places).toEqual([configError]);
  });

  test.each([
    'listen: [127.0.0.1:0, 127.0.0.1:0]',
    'listen: ["0.0.0.0:80", "[::1]:80"]',
    'listen: [127.0.0.1:80, 127.0.0.2:80]',
  ])('%s is no contradiction', (line) => {
    expect(mistakesIn(`origin: http://a\n${line}`)).toEqual([]);
  });

  test('are told beside wrong values of other sections, but not where a wrong value may be the reason', () => {
    const yaml = 'origin: nonsense\nlimits: { min_size: 2MB, max_size: 1XB }\nhttp2: { session_window: 1MiB }';
    expect(mistakesIn(yaml).map((one) => one.split(': ')[1])).toEqual([
      'origin',
      'limits.max_size',
      'http2.session_window',
    ]);
  });
});

describe('TLS files', () => {
  const tls = (cert: string, key: string) =>
    `origin: http://a\nlisten:\n  address: 127.0.0.1:443\n  tls: { cert: ${cert}, key: ${key} }`;

  test('that are not there are told one by one', () => {
    expect(mistakesIn(tls('/nowhere/c.pem', '/nowhere/k.pem'))).toEqual([
      'FILE:4:16: listen.tls.cert: cannot read /nowhere/c.pem: ENOENT',
      'FILE:4:37: listen.tls.key: cannot read /nowhere/k.pem: ENOENT',
    ]);
  });

  test('that hold no certificate are told', () => {
    const file = join(directory.path, 'no.pem');
    writeFileSync(file, 'no certificate');
    expect(mistakesIn(tls(file, file))).toEqual([
      expect.stringContaining('listen.tls: the certificate and the key do not work together'),
    ]);
  });

  test('that fit together are no mistake, and a key that is missing is', () => {
    const [cert, key] = [join(directory.path, 'cert.pem'), join(directory.path, 'key.pem')];
    const subject = ['-subj', '/CN=localhost', '-days', '2'];
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-keyout',
        key,
        '-out',
        cert,
        ...subject,
      ],
      { stdio: 'ignore' },
    );
    expect(mistakesIn(tls(cert, key))).toEqual([]);
    expect(mistakesIn('origin: http://a', {}, { tlsCert: cert })).toEqual([
      expect.stringContaining('listen.tls.key: is missing; expected the path of a file'),
    ]);
  });
});

test.each([
  ['origin', 'origin', 0],
  ['Max-Size', 'max_size', 0],
  ['adress', 'address', 1],
  ['kitten', 'sitting', 3],
])('from %s to %s it is %i letters', (one, other, letters) => {
  expect(editDistance(one, other)).toBe(letters);
});
