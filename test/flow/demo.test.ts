import { existsSync, readdirSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { DemoCommand } from '../support/demo-command.js';
import { randomBytes, serverPort, sha256, temporaryDirectory, until } from '../support/temporary.js';

// Issue 13: the page to try.

interface Received {
  readonly method: string;
  readonly size: number;
  readonly sha256: string;
  readonly contentLength: string;
  readonly protocolFields: readonly string[];
}

const MIB = 1024 * 1024;
const DRAFT = { 'upload-draft-interop-version': '10' };

/** Creates an upload and gives its URL. */
async function create(demo: DemoCommand, target: string, length: number): Promise<string> {
  const headers = { ...DRAFT, 'upload-complete': '?0', 'upload-length': `${length}` };
  const response = await fetch(new URL(target, demo.pageUrl), { method: 'POST', headers });
  expect(response.status).toBe(201);
  return response.headers.get('location')!;
}

/** Sends the rest of a body. Rejects when the connection breaks. */
function append(url: string, body: Buffer, offset: number): Promise<Response> {
  const type = { 'content-type': 'application/partial-upload' };
  const headers = { ...DRAFT, ...type, 'upload-offset': `${offset}`, 'upload-complete': '?1' };
  return fetch(url, { method: 'PATCH', headers, body: new Uint8Array(body.subarray(offset)) });
}

/** Asks for the offset until somebody answers. */
function offsetOf(url: string): Promise<number> {
  return until(async () => {
    try {
      const response = await fetch(url, { method: 'HEAD', headers: DRAFT });
      const offset = response.headers.get('upload-offset');
      return offset === null ? undefined : { offset: Number(offset) };
    } catch {
      // The relay lets nothing through, or the proxy is down.
      return undefined;
    }
  }, 'an offset').then(({ offset }) => offset);
}

async function received(demo: DemoCommand, target: string): Promise<readonly Received[]> {
  const response = await fetch(`${demo.pageUrl}received?target=${encodeURIComponent(target)}`);
  return (await response.json()) as Received[];
}

function stateOf(demo: DemoCommand) {
  return demo.events.filter((event) => event.kind === 'state').at(-1);
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

function isReached(url: string): Promise<boolean> {
  const { port, hostname } = new URL(url);
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname);
    socket
      .once('error', () => resolve(false))
      .once('connect', () => {
        socket.destroy();
        resolve(true);
      });
  });
}

describe('rufh-proxy demo', () => {
  let demo: DemoCommand;
  beforeAll(async () => {
    demo = await DemoCommand.start();
    await demo.listen();
  });
  afterAll(() => demo.end());

  test('the page and everything that it loads come from the demo', async () => {
    const page = await fetch(demo.pageUrl);
    expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(page.headers.get('x-content-type-options')).toBe('nosniff');
    const port = new URL(demo.controlsUrl).port;
    expect(page.headers.get('content-security-policy')).toBe(
      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; " +
        `connect-src 'self' http://127.0.0.1:${port} http://localhost:${port}; ` +
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    const html = await page.text();
    const named = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, name]) => name!);
    expect(named).toEqual(expect.arrayContaining(['page.js', 'style.css', 'licenses.txt']));
    const loaded = [...named, 'client.js', 'tus.js', 'uppy.js', 'uppy.css'];
    const statuses = loaded.map(async (name) => [name, (await fetch(new URL(name, demo.pageUrl))).status]);
    expect(await Promise.all(statuses)).toEqual(loaded.map((name) => [name, 200]));
  });

  test('the licenses of what is in the bundles can be read', async () => {
    const text = await (await fetch(new URL('licenses.txt', demo.pageUrl))).text();
    for (const name of ['tus-js-client', '@uppy/core', '@uppy/dashboard', '@uppy/tus', 'preact'])
      expect(text).toMatch(new RegExp(`^${name} \\d`, 'm'));
    expect(text).toContain('Permission is hereby granted');
  });

  test('an address without a file is 404, also one outside of the page', async () => {
    for (const path of ['none.js', '%2e%2e/demo.js', 'files/x'])
      expect((await fetch(new URL(path, demo.pageUrl))).status).toBe(404);
    expect((await fetch(demo.pageUrl, { method: 'POST', body: 'x' })).status).toBe(404);
  });

  test('the cut resets connections, lets none through for a while, and the upload goes on', async () => {
    const target = '/files/cut';
    const body = randomBytes(2 * MIB);
    expect(await demo.press(`/rate?bytes_per_second=${MIB}`)).toBe(204);
    const url = await create(demo, target, body.length);
    const sending = append(url, body, 0).then(
      () => 'answered',
      (error: unknown) => ((error as Error).cause as { code: string }).code,
    );
    await until(() => demo.events.some((event) => event.kind === 'uploads' && event.uploads[0]!.offset > 0), 'bytes');
    expect(await demo.press('/cut')).toBe(204);
    expect(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET']).toContain(await sending);
    expect((await demo.event('cut')).connections).toBeGreaterThan(0);
    await expect(fetch(demo.pageUrl)).rejects.toThrow('fetch failed');
    await demo.event('restored');
    expect(await demo.press('/rate?bytes_per_second=0')).toBe(204);
    const offset = await offsetOf(url);
    expect(offset).toBeLessThan(body.length);
    const answer = await append(url, body, offset);
    expect([answer.status, await answer.json()]).toEqual([
      201,
      { id: expect.any(Number), size: body.length, sha256: sha256(body) },
    ]);
    expect(await received(demo, target)).toMatchObject([
      { method: 'POST', size: body.length, sha256: sha256(body), contentLength: `${body.length}`, protocolFields: [] },
    ]);
  });

  test('the kill ends the process of the proxy, another one starts on its data, and the upload goes on', async () => {
    const target = '/files/kill';
    const body = randomBytes(MIB, 2);
    const url = await create(demo, target, body.length);
    const half = body.subarray(0, MIB / 2);
    const headers = { ...DRAFT, 'content-type': 'application/partial-upload', 'upload-offset': '0' };
    const first = { ...headers, 'upload-complete': '?0' };
    expect((await fetch(url, { method: 'PATCH', headers: first, body: new Uint8Array(half) })).status).toBe(204);
    expect(await demo.press('/kill')).toBe(204);
    expect(await demo.press('/kill')).toBe(409);
    const { pid } = await demo.event('killed');
    await until(() => !isAlive(pid), 'the process to end');
    expect(await isReached(demo.proxyUrl)).toBe(false);
    const next = await demo.event('started');
    expect(next.pid).not.toBe(pid);
    expect(await offsetOf(url)).toBe(half.length);
    expect((await append(url, body, half.length)).status).toBe(201);
    expect(await received(demo, target)).toMatchObject([{ method: 'POST', size: body.length, sha256: sha256(body) }]);
  });

  test('uploads are as slow as the page wants them', async () => {
    expect(await demo.press(`/rate?bytes_per_second=${MIB}`)).toBe(204);
    const startedAt = performance.now();
    await fetch(new URL('/files/slow', demo.pageUrl), { method: 'POST', body: new Uint8Array(MIB) });
    expect(performance.now() - startedAt).toBeGreaterThan(500);
    expect(await demo.press('/rate?bytes_per_second=0')).toBe(204);
    await until(() => stateOf(demo)?.rate === 0, 'the page to get the new speed');
  });

  describe('the buttons', () => {
    test.each([
      ['of another site', { origin: 'http://evil.example', 'sec-fetch-site': 'cross-site' }],
      ['of a page on another port of this machine', { origin: 'http://127.0.0.1:3000', 'sec-fetch-site': 'same-site' }],
      ['of a page under another name of this machine', { origin: 'http://localhost' }],
      ['of a page that hides its origin', { origin: 'null' }],
      ['without an origin', { origin: undefined }],
      ['that a browser calls cross-site', { 'sec-fetch-site': 'cross-site' }],
      ['of a name that was pointed to this machine', { host: 'evil.example' }],
      ['of such a name with the port', { host: 'evil.example:8081', origin: 'http://evil.example:8080' }],
    ])('refuse a request %s', async (_which, headers) => {
      const told = demo.events.length;
      const isTold = (): boolean => demo.events.slice(told).some(({ kind }) => kind !== 'uploads');
      for (const path of ['/cut', '/kill', '/rate?bytes_per_second=1'])
        expect(await demo.press(path, { headers })).toBe(403);
      expect(await demo.press('/events', { method: 'GET', headers })).toBe(403);
      expect(await demo.press('/rate?bytes_per_second=0')).toBe(204);
      await until(isTold, 'the event of the last request');
      const events = demo.events.slice(told).filter(({ kind }) => kind !== 'uploads');
      expect(events).toEqual([{ kind: 'state', line: 'up', proxy: 'up', rate: 0 }]);
    });

    test.each([
      ['GET', '/cut', 405],
      ['GET', '/kill', 405],
      ['POST', '/events', 405],
      ['POST', '/other', 404],
      ['POST', '/rate', 400],
      ['POST', '/rate?bytes_per_second=-1', 400],
      ['POST', '/rate?bytes_per_second=1.5', 400],
    ])('%s %s is %i', async (method, path, status) => {
      expect(await demo.press(path, { method })).toBe(status);
    });

    test('cannot be reached by way of the page', async () => {
      const headers = { origin: new URL(demo.pageUrl).origin };
      for (const path of ['kill', 'cut'])
        expect((await fetch(new URL(path, demo.pageUrl), { method: 'POST', headers })).status).toBe(404);
    });
  });
});

describe('the end of the demo', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)('%s ends the proxy and removes the uploads', async (signal) => {
    const demo = await DemoCommand.start();
    await create(demo, '/files/left', MIB);
    expect(existsSync(demo.data)).toBe(true);
    expect(await demo.end(signal)).toBe(0);
    expect(existsSync(join(demo.data, '..'))).toBe(false);
    expect(await Promise.all([demo.pageUrl, demo.proxyUrl, demo.originUrl, demo.controlsUrl].map(isReached))).toEqual([
      false,
      false,
      false,
      false,
    ]);
  });

  test('a directory that was named keeps the uploads for the next run', async () => {
    const directory = await temporaryDirectory();
    const data = join(directory.path, 'data');
    const first = await DemoCommand.start(['--data', data]);
    const url = await create(first, '/files/kept', MIB);
    expect(await first.end()).toBe(0);
    expect(readdirSync(join(data, 'uploads')).length).toBeGreaterThan(0);
    const second = await DemoCommand.start(['--data', data]);
    expect(await offsetOf(new URL(new URL(url).pathname, second.pageUrl).href)).toBe(0);
    expect(await second.end()).toBe(0);
    await directory.remove();
  });

  test('the proxy does not outlive a demo that was killed', async () => {
    const demo = await DemoCommand.start();
    expect(await demo.end('SIGKILL')).toBe('SIGKILL');
    await until(async () => !(await isReached(demo.proxyUrl)), 'the proxy to end');
    // Nobody was left to do so.
    rmSync(join(demo.data, '..'), { recursive: true });
  });

  test('a port that is taken is told, and nothing is left', async () => {
    const demo = await DemoCommand.start();
    const { host } = new URL(demo.pageUrl);
    const second = DemoCommand.spawn(['--listen', host]);
    expect(await second.exited).toBe(1);
    expect(second.errors).toContain(`cannot listen on ${host}: another process is listening there`);
    expect(await demo.end()).toBe(0);
  });

  test('a wrong address is told', async () => {
    const port = await serverPort();
    const demo = DemoCommand.spawn(['--listen', `${port}`]);
    expect(await demo.exited).toBe(1);
    expect(demo.errors).toContain('It must be HOST:PORT, such as 127.0.0.1:8080.');
  });
});
