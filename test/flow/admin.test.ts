import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { request } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Admin } from '../../src/admin/admin-http.js';
import { type AdminOptions, startAdmin } from '../../src/admin/admin.js';
import { createLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { temporaryDirectory } from '../support/temporary.js';

describe('pages', () => {
  let problem: string | undefined;
  let lines: string[];
  let closing: (() => Promise<unknown>)[];
  beforeEach(() => {
    problem = undefined;
    lines = [];
    closing = [];
  });
  afterEach(async () => {
    for (const close of closing.reverse()) await close();
  });

  async function start(options: Partial<AdminOptions> = {}): Promise<Admin> {
    const admin = await startAdmin({
      address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      metrics: new Metrics(),
      checks: [{ name: 'store', check: () => Promise.resolve(problem) }],
      log: createLog({ level: 'info', format: 'json', destination: { write: (line) => lines.push(line) } }),
      ...options,
    });
    closing.push(() => admin.close());
    return admin;
  }

  test('a process that runs is alive', async () => {
    const answer = await fetch(`${(await start()).url}/healthz`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('cache-control')).toBe('no-store');
    expect(await answer.json()).toEqual({ alive: true });
  });

  test('readiness follows the checks from one question to the next', async () => {
    const { url } = await start();
    const ready = await fetch(`${url}/readyz`);
    expect([ready.status, await ready.json()]).toEqual([200, { ready: true, checks: [{ name: 'store', ok: true }] }]);
    problem = 'the disk is read-only';
    const broken = await fetch(`${url}/readyz?verbose`);
    expect(broken.status).toBe(503);
    expect(await broken.json()).toEqual({ ready: false, checks: [{ name: 'store', ok: false, problem }] });
  });

  test('the figures come in the text format of Prometheus', async () => {
    const metrics = new Metrics();
    metrics.bytesReceived(17);
    const answer = await fetch(`${(await start({ metrics })).url}/metrics`);
    expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    expect(await answer.text()).toContain('\nrufh_received_bytes_total 17\n');
  });

  test('figures that cannot be had are a 500 and a line in the log, and the listener goes on', async () => {
    const metrics = new Metrics();
    metrics.countUploads(() => Promise.reject(new Error('the store is closed')));
    const { url } = await start({ metrics });
    expect((await fetch(`${url}/metrics`)).status).toBe(500);
    expect(lines.join('')).toContain('the store is closed');
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
  });

  describe('what there is not', () => {
    test.each(['/', '/metrics/', '/healthz/x', '/__proto__', '/constructor', '//healthz'])(
      '%s is 404',
      async (path) => {
        const answer = await fetch((await start()).url + path);
        expect(answer.status).toBe(404);
        expect(answer.headers.get('content-type')).toBe('application/problem+json');
        expect(await answer.json()).toEqual({ type: 'about:blank', title: 'Not Found', status: 404 });
      },
    );

    test.each(['POST', 'PUT', 'DELETE', 'OPTIONS'])('%s is 405', async (method) => {
      const answer = await fetch(`${(await start()).url}/metrics`, { method });
      expect([answer.status, answer.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
    });

    test('HEAD has no body', async () => {
      const answer = await fetch(`${(await start()).url}/healthz`, { method: 'HEAD' });
      expect([answer.status, await answer.text()]).toEqual([200, '']);
    });
  });

  describe('the address', () => {
    async function occupy(): Promise<number> {
      const server: Server = createServer();
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      closing.push(() => new Promise((resolve) => server.close(resolve)));
      return (server.address() as AddressInfo).port;
    }

    test('that is in use stops the start', async () => {
      const port = await occupy();
      await expect(start({ address: { kind: 'tcp', host: '127.0.0.1', port } })).rejects.toMatchObject({
        code: 'EADDRINUSE',
      });
    });

    test('may be a Unix socket', async () => {
      const directory = await temporaryDirectory();
      closing.push(() => directory.remove());
      const path = join(directory.path, 'admin.sock');
      const { url } = await start({ address: { kind: 'unix', path } });
      expect(url).toBe(`unix:${path}`);
      const status = await new Promise((resolve, reject) => {
        request({ socketPath: path, path: '/healthz' }, (response) => {
          response.resume();
          resolve(response.statusCode);
        })
          .on('error', reject)
          .end();
      });
      expect(status).toBe(200);
    });

    test('takes the place of a Unix socket that a killed process has left, and of no other', async () => {
      const directory = await temporaryDirectory();
      closing.push(() => directory.remove());
      const path = join(directory.path, 'admin.sock');
      const leave = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
      expect(() => execFileSync(process.execPath, ['-e', leave])).toThrow();
      await start({ address: { kind: 'unix', path } });
      await expect(start({ address: { kind: 'unix', path } })).rejects.toMatchObject({ code: 'EADDRINUSE' });
    });

    test('of IPv6 is written in brackets', async () => {
      const { url } = await start({ address: { kind: 'tcp', host: '::1', port: 0 } });
      expect(url).toMatch(/^http:\/\/\[::1\]:\d+$/);
      expect((await fetch(`${url}/healthz`)).status).toBe(200);
    });
  });

  // Issue 9, §5.
  test.each([
    ['0.0.0.0', undefined, true],
    ['::', undefined, true],
    ['0.0.0.0', 'a-token-of-many-letters', false],
    ['127.0.0.1', undefined, false],
    ['127.0.0.2', undefined, false],
    ['::1', undefined, false],
  ])('on %s with the token %s: that others can reach it is said: %s', async (host, token, isSaid) => {
    await start({ address: { kind: 'tcp', host, port: 0 }, token });
    expect(lines.join('').includes('the admin listener can be reached from other machines')).toBe(isSaid);
  });

  test('closing does not wait for a client that keeps its connection open', async () => {
    const admin = await start();
    await (await fetch(`${admin.url}/healthz`)).text();
    closing.pop();
    await admin.close();
    await expect(fetch(`${admin.url}/healthz`)).rejects.toThrow();
  });
});

describe('guard', () => {
  // Issue 9, §5.
  const TOKEN = 'a-token/of+many==letters';
  const PATHS = [
    ...['/healthz', '/readyz', '/metrics', '/openapi.json'],
    ...['/uploads', '/uploads/0123456789', '/drain', '/nothing'],
  ] as const;
  const HEALTH = ['/healthz', '/readyz'];

  let closing: (() => Promise<unknown>)[] = [];
  const lines: string[] = [];

  afterEach(async () => {
    for (const close of closing.reverse()) await close();
    closing = [];
    expect(lines.join('')).not.toContain(TOKEN);
  });

  async function start(options: Partial<AdminOptions> = {}): Promise<Admin> {
    const admin = await startAdmin({
      address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
      metrics: new Metrics(),
      checks: [],
      log: createLog({ level: 'trace', format: 'json', destination: { write: (line) => lines.push(line) } }),
      ...options,
    });
    closing.push(() => admin.close());
    return admin;
  }

  interface Asked {
    readonly method?: string;
    readonly path: string;
    readonly headers?: Record<string, string>;
  }

  /** Unlike fetch, this sends the `Host` and the `Origin` it is told, also over a Unix socket. */
  function ask({ url }: Admin, { method = 'GET', path, headers = {} }: Asked) {
    const to = url.startsWith('unix:')
      ? { socketPath: url.slice('unix:'.length), path }
      : { host: '127.0.0.1', port: new URL(url).port, path };
    return new Promise<{ status: number; challenge?: string; body: string }>((resolve, reject) => {
      const sent = request({ ...to, method, headers: { Host: '127.0.0.1:9090', ...headers } }, (response) => {
        let body = '';
        response.setEncoding('utf8').on('data', (text: string) => (body += text));
        response.on('end', () =>
          resolve({ status: response.statusCode!, challenge: response.headers['www-authenticate'], body }),
        );
      });
      sent.on('error', reject).end();
    });
  }

  /** What a request gets that is let in: there are no uploads here, and no drain. */
  const letIn = (path: string): number =>
    path === '/nothing' ? 404 : ['/healthz', '/readyz', '/metrics', '/openapi.json'].includes(path) ? 200 : 503;

  const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

  describe('the token', () => {
    const shown: [string, Record<string, string>, boolean][] = [
      ['the token', bearer(TOKEN), true],
      ['the scheme in other letters', { Authorization: `bearer  ${TOKEN}` }, true],
      ['no field', {}, false],
      ['another token', bearer('another-token-of-letters'), false],
      ['the beginning of the token', bearer(TOKEN.slice(0, -1)), false],
      ['the token and more', bearer(`${TOKEN}x`), false],
      ['the token in other letters', bearer(TOKEN.toUpperCase()), false],
      ['an empty token', { Authorization: 'Bearer ' }, false],
      ['another scheme', { Authorization: `Basic ${Buffer.from(`admin:${TOKEN}`).toString('base64')}` }, false],
      ['the token alone', { Authorization: TOKEN }, false],
      ['the token in another field', { 'X-Token': TOKEN, Cookie: `token=${TOKEN}` }, false],
    ];

    test.each(shown)('%s: what is asked for on every path, and what is open', async (_, headers, isRight) => {
      const admins = {
        health: await start({ token: TOKEN }),
        all: await start({ token: TOKEN, open: ['health', 'metrics'] }),
        none: await start({ token: TOKEN, open: [] }),
      };
      const open = { health: HEALTH, all: [...HEALTH, '/metrics'], none: [] as string[] };
      for (const which of ['health', 'all', 'none'] as const) {
        for (const path of PATHS) {
          const { status, challenge } = await ask(admins[which], { path, headers });
          const isIn = isRight || open[which].includes(path);
          expect([which, path, status, challenge]).toEqual([
            which,
            path,
            isIn ? letIn(path) : 401,
            isIn ? undefined : 'Bearer realm="rufh-proxy"',
          ]);
        }
      }
    });

    test.each([
      ['DELETE', '/uploads/0123456789'],
      ['POST', '/uploads/0123456789/redeliver'],
      ['POST', '/drain'],
      ['HEAD', '/metrics'],
      ['GET', '/healthz/'],
      ['GET', '/healthz/../metrics'],
      ['GET', '//healthz'],
      ['GET', '/Healthz'],
      ['GET', '/%68ealthz'],
    ])('is asked for with %s %s', async (method, path) => {
      const admin = await start({ token: TOKEN });
      expect((await ask(admin, { method, path })).status).toBe(401);
      expect((await ask(admin, { method, path, headers: bearer(TOKEN) })).status).not.toBe(401);
    });

    test('is asked for over a Unix socket too', async () => {
      const directory = await temporaryDirectory();
      closing.push(() => directory.remove());
      const admin = await start({ address: { kind: 'unix', path: join(directory.path, 'a.sock') }, token: TOKEN });
      expect((await ask(admin, { path: '/metrics' })).status).toBe(401);
      expect((await ask(admin, { path: '/metrics', headers: bearer(TOKEN) })).status).toBe(200);
    });
  });

  describe('web pages', () => {
    const origins = ['https://evil.example', 'null', 'http://127.0.0.1:9090'];

    test.each(['GET', 'HEAD', 'POST', 'DELETE', 'OPTIONS'])(
      'get 403 on every path with %s, from whatever origin',
      async (method) => {
        const admins = [await start(), await start({ token: TOKEN, open: ['health', 'metrics'] })];
        for (const admin of admins)
          for (const path of PATHS)
            for (const Origin of origins)
              expect([path, Origin, (await ask(admin, { method, path, headers: { Origin } })).status]).toEqual([
                path,
                Origin,
                403,
              ]);
        expect(
          (await ask(admins[1]!, { method, path: '/uploads', headers: { ...bearer(TOKEN), Origin: 'null' } })).status,
        ).toBe(403);
      },
    );

    test.each([
      ['cross-site', 'no-cors', 'image', false],
      ['same-site', 'no-cors', 'script', false],
      ['cross-site', 'navigate', 'iframe', false],
      ['cross-site', 'cors', 'empty', false],
      ['cross-site', 'navigate', 'document', true],
      ['same-origin', 'cors', 'empty', true],
      ['none', 'navigate', 'document', true],
    ])('that a browser asks for %s, %s, %s, without Origin: it is let in: %s', async (site, mode, dest, isIn) => {
      const headers = { 'Sec-Fetch-Site': site, 'Sec-Fetch-Mode': mode, 'Sec-Fetch-Dest': dest };
      const [plain, guarded] = [await start(), await start({ token: TOKEN, open: ['health', 'metrics'] })];
      for (const path of PATHS)
        expect([path, (await ask(plain, { path, headers })).status]).toEqual([path, isIn ? letIn(path) : 403]);
      expect((await ask(guarded, { path: '/metrics', headers })).status).toBe(isIn ? 200 : 403);
      const withToken = { ...headers, ...bearer(TOKEN) };
      expect((await ask(guarded, { path: '/metrics', headers: withToken })).status).toBe(isIn ? 200 : 403);
    });

    test.each([
      ['127.0.0.1:9090', true],
      ['127.0.0.1', true],
      ['10.0.0.5:9090', true],
      ['[::1]:9090', true],
      ['[fd00::5]', true],
      ['localhost', true],
      ['LocalHost.:9090', true],
      ['evil.example', false],
      ['evil.example:9090', false],
      ['localhost.evil.example', false],
      ['127.0.0.1.evil.example', false],
      ['evil.example:80:9090', false],
      ['0x7f000001', false],
      ['rufh.internal:9090', false],
    ])('that say %s in Host are let in: %s, on every path', async (Host, isIn) => {
      const [plain, guarded] = [await start(), await start({ token: TOKEN })];
      for (const path of PATHS) {
        const without = await ask(plain, { path, headers: { Host } });
        expect([path, without.status]).toEqual([path, isIn ? letIn(path) : 403]);
        const open = await ask(guarded, { path, headers: { Host } });
        const expected = HEALTH.includes(path) ? letIn(path) : 401;
        expect([path, open.status]).toEqual([path, isIn ? expected : 403]);
      }
    });

    test('whatever Host says, who has the token is let in, and so are names that are set', async () => {
      const admin = await start({ token: TOKEN, hosts: ['Rufh.internal'] });
      expect((await ask(admin, { path: '/metrics', headers: { ...bearer(TOKEN), Host: 'evil.example' } })).status).toBe(
        200,
      );
      expect((await ask(admin, { path: '/readyz', headers: { Host: 'rufh.INTERNAL:9090' } })).status).toBe(200);
      expect((await ask(admin, { path: '/readyz', headers: { Host: 'x.rufh.internal:9090' } })).status).toBe(403);
    });

    test('beyond loopback are known by Host too', async () => {
      const admin = await start({ address: { kind: 'tcp', host: '0.0.0.0', port: 0 } });
      expect((await ask(admin, { path: '/healthz', headers: { Host: 'evil.example' } })).status).toBe(403);
      expect((await ask(admin, { path: '/healthz', headers: { Host: '10.1.2.3:9090' } })).status).toBe(200);
    });

    test('reach no Unix socket, so that Host does not matter there', async () => {
      const directory = await temporaryDirectory();
      closing.push(() => directory.remove());
      const admin = await start({ address: { kind: 'unix', path: join(directory.path, 'a.sock') } });
      expect((await ask(admin, { path: '/metrics', headers: { Host: 'rufh' } })).status).toBe(200);
    });
  });

  test.each([
    [undefined, 0o600],
    [0o660, 0o660],
    [0o666, 0o666],
  ])('a Unix socket with the mode %s lets in whom it says, whatever the umask', async (mode, expected) => {
    const directory = await temporaryDirectory();
    closing.push(() => directory.remove());
    const path = join(directory.path, 'a.sock');
    const before = process.umask(0);
    try {
      await start({ address: { kind: 'unix', path }, ...(mode === undefined ? {} : { mode }) });
    } finally {
      process.umask(before);
    }
    expect(statSync(path).mode & 0o777).toBe(expected);
  });

  test.each([
    ['0.0.0.0', undefined, true],
    ['0.0.0.0', TOKEN, false],
    ['127.0.0.1', undefined, false],
    ['::1', undefined, false],
  ])(
    'at %s with the token %s it is told when it starts that everybody can reach it: %s',
    async (host, token, isTold) => {
      lines.length = 0;
      await start({ address: { kind: 'tcp', host, port: 0 }, ...(token === undefined ? {} : { token }) });
      expect(lines.some((line) => /"level":"warn".*requires no token/.test(line))).toBe(isTold);
    },
  );
});
