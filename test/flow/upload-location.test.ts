import { stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { TRANSPORTS } from '../support/client.js';
import { untilSpooled } from '../support/disk.js';
import { comparable, FlowClient } from '../support/flow-client.js';
import {
  makeCertificate,
  randomBytes,
  sha256,
  temporaryDirectory,
  type TemporaryDirectory,
} from '../support/temporary.js';
import { framed, TestProxy } from '../support/test-proxy.js';
import type { WireResponse } from '../support/wire.js';

describe('Location', () => {
  let proxy: TestProxy;

  afterEach(async () => {
    await proxy.close();
  });

  /** A creation with more to come, so that both the 104 and the 201 have a Location. */
  function create(transport: (typeof TRANSPORTS)[number], lines: readonly HeaderLine[] = []): Promise<WireResponse> {
    const own: HeaderLine[] = [
      ['Upload-Draft-Interop-Version', '8'],
      ['Upload-Complete', '?0'],
    ];
    return proxy.send(transport, { method: 'POST', target: '/files?a=b', headers: [...own, ...lines], body: 'abc' });
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
    proxy = await TestProxy.open();
    const created = await create(transport, [['Host', 'files.example:8443']]);
    expect(basesOf(created)).toBe('http://files.example:8443/.uploads/');
    expect(created.interims).toHaveLength(1);
  });

  test.each(TRANSPORTS)('over %s, public_url says where uploads live', async (transport) => {
    proxy = await TestProxy.open({
      config: 'uploads: { path: /resume/here/, public_url: "https://api.example.com/v1" }',
    });
    const created = await create(transport, [['Host', 'other.example'], ...PROXIED]);
    expect(basesOf(created)).toBe('https://api.example.com/v1/resume/here/');
  });

  test.each(TRANSPORTS)('over %s, a trusted proxy says what the client reached', async (transport) => {
    proxy = await TestProxy.open({ config: 'trusted_proxies: [{ cidr: 127.0.0.0/8, relays_interim: true }]' });
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
    proxy = await TestProxy.open({ config: 'trusted_proxies: [127.0.0.1]' });
    for (const transport of TRANSPORTS)
      expect(basesOf(await create(transport, [...PROXIED, ...lines]))).toBe(`${base}/.uploads/`);
  });

  test('a port in the host counts, whatever the port field says', async () => {
    proxy = await TestProxy.open({ config: 'trusted_proxies: [127.0.0.1]' });
    const lines: HeaderLine[] = [
      ['Host', 'files.example:8443'],
      ['X-Forwarded-Port', '9000'],
      ['X-Forwarded-Proto', 'https'],
    ];
    expect(basesOf(await create('HTTP/1.1', lines))).toBe('https://files.example:8443/.uploads/');
  });

  test('port and prefix of a stranger are not believed', async () => {
    proxy = await TestProxy.open();
    const lines: HeaderLine[] = [
      ['X-Forwarded-Port', '8443'],
      ['X-Forwarded-Prefix', '/app'],
    ];
    expect(basesOf(await create('HTTP/1.1', lines))).toBe(`${proxy.app.url}/.uploads/`);
  });

  test('a trusted proxy that is not known to relay interim responses gets none', async () => {
    proxy = await TestProxy.open({ config: 'trusted_proxies: [127.0.0.1]' });
    const created = await create('HTTP/1.1', PROXIED);
    expect(basesOf(created)).toBe('https://files.example/.uploads/');
    expect(created.interims).toEqual([]);
  });

  test('nobody else is believed, and a proxy that nobody declared gets no interim response', async () => {
    proxy = await TestProxy.open();
    const created = await create('HTTP/1.1', PROXIED);
    expect(basesOf(created)).toBe(`${proxy.app.url}/.uploads/`);
    expect(created.interims).toEqual([]);
  });

  test('what the origin is told of the client is the trusted chain', async () => {
    proxy = await TestProxy.open({ config: 'trusted_proxies: [127.0.0.1]' });
    const lines: HeaderLine[] = [['Upload-Complete', '?1'], ...PROXIED];
    await proxy.send('HTTP/1.1', { method: 'POST', target: '/files?a=b', headers: lines, body: 'abc' });
    const [received] = proxy.requestsFor('/files?a=b');
    expect(received!.header('X-Forwarded-For')).toBe('198.51.100.7, 127.0.0.1');
    expect(received!.header('X-Forwarded-Proto')).toBe('https');
    expect(received!.header('X-Forwarded-Host')).toBe('files.example');
    expect(received!.header('Forwarded')).toBe('for=198.51.100.7;host=files.example;proto=https, for=127.0.0.1');
  });

  test.each([
    ['never', 0, []],
    ['always', 1, PROXIED],
  ] as const)('interim_responses: %s sends %i interim response(s) whoever asks', async (mode, count, lines) => {
    proxy = await TestProxy.open({ config: `interim_responses: ${mode}` });
    for (const transport of TRANSPORTS) expect((await create(transport, lines)).interims).toHaveLength(count);
  });

  test('the form without a version gets a 104 where that is switched on, without a version', async () => {
    proxy = await TestProxy.open({ config: 'uploads: { rfc104: true }' });
    for (const transport of TRANSPORTS) {
      const headers: HeaderLine[] = [['Upload-Complete', '?0']];
      const created = await proxy.send(transport, { method: 'POST', target: '/files', headers, body: 'abc' });
      expect(created.interims).toHaveLength(1);
      const names = created.interims[0]!.headerLines.map(([name]) => name.toLowerCase());
      expect(names).toEqual(['location', 'upload-limit']);
      expect(basesOf(created)).toBe(`${proxy.app.url}/.uploads/`);
    }
  });
});

describe('listeners', () => {
  let directory: TemporaryDirectory;

  beforeAll(async () => {
    directory = await temporaryDirectory();
  });

  afterAll(async () => {
    await directory.remove();
  });

  const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

  async function tlsListener(): Promise<string> {
    const [cert, key] = [join(directory.path, 'tls.crt'), join(directory.path, 'tls.key')];
    const made = makeCertificate();
    await writeFile(cert, made.cert);
    await writeFile(key, made.key);
    return `listen: { address: "127.0.0.1:0", tls: { cert: ${cert}, key: ${key} } }`;
  }

  function unixListener(): Promise<string> {
    return Promise.resolve(`listen: { address: "unix:${join(directory.path, 'http.sock')}", mode: '0602' }`);
  }

  test.each([
    { mode: "'0602'", found: 0o602 },
    { mode: undefined, found: 0o660 },
  ])('a Unix socket with mode $mode is open to those whom it names', async ({ mode, found }) => {
    const path = join(directory.path, 'mode.sock');
    const config = `listen: { address: "unix:${path}"${mode === undefined ? '' : `, mode: ${mode}`} }`;
    const proxy = await TestProxy.open({ config });
    expect((await stat(path)).mode & 0o777).toBe(found);
    await proxy.close();
  });

  const LISTENERS = [
    {
      name: 'TLS',
      config: tlsListener,
      base: /^https:\/\/127\.0\.0\.1:\d+$/,
      forwarded: (host: string) => `for=127.0.0.1;host="${host}";proto=https`,
      address: '127.0.0.1',
      scheme: 'https',
    },
    {
      name: 'a Unix socket',
      config: unixListener,
      base: /^http:\/\/proxy\.example:8080$/,
      forwarded: (host: string) => `for=unknown;host="${host}";proto=http`,
      address: undefined,
      scheme: 'http',
    },
  ] as const;

  describe.each(LISTENERS)('at a listener with $name', ({ config, base, forwarded, address, scheme }) => {
    let proxy: TestProxy;

    beforeAll(async () => {
      proxy = await TestProxy.open({ config: await config() });
    });

    afterAll(async () => {
      await proxy.close();
    });

    test.each(TRANSPORTS)('over %s, an upload is cut, goes on, and reaches the origin once', async (transport) => {
      expect(proxy.base).toMatch(base);
      const client = new FlowClient(proxy, transport, '8');
      const target = `/listeners?${encodeURIComponent(transport)}`;
      const bytes = randomBytes(3_000_000);
      const { request, upload } = await client.begin({ target, length: bytes.length });
      await request.send(bytes.subarray(0, 1_500_000));
      await untilSpooled(proxy.app.data, upload.url, 1_500_000);
      request.leave('end');
      const offset = await upload.offset();
      expect(offset).toBe(1_500_000);
      const answer = await upload.append(bytes.subarray(offset), { offset, complete: true });
      expect(comparable(answer)).toEqual(client.expected.answered(OK, bytes.length));
      const [received, ...others] = proxy.requestsFor(target);
      expect(others).toEqual([]);
      expect(received).toMatchObject({ method: 'POST', sha256: sha256(bytes) });
      expect(received!.header('Host')).toBe(proxy.host);
      expect(received!.header('Forwarded')).toBe(forwarded(proxy.host));
      expect(received!.header('X-Forwarded-For')).toBe(address);
      expect(received!.header('X-Forwarded-Proto')).toBe(scheme);
    });

    test.each(TRANSPORTS)('over %s, ordinary requests pass through', async (transport) => {
      const target = `/ordinary?${encodeURIComponent(transport)}`;
      proxy.answer(target, { status: 404, headers: [['X-Own', 'yes']], body: 'not here' });
      const answer = await proxy.send(transport, { method: 'PUT', target, headers: [['X-A', 'b']], body: 'plain' });
      expect(answer).toMatchObject({ status: 404, interims: [] });
      expect(answer.body.toString()).toBe('not here');
      expect(answer.header('X-Own')).toBe('yes');
      expect(proxy.requestsFor(target)).toMatchObject([{ method: 'PUT', sha256: sha256('plain') }]);
    });
  });
});
