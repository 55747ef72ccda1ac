import { describe, expect, test } from '@jest/globals';
import { clientFields, type FieldRules, namesReservedBy, originFields } from '../../src/model/client-fields.js';
import { fieldValue, forwardableHeaders, forwardableTrailers, type HeaderLine } from '../../src/model/headers.js';
import type { RequestHead } from '../../src/model/request-head.js';
import { framingOf, headersForOrigin } from '../../src/origin/headers.js';

describe('fields of clients', () => {
  const forwardAuth = {
    url: 'http://a',
    scope: 'all',
    timeoutMs: 1,
    copyHeaders: ['Remote-Groups', 'Authorization'],
    principalHeader: 'Remote-User',
  } as const;

  const passed = (of: typeof originFields, name: string, rules: FieldRules): boolean =>
    of([[name, 'x']], rules).length > 0;

  describe('names that the authorization service speaks by', () => {
    test.each([
      'Remote-User',
      'remote-user',
      'REMOTE-USER',
      'Remote_User',
      'REMOTE_USER',
      'remote_user',
      'Remote.User',
      'Remote~User',
      'remote-groups',
      'Remote_Groups',
      // Of other services: a client could name itself by what is not copied.
      'Remote-Email',
      'Remote-Name',
      'X-Forwarded-User',
      'X-Forwarded-Email',
      'x_forwarded_groups',
      'X-Forwarded-Preferred-Username',
      'X-Forwarded-Access-Token',
      'X-Auth-Request-User',
      'x-auth-request-email',
      'X_Auth_Request_Groups',
      'X-Authentik-Username',
      'X-WebAuth-User',
      'Remote-Roles',
      'X-Remote-User',
      'X-Remote-Group',
      'X-Auth-User',
      'X_Auth_Username',
      'Auth-User',
      'X-Vouch-User',
      'X-Authelia-User',
      'X-Pomerium-Jwt-Assertion',
      'X-Token-User-Name',
      'X-Goog-Authenticated-User-Email',
      'X-Amzn-Oidc-Identity',
      'X-MS-CLIENT-PRINCIPAL',
      'X-MS-CLIENT-PRINCIPAL-NAME',
      'Cf-Access-Authenticated-User-Email',
      'Tailscale-User-Login',
      'X-Forwarded-Name',
      'X-Forwarded-Roles',
      'X-Forwarded-Id-Token',
    ])('%s never comes from a client, with underscores allowed or not', (name) => {
      for (const passesUnderscores of [true, false]) {
        expect(passed(originFields, name, { authorize: { forwardAuth }, passesUnderscores })).toBe(false);
        expect(passed(clientFields, name, { authorize: { forwardAuth }, passesUnderscores })).toBe(false);
        // Nor where another route asks.
        const reservedNames = namesReservedBy([{}, { authorize: { forwardAuth } }]);
        expect(passed(originFields, name, { reservedNames, passesUnderscores })).toBe(false);
        expect(passed(clientFields, name, { reservedNames, passesUnderscores })).toBe(false);
      }
    });

    test('are names of other routes’ services too, but credentials that only those replace are not', () => {
      const other = { ...forwardAuth, copyHeaders: ['X_Tenant', 'Cookie'], principalHeader: 'X-Princ' };
      const routes = [{ authorize: { forwardAuth } }, {}, { authorize: { forwardAuth: other } }];
      const reservedNames = namesReservedBy(routes);
      for (const rules of [{ reservedNames }, { reservedNames, authorize: { forwardAuth } }]) {
        for (const name of ['X-Tenant', 'x.princ', 'Remote-Groups'])
          expect(passed(originFields, name, rules)).toBe(false);
        expect(passed(originFields, 'Cookie', rules)).toBe(true);
      }
      expect(passed(originFields, 'Authorization', { reservedNames })).toBe(true);
      expect(namesReservedBy([{}, { authorize: {} }])).toBeUndefined();
    });

    test('are anybody’s where no service is asked', () => {
      expect(passed(originFields, 'Remote-User', {})).toBe(true);
      expect(passed(originFields, 'Remote-User', { authorize: {} })).toBe(true);
      expect(passed(originFields, 'X-Auth-Request-Email', {})).toBe(true);
    });

    test('let credentials through to the service that judges by them, but not to the origin', () => {
      expect(passed(clientFields, 'authorization', { authorize: { forwardAuth } })).toBe(true);
      expect(passed(originFields, 'authorization', { authorize: { forwardAuth } })).toBe(false);
    });

    test('leave other names alone', () => {
      for (const name of [
        'Remote-Users',
        'RemoteUser',
        'X-Auth-Token',
        'X-MS-Client-Request-Id',
        'Remote--User',
        'X-Auth-Request',
        'X-Forwarded-For',
      ])
        expect(passed(originFields, name, { authorize: { forwardAuth } })).toBe(true);
    });
  });

  test.each([
    ['X-Original-URL', true],
    ['x_original_url', true],
    ['X-Original-URI', true],
    ['X-Original-Method', true],
    ['X-Original-Path', true],
    ['X-Rewrite-URL', true],
    ['X.Rewrite.Url', true],
    ['X-Forwarded-Uri', true],
    ['X-Forwarded-Method', true],
    ['X-Forwarded-Path', true],
    ['X-Forwarded-Request-Uri', true],
    ['X-Envoy-Original-Path', true],
    ['X-Envoy-Original-Method', true],
    ['X-WAWS-Unencoded-URL', true],
    ['Unencoded-Url', true],
    ['X-HTTP-DestinationURL', true],
    ['X-Override-URL', true],
    ['X-Forwarded-Host', false],
    ['X-Forwarded-For', false],
    ['X-Forwarded-Prefix', false],
    ['X-Forwarded-Email', false],
    ['X-Forwarded-User', false],
    ['X-Original-Host', false],
    ['X-HTTP-Method-Override', false],
    ['X-Method-Override', false],
    ['Original-Recipient', false],
  ])('%s names another target: %p, which is believed only where a route says so', (name, isOther) => {
    for (const fields of [clientFields, originFields]) {
      expect(passed(fields, name, { passesUnderscores: true })).toBe(!isOther);
      expect(passed(fields, name, { passesUnderscores: true, trustsTargetOverrides: true })).toBe(true);
    }
  });

  test.each([
    ['X_Api_Key', false, false],
    ['X-Api_Key', false, false],
    ['_', false, false],
    ['X-Api-Key', false, true],
    ['X_Api_Key', true, true],
  ])('%s with underscores passed: %p goes through: %p', (name, passesUnderscores, goes) => {
    expect(passed(clientFields, name, { passesUnderscores })).toBe(goes);
    expect(passed(originFields, name, { passesUnderscores })).toBe(goes);
  });
});

describe('fields to origins', () => {
  function headOf(part: Partial<RequestHead>): RequestHead {
    return {
      method: 'GET',
      target: '/',
      path: '/',
      httpVersion: '1.1',
      scheme: 'https',
      authority: 'example.org',
      headers: [['Host', 'example.org']],
      hasBody: false,
      expectsContinue: false,
      connection: {
        peerAddress: '192.0.2.1',
        clientAddress: '192.0.2.1',
        encrypted: true,
        peerIsTrusted: false,
        relaysInterim: true,
        isClientsOwn: true,
      },
      ...part,
    };
  }

  function linesOf(part: Partial<RequestHead>, host = 'example.org'): HeaderLine[] {
    return headersForOrigin(headOf(part), host);
  }

  const LENGTH: HeaderLine = ['Content-Length', '5'];
  const CHUNKED: HeaderLine = ['Transfer-Encoding', 'chunked'];

  interface FramingCase {
    readonly name: string;
    readonly part: Partial<RequestHead>;
    readonly length?: string;
    readonly coding?: string;
  }

  describe('what delimits the body', () => {
    const cases: FramingCase[] = [
      { name: 'nothing for a GET', part: {} },
      { name: 'zero for a POST without content', part: { method: 'POST' }, length: '0' },
      { name: 'zero for an unknown method', part: { method: 'REPORT' }, length: '0' },
      { name: 'a zero as it came', part: { method: 'GET', headers: [['content-length', '0']] }, length: '0' },
      { name: 'no length of a body that is not sent', part: { method: 'OPTIONS', headers: [LENGTH] } },
      { name: 'the length', part: { hasBody: true, contentLength: 5, headers: [LENGTH] }, length: '5' },
      {
        name: 'the length that Connection named',
        part: { hasBody: true, contentLength: 5, headers: [LENGTH, ['Connection', 'Content-Length']] },
        length: '5',
      },
      { name: 'chunks of an HTTP/2 stream', part: { httpVersion: '2.0', hasBody: true }, coding: 'chunked' },
      {
        name: 'chunks alone, whatever else is said',
        part: { method: 'DELETE', hasBody: true, headers: [LENGTH, CHUNKED] },
        coding: 'chunked',
      },
    ];

    test.each(cases)('$name', ({ part, length, coding }) => {
      const lines = linesOf(part);
      expect(fieldValue(lines, 'content-length')).toBe(length);
      expect(fieldValue(lines, 'transfer-encoding')).toBe(coding);
      const expected = coding ?? (length === undefined || length === '0' ? 'none' : 'length');
      expect(framingOf(headOf(part))).toBe(expected);
    });
  });

  describe('Host', () => {
    test('keeps its place and case, and comes once', () => {
      const headers: HeaderLine[] = [
        ['X-A', '1'],
        ['HOST', 'old'],
        ['X-B', '2'],
      ];
      expect(linesOf({ headers }, 'new').slice(0, 3)).toEqual([
        ['X-A', '1'],
        ['HOST', 'new'],
        ['X-B', '2'],
      ]);
    });

    test('comes first when there was none', () => {
      expect(linesOf({ headers: [['X-A', '1']] }, 'new').slice(0, 2)).toEqual([
        ['Host', 'new'],
        ['X-A', '1'],
      ]);
    });

    test('cannot be taken away by Connection', () => {
      const headers: HeaderLine[] = [
        ['Host', 'a'],
        ['Connection', 'host'],
      ];
      expect(linesOf({ headers }, 'a')[0]).toEqual(['Host', 'a']);
    });
  });

  describe('the expectation', () => {
    const headers: HeaderLine[] = [['Expect', '100-continue']];

    test('is passed on by a client that waits', () => {
      expect(fieldValue(linesOf({ headers, hasBody: true, expectsContinue: true }), 'expect')).toBe('100-continue');
    });

    test('is not passed on by one that does not', () => {
      expect(fieldValue(linesOf({ headers }), 'expect')).toBeUndefined();
    });
  });

  describe('trailers', () => {
    const headers: HeaderLine[] = [
      ['Trailer', 'X-Sum'],
      ['TE', 'gzip, Trailers'],
      ['Connection', 'TE'],
    ];

    test('are announced where they can follow', () => {
      expect(fieldValue(linesOf({ headers, hasBody: true }), 'trailer')).toBe('X-Sum');
      expect(fieldValue(linesOf({ headers, hasBody: true, contentLength: 5 }), 'trailer')).toBeUndefined();
    });

    test('are accepted from the origin as the client does', () => {
      const lines = linesOf({ headers });
      expect([fieldValue(lines, 'te'), fieldValue(lines, 'connection')]).toEqual(['trailers', 'keep-alive, TE']);
      expect(fieldValue(linesOf({ headers: [['TE', 'gzip']] }), 'te')).toBeUndefined();
    });

    test('are passed on without those that frame, route or describe the content', () => {
      const trailers: HeaderLine[] = [
        ['X-Sum', '1'],
        ['Content-Length', '5'],
        ['Transfer-Encoding', 'chunked'],
        ['HOST', 'x'],
        ['Content-Type', 'a/b'],
        ['ETag', '"1"'],
      ];
      expect(forwardableTrailers(trailers)).toEqual([
        ['X-Sum', '1'],
        ['ETag', '"1"'],
      ]);
    });
  });

  test('lines of one hop end here', () => {
    const lines: HeaderLine[] = [
      ['Connection', 'X-Mine, close'],
      ['X-Mine', '1'],
      ['Keep-Alive', 'timeout=5'],
      ['Upgrade', 'h2c'],
      ['Proxy-Authorization', 'Basic x'],
      ['Transfer-Encoding', 'chunked'],
      ['X-Other', '2'],
      ['Trailer', 'X'],
    ];
    expect(forwardableHeaders(lines, false)).toEqual([['X-Other', '2']]);
    expect(forwardableHeaders(lines, true)).toEqual([
      ['X-Other', '2'],
      ['Trailer', 'X'],
    ]);
  });
});
