import { describe, expect, test } from '@jest/globals';
import {
  type ForwardingFacts,
  isForwardingLoop,
  parseForwarded,
  receivedHops,
  viaName,
  withForwarding,
} from '../../src/model/forwarded.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { Peer } from '../../src/server/exchange.js';
import { TrustedProxies } from '../../src/server/trusted-proxies.js';

describe('forwarded fields', () => {
  const stranger: ForwardingFacts = {
    peerAddress: '203.0.113.7',
    peerIsTrusted: false,
    scheme: 'https',
    authority: 'api.example:8443',
    httpVersion: '1.1',
  };
  const trusted: ForwardingFacts = { ...stranger, peerAddress: '10.0.0.2', peerIsTrusted: true };

  describe('what the origin is told of the hops before us', () => {
    test('a direct client is named in every field, after its own lines in their order and case', () => {
      expect(
        withForwarding(
          [
            ['X-b', '1'],
            ['a', '2'],
            ['X-b', '3'],
          ],
          stranger,
        ),
      ).toEqual([
        ['X-b', '1'],
        ['a', '2'],
        ['X-b', '3'],
        ['Forwarded', 'for=203.0.113.7;host="api.example:8443";proto=https'],
        ['X-Forwarded-For', '203.0.113.7'],
        ['X-Forwarded-Host', 'api.example:8443'],
        ['X-Forwarded-Proto', 'https'],
        ['Via', '1.1 rufh-proxy'],
      ]);
    });

    test('whatever a stranger claims about itself is replaced, Via is only extended', () => {
      const claims: HeaderLine[] = [
        ['X-Forwarded-For', '127.0.0.1'],
        ['forwarded', 'for=127.0.0.1;proto=http'],
        ['X-FORWARDED-PROTO', 'http'],
        ['X-Forwarded-Host', 'evil.example'],
        ['X-Forwarded-Port', '1'],
        ['X-Forwarded-Prefix', '/admin'],
        ['X-Real-IP', '127.0.0.1'],
        ['Via', '1.0 fred'],
      ];
      expect(withForwarding(claims, stranger)).toEqual([['Via', '1.0 fred'], ...withForwarding([], stranger)]);
    });

    test('a trusted peer that tells nothing is the client', () => {
      expect(withForwarding([], trusted)).toEqual([
        ['Forwarded', 'for=10.0.0.2;host="api.example:8443";proto=https'],
        ['X-Forwarded-For', '10.0.0.2'],
        ['X-Forwarded-Host', 'api.example:8443'],
        ['X-Forwarded-Proto', 'https'],
        ['Via', '1.1 rufh-proxy'],
      ]);
    });

    test('the X-Forwarded-For of a trusted peer is extended and carried over into Forwarded', () => {
      const received: HeaderLine[] = [
        ['X-Forwarded-For', '198.51.100.1'],
        ['X-Forwarded-For', '2001:db8::1'],
        ['X-Forwarded-Proto', 'https'],
        ['X-Forwarded-Port', '443'],
        ['Forwarded', 'for=made.up'],
      ];
      expect(withForwarding(received, trusted)).toEqual([
        ['X-Forwarded-Port', '443'],
        ['Forwarded', 'for=198.51.100.1;proto=https, for="[2001:db8::1]";proto=https, for=10.0.0.2'],
        ['X-Forwarded-For', '198.51.100.1, 2001:db8::1, 10.0.0.2'],
        ['X-Forwarded-Host', 'api.example:8443'],
        ['X-Forwarded-Proto', 'https'],
        ['Via', '1.1 rufh-proxy'],
      ]);
    });

    test('the Forwarded of a trusted peer is kept word for word and extended', () => {
      const received: HeaderLine[] = [['Forwarded', 'For="[2001:db8::1]:4711";secret=x, for=_hidden;by=10.0.0.1']];
      expect(withForwarding(received, trusted).slice(0, 2)).toEqual([
        ['Forwarded', 'For="[2001:db8::1]:4711";secret=x, for=_hidden;by=10.0.0.1, for=10.0.0.2'],
        ['X-Forwarded-For', '2001:db8::1, _hidden, 10.0.0.2'],
      ]);
    });

    test('a Forwarded that breaks the grammar is dropped even from a trusted peer', () => {
      expect(withForwarding([['Forwarded', 'for=", for=10.0.0.9']], trusted)).toEqual(withForwarding([], trusted));
    });

    test.each([
      ['::ffff:192.0.2.1', 'for=192.0.2.1', '192.0.2.1'],
      ['2001:db8::2', 'for="[2001:db8::2]"', '2001:db8::2'],
      ['fe80::1%eth0', 'for="[fe80::1]"', 'fe80::1'],
      ['', 'for=unknown', undefined],
    ])('peer %j is written as %s', (peerAddress, forwarded, forwardedFor) => {
      const lines = withForwarding([], { ...stranger, peerAddress, authority: '' });
      expect(lines[0]).toEqual(['Forwarded', `${forwarded};proto=https`]);
      expect(lines.find(([name]) => name === 'X-Forwarded-For')?.[1]).toBe(forwardedFor);
      expect(lines.some(([name]) => name === 'X-Forwarded-Host')).toBe(false);
    });

    test('Via names the version the request came with', () => {
      expect(withForwarding([], { ...stranger, httpVersion: '2.0' }).at(-1)).toEqual(['Via', '2.0 rufh-proxy']);
    });
  });

  describe('names by which proxies say where a request comes from', () => {
    const behind = { ...trusted, clientAddress: '198.51.100.1' };
    const kept = (name: string, value: string, facts: ForwardingFacts): boolean =>
      withForwarding([[name, value]], facts).some(([field, said]) => field === name && said === value);

    /** `same`: a trusted proxy's where it says the address of the client. */
    test.each([
      ...['X-Real-IP', 'X-Client-IP', 'Client-IP', 'X-Cluster-Client-IP', 'X-Remote-Addr', 'Client_IP'].map((name) => [
        name,
        'same',
      ]),
      ...['WL-Proxy-Client-IP', 'X-ProxyUser-Ip', 'x.real.ip'].map((name) => [name, 'same']),
      ...['CF-Connecting-IP', 'True-Client-IP', 'Fastly-Client-IP', 'X-Azure-ClientIP'].map((name) => [
        name,
        'trusted',
      ]),
      ...['X-Forwarded-Port', 'X-Forwarded-Prefix', 'X-Forwarded-User', 'X-Forwarded-Roles'].map((name) => [
        name,
        'trusted',
      ]),
      ...['X-Forwarded-Client-Cert', 'X-Forwarded-Tls-Client-Cert', 'X-Forwarded-Tls-Client-Cert-Info'].map((name) => [
        name,
        'trusted',
      ]),
      ...['X-Forwarded', 'Front-End-Https', 'X-Url-Scheme', 'Forwarded-For', 'X-ARR-SSL'].map((name) => [
        name,
        'trusted',
      ]),
      ...['X-Original-URL', 'X-Rewrite-URL', 'X-Forwarded-Uri'].map((name) => [name, 'trusted']),
      ...['Ssl', 'Scheme', 'Server', 'By', 'Anything'].map((word) => [`X-Forwarded-${word}`, 'never']),
      ...['X-Script-Name', 'X-Original-Host', 'X_Forwarded_Ssl'].map((name) => [name, 'never']),
      ...['X-Request-Id', 'Client-Name', 'X-Client-Version', 'X-Real-IP-Count'].map((name) => [name, 'anybody']),
    ])('%s is passed on from: %s', (name, from) => {
      expect(kept(name, '198.51.100.1', stranger)).toBe(from === 'anybody');
      expect(kept(name, '198.51.100.1', behind)).toBe(from !== 'never');
      expect(kept(name, '10.9.9.9', behind)).toBe(from === 'anybody' || from === 'trusted');
    });
  });

  describe('a request that this proxy has sent before', () => {
    const via = viaName('3f0c9a17be42');

    test.each([
      ['1.1 rufh-proxy-3f0c9a17be42', true],
      ['2.0 RUFH-proxy-3F0C9A17BE42', true],
      ['HTTP/1.1 rufh-proxy-3f0c9a17be42 (of ours)', true],
      ['1.0 fred, 1.1 rufh-proxy-3f0c9a17be42', true],
      ['1.1\trufh-proxy-3f0c9a17be42 ,1.0 fred', true],
      ['1.1 rufh-proxy', false],
      ['1.1 rufh-proxy-3f0c9a17be4', false],
      ['1.1 rufh-proxy-000000000000', false],
      ['1.1 fred (rufh-proxy-3f0c9a17be42)', false],
      ['', false],
    ])('Via: %s: %s', (value, expected) => {
      expect(isForwardingLoop([['vIa', value]], via)).toBe(expected);
      const several = [['Via', '1.1 fred'] as const, ['Via', value] as const];
      expect(isForwardingLoop(several, via)).toBe(expected);
      expect(isForwardingLoop([['X-Via', value]], via)).toBe(false);
    });
  });

  describe('reading forwarded fields', () => {
    test.each([
      ['for=192.0.2.60;proto=http;by=203.0.113.43', [{ for: '192.0.2.60', proto: 'http' }]],
      ['FOR="[2001:db8:cafe::17]:4711"', [{ for: '2001:db8:cafe::17' }]],
      ['for=a , for=b;host="x,y;z",', [{ for: 'a' }, { for: 'b', host: 'x,y;z' }]],
      ['for="a\\"b"', [{ for: 'a"b' }]],
      ['proto=https', [{ proto: 'https' }]],
      ['', []],
      ['for=a b', undefined],
      ['for="a', undefined],
      ['for=a;for=b', undefined],
      ['nonsense', undefined],
    ])('%j', (value, hops) => {
      expect(parseForwarded(value)).toEqual(hops);
    });

    // A proxy with a dual-stack socket tells an IPv4 client as an IPv6 one; lists of allowed addresses know only the first.
    test.each([
      ['::ffff:192.0.2.1', '192.0.2.1'],
      ['::FFFF:192.0.2.1', '192.0.2.1'],
      ['::ffff:c000:201', '192.0.2.1'],
      ['0:0:0:0:0:ffff:192.0.2.1', '192.0.2.1'],
      ['0000:0000:0000:0000:0000:ffff:c000:0201', '192.0.2.1'],
      ['[::ffff:192.0.2.1]:4711', '192.0.2.1'],
      ['[::ffff:0.0.0.0]', '0.0.0.0'],
      ['::ffff:255.255.255.255', '255.255.255.255'],
      ['::ffff:0:192.0.2.1', '::ffff:0:192.0.2.1'],
      ['::192.0.2.1', '::192.0.2.1'],
      ['64:ff9b::192.0.2.1', '64:ff9b::192.0.2.1'],
      ['2001:db8::ffff:192.0.2.1', '2001:db8::ffff:192.0.2.1'],
      ['::ffff:192.0.2.256', '::ffff:192.0.2.256'],
      ['a:b:c', 'a:b:c'],
      ['unknown', 'unknown'],
      ['_hidden', '_hidden'],
    ])('the node %s is %s, in either family of fields', (told, node) => {
      expect(receivedHops([['X-Forwarded-For', told]])).toMatchObject([{ for: node }]);
      const quoted = told.startsWith('[') ? told : `[${told}]`;
      if (told.includes(':')) expect(parseForwarded(`for="${quoted}"`)).toMatchObject([{ for: node }]);
    });

    test('lists of the same length belong together, a single value is the nearest proxy’s word', () => {
      const nodes: HeaderLine = ['X-Forwarded-For', '192.0.2.1:4711, [2001:db8::1]:80'];
      expect(receivedHops([nodes, ['X-Forwarded-Proto', 'https, http'], ['X-Forwarded-Host', 'a.example']])).toEqual([
        { for: '192.0.2.1', proto: 'https', host: 'a.example' },
        { for: '2001:db8::1', proto: 'http', host: 'a.example' },
      ]);
    });
  });
});

describe('trusted proxies', () => {
  const trust = new TrustedProxies([
    { cidr: '10.0.0.0/8', relaysInterim: true },
    { cidr: '10.9.0.0/16', relaysInterim: false },
    { cidr: '192.0.2.1', relaysInterim: false },
    { cidr: '2001:db8::/32', relaysInterim: true },
    { cidr: '::ffff:172.16.0.0/108', relaysInterim: true },
    { cidr: '2001:dba::8', relaysInterim: true },
    { cidr: '2001:dbb::/96', relaysInterim: false },
    { cidr: '2001:dbc::100/120', relaysInterim: false },
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
      ['2001:dba::8', true, true],
      ['2001:dba::9', false, true],
      ['2001:dbb::1:2', true, false],
      ['2001:dbb::1:0:0', false, true],
      ['2001:dbc::1ff', true, false],
      ['2001:dbc::200', false, true],
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

    test('the range of all IPv4 addresses may be written as one of IPv6', () => {
      const mapped = new TrustedProxies([{ cidr: '::ffff:0.0.0.0/96', relaysInterim: true }]);
      const isTrusted = (address: string): boolean => mapped.trusts(address);
      expect(['192.0.2.1', '::ffff:192.0.2.1', '2001:db8::1'].map(isTrusted)).toEqual([true, true, false]);
    });

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
      ['a scheme without TLS', [['X-Forwarded-Proto', 'http']], ['10.0.0.1', 'http', undefined, true]],
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
});
