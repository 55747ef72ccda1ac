import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import type { Peer } from '../../src/server/exchange.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';

const trust = new TrustedProxies([
  { cidr: '10.0.0.0/8', relaysInterim: true },
  { cidr: '10.9.0.0/16', relaysInterim: false },
  { cidr: '192.0.2.1', relaysInterim: false },
  { cidr: '2001:db8::/32', relaysInterim: true },
  { cidr: '::ffff:172.16.0.0/108', relaysInterim: true },
  { cidr: 'unix', relaysInterim: true },
]);

function peer(address: string, more: Partial<Peer> = {}): Peer {
  return { address, encrypted: false, isDisconnected: false, localAuthority: 'local', ...more };
}

describe('whose word counts', () => {
  test.each([
    ['10.1.2.3', true, true],
    ['::ffff:10.1.2.3', true, true],
    ['10.9.1.1', true, false],
    ['192.0.2.1', true, false],
    ['192.0.2.2', false, true],
    ['2001:db8::7', true, true],
    ['2001:db9::7', false, true],
    ['172.16.1.1', true, true],
    ['172.32.1.1', false, true],
    ['', true, true],
    ['nonsense', false, true],
  ])('peer %j is trusted: %s; interim responses get through: %s', (address, isTrusted, relays) => {
    const { connection } = trust.provenanceOf(peer(address), []);
    expect(connection).toEqual({
      peerAddress: address,
      encrypted: false,
      clientAddress: address,
      peerIsTrusted: isTrusted,
      relaysInterim: relays,
      isClientsOwn: !isTrusted,
    });
  });

  test.each([
    [true, [], true],
    [true, [['X-Forwarded-For', '198.51.100.1']], true],
    [true, [['X-Forwarded-For', '198.51.100.1, 10.1.1.1']], false],
    [true, [['X-Forwarded-For', '198.51.100.1, 10.9.1.1']], true],
    [false, [], false],
    [undefined, [['X-Forwarded-For', '198.51.100.1']], false],
  ] satisfies [boolean | undefined, HeaderLine[], boolean][])(
    'behind a proxy with a connection per client: %s, and hops %j, a connection is one client’s: %s',
    (connectionPerClient, headers, isClientsOwn) => {
      const apart = new TrustedProxies([
        { cidr: '10.9.0.0/16', relaysInterim: true, connectionPerClient },
        { cidr: '10.0.0.0/8', relaysInterim: true },
      ]);
      expect(apart.provenanceOf(peer('10.9.9.9'), headers).connection.isClientsOwn).toBe(isClientsOwn);
    },
  );

  test('a peer without an address is trusted only where unix is', () => {
    const strict = new TrustedProxies([{ cidr: '0.0.0.0/0', relaysInterim: true }]);
    expect(strict.provenanceOf(peer(''), []).connection.peerIsTrusted).toBe(false);
  });

  test('a peer that is gone already is nobody’s proxy', () => {
    const { connection } = trust.provenanceOf(peer('', { isDisconnected: true }), [
      ['X-Forwarded-For', '198.51.100.1'],
    ]);
    expect(connection).toMatchObject({ peerIsTrusted: false, clientAddress: '', relaysInterim: false });
  });

  test.each(['Via', 'Forwarded', 'X-Forwarded-For', 'x-forwarded-proto', 'X-Forwarded-Host', 'X-Real-IP'])(
    'a stranger that sends %s is a proxy nobody declared: no interim responses, and nothing is believed',
    (name) => {
      const { connection, scheme, authority } = trust.provenanceOf(peer('198.51.100.9'), [[name, 'https']]);
      expect(connection).toMatchObject({ peerIsTrusted: false, clientAddress: '198.51.100.9', relaysInterim: false });
      expect([scheme, authority]).toEqual([undefined, undefined]);
    },
  );
});

describe('what a trusted proxy tells', () => {
  const told = (headers: HeaderLine[], address = '10.0.0.1') => {
    const { scheme, authority, connection } = trust.provenanceOf(peer(address), headers);
    return [connection.clientAddress, scheme, authority, connection.relaysInterim];
  };

  test.each<[string, HeaderLine[], unknown[]]>([
    ['nothing', [], ['10.0.0.1', undefined, undefined, true]],
    [
      'the client, scheme and host',
      [
        ['X-Forwarded-For', '198.51.100.1'],
        ['X-Forwarded-Proto', 'HTTPS'],
        ['X-Forwarded-Host', 'api.example:8443'],
      ],
      ['198.51.100.1', 'https', 'api.example:8443', true],
    ],
    [
      'scheme and host alone',
      [
        ['X-Forwarded-Proto', 'https'],
        ['X-Forwarded-Host', 'api.example'],
      ],
      ['10.0.0.1', 'https', 'api.example', true],
    ],
    [
      'what a client made up before it',
      [['X-Forwarded-For', '127.0.0.1, 198.51.100.1']],
      ['198.51.100.1', undefined, undefined, true],
    ],
    [
      'of a second proxy that relays no interim responses',
      [
        ['X-Forwarded-For', '198.51.100.1, 10.9.0.1'],
        ['X-Forwarded-Proto', 'https, http'],
      ],
      ['198.51.100.1', 'https', undefined, false],
    ],
    [
      'the scheme of a client that made up more hops than there were',
      [
        ['X-Forwarded-For', '127.0.0.1, 198.51.100.1'],
        ['X-Forwarded-Proto', 'http, https'],
      ],
      ['198.51.100.1', 'https', undefined, true],
    ],
    ['of trusted hops only', [['X-Forwarded-For', '10.1.1.1, 10.2.2.2']], ['10.1.1.1', undefined, undefined, true]],
    ['of a hop it does not name', [['X-Forwarded-For', 'unknown']], ['10.0.0.1', undefined, undefined, true]],
    [
      'in the words of the standard',
      [
        [
          'Forwarded',
          'for=127.0.0.1;proto=http, for="[2001:db9::1]:4711";proto=https;host="api.example:1", for=10.3.3.3',
        ],
      ],
      ['2001:db9::1', 'https', 'api.example:1', true],
    ],
    [
      'in both, of which the X- family counts',
      [
        ['Forwarded', 'for=127.0.0.1;host=evil.example;proto=http'],
        ['X-Forwarded-For', '198.51.100.1'],
        ['X-Forwarded-Proto', 'https'],
      ],
      ['198.51.100.1', 'https', undefined, true],
    ],
    ['in broken words', [['Forwarded', 'for=198.51.100.1;proto="https']], ['10.0.0.1', undefined, undefined, true]],
    ['a scheme that is none of ours', [['X-Forwarded-Proto', 'gopher']], ['10.0.0.1', undefined, undefined, true]],
    ['a host that is none', [['X-Forwarded-Host', 'a b/<script>']], ['10.0.0.1', undefined, undefined, true]],
  ])('%s', (_what, headers, expected) => {
    expect(told(headers)).toEqual(expected);
  });

  test('counts for an IPv4 peer that shows as IPv6 as well', () => {
    expect(told([['X-Forwarded-For', '198.51.100.1']], '::ffff:10.0.0.1')[0]).toBe('198.51.100.1');
  });
});
