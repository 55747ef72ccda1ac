import { describe, expect, test } from '@jest/globals';
import { clientFields, originFields, namesReservedBy, type FieldRules } from '../../src/model/client-fields.js';

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
    expect(passed(fields, name, { passesUnderscores: true, trustsOtherTargets: true })).toBe(true);
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
