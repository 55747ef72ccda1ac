import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { startProxy, type ProxyProcess } from '../support/proxy.js';
import { until } from '../support/temporary.js';

const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));
const version = { 'Upload-Draft-Interop-Version': '10' };

let origin: FakeOrigin;
let proxy: ProxyProcess;
beforeEach(async () => {
  origin = await startFakeOrigin({ status: 503 });
  proxy = await startProxy({ origin: origin.url, config: 'delivery: { retry: { attempts: 1, in_background: 0s } }' });
});
afterEach(async () => {
  await proxy.stop();
  await origin.close();
});

/** What the operator sees of the running proxy. */
function uploads(...line: string[]): Promise<string> {
  const command = [BINARY, 'uploads', ...line, '--admin', proxy.adminUrl];
  return new Promise((resolve, reject) => {
    execFile(process.execPath, command, (error, output, errors) => {
      if (error) reject(new Error(errors));
      else resolve(output);
    });
  });
}

async function phaseOf(tag: string): Promise<string> {
  return (JSON.parse(await uploads('show', tag, '--json')) as { phase: string }).phase;
}

function post(complete: '?0' | '?1'): Promise<Response> {
  const headers = { ...version, 'Upload-Complete': complete };
  return fetch(`${proxy.url}/files`, { method: 'POST', headers, body: 'the bytes' });
}

test('an upload that its origin refused is seen as undelivered, and delivered when the operator says so', async () => {
  expect((await post('?1')).status).toBe(503);
  const undelivered = async () => (await uploads('list', '-q', '--phase', 'undelivered')).trim();
  const tag = await until(async () => (await undelivered()) || undefined, 'an undelivered upload');
  expect(await uploads('show', tag)).toMatch(/why +refused: the origin answered 503/);
  origin.answerWith({ status: 201 });
  expect(await uploads('redeliver', tag)).toBe(`${tag}  is being delivered\n`);
  await until(async () => (await phaseOf(tag)) === 'answered', 'the answer');
  expect(origin.requests.map(({ method, target, body }) => `${method} ${target} ${String(body)}`)).toEqual([
    'POST /files the bytes',
    'POST /files the bytes',
  ]);
  await expect(uploads('redeliver', tag)).rejects.toThrow('answered already');
});

test('an upload that an operator cancels is gone for its client', async () => {
  const created = await post('?0');
  const location = created.headers.get('location')!;
  const tag = (await uploads('list', '-q')).trim();
  expect(await phaseOf(tag)).toBe('receiving');
  expect(await uploads('cancel', tag)).toBe(`${tag}  cancelled\n`);
  expect((await fetch(location, { method: 'HEAD', headers: version })).status).toBe(404);
  expect(await uploads('list')).toBe('no uploads\n');
});

test('an upload that is not whole cannot be delivered', async () => {
  await post('?0');
  await expect(uploads('redeliver', (await uploads('list', '-q')).trim())).rejects.toThrow('not whole yet');
});
