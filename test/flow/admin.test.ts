import { execFileSync } from 'node:child_process';
import { request } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Admin } from '../../src/admin/admin-http.js';
import { type AdminOptions, startAdmin } from '../../src/admin/admin.js';
import { createLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import { temporaryDirectory } from '../support/temporary.js';

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
  test.each(['/', '/metrics/', '/healthz/x', '/__proto__', '/constructor', '//healthz'])('%s is 404', async (path) => {
    const answer = await fetch((await start()).url + path);
    expect(answer.status).toBe(404);
    expect(answer.headers.get('content-type')).toBe('application/problem+json');
    expect(await answer.json()).toEqual({ type: 'about:blank', title: 'Not Found', status: 404 });
  });

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
