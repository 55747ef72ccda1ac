import { afterEach, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { TRANSPORTS } from '../support/open-request.js';
import { Stage } from '../support/stage.js';
import type { WireResponse } from '../support/wire-response.js';

let stage: Stage;

afterEach(async () => {
  await stage.close();
});

/** A creation with more to come, so that both the 104 and the 201 have a Location. */
function create(transport: (typeof TRANSPORTS)[number], lines: readonly HeaderLine[] = []): Promise<WireResponse> {
  const own: HeaderLine[] = [
    ['Upload-Draft-Interop-Version', '8'],
    ['Upload-Complete', '?0'],
  ];
  return stage.send(transport, { method: 'POST', target: '/files?a=b', headers: [...own, ...lines], body: 'abc' });
}

/** The one address that all responses of a creation name, without the upload's own part. */
function basesOf(created: WireResponse): string {
  const urls = new Set([...created.interims, created].map((head) => head.header('Location')));
  expect(urls.size).toBe(1);
  return [...urls][0]!.replace(/[A-Za-z0-9_-]{32}$/, '');
}

const PROXIED: HeaderLine[] = [
  ['X-Forwarded-For', '198.51.100.7'],
  ['X-Forwarded-Proto', 'https'],
  ['X-Forwarded-Host', 'files.example'],
];

test.each(TRANSPORTS)('over %s, an upload lives where the client says it reached us', async (transport) => {
  stage = await Stage.open();
  const created = await create(transport, [['Host', 'files.example:8443']]);
  expect(basesOf(created)).toBe('http://files.example:8443/.uploads/');
  expect(created.interims).toHaveLength(1);
});

test.each(TRANSPORTS)('over %s, public_url says where uploads live', async (transport) => {
  stage = await Stage.open({ config: 'uploads: { path: /resume/here/, public_url: "https://api.example.com/v1" }' });
  const created = await create(transport, [['Host', 'other.example'], ...PROXIED]);
  expect(basesOf(created)).toBe('https://api.example.com/v1/resume/here/');
});

test.each(TRANSPORTS)('over %s, a trusted proxy says what the client reached', async (transport) => {
  stage = await Stage.open({ config: 'trusted_proxies: [{ cidr: 127.0.0.0/8, relays_interim: true }]' });
  const created = await create(transport, PROXIED);
  expect(basesOf(created)).toBe('https://files.example/.uploads/');
  expect(created.interims).toHaveLength(1);
  const forwarded = await create(transport, [['Forwarded', 'for=198.51.100.7;host="other.example:444";proto=https']]);
  expect(basesOf(forwarded)).toBe('https://other.example:444/.uploads/');
});

test.each<[what: string, lines: HeaderLine[], base: string]>([
  ['a port of its own', [['X-Forwarded-Port', '8443']], 'https://files.example:8443'],
  ['the usual port', [['X-Forwarded-Port', '443']], 'https://files.example'],
  ['the usual port of the other scheme', [['X-Forwarded-Port', '80']], 'https://files.example:80'],
  ['a port that is none', [['X-Forwarded-Port', 'https']], 'https://files.example'],
  ['a prefix', [['X-Forwarded-Prefix', '/app']], 'https://files.example/app'],
  ['a prefix with a slash at its end', [['X-Forwarded-Prefix', '/app/v1/']], 'https://files.example/app/v1'],
  ['prefixes of two proxies', [['X-Forwarded-Prefix', '/outer, /inner']], 'https://files.example/outer/inner'],
  ['no prefix but the root', [['X-Forwarded-Prefix', '/']], 'https://files.example'],
  ['a prefix that leads elsewhere', [['X-Forwarded-Prefix', '/a/../b']], 'https://files.example'],
  ['a prefix that is a host', [['X-Forwarded-Prefix', '//evil.example']], 'https://files.example'],
  ['a prefix with a query', [['X-Forwarded-Prefix', '/a?b']], 'https://files.example'],
  [
    'both',
    [
      ['X-Forwarded-Port', '8443'],
      ['X-Forwarded-Prefix', '/app'],
    ],
    'https://files.example:8443/app',
  ],
])('a trusted proxy that tells of %s makes uploads live there', async (_, lines, base) => {
  stage = await Stage.open({ config: 'trusted_proxies: [127.0.0.1]' });
  for (const transport of TRANSPORTS)
    expect(basesOf(await create(transport, [...PROXIED, ...lines]))).toBe(`${base}/.uploads/`);
});

test('a port in the host counts, whatever the port field says', async () => {
  stage = await Stage.open({ config: 'trusted_proxies: [127.0.0.1]' });
  const lines: HeaderLine[] = [
    ['Host', 'files.example:8443'],
    ['X-Forwarded-Port', '9000'],
    ['X-Forwarded-Proto', 'https'],
  ];
  expect(basesOf(await create('HTTP/1.1', lines))).toBe('https://files.example:8443/.uploads/');
});

test('port and prefix of a stranger are not believed', async () => {
  stage = await Stage.open();
  const lines: HeaderLine[] = [
    ['X-Forwarded-Port', '8443'],
    ['X-Forwarded-Prefix', '/app'],
  ];
  expect(basesOf(await create('HTTP/1.1', lines))).toBe(`${stage.app.url}/.uploads/`);
});

test('a trusted proxy that is not known to relay interim responses gets none', async () => {
  stage = await Stage.open({ config: 'trusted_proxies: [127.0.0.1]' });
  const created = await create('HTTP/1.1', PROXIED);
  expect(basesOf(created)).toBe('https://files.example/.uploads/');
  expect(created.interims).toEqual([]);
});

test('nobody else is believed, and a proxy that nobody declared gets no interim response', async () => {
  stage = await Stage.open();
  const created = await create('HTTP/1.1', PROXIED);
  expect(basesOf(created)).toBe(`${stage.app.url}/.uploads/`);
  expect(created.interims).toEqual([]);
});

test('what the origin is told of the client is the trusted chain', async () => {
  stage = await Stage.open({ config: 'trusted_proxies: [127.0.0.1]' });
  const lines: HeaderLine[] = [['Upload-Complete', '?1'], ...PROXIED];
  await stage.send('HTTP/1.1', { method: 'POST', target: '/files?a=b', headers: lines, body: 'abc' });
  const [received] = stage.requestsFor('/files?a=b');
  expect(received!.header('X-Forwarded-For')).toBe('198.51.100.7, 127.0.0.1');
  expect(received!.header('X-Forwarded-Proto')).toBe('https');
  expect(received!.header('X-Forwarded-Host')).toBe('files.example');
  expect(received!.header('Forwarded')).toBe('for=198.51.100.7;host=files.example;proto=https, for=127.0.0.1');
});

test.each([
  ['never', 0, []],
  ['always', 1, PROXIED],
] as const)('interim_responses: %s sends %i interim response(s) whoever asks', async (mode, count, lines) => {
  stage = await Stage.open({ config: `interim_responses: ${mode}` });
  for (const transport of TRANSPORTS) expect((await create(transport, lines)).interims).toHaveLength(count);
});

test('the form without a version gets a 104 where that is switched on, without a version', async () => {
  stage = await Stage.open({ config: 'uploads: { rfc104: true }' });
  for (const transport of TRANSPORTS) {
    const headers: HeaderLine[] = [['Upload-Complete', '?0']];
    const created = await stage.send(transport, { method: 'POST', target: '/files', headers, body: 'abc' });
    expect(created.interims).toHaveLength(1);
    const names = created.interims[0]!.headerLines.map(([name]) => name.toLowerCase());
    expect(names).toEqual(['location', 'upload-limit']);
    expect(basesOf(created)).toBe(`${stage.app.url}/.uploads/`);
  }
});
