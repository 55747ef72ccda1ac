import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Config } from '../../src/config/config.js';
import { describeError } from '../../src/config/errors.js';
import { loadConfig } from '../../src/config/load.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
beforeEach(async () => {
  directory = await temporaryDirectory();
});
afterEach(() => directory.remove());

function read(lines: string) {
  const file = join(directory.path, 'rufh-proxy.yaml');
  writeFileSync(file, `origin: http://a\n${lines}`);
  return loadConfig({ file, env: {}, flags: {} });
}

function load(lines: string): Config {
  const loaded = read(lines);
  if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
  return loaded.config;
}

const delivery = (lines: string) => load(lines).defaultRoute.delivery;

describe('a delivery setting becomes a rule', () => {
  test.each([
    ['mode: eager', { mode: 'eager' }],
    ['eager: { unknown_length: wait }', { eager: { idleMs: 10_000, unknownLength: 'wait' } }],
    ['eager: { idle: 1m }', { eager: { idleMs: 60_000, unknownLength: 'chunked' } }],
    ['guarantee: at_most_once', { guarantee: 'at_most_once' }],
    ['wait: 0s', { waitMs: 0 }],
    ['respond: accepted', { respond: 'accepted' }],
    ['method: PUT', { method: 'PUT' }],
    ['target: "/store{path}?{query}"', { target: '/store{path}?{query}' }],
    ['target: "{target}"', { target: '{target}' }],
    ['concurrency: 2', { concurrency: 2 }],
    ['breaker: { failures: 9 }', { breaker: { failures: 9, pauseMs: 10_000 } }],
    ['breaker: { pause: 1m }', { breaker: { failures: 5, pauseMs: 60_000 } }],
    ['retry: { in_background: 3d }', { retry: expect.objectContaining({ inBackgroundMs: 3 * 86_400_000 }) }],
    ['retry: { while_waiting: 5s }', { retry: expect.objectContaining({ whileWaitingMs: 5000 }) }],
    [
      'gate: { http: "http://b/scan?deep=1" }',
      { gate: { kind: 'http', url: 'http://b/scan?deep=1', timeoutMs: 300_000 } },
    ],
    [
      'gate: { command: [scan, "-"], timeout: 9s }',
      { gate: { kind: 'command', command: ['scan', '-'], timeoutMs: 9000 } },
    ],
  ])('%s', (line, rule) => {
    expect(delivery(`delivery: { ${line} }`)).toMatchObject(rule);
  });

  test('by_method leaves the guarantee to the method', () => {
    expect(delivery('delivery: { guarantee: by_method }')).not.toHaveProperty('guarantee');
  });

  test('trying lasts as long as a client waits when nothing else is said', () => {
    expect(delivery('delivery: { wait: 20s }').retry.whileWaitingMs).toBe(20_000);
  });

  test.each(['method', 'target', 'gate'])('%s: null is the same as leaving it out', (name) => {
    expect(delivery(`delivery: { ${name}: null }`)).not.toHaveProperty(name);
  });
});

describe('framing', () => {
  const multipart = { kind: 'multipart', field: 'file', fields: [], fieldsFromHeaders: [] };

  test.each([
    ['raw', { kind: 'raw' }],
    ['multipart', multipart],
    ['{ type: multipart }', multipart],
    ['{ field: upload }', { ...multipart, field: 'upload' }],
    [
      '{ fields: { folder: in box, year: 2026, keep: true }, fields_from_headers: { sender: X-Sender } }',
      {
        ...multipart,
        fields: [
          ['folder', 'in box'],
          ['year', '2026'],
          ['keep', 'true'],
        ],
        fieldsFromHeaders: [['sender', 'X-Sender']],
      },
    ],
  ])('%s', (written, framing) => {
    expect(delivery(`delivery: { framing: ${written} }`).framing).toEqual(framing);
  });
});

describe('who is asked, and who may go on', () => {
  test('a URL alone has the defaults of the group', () => {
    const asked = {
      url: 'http://auth/verify?rd=1',
      scope: 'all',
      timeoutMs: 5000,
      copyHeaders: [],
      principalHeader: 'Remote-User',
    };
    const alone = load('authorize: { forward_auth: "http://auth/verify?rd=1" }').defaultRoute.authorize;
    const group = load('authorize: { forward_auth: { url: "http://auth/verify?rd=1" } }').defaultRoute.authorize;
    expect(alone).toEqual({ forwardAuth: asked, preflight: false, recheck: false });
    expect(group).toEqual(alone);
  });

  test('every setting of it counts', () => {
    const { authorize, bindTo } = load(`
authorize:
  forward_auth: { url: http://auth, timeout: 1s, copy_headers: [Remote-User, Hostname], principal_header: X-Id }
  preflight: true
  recheck: true
  scope: uploads
bind_to: principal`).defaultRoute;
    expect(authorize).toEqual({
      forwardAuth: {
        url: 'http://auth/',
        scope: 'uploads',
        timeoutMs: 1000,
        copyHeaders: ['Remote-User', 'Hostname'],
        principalHeader: 'X-Id',
      },
      preflight: true,
      recheck: true,
    });
    expect(bindTo).toBe('principal');
  });

  test('an upload can be tied to headers', () => {
    expect(load('bind_to: [Authorization, X-Device]').defaultRoute.bindTo).toEqual(['Authorization', 'X-Device']);
  });
});

test('a route inherits each of these settings it does not name, also within groups', () => {
  const config = load(`
delivery:
  mode: eager
  eager: { idle: 1s, unknown_length: wait }
  guarantee: at_least_once
  wait: 30s
  framing: { field: upload, fields: { a: b } }
  method: PUT
  breaker: { failures: 2, pause: 3s }
  retry: { while_waiting: 20s }
authorize: { forward_auth: http://auth, recheck: false, preflight: true }
bind_to: principal
routes:
  - match: { path: /same }
  - match: { path: /own }
    delivery:
      mode: spool
      eager: { idle: 2s }
      guarantee: by_method
      framing: { field: other }
      method: null
      gate: { http: http://gate }
      breaker: { pause: 9s }
    authorize: { recheck: true }
    bind_to: []
`);
  const [same, own] = config.routes.map(({ route }) => route);
  const top = config.defaultRoute;
  expect(same).toEqual({ ...top, name: '/same', resumable: true, plainBodies: 'spool' });
  expect(own).toEqual({
    ...top,
    name: '/own',
    resumable: true,
    delivery: {
      ...top.delivery,
      mode: 'spool',
      eager: { idleMs: 2000, unknownLength: 'wait' },
      guarantee: undefined,
      framing: { kind: 'multipart', field: 'other', fields: [], fieldsFromHeaders: [] },
      method: undefined,
      gate: { kind: 'http', url: 'http://gate/', timeoutMs: 300_000 },
      breaker: { failures: 2, pauseMs: 9000 },
    },
    authorize: { ...top.authorize, recheck: true },
    bindTo: [],
    plainBodies: 'spool',
  });
});

describe('plain_bodies', () => {
  const of = (yaml: string): string[] => {
    const { routes, defaultRoute } = load(yaml);
    return [...routes.map(({ route }) => route.plainBodies), defaultRoute.plainBodies];
  };

  test.each<[string, string, string[]]>([
    ['nothing is set', '', ['pass']],
    ['a gate is set', 'delivery: { gate: { http: http://gate } }', ['spool']],
    ['a framing is set', 'delivery: { framing: multipart }', ['spool']],
    ['a target is set', 'delivery: { target: /in }', ['spool']],
    ['a method is set', 'delivery: { method: PUT }', ['spool']],
    ['another setting is', 'delivery: { mode: eager, timeout: 1s }', ['pass']],
    ['it is said', 'plain_bodies: refuse', ['refuse']],
    ['it is said beside a gate', 'plain_bodies: pass\ndelivery: { gate: { http: http://gate } }', ['pass']],
    ['it is null', 'plain_bodies: null\ndelivery: { method: PUT }', ['spool']],
    [
      'a route sets a gate',
      'routes: [{ match: { path: /a }, delivery: { gate: { http: http://g } } }]',
      ['spool', 'pass'],
    ],
    ['a route inherits it', 'delivery: { framing: multipart }\nroutes: [{ match: { path: /a } }]', ['spool', 'pass']],
    [
      'a route without uploads inherits it',
      'delivery: { framing: multipart }\nroutes: [{ match: { path: /a }, resumable: false }]',
      ['pass', 'pass'],
    ],
    [
      'a route without uploads sets it',
      'routes: [{ match: { path: /a }, resumable: false, delivery: { framing: multipart } }]',
      ['spool', 'pass'],
    ],
    ['the top says it for all', 'plain_bodies: spool\nroutes: [{ match: { path: /a } }]', ['spool', 'spool']],
    ['nothing can be uploaded', 'plain_bodies: refuse\nroutes: [{ match: { path: /a } }]', ['refuse', 'pass']],
    [
      'a route says it itself',
      'plain_bodies: spool\nroutes: [{ match: { path: /a }, plain_bodies: pass }]',
      ['pass', 'spool'],
    ],
  ])('when %s', (_, yaml, expected) => {
    expect(of(yaml)).toEqual(expected);
  });
});

const gateways = /^FILE:\d+:\d+: (routes\[0\]\.)?delivery\.retry\.retry_on: has [\d and]+, which gateways send/;

test.each([
  ['delivery: { retry: { retry_on: [502, 503, 504] } }', true],
  ['delivery: { guarantee: at_most_once, retry: { retry_on: [504] } }', true],
  ['delivery: { retry: { retry_on: [500] } }', true],
  ['routes: [{ match: { path: /a, methods: [POST, PUT] }, delivery: { retry: { retry_on: [502] } } }]', true],
  ['delivery: { method: PUT, guarantee: at_most_once, retry: { retry_on: [502] } }', true],
  ['{}', false],
  ['delivery: { retry: { retry_on: [503, 429] } }', false],
  ['delivery: { retry: { retry_on: [] } }', false],
  ['delivery: { guarantee: at_least_once, retry: { retry_on: [502, 504] } }', false],
  ['delivery: { method: PUT, retry: { retry_on: [502, 504] } }', false],
  ['routes: [{ match: { path: /a, methods: [PUT] }, delivery: { retry: { retry_on: [502] } } }]', false],
])('%s: a retry_on that contradicts the guarantee is doubtful: %s', (yaml, isDoubtful) => {
  const loaded = read(yaml === '{}' ? '' : yaml);
  if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
  const warnings = (loaded.warnings ?? []).map((one) => describeError({ ...one, source: 'FILE' }));
  expect(warnings).toEqual(isDoubtful ? [expect.stringMatching(gateways)] : []);
});
