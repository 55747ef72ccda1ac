import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import type { Config } from '../../src/config/config.js';
import { generatedFiles, SAMPLES } from '../../scripts/config-docs.js';
import { valueAt } from '../../src/config/errors.js';
import { OVERRIDES } from '../../src/config/flags.js';
import { alternatives, jsonSchema, type JsonSchema } from '../../src/config/json-schema.js';
import { loadConfig } from '../../src/config/load.js';
import { schema } from '../../src/config/schema.js';
import { isObject } from '../../src/config/values.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('loading', () => {
  let directory: TemporaryDirectory;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  function load(yaml: string, { env = {}, flags = {} }: { env?: Record<string, string>; flags?: object } = {}): Config {
    const file = join(directory.path, 'rufh-proxy.yaml');
    writeFileSync(file, yaml);
    const loaded = loadConfig({ file, env, flags: { ...flags } });
    if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
    return loaded.config;
  }

  test('an origin alone is enough, everything else has a default', () => {
    const loaded = loadConfig({ env: {}, flags: { origin: 'http://127.0.0.1:3000' } });
    expect(loaded).toEqual({
      settings: expect.anything(),
      config: {
        listeners: [{ address: { kind: 'tcp', host: '0.0.0.0', port: 8080 }, http2: true }],
        admin: {
          address: { kind: 'tcp', host: '127.0.0.1', port: 9090 },
          open: ['health'],
          hosts: [],
          insecure: false,
        },
        data: resolve('data'),
        store: { type: 'embedded' },
        spool: { type: 'local', shared: false, sync: 'group' },
        history: { keepMs: 604_800_000, maxBytes: 67_108_864 },
        secrets: {
          keep: true,
          headers: [
            ...['authorization', 'cookie', 'proxy-authorization', 'x-api-key', 'x-auth-token', 'x-access-token'],
            ...['x-csrf-token', 'x-amz-security-token', 'x-forwarded-access-token', 'x-forwarded-id-token'],
            ...['x-auth-request-access-token', 'x-auth-request-id-token'],
          ],
          keys: [],
        },
        workers: 1,
        uploads: { path: '/.uploads/', rfc104: false },
        interimResponses: 'auto',
        trustedProxies: [],
        idleTimeoutMs: 60_000,
        headTimeoutMs: 30_000,
        minRate: { request: 100, response: 100, windowMs: 60_000 },
        connections: {},
        maxHeadBytes: 65_536,
        admission: { all: { uploads: 100_000 }, client: { uploads: 2000 }, rate: { perSecond: 50, burst: 1000 } },
        http2: { streamWindowBytes: 4 * 2 ** 20, sessionWindowBytes: 8 * 2 ** 20, maxStreams: 100 },
        stop: { graceMs: 30_000 },
        log: { level: 'info', format: 'auto' },
        defaultRoute: {
          name: 'default',
          origin: 'http://127.0.0.1:3000',
          resumable: true,
          limits: { minSize: 0, maxAgeSeconds: 86_400, maxEmptyAgeSeconds: 600 },
          delivery: {
            mode: 'spool',
            eager: { idleMs: 10_000, unknownLength: 'chunked' },
            timeoutMs: 300_000,
            waitMs: 60_000,
            respond: 'answer',
            keepAnswerMs: 3_600_000,
            keepAnswerSize: 2 ** 20,
            preserveHost: true,
            rewriteLocation: false,
            framing: { kind: 'raw' },
            parkOn: [401, 407],
            answerTimeoutMs: 1_200_000,
            clientKeys: false,
            maxAnswerSize: 2 ** 30,
            concurrency: 64,
            breaker: { failures: 5, pauseMs: 10_000 },
            retry: {
              maxAttempts: 5,
              firstDelayMs: 500,
              longestDelayMs: 30_000,
              whileWaitingMs: 60_000,
              inBackgroundMs: 3_600_000,
            },
          },
          authorize: { preflight: false, recheck: false },
          bindTo: [],
          plainBodies: 'pass',
          protocols: ['rufh', 'tus'],
        },
        routes: [],
      },
    });
  });

  test('listen takes an address, an object, or a list of either', () => {
    const tcp = (port: number) => ({ kind: 'tcp', host: '127.0.0.1', port });
    expect(load('origin: http://a\nlisten: 127.0.0.1:1').listeners).toEqual([{ address: tcp(1), http2: true }]);
    expect(load('origin: http://a\nlisten: { address: 127.0.0.1:1, http2: false }').listeners).toEqual([
      { address: tcp(1), http2: false },
    ]);
    expect(load('origin: http://a\nlisten: [127.0.0.1:1, { address: unix:/tmp/s }]').listeners).toEqual([
      { address: tcp(1), http2: true },
      { address: { kind: 'unix', path: '/tmp/s' }, http2: true },
    ]);
  });

  test('a listener says how long a connection without a request stays', () => {
    const address = { kind: 'tcp', host: '127.0.0.1', port: 1 };
    expect(load('origin: http://a\nlisten: { address: 127.0.0.1:1, keep_alive: 620s }').listeners).toEqual([
      { address, http2: true, keepAliveMs: 620_000 },
    ]);
  });

  test('admin takes an address, an object, or false', () => {
    const address = { kind: 'tcp', host: '127.0.0.1', port: 1 };
    const chosen = { address, open: ['health'], hosts: [], insecure: false };
    expect(load('origin: http://a\nadmin: 127.0.0.1:1').admin).toEqual(chosen);
    expect(load('origin: http://a\nadmin: { address: 127.0.0.1:1 }').admin).toEqual(chosen);
    expect(load('origin: http://a\nadmin: false').admin).toBeUndefined();
    expect(load('origin: http://a', { flags: { admin: 'false' } }).admin).toBeUndefined();
  });

  test('flags win over variables, variables over the file, the file over defaults', () => {
    const yaml = 'origin: http://file\nlog: { level: warn, format: pretty }\nlimits: { max_size: 1MB, min_size: 7 }';
    const env = { RUFH_PROXY_ORIGIN: 'http://variable', RUFH_PROXY_LOG_LEVEL: 'debug', RUFH_PROXY_MAX_SIZE: '2MB' };
    const config = load(yaml, { env, flags: { origin: 'http://flag', maxSize: '3MB' } });
    expect(config.defaultRoute.origin).toBe('http://flag');
    expect(config.log).toEqual({ level: 'debug', format: 'pretty' });
    expect(config.defaultRoute.limits).toEqual({
      maxSize: 3_000_000,
      minSize: 7,
      maxAgeSeconds: 86_400,
      maxEmptyAgeSeconds: 600,
    });
  });

  test('flags of a listener hold for every listener', () => {
    const yaml = 'origin: http://a\nlisten: [127.0.0.1:1, { address: 127.0.0.1:2 }]';
    expect(load(yaml, { flags: { http2: false } }).listeners.map(({ http2 }) => http2)).toEqual([false, false]);
    const replaced = load(yaml, { flags: { listen: ['127.0.0.1:3'] }, env: { RUFH_PROXY_HTTP2: 'false' } });
    expect(replaced.listeners).toEqual([{ address: { kind: 'tcp', host: '127.0.0.1', port: 3 }, http2: false }]);
  });

  test('a list in a variable is separated by commas', () => {
    const config = load('origin: http://a', { env: { RUFH_PROXY_TRUSTED_PROXIES: '10.0.0.0/8, unix' } });
    expect(config.trustedProxies).toEqual([
      { cidr: '10.0.0.0/8', relaysInterim: false, connectionPerClient: false },
      { cidr: 'unix', relaysInterim: false, connectionPerClient: false },
    ]);
  });

  test('variables that only look like ours are left alone, because Kubernetes sets some', () => {
    const env = { RUFH_PROXY_PORT: 'tcp://10.0.0.1:80', RUFH_PROXY_SERVICE_HOST: '10.0.0.1', RUFH_PROXY_SYNC: '' };
    expect(load('origin: http://a', { env }).spool.sync).toBe('group');
  });

  test('variables can stand anywhere in a value, with a default where they may be missing', () => {
    const yaml = [
      'origin: http://${HOST}:${PORT:-3000}/v1',
      'uploads: { public_url: ${PUBLIC_URL:-} }',
      'http2: {max_streams: ${STREAMS}}',
      'trusted_proxies: [ ${PROXY:-10.0.0.0/8}, "${PROXY:-fd00::/8}" ] # ${COMMENT}',
      'routes: [{ name: "costs-$${NOTHING}", match: { path: /a } }]',
    ].join('\n');
    const config = load(yaml, { env: { HOST: 'api.local', STREAMS: '7', PORT: '' } });
    expect(config.defaultRoute.origin).toBe('http://api.local:3000/v1');
    expect(config.uploads).toEqual({ path: '/.uploads/', rfc104: false });
    expect(config.http2.maxStreams).toBe(7);
    expect(config.trustedProxies.map(({ cidr }) => cidr)).toEqual(['10.0.0.0/8', 'fd00::/8']);
    expect(config.routes[0]?.route.name).toBe('costs-${NOTHING}');
  });

  test('what is in a variable cannot change the structure of the file', () => {
    const env = { LEVEL: 'info }\nadmin: false\nx: { y: 1' };
    const file = join(directory.path, 'rufh-proxy.yaml');
    writeFileSync(file, 'origin: http://a\nlog:\n  level: ${LEVEL}\n');
    expect(loadConfig({ file, env, flags: {} })).toMatchObject({ configErrors: [{ setting: 'log.level', line: 3 }] });
  });

  test('a route inherits each setting it does not name from the top', () => {
    const config = load(`
origin: http://top
limits: { max_size: 1GiB, min_size: 5, max_age: 1h }
delivery: { timeout: 1m, retry: { attempts: 9, retry_on: [503] } }
routes:
  - match: { path: /a/** }
  - name: big
    match: { path: [/b/**, /c], methods: POST }
    origin: http://own/base
    limits: { max_size: null }
    delivery: { guarantee: at_least_once, retry: { first_delay: 1s } }
`);
    expect(config.defaultRoute.resumable).toBe(false);
    const [plain, big] = config.routes;
    expect(plain).toEqual({ paths: ['/a/**'], route: { ...config.defaultRoute, name: '/a/**', resumable: true } });
    expect(big).toEqual({
      paths: ['/b/**', '/c'],
      methods: ['POST'],
      route: {
        name: 'big',
        origin: 'http://own/base',
        resumable: true,
        limits: { minSize: 5, maxAgeSeconds: 3600, maxEmptyAgeSeconds: 600 },
        delivery: {
          ...config.defaultRoute.delivery,
          guarantee: 'at_least_once',
          // By default, because this origin has a path.
          rewriteLocation: true,
          retry: { ...config.defaultRoute.delivery.retry, maxAttempts: 9, firstDelayMs: 1000, retryOn: [503] },
        },
        authorize: { preflight: false, recheck: false },
        bindTo: [],
        plainBodies: 'pass',
        protocols: ['rufh', 'tus'],
      },
    });
  });

  test('what routes have in common can be written once', () => {
    const config = load(`
origin: http://a
routes:
  - &files { match: { path: /a }, limits: { max_size: 1MB } }
  - { <<: *files, match: { path: /b } }
`);
    expect(config.routes.map(({ paths, route }) => [paths, route.limits.maxSize])).toEqual([
      [['/a'], 1_000_000],
      [['/b'], 1_000_000],
    ]);
  });

  test('a setting with nothing behind its colon counts as left out, unless null means something', () => {
    const config = load(`
origin: http://a
limits:
  # max_size: 1GiB
delivery: { timeout: , retry: }
listen: { address: 127.0.0.1:1, tls: , http2: }
routes:
  - match: { path: /a, methods: }
    limits: { max_size: , min_size: }
    delivery:
`);
    expect(config.listeners).toEqual([{ address: { kind: 'tcp', host: '127.0.0.1', port: 1 }, http2: true }]);
    expect(config.defaultRoute.delivery.timeoutMs).toBe(300_000);
    expect(config.routes[0]).toEqual({ paths: ['/a'], route: { ...config.defaultRoute, name: '/a', resumable: true } });
  });
});

describe('shipped files', () => {
  const root = new URL('../../', import.meta.url);
  const read = (name: string) => readFileSync(new URL(name, root), 'utf8');
  const example = 'config/rufh-proxy.example.yaml';

  /** Every setting that has a value, by its path; `*` for an entry of a list. */
  function leaves(form: JsonSchema, path: readonly string[] = []): { path: readonly string[]; form: JsonSchema }[] {
    const inner = alternatives(form).flatMap((one) => [
      ...Object.entries(one.properties ?? {}).flatMap(([key, value]) => leaves(value, [...path, key])),
      ...(one.items ? leaves(one.items, [...path, '*']).filter((leaf) => leaf.path.at(-1) !== '*') : []),
    ]);
    return inner.length > 0 ? [...inner, ...(form.default === undefined ? [] : [{ path, form }])] : [{ path, form }];
  }

  test.each(Object.keys(generatedFiles()))('%s is what the schema says now (else: npm run docs)', (name) => {
    expect(read(name)).toBe(generatedFiles()[name]);
  });

  test.each(readdirSync(fileURLToPath(new URL('config', root))).filter((name) => name.endsWith('.yaml')))(
    'config/%s loads as it is',
    (name) => {
      const file = fileURLToPath(new URL(`config/${name}`, root));
      expect(loadConfig({ file, env: {}, flags: {} })).not.toHaveProperty('mistakes');
    },
  );

  test('the example means the same as an empty file with its origin', () => {
    const file = fileURLToPath(new URL(example, root));
    const flags = { admin: '127.0.0.1:9090' };
    expect(loadConfig({ file, env: {}, flags })).toEqual(
      loadConfig({ env: {}, flags: { ...flags, origin: 'http://127.0.0.1:3000' } }),
    );
  });

  test('the example sets every setting to its default, and names those that have none', () => {
    const settings: unknown = parse(read(example));
    const all = leaves(jsonSchema());
    expect(all.length).toBeGreaterThan(50);
    for (const { path, form } of all) {
      const isGroup = isObject(valueAt(settings, path));
      if (form.default !== undefined && !path.includes('*') && !isGroup && path[0] !== 'routes') {
        expect([path, valueAt(settings, path)]).toEqual([path, isInSample(path) ? undefined : form.default]);
      }
      if (path.at(-1) !== '*') expect(read(example)).toMatch(new RegExp(`\\b${path.at(-1)!}:`));
    }
  });

  /** What may also be a group has the group's settings in its sample. */
  function isInSample(path: readonly string[]): boolean {
    return /^(listen|admin|store\.sentinel|store\.tls|cluster|delivery\.framing|delivery\.gate|authorize\.forward_auth)\./.test(
      path.join('.'),
    );
  }

  const samples = Object.entries(SAMPLES).flatMap(([path, text]) =>
    text.split(/\n(?=\S)/).map((form): [string, string] => [path, form]),
  );

  test.each(samples)('the sample of %s, %j, is right', (path, form) => {
    const parents = path.split('.').slice(0, -1);
    const settings = parents.reduceRight<unknown>((inner, key) => ({ [key]: inner }), parse(form));
    expect(schema.safeParse({ origin: 'http://a', ...(settings as object) }).error).toBeUndefined();
    for (const line of form.split('\n')) expect(read(example)).toContain(line);
  });

  test('every setting is explained', () => {
    const unexplained = leaves(jsonSchema()).filter(({ path, form }) => path.at(-1) !== '*' && !form.description);
    expect(unexplained.map(({ path }) => path.join('.'))).toEqual([]);
  });

  test('every flag and variable belongs to a setting that exists', () => {
    const known = new Set(leaves(jsonSchema()).map(({ path }) => path.join('.')));
    for (const { setting } of OVERRIDES) expect(known).toContain(setting.join('.'));
    expect(new Set(OVERRIDES.map(({ variable }) => variable)).size).toBe(OVERRIDES.length);
  });

  test('the schema for editors refuses what is not in it', () => {
    const schema = JSON.parse(read('config/schema.json')) as { additionalProperties: boolean; required: string[] };
    expect(schema).toMatchObject({ additionalProperties: false, required: [], type: 'object' });
  });
});
