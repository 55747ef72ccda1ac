import { describe, expect, test } from '@jest/globals';
import { checkSettings } from '../../src/config/load.js';
import { buildRoutes } from '../../src/config/route-table.js';
import { Authorizer } from '../../src/handler/authorize.js';
import { locate, UploadLookup } from '../../src/handler/upload-lookup.js';
import type { HeaderLine, Headers } from '../../src/model/headers.js';
import type { RequestHead } from '../../src/model/request-head.js';
import type { Route, Routes } from '../../src/model/route.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { InvalidHead, readTarget } from '../../src/server/request-head.js';

describe('locating', () => {
  /** `400`, `upload`, or the name of the route and the target that goes on. */
  function located(settings: object, method: string, received: string, headers: Headers = []): string {
    const { config } = checkSettings({ origin: 'http://o', ...settings });
    const head = { method, headers, ...readTarget(method, received)! } as RequestHead;
    const result = locate(head, buildRoutes(config!), '/.uploads/');
    if (result.kind === 'refused') return '400';
    return result.kind === 'upload' ? 'upload' : `${result.route.name} ${result.head.target}`;
  }

  const ASKED = { forward_auth: 'http://auth' };

  const p = (more: object = { authorize: ASKED }, match: object = {}): object => ({
    name: 'p',
    match: { path: '/p/**', ...match },
    ...more,
  });

  describe('beside a route that asks', () => {
    const settings = { routes: [p(), { name: 'open', match: { path: '/open/**' } }] };

    test.each([
      ['/p/x?q=/../', 'p /p/x?q=/../'],
      ['/%70/x', 'p /p/x'],
      ['/p/%7ex', 'p /p/~x'],
      ['/p/gr\xc3\xbcn', 'p /p/gr%C3%BCn'],
      ['/p/a%20b', 'p /p/a%20b'],
      ['/p/x;v=1', 'p /p/x;v=1'],
      ['/p/100%25', 'p /p/100%25'],
      ['/open/../p/x', 'p /p/x'],
      ['/p/./x', 'p /p/x'],
      ['/p/../open/x', 'open /open/x'],
      ['/p/../other', 'default /other'],
      ['/open/a/../b', 'open /open/a/../b'],
      ['/open//a', 'open /open//a'],
      ['/open/%2e%2e/a', 'default /open/%2e%2e/a'],
      ['/open/a%2fb', 'open /open/a%2fb'],
      ['/other//a', 'default /other//a'],
      ['/a%zz', 'default /a%zz'],
      ['/open/%70', 'open /open/%70'],
      ['/q', 'default /q'],
      ['//p/x', '400'],
      ['/p//x', '400'],
      ['/p/%2e%2e/open/x', '400'],
      ['/p%2fx', '400'],
      ['/p%5cx', '400'],
      ['/p\\x', '400'],
      ['/p/a%2fb', '400'],
      ['/p/a%00', '400'],
      ['/p/%', '400'],
      ['/open/..%2fp/x', '400'],
      ['/open/..;/p/x', '400'],
      ['/open/%2e%2e/p/x', '400'],
      ['/open/%252e%252e/p/x', '400'],
      ['/open\\..\\p\\x', '400'],
      ['/p;a/x', '400'],
      ['/%2570/x', '400'],
      ['/P/x', '400'],
      ['/%50/x', '400'],
      ['/p./x', '400'],
      ['/p%00/x', '400'],
      ['//host/p/x', '400'],
      ['/\\host/p/x', '400'],
      ['http://h/p/x', 'p /p/x'],
      ['http://h//p/x', '400'],
    ])('%j is %j', (received, expected) => {
      expect(located(settings, 'GET', received)).toBe(expected);
    });
  });

  describe('the path of uploads', () => {
    test.each([
      ['/.uploads/a', 'upload'],
      ['/%2euploads/a', 'upload'],
      ['/x/../.uploads/a', 'upload'],
      ['/.uploads/../x', '400'],
      ['//.uploads/a', '400'],
      ['/x/%2e%2e/.uploads/a', '400'],
      ['/.uploads%2fa', '400'],
      ['/%252euploads/a', '400'],
      ['/x/..;/.uploads/a', '400'],
      ['/.uploads', 'default /.uploads'],
      [`/${'a//'.repeat(1000)}`, `default /${'a//'.repeat(1000)}`],
      [`/${'a//'.repeat(1000)}%2euploads/x`, '400'],
      ['/%252f;a%01b\\.x//..//../%3f', 'default /%252f;a%01b\\.x//..//../%3f'],
      ['/%252f;a%01b\\.x//..//../%3f/.uplo%2561ds/x', '400'],
    ])('%j is %j, protected or not', (received, expected) => {
      expect(located({}, 'GET', received)).toBe(expected);
    });
  });

  test.each(['//x', '/a/../b', '/a%2fb', '/a\\b', '/A%zz', '/a%00', '/..;/x', `/${'a//'.repeat(1000)}`])(
    '%j goes on as it came where nothing is protected',
    (received) => {
      expect(located({}, 'GET', received)).toBe(`default ${received}`);
      expect(located({ limits: { max_size: '1MiB' } }, 'GET', received).replace(/^400$/, 'too long')).toBe(
        received.length > 1024 ? 'too long' : `default ${received}`,
      );
    },
  );

  test.each([
    ['gate', { delivery: { gate: { http: 'http://g' } } }],
    ['framing', { delivery: { framing: 'multipart' } }],
    ['target', { delivery: { target: '/in' } }],
    ['method', { delivery: { method: 'PUT' } }],
    ['max_size', { limits: { max_size: 1 } }],
    ['bind_to', { bind_to: ['X-Key'] }],
  ])('a route with %s cannot be got around', (_what, more) => {
    for (const received of ['//p/x', '/a/..%2fp/x', '/p%2fx'])
      expect(located({ routes: [p(more)] }, 'GET', received)).toBe('400');
    expect(located({ routes: [p(more)] }, 'POST', '/a/../p/x')).toMatch(/^p /);
    expect(located({ routes: [p(more)] }, 'POST', '/p/../a/x')).toBe('default /a/x');
  });

  describe('the case of letters', () => {
    test.each([
      [undefined, '/P/x', '400'],
      [true, '/P/x', 'p /P/x'],
      [false, '/P/x', 'default /P/x'],
      [undefined, '/p/X', 'p /p/X'],
    ])('with ignore_case %p: %s is %s', (ignoreCase, received, expected) => {
      const match = ignoreCase === undefined ? {} : { ignore_case: ignoreCase };
      expect(located({ routes: [p({ authorize: ASKED }, match)] }, 'GET', received)).toBe(expected);
    });

    test('means nothing where the route asks nobody, or where an open route would match first', () => {
      expect(located({ routes: [p({ limits: { max_size: 1 } })] }, 'GET', '/P/x')).toBe('default /P/x');
      const open = { name: 'open', match: { path: '/p/open/**' } };
      expect(located({ routes: [open, p()] }, 'GET', '/p/open/x')).toBe('open /p/open/x');
    });
  });

  test('a route for GET holds for HEAD too', () => {
    const settings = { routes: [p({ authorize: ASKED }, { methods: ['GET'] })] };
    expect(located(settings, 'HEAD', '/p/x')).toBe('p /p/x');
    expect(located(settings, 'POST', '/p/x')).toBe('default /p/x');
  });

  describe('an origin whose URL has a path', () => {
    test.each([
      ['/x', '/x'],
      ['/a/../x', '/a/../x'],
      ['/a/b/../../x', '/a/b/../../x'],
      ['/a//x', '/a//x'],
      ['/a%2fx', '/a%2fx'],
      ['/a/%2e%2e/x', '/a/%2e%2e/x'],
      ['/a?/../../x', '/a?/../../x'],
      ['/...', '/...'],
      ['/..a/x', '/..a/x'],
      ['/../x', '/x'],
      ['/..', '/'],
      ['/a/../../x?q=/../', '/x?q=/../'],
      ['/./../x', '/x'],
      ['/%2e%2e/x', '400'],
      ['/%2E./x', '400'],
      ['/..%2fx', '400'],
      ['/..\\x', '400'],
      ['/..%5cx', '400'],
      ['/%252e%252e/x', '400'],
      ['/a%2f..%2f..%2fx', '400'],
      ['/..;a/x', '400'],
      ['/a//../../x', '400'],
      ['/..%00/x', '400'],
      ['/..%20/x', '400'],
      ['/..%3fx', '400'],
      ['/..%23', '400'],
      ['/..%00x', '400'],
      ['/a%3f../x', '/a%3f../x'],
      ['/%c0%ae%c0%ae/x', '400'],
      ['/%ef%bc%8e%ef%bc%8e/x', '400'],
    ])('is not left by %j, which goes on as %j, protected or not', (received, expected) => {
      const settings = { origin: 'http://o/api' };
      expect(located(settings, 'GET', received).replace(/^default /, '')).toBe(expected);
      const beside = { ...settings, routes: [p()] };
      const found = located(beside, 'GET', received).replace(/^default /, '');
      // Beside a protected route more is refused, and nothing else goes on.
      expect([expected, '400']).toContain(found);
    });

    test('of a route alone is not left either, and one without a path cannot be', () => {
      const routes = [{ name: 'own', match: { path: '/own/**' }, origin: 'http://o/api' }];
      expect(located({ routes }, 'GET', '/own/a%2f..%2f..%2f..%2fx')).toBe('400');
      expect(located({ routes }, 'GET', '/%2e%2e/x')).toBe('default /%2e%2e/x');
    });
  });

  describe('a field that asks for another method', () => {
    const settings = { routes: [p({ authorize: ASKED }, { methods: ['DELETE'] })] };
    test.each([
      ['X-HTTP-Method-Override', 'DELETE', '400'],
      ['x-http-method-override', ' delete ', '400'],
      ['X-HTTP-Method', 'DELETE', '400'],
      ['X-Method-Override', 'DELETE', '400'],
      ['X_HTTP_METHOD_OVERRIDE', 'DELETE', '400'],
      ['X-HTTP-Method-Override', 'PUT, DELETE', '400'],
      ['X-HTTP-Method-Override', 'PUT', 'default /p/x'],
      ['X-HTTP-Method-Override', '', 'default /p/x'],
      ['X-HTTP-Method-Override', '"DELETE"', '400'],
      ['X-HTTP-Method-Override', 'DELETE;q=1', '400'],
      ['X-HTTP-Method-Override', 'PUT, A1, BB, CC, DD, EE', '400'],
      ['X-Method', 'DELETE', '400'],
      ['Method', 'DELETE', '400'],
      ['HTTP-Method-Override', 'DELETE', '400'],
      ['X-HTTP-Override', 'DELETE', '400'],
      ['X-HTTP-Verb', 'DELETE', '400'],
      ['X-HTTP-Verb-Override', 'DELETE', '400'],
      ['X-Override-Method', 'DELETE', '400'],
      ['X-Requested-Method', 'DELETE', '400'],
      ['X-REST-Method', 'DELETE', '400'],
      ['Access-Control-Request-Method', 'DELETE', 'default /p/x'],
      ['X-Other', 'DELETE', 'default /p/x'],
    ])('%s: %s does not get around the route that protects it (%s)', (name, value, expected) => {
      for (const method of ['POST', 'GET']) expect(located(settings, method, '/p/x', [[name, value]])).toBe(expected);
      if (!value.includes('EE')) expect(located(settings, 'POST', '/open', [[name, value]])).toBe('default /open');
      const isTooMuch = value.includes('EE');
      expect(located(settings, 'DELETE', '/p/x', [[name, value]])).toBe(isTooMuch ? '400' : 'p /p/x');
    });

    const SPELLINGS = [
      '/p/x',
      '/P/x',
      '//p/x',
      '/z/..%2fp/x',
      '/p;a/x',
      '/%2fp/x',
      '/p%2fx',
      '/%70/x',
      '/p./x',
      '/p%00/x',
    ];
    test.each(SPELLINGS)('does not get around it with another spelling of its path: %s', (spelling) => {
      expect(located(settings, 'DELETE', spelling)).toMatch(/^400$|^p /);
      expect(located(settings, 'POST', spelling)).toMatch(/^default /);
      for (const name of ['X-HTTP-Method-Override', 'X-HTTP-Verb', 'X_METHOD'])
        expect(located(settings, 'POST', spelling, [[name, 'delete']])).toBe('400');
      expect(located(settings, 'POST', `${spelling}?a=1&_method=delete`)).toBe('400');
      expect(located(settings, 'POST', `${spelling}?a=1&%5Fmethod=PUT`)).toMatch(/^default /);
    });

    test.each([
      ['a gate', { delivery: { gate: { http: 'http://g' } } }],
      ['a size', { limits: { max_size: 1 } }],
    ])('does not get around %s, and means nothing where every method is protected alike', (_what, more) => {
      const field: Headers = [['X-HTTP-Method-Override', 'PUT']];
      expect(located({ routes: [p(more, { methods: ['PUT'] })] }, 'POST', '/p/x', field)).toBe('400');
      expect(located({ routes: [p(more, { methods: ['PUT', 'POST'] })] }, 'POST', '/p/x', field)).toBe('p /p/x');
      expect(located({ routes: [p(more)] }, 'POST', '/p/x', field)).toBe('p /p/x');
    });
  });

  describe('the Destination of a MOVE or COPY', () => {
    const settings = { routes: [p(), { name: 'open', match: { path: '/open/**' } }] };
    test.each([
      ['/p/x', '400'],
      ['http://h/p/x', '400'],
      ['HTTPS://h/p/x', '400'],
      [' /p/x ', '400'],
      ['/P/x', '400'],
      ['//p/x', '400'],
      ['/%70/x', '400'],
      ['/open/../p/x', '400'],
      ['/open/..%2fp/x', '400'],
      ['p/x', '400'],
      ['', '400'],
      ['/p/x#f', '400'],
      ['http://h/open/y', 'open /open/a'],
      ['/other/a%2fb', 'open /open/a'],
    ])('%j is located too (%j)', (destination, expected) => {
      for (const method of ['MOVE', 'COPY']) {
        expect(located(settings, method, '/open/a', [['Destination', destination]])).toBe(expected);
        expect(located(settings, method, '/open/a', [['destination', destination]])).toBe(expected);
      }
      expect(located(settings, 'POST', '/open/a', [['Destination', destination]])).toBe('open /open/a');
      const meant: Headers = [
        ['X-HTTP-Method', 'MOVE'],
        ['Destination', destination],
      ];
      expect(located(settings, 'POST', '/open/a', meant)).toBe(expected);
    });

    test('may lie on the route of the request itself, and is written to as by PUT', () => {
      expect(located(settings, 'MOVE', '/p/a', [['Destination', '/p/b']])).toBe('p /p/a');
      const put = { routes: [p({ authorize: ASKED }, { methods: ['PUT'] })] };
      expect(located(put, 'MOVE', '/open/a', [['Destination', '/p/b']])).toBe('400');
      expect(located({}, 'MOVE', '/open/a', [['Destination', 'nowhere']])).toBe('default /open/a');
    });
  });

  describe('a pattern with a slash at its end', () => {
    const guarded = (path: string): object => ({ routes: [{ name: 'p', match: { path }, authorize: ASKED }] });
    test.each([
      ['/tr/', '/tr/', 'p /tr/'],
      ['/tr/', '/tr', 'p /tr'],
      ['/tr/', '/tr%20', '400'],
      ['/tr/', '/TR', '400'],
      ['/tr/', '/tr/x', 'default /tr/x'],
      ['/*/in/', '/a/in', 'p /a/in'],
      ['/{a,b}/', '/b', 'p /b'],
      ['/{a/,b/}', '/b', 'p /b'],
      ['/tr/', '/', 'default /'],
      ['/', '/', 'p /'],
    ])('%s protects %s: %s', (pattern, received, expected) => {
      expect(located(guarded(pattern), 'GET', received)).toBe(expected);
    });

    test('takes nothing from a route that comes before, and matches only itself where it protects nothing', () => {
      const open = { name: 'open', match: { path: '/tr' } };
      const { routes } = guarded('/tr/') as { routes: object[] };
      expect(located({ routes: [open, ...routes] }, 'GET', '/tr')).toBe('open /tr');
      expect(located({ routes: [{ name: 'p', match: { path: '/tr/' } }] }, 'GET', '/tr')).toBe('default /tr');
    });
  });

  describe('a pattern that is not in the normal form of paths', () => {
    test.each([
      ['/ü/**', '/%C3%BC/x', 'p /%C3%BC/x'],
      ['/ü/**', '/\xc3\xbc/x', 'p /%C3%BC/x'],
      ['/low%c3%bc/**', '/low%C3%BC/x', 'p /low%C3%BC/x'],
      ['/low%c3%bc/**', '/low%c3%bc/x', 'p /low%C3%BC/x'],
      ['/%61pi/**', '/api/x', 'p /api/x'],
      ['/%61pi/**', '/%61pi/x', 'p /api/x'],
      ['/{ü,%62}/**', '/b/x', 'p /b/x'],
      ['/{ü,%62}/**', '/%c3%bc/x', 'p /%C3%BC/x'],
      ['/%7eu/**', '/~u/x', 'p /~u/x'],
      ['/a"b/**', '/a"b/x', 'p /a%22b/x'],
      ['/sp%20ace/**', '/sp%20ace/x', 'p /sp%20ace/x'],
    ])('%s protects %j', (path, received, expected) => {
      expect(located({ routes: [{ name: 'p', match: { path }, authorize: ASKED }] }, 'GET', received)).toBe(expected);
    });

    test.each([
      ['/x/../b/**', '/b/**'],
      ['/./b/**', '/b/**'],
      ['/x/%2e%2E/b', '/b'],
      ['/x/..', '/'],
      ['/[aü]/**', 'ASCII'],
      ['/[%61%C3]/**', 'ASCII'],
    ])('%s would never match, and is a mistake that says what would: %s', (path, word) => {
      for (const one of [path, ['/ok', path]]) {
        const { config, errors: found } = checkSettings({ origin: 'http://o', routes: [{ match: { path: one } }] });
        expect([config, found.map(({ configError }) => configError.problem)]).toEqual([
          undefined,
          [expect.stringContaining(word)],
        ]);
      }
    });
  });
});

describe('upload lookup', () => {
  const ID = 'a'.repeat(32);

  /** A lookup with one upload that a request with these fields has begun, on a route that binds to a field. */
  async function lookupWithUpload(route: Route, creation: readonly HeaderLine[]): Promise<UploadLookup> {
    const access = new Authorizer(silentLog());
    const routes: Routes = {
      find: () => route,
      findIgnoringCase: () => route,
      hasProtected: false,
      findResumable: () => route,
      byName: () => route,
      all: [route],
    };
    const uploads: { upload?: Upload } = {};
    const find = (): Promise<Upload | undefined> => Promise.resolve(uploads.upload);
    const lookup = new UploadLookup({ uploads: { find }, authorizer: access, routes, uploadsPath: '/.uploads/' });
    const created = await lookup.find(head('POST', '/files', creation));
    if (created instanceof InvalidHead) throw new Error(created.detail);
    const owner = await access.ownerOf(created.head, created.route);
    if (owner.kind !== 'client') throw new Error('the upload is bound to nobody');
    uploads.upload = { id: ID, principal: owner.digest, dialect: 'final' } as Upload;
    return lookup;
  }

  function head(method: string, target: string, headers: readonly HeaderLine[]): RequestHead {
    return { method, ...readTarget(method, target)!, headers, httpVersion: '1.1' } as unknown as RequestHead;
  }

  test.each([
    ['X-Api-Key', {}, 'X-Api-Key', true],
    ['X-Api-Key', {}, 'X_Api_Key', false],
    // These are dropped, so that the upload is bound to a missing value: its creator has it, and must not lose it.
    ['X_Api_Key', {}, 'X_Api_Key', true],
    ['X-Original-URL', {}, 'X-Original-URL', true],
    ['Remote-User', { forward_auth: 'http://auth' }, 'Remote-User', true],
    ['Remote-User', { forward_auth: 'http://auth' }, 'Remote_User', true],
  ])('bind_to %s with authorize %j: who creates with %s finds it again: %p', async (bound, authorize, sent, finds) => {
    const { config } = checkSettings({ origin: 'http://o', authorize });
    const route = { ...buildRoutes(config!).find('POST', '/files'), bindTo: [bound] };
    const lookup = await lookupWithUpload(route, finds ? [[sent, 'k']] : [['X-Api-Key', 'k']]);
    const found = await lookup.find(head('HEAD', `/.uploads/${ID}`, [[sent, 'k']]));
    expect('upload' in found && found.upload?.id === ID).toBe(finds);
  });
});
