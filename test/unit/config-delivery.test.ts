import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Config } from '../../src/config/config.js';
import { describeError } from '../../src/config/errors.js';
import { loadConfig } from '../../src/config/load.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('delivery settings', () => {
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
    const multipart = { kind: 'multipart', field: 'file', fields: [], fieldsFromHeaders: [], fieldsFromMetadata: [] };

    test.each([
      ['raw', { kind: 'raw' }],
      ['multipart', multipart],
      ['{ type: multipart }', multipart],
      ['{ field: upload }', { ...multipart, field: 'upload' }],
      [
        '{ fields: { folder: in box, year: 2026, keep: true }, fields_from_headers: { sender: X-Sender }, fields_from_metadata: { a: albumName } }',
        {
          ...multipart,
          fields: [
            ['folder', 'in box'],
            ['year', '2026'],
            ['keep', 'true'],
          ],
          fieldsFromHeaders: [['sender', 'X-Sender']],
          fieldsFromMetadata: [['a', 'albumName']],
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
        framing: { kind: 'multipart', field: 'other', fields: [], fieldsFromHeaders: [], fieldsFromMetadata: [] },
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
});

describe('mistakes in delivery settings', () => {
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

  function configErrors(lines: string): string[] {
    const loaded = read(lines);
    if (!('configErrors' in loaded)) return [];
    return loaded.configErrors.map((configError) => describeError({ ...configError, source: undefined }));
  }

  describe('a value that is not expected told with what is', () => {
    const targetWords =
      'expected a path and query such as /store{path}?name={filename}, with the placeholders {target}, {path}, {query}, {filename}, {metadata.KEY}, or null';
    test.each([
      [
        'delivery: { guarantee: maybe }',
        '2:24: delivery.guarantee: found "maybe", expected one of by_method, at_most_once, at_least_once',
      ],
      [
        'delivery: { method: GET }',
        '2:21: delivery.method: found "GET", expected an uppercase method that carries a body, such as PUT, or null',
      ],
      ['delivery: { target: store }', `2:21: delivery.target: found "store", ${targetWords}`],
      ['delivery: { target: "/{id}" }', `2:21: delivery.target: found "/{id}", ${targetWords}`],
      ['delivery: { target: "/{metadata}" }', `2:21: delivery.target: found "/{metadata}", ${targetWords}`],
      ['delivery: { target: "/{metadata.}" }', `2:21: delivery.target: found "/{metadata.}", ${targetWords}`],
      ['delivery: { target: "/{metadata.a.b}" }', `2:21: delivery.target: found "/{metadata.a.b}", ${targetWords}`],
      ['delivery: { target: "/a b" }', `2:21: delivery.target: found "/a b", ${targetWords}`],
      [
        'delivery: { framing: form }',
        '2:22: delivery.framing: found "form", expected raw, multipart, or a group with type: multipart',
      ],
      [
        'delivery: { framing: { type: raw } }',
        '2:30: delivery.framing.type: found "raw", expected multipart; to send the bytes as they are, write "framing: raw"',
      ],
      [
        `delivery: { framing: { field: 'a"b' } }`,
        '2:31: delivery.framing.field: found "a\\"b", expected a field name of up to 200 characters without quotes or line breaks',
      ],
      [
        'delivery: { framing: { fields: { "a\\r\\nb": c } } }',
        '2:32: delivery.framing.fields: found {"a\\r\\nb":"c"}, expected a field name of up to 200 characters without quotes or line breaks before each colon',
      ],
      [
        'delivery: { credentials: [Cookie, X_Token] }',
        '2:35: delivery.credentials[1]: cannot name x_token: fields with "_" in their names are dropped unless `headers.underscores` is pass',
      ],
      [
        'delivery: { credentials: [Content-Type] }',
        '2:27: delivery.credentials[0]: cannot name content-type, which describes a request, not its sender',
      ],
      [
        'delivery: { framing: { fields_from_headers: { a: X_Id } } }',
        '2:50: delivery.framing.fields_from_headers.a: cannot be taken from X_Id: fields with "_" in their names are dropped unless `headers.underscores` is pass',
      ],
      [
        'delivery: { framing: { fields_from_headers: { a: X-Original-URL } } }',
        '2:50: delivery.framing.fields_from_headers.a: cannot be taken from X-Original-URL: fields that name another target are dropped unless `headers.original_url` is trust',
      ],
      [
        'authorize: { forward_auth: http://a/b }\ndelivery: { framing: { fields_from_headers: { a: Remote-User } } }',
        '3:50: delivery.framing.fields_from_headers.a: cannot be taken from Remote-User: clients cannot set it; add it to `copy_headers` of `authorize.forward_auth` if that service sets it',
      ],
      [
        'delivery: { framing: { fields_from_headers: { a: "X Y" } } }',
        '2:50: delivery.framing.fields_from_headers.a: found "X Y", expected the name of a header such as X-Request-Id',
      ],
      [
        'delivery: { framing: { fields_from_metadata: { a: "b,c" } } }',
        '2:51: delivery.framing.fields_from_metadata.a: found "b,c", expected a key of Upload-Metadata: up to 200 visible ASCII characters without spaces and commas',
      ],
      ['delivery: { framing: { fields: { a: [] } } }', '2:37: delivery.framing.fields.a: found [], expected a text'],
      [
        'delivery: { framing: { fields: a } }',
        '2:32: delivery.framing.fields: found "a", expected a group of names and text values (name: value)',
      ],
      [
        'delivery: { gate: { timeout: 1s } }',
        '2:19: delivery.gate: found {"timeout":"1s"}, expected a group with either http or command',
      ],
      [
        'delivery: { gate: { http: http://g, command: [a] } }',
        '2:19: delivery.gate: found {"http":"http://g","command":["a"]}, expected a group with either http or command',
      ],
      [
        'delivery: { gate: { command: [] } }',
        '2:30: delivery.gate.command: found [], expected a list of the program and its arguments',
      ],
      ['delivery: { gate: clamd }', '2:19: delivery.gate: found "clamd", expected a group of settings (name: value)'],
      [
        'delivery: { breaker: { failures: 0 } }',
        '2:34: delivery.breaker.failures: found 0, expected a whole number from 1 to 1000000',
      ],
      [
        'delivery: { retry: { while_waiting: 5 } }',
        '2:37: delivery.retry.while_waiting: found 5, expected a time with a unit, such as 500ms, 30s, 5m, 24h or 7d, at most 24d, or null',
      ],
      [
        'authorize: { forward_auth: ask }',
        '2:28: authorize.forward_auth: found "ask", expected a URL such as http://127.0.0.1:4181/verify, without fragment or credentials',
      ],
      [
        'authorize: { forward_auth: { timeout: 1s } }',
        '2:14: authorize.forward_auth.url: is missing; expected a URL such as http://127.0.0.1:4181/verify, without fragment or credentials',
      ],
      [
        'authorize: { forward_auth: { url: http://b, copy_headers: [content-length] } }',
        '2:60: authorize.forward_auth.copy_headers[0]: found "content-length", expected the name of a header such as Remote-User that does not belong to the connection, frame the body or come from the proxy itself',
      ],
      [
        'bind_to: Authorization',
        '2:10: bind_to: found "Authorization", expected principal, or a list of header names such as [Authorization]',
      ],
      ['bind_to: ["a b"]', '2:11: bind_to[0]: found "a b", expected the name of a header such as X-Request-Id'],
      [
        'delivery: { idempotent: true }',
        '2:13: delivery.idempotent: was replaced by `guarantee`: write `guarantee: at_least_once` for `idempotent: true`, and remove `idempotent: false`',
      ],
      [
        'routes: [{ match: { path: /a }, delivery: { idempotent: true } }]',
        '2:45: routes[0].delivery.idempotent: was replaced by `guarantee`: write `guarantee: at_least_once` for `idempotent: true`, and remove `idempotent: false`',
      ],
      [
        'delivery: { retry: { while_waitin: 5s } }',
        '2:22: delivery.retry.while_waitin: unknown setting; did you mean while_waiting?',
      ],
      ['delivery: { framing: { feld: a } }', '2:24: delivery.framing.feld: unknown setting; did you mean field?'],
    ])('%s', (line, configError) => {
      expect(configErrors(line)).toEqual([configError]);
    });
  });

  describe('settings that are right one by one, but not together', () => {
    const rechecked = 'authorize: { forward_auth: http://b, recheck: true }';
    test.each([
      [
        'delivery: { mode: eager, gate: { http: http://g } }',
        '2:19: delivery.mode: cannot be eager with a gate: the gate must see the complete upload before the origin does',
      ],
      [
        'delivery: { gate: { http: http://g } }\nroutes: [{ match: { path: /a }, delivery: { mode: eager } }]',
        '3:51: routes[0].delivery.mode: cannot be eager with a gate: the gate must see the complete upload before the origin does',
      ],
      [
        `delivery: { mode: eager }\n${rechecked}`,
        '2:19: delivery.mode: cannot be eager when authorize.recheck is true: an eager delivery begins before the recheck',
      ],
      [
        'delivery: { wait: 10s, retry: { while_waiting: 20s } }',
        '2:48: delivery.retry.while_waiting: is 20000ms, which is more than delivery.wait (10000ms)',
      ],
      ['authorize: { recheck: true }', '2:23: authorize.recheck: requires `authorize.forward_auth`, which is not set'],
      [
        'bind_to: principal',
        '2:10: bind_to: cannot be principal without `authorize.forward_auth`, which names the principal',
      ],
      [
        'authorize: { forward_auth: http://b }\nbind_to: principal\nroutes: [{ match: { path: /a }, authorize: { forward_auth: null } }]',
        '4:10: routes[0].bind_to: cannot be principal without `authorize.forward_auth`, which names the principal',
      ],
      [
        'bind_to: [X-Device, X_Device]',
        '2:21: bind_to[1]: cannot name X_Device: fields with "_" in their names are dropped unless `headers.underscores` is pass',
      ],
      [
        'authorize: { forward_auth: http://b }\nbind_to: [remote-USER]',
        '3:11: bind_to[0]: cannot name remote-USER, which only the `authorize.forward_auth` service sets: use `bind_to: principal`',
      ],
      [
        'routes: [{ match: { path: /a }, authorize: { forward_auth: { url: http://b, copy_headers: [X-Groups] } }, bind_to: [x-groups] }]',
        '2:117: routes[0].bind_to[0]: cannot name x-groups, which only the `authorize.forward_auth` service sets: use `bind_to: principal`',
      ],
      ...['Upload-Offset', 'content-length', 'Connection', 'Idempotency-Key', 'Tus-Resumable'].map((name) => [
        `bind_to: [${name}]`,
        `2:11: bind_to[0]: cannot name ${name}, which differs from request to request`,
      ]),
    ])('%s', (lines, configError) => {
      expect(configErrors(lines)).toEqual([configError]);
    });

    test.each([
      'bind_to: [Authorization, Cookie, X-Device]',
      'headers: { underscores: pass }\nbind_to: [X_Device]',
      'authorize: { forward_auth: { url: http://b, copy_headers: [Authorization] } }\nbind_to: [Authorization]',
    ])('%s is fine', (lines) => {
      expect(configErrors(lines)).toEqual([]);
    });

    test('what is wrong with forward_auth is not told twice', () => {
      expect(configErrors('authorize: { forward_auth: ask, recheck: true }\nbind_to: principal')).toHaveLength(1);
    });
  });
});
