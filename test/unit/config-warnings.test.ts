import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { configSummary } from '../../src/cli/check.js';
import { describeError } from '../../src/config/errors.js';
import { OVERRIDES } from '../../src/config/flags.js';
import { findUnknownVariables, loadConfig } from '../../src/config/load.js';
import { makeCertificate, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('warnings', () => {
  // Issue 9, §6.
  let directory: TemporaryDirectory;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  function doubtsOf(yaml: string, env: Record<string, string> = {}): string[] {
    const file = join(directory.path, 'a.yaml');
    writeFileSync(file, `origin: http://a\n${yaml}`);
    const loaded = loadConfig({ file, env, flags: {} });
    if ('configErrors' in loaded) throw new Error(loaded.configErrors.map(describeError).join('\n'));
    return (loaded.warnings ?? []).map((one) => describeError(one).replace(file, 'FILE'));
  }

  test('rules for pages that have no effect, or allow strangers, are doubtful where they stand', () => {
    const yaml = `cors: { allow_credentials: true }
routes:
  - match: { path: /a/** }
    cors: { allow_origins: ["https://*.com", "http://*.localhost:*", "https://*.a.com", "null"] }
  - match: { path: /b/** }
    resumable: false
    cors: { allow_origins: ["https://a.com"] }
  - match: { path: /c/** }
    cors: { allow_origins: ["null", "capacitor://localhost"], allow_credentials: false }
`;
    expect(doubtsOf(yaml)).toEqual([
      'FILE:2:28: cors.allow_credentials: has no effect without allow_origins, which is empty',
      'FILE:5:29: routes[0].cors.allow_origins[0]: allows the pages of every site below .com; name your domain, as in https://*.example.com',
      'FILE:5:89: routes[0].cors.allow_origins[3]: allows pages without an origin of their own, and every site can make one: with allow_credentials it acts on behalf of your users',
      'FILE:8:11: routes[1].cors: has no effect: the route is not resumable, so its origin decides',
    ]);
  });

  test('the summary names the pages of each route', () => {
    const file = join(directory.path, 'a.yaml');
    writeFileSync(
      file,
      `origin: http://a
cors: { allow_origins: ["https://APP.example:443", "http://localhost:*"] }
routes:
  - { match: { path: /a/** }, cors: { allow_credentials: true } }
  - { match: { path: /b/** }, cors: { allow_origins: ["*"] } }
  - { match: { path: /c/** }, cors: { allow_origins: [] } }
  - { match: { path: /d/** }, resumable: false }
`,
    );
    const loaded = loadConfig({ file, env: {}, flags: {} });
    if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
    expect(configSummary(loaded.config).filter((line) => line.startsWith('route'))).toEqual([
      'route     /a/** -> http://a, resumable, pages of https://app.example http://localhost:* may upload with credentials',
      'route     /b/** -> http://a, resumable, every page may upload',
      'route     /c/** -> http://a, resumable',
      'route     /d/** -> http://a',
      'route     everything else -> http://a',
    ]);
  });

  describe('a variable', () => {
    test.each([
      ['RUFH_PROXY_ORIGN', 'did you mean RUFH_PROXY_ORIGIN?'],
      ['RUFH_PROXY_LISTN', 'did you mean RUFH_PROXY_LISTEN?'],
      ['rufh_proxy_origin', 'did you mean RUFH_PROXY_ORIGIN?'],
      ['RUFHPROXY_ORIGIN', 'did you mean RUFH_PROXY_ORIGIN?'],
      ['RUHF_PROXY_ORIGIN', 'did you mean RUFH_PROXY_ORIGIN?'],
      ['RUFH_PROXY_ADMIN_TOKENFILE', 'did you mean RUFH_PROXY_ADMIN_TOKEN_FILE?'],
      ['RUFH_PROXY_CONFG', 'did you mean RUFH_PROXY_CONFIG?'],
      ['RUFH_PROXY_SOMETHING_ELSE', '`rufh-proxy serve --help` lists'],
    ])('%s is misspelt: %s', (name, hint) => {
      const told = findUnknownVariables({ [name]: 'x' }).map(describeError);
      expect(told).toEqual([expect.stringContaining(`${name}: unknown variable; ${hint}`)]);
    });

    test.each([
      ...OVERRIDES.map(({ variable }) => variable),
      'RUFH_PROXY_CONFIG',
      ...['RUFH_PROXY_PORT', 'RUFH_PROXY_SERVICE_HOST', 'RUFH_PROXY_SERVICE_PORT', 'RUFH_PROXY_SERVICE_PORT_HTTP'],
      ...['RUFH_PROXY_PORT_80_TCP', 'RUFH_PROXY_PORT_80_TCP_ADDR', 'RUFH_PROXY_NODES_SERVICE_HOST'],
      ...['RUFH_PROXY_NODES_PORT_8081_TCP_PROTO', 'RUFH_WORKER', 'PATH', 'PROXY_ORIGIN', 'HTTP_PROXY'],
    ])('%s is not', (name) => {
      expect(findUnknownVariables({ [name]: 'x' })).toEqual([]);
    });

    test('that the file itself names is not either, nor one that is empty', () => {
      const env = { RUFH_PROXY_DATABASE: '2', RUFH_PROXY_OTHER: '' };
      expect(doubtsOf('log: { level: "${RUFH_PROXY_LEVEL:-info}" }', { ...env, RUFH_PROXY_LEVEL: 'warn' })).toEqual([
        expect.stringMatching(/^RUFH_PROXY_DATABASE: /),
      ]);
    });
  });

  describe('a route', () => {
    const of = (...matches: string[]) =>
      `routes: [${matches.map((match, at) => `{ name: r${at}, match: { ${match} } }`).join(', ')}]`;

    test.each<[string[], number[]]>([
      [['path: /a/**', 'path: /a/b/**'], [1]],
      [['path: /**', 'path: /a'], [1]],
      [['path: /a/**', 'path: /a'], [1]],
      [['path: /a/*', 'path: /a/b'], [1]],
      [['path: [/a/**, /b/**]', 'path: "/{a,b}/x"'], [1]],
      [['path: /a/**', 'path: /a/**, methods: POST'], [1]],
      [['path: /a/**, methods: [POST, PUT]', 'path: /a/b, methods: PUT'], [1]],
      [['path: /a/**, methods: POST', 'path: /a/**, methods: PUT', 'path: /a/b, methods: [POST, PUT]'], [2]],
      [['path: /a/**, ignore_case: true', 'path: /A/b'], [1]],
      [['path: /a/b/**', 'path: /a/**'], []],
      [['path: /a/*', 'path: /a/**'], []],
      [['path: /a', 'path: /a/**'], []],
      [['path: /a/**, methods: POST', 'path: /a/**'], []],
      [['path: /a/**, methods: POST', 'path: /a/**, methods: [POST, PUT]'], []],
      [['path: /a/**', 'path: /a/**, ignore_case: true'], []],
      [['path: /a/**', 'path: "/{a,b}/x"'], []],
      [['path: "/a/!(b)"', 'path: /a/*'], []],
      [['path: /b/**', 'path: /a/**'], []],
    ])('among %j: no request reaches %j', (matches, unreachable) => {
      const told = doubtsOf(of(...matches));
      expect(
        told.map((line) => Number(/routes\[(\d)\]\.match: no request reaches this route, /.exec(line)?.[1])),
      ).toEqual(unreachable);
      for (const line of told) expect(line).toMatch(/^FILE:2:\d+: .*is already matched by .*"r0"/);
    });

    test.each([
      ['delivery: { mode: eager, concurrency: 1 }', [/^FILE:2:19: delivery\.mode: is eager, which has no effect: /]],
      [
        'delivery: { mode: eager, concurrency: 1 }\nroutes: [{ match: { path: /a } }, { match: { path: /b }, delivery: { mode: spool } }]',
        [/: delivery\.mode: /],
      ],
      [
        'delivery: { concurrency: 1 }\nroutes: [{ match: { path: /a }, delivery: { mode: eager } }]',
        [/: routes\[0\]\.delivery\.mode: is eager/],
      ],
      ['delivery: { mode: eager, concurrency: 2 }', []],
      ['delivery: { concurrency: 1 }', []],
    ])('with %s is told that nothing is eager', (yaml, told) => {
      expect(doubtsOf(yaml)).toEqual(told.map((form) => expect.stringMatching(form)));
    });

    const ask = 'forward_auth: http://auth';

    test.each([
      [
        `authorize: { ${ask}, scope: uploads }`,
        [
          /^FILE:2:\d+: authorize\.scope: leaves some requests unchecked: .*ordinary request bodies \(`plain_bodies: pass`\)/,
        ],
      ],
      [`authorize: { ${ask}, scope: uploads }\nlimits: { min_size: 10 }`, [/uploads below 10 bytes/]],
      [
        `authorize: { ${ask}, scope: uploads }\nplain_bodies: refuse`,
        [/leaves some requests unchecked: .*GET, DELETE and others\), upgrades/],
      ],
      [`authorize: { ${ask}, scope: uploads }\nroutes: [{ match: { path: /a } }]`, [/: authorize\.scope: /]],
      [
        `authorize: { ${ask} }\nroutes: [{ match: { path: /a }, authorize: { scope: uploads } }]`,
        [/: routes\[0\]\.authorize\.scope: /],
      ],
      [`authorize: { ${ask} }`, []],
      ['authorize: { scope: uploads }', []],
    ])('with %s is told what it leaves open', (yaml, told) => {
      expect(doubtsOf(yaml)).toEqual(told.map((form) => expect.stringMatching(form)));
    });
  });

  const RECHECKED = 'forward_auth: "http://b", recheck: true';

  test.each([
    ['bind_to: [Authorization]', 'contains Authorization, which clients renew'],
    ['plain_bodies: pass\ndelivery: { gate: { http: "http://g" } }', 'without the gate'],
    [
      'delivery: { gate: { command: [/nowhere/scan, -q] } }',
      'names /nowhere/scan, which this user cannot run on this machine',
    ],
    [
      'delivery: { gate: { command: [no-such-scanner] } }',
      'names no-such-scanner, which this user cannot run on this machine',
    ],
    ['delivery: { gate: { command: [/etc/passwd] } }', 'names /etc/passwd, which'],
    [`bind_to: [X-Api-Key]\nauthorize: { ${RECHECKED} }`, 'by X-Api-Key, which keeps the value of the creation'],
    ['trusted_proxies: [0.0.0.0/0]', 'trusts every address'],
    ['trusted_proxies: [{ cidr: "::/0" }]', 'trusts every address'],
    ['routes: [{ match: { path: /a/**, methods: [PUT] }, authorize: { forward_auth: "http://b" } }]', 'for PUT only'],
    ['routes: [{ match: { path: //a/** }, authorize: { forward_auth: "http://b" } }]', 'refuses with 400'],
    ['routes: [{ match: { path: /a%2fb/** }, authorize: { forward_auth: "http://b" } }]', 'refuses with 400'],
  ])('%s is told: %s', (yaml, told) => {
    expect(doubtsOf(yaml)).toEqual([expect.stringContaining(told)]);
  });

  test.each([
    'bind_to: [X-Api-Key]',
    'delivery: { gate: { command: [sh, -c, "exit 0"] } }',
    'delivery: { gate: { command: [/bin/sh, -c, "exit 0"] } }',
    `bind_to: [X-Api-Key]\nauthorize: { ${RECHECKED} }\ndelivery: { credentials: [Authorization, x-api-key] }`,
    `bind_to: principal\nauthorize: { ${RECHECKED} }`,
    'delivery: { gate: { http: "http://g" } }',
    'trusted_proxies: [10.0.0.0/8]',
    'routes: [{ match: { path: /a/** }, authorize: { forward_auth: "http://b" } }]',
    'routes: [{ match: { path: //a/** } }]',
  ])('%s is not', (yaml) => {
    expect(doubtsOf(yaml)).toEqual([]);
  });

  test.each([
    'Via',
    'Date',
    'Expect',
    'Upload-Complete',
    'Tus-Resumable',
    'X-Forwarded-For',
    'forwarded',
    'Idempotency-Key',
    'TE',
  ])('copy_headers with %s is a mistake', (name) => {
    expect(() => doubtsOf(`authorize: { forward_auth: { url: "http://b", copy_headers: [X-Ok, ${name}] } }`)).toThrow(
      /copy_headers\[1\]|copy_headers.*1/,
    );
  });
});

describe('the summary of check', () => {
  let directory: TemporaryDirectory;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  /** What is said of store, spool, cluster and workers. */
  function told(lines: string): string[] {
    const file = join(directory.path, 'rufh-proxy.yaml');
    writeFileSync(file, `origin: http://a\n${lines.replaceAll('DIR', directory.path)}`);
    const loaded = loadConfig({ file, env: {}, flags: {} });
    if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
    return configSummary(loaded.config).filter((line) => /^(store|spool|cluster|workers) /.test(line));
  }

  const redis = (rest: string) => `store: { type: redis, ${rest} }\n`;
  const server = redis('url: redis://127.0.0.1');
  const cluster = 'listen: 0.0.0.0:8081, secret: sixteen--letters';
  const ALONE = 'cluster   none: this must be the only node, because no other can read its bytes';

  test.each<[string, string[]]>([
    ['', ['store     embedded, for one process', 'spool     local, sync: group', 'workers   1']],
    [
      server,
      [
        'store     redis, 127.0.0.1:6379, no password, database 0, prefix rufh',
        'spool     local, sync: group',
        ALONE,
        'workers   1',
      ],
    ],
    [
      `${redis('url: "unix:///s?db=1", username: me, password: pw, replicas: 2')}workers: 3`,
      [
        'store     redis, /s, user me, database 1, prefix rufh, confirmed by replicas: 2',
        'spool     local, sync: group',
        ALONE,
        'workers   3',
      ],
    ],
    [
      `${redis('url: ["rediss://:pw@a:1", "rediss://[::1]:2"], cluster: true, prefix: x')}spool: { shared: true, sync: always }`,
      [
        'store     redis, Cluster with a:1, [::1]:2, TLS, prefix x',
        'spool     local, shared by all nodes, sync: always',
        'workers   1',
      ],
    ],
    [
      `${redis('url: [redis://:pw@a, redis://b/3], sentinel: { master: main }')}cluster: { ${cluster}, advertise: http://a:8081 }`,
      [
        'store     redis, master main of Sentinels a:26379, b:26379, database 3, prefix rufh',
        'spool     local, sync: group',
        'cluster   http://a:8081, listening on 0.0.0.0:8081 (signed, without TLS)',
        'workers   1',
      ],
    ],
  ])('%s', (lines, expected) => {
    expect(told(lines)).toEqual(expected);
  });

  test('nodes with certificates are told to have them', () => {
    const { cert, key } = makeCertificate();
    writeFileSync(join(directory.path, 'cert'), cert);
    writeFileSync(join(directory.path, 'key'), key);
    const tls = 'tls: { cert: DIR/cert, key: DIR/key, ca: DIR/cert }';
    expect(told(`${server}cluster: { ${cluster}, advertise: https://a:8081, ${tls} }`)).toContain(
      'cluster   https://a:8081, listening on 0.0.0.0:8081 (signed, mutual TLS)',
    );
  });
});
