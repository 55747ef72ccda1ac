import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from '@jest/globals';
import type { Status } from '../../src/admin/status.js';
import { freePort, makeCertificate, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

let app: TestApp | undefined;
let directory: TemporaryDirectory | undefined;
afterEach(async () => {
  await app?.stop();
  await directory?.remove();
  app = directory = undefined;
});

async function scrape(): Promise<string> {
  return (await fetch(`${app!.adminUrl}/metrics`)).text();
}

test('the page prints the metrics that the manual has, and no other', async () => {
  app = await startTestApp({ origin: 'http://127.0.0.1:1', config: 'admin: 127.0.0.1:0' });
  const printed = [...(await scrape()).matchAll(/^# TYPE (rufh_\w+)/gm)].map(([, name]) => name!);
  const manual = readFileSync('docs/operating.md', 'utf8');
  const listed = [...manual.matchAll(/^\| `(rufh_\w+)` +\|/gm)].map(([, name]) => name!);
  expect(printed.length).toBeGreaterThan(30);
  expect(printed.sort()).toEqual(listed.sort());
});

test('an operator sees the room of the disk and the end of the certificate', async () => {
  directory = await temporaryDirectory();
  const files = makeCertificate();
  const paths = { cert: join(directory.path, 'cert.pem'), key: join(directory.path, 'key.pem') };
  for (const which of ['cert', 'key'] as const) await writeFile(paths[which], files[which], { mode: 0o600 });
  const config = `
admin: 127.0.0.1:0
listen: { address: 127.0.0.1:0, tls: { cert: ${paths.cert}, key: ${paths.key} } }
`;
  app = await startTestApp({ origin: 'http://127.0.0.1:1', config });
  const expiry = /^rufh_certificate_expiry_timestamp_seconds\{listener="(.*)"\} (\d+)$/m.exec(await scrape());
  expect(expiry?.[1]).toBe(app.url);
  expect(Number(expiry?.[2]) * 1000).toBeGreaterThan(Date.now());
  // The first scrape asks for the disk, and does not wait for it.
  const free = await until(
    async () => /^rufh_spool_free_bytes (\d+(?:\.\d+)?(?:e\+\d+)?)$/m.exec(await scrape())?.[1],
    'the free bytes of the disk',
  );
  expect(Number(free)).toBeGreaterThanOrEqual(0);
});

test('an origin whose breaker has opened is a 1 until it works again', async () => {
  const origin = `http://127.0.0.1:${await freePort()}`;
  const config = `
admin: 127.0.0.1:0
delivery: { breaker: { failures: 1, pause: 1h }, retry: { attempts: 1 } }
`;
  app = await startTestApp({ origin, config });
  expect(await scrape()).not.toMatch(/^rufh_breaker_open\{/m);
  const head = { 'Upload-Draft-Interop-Version': '6', 'Upload-Complete': '?1', 'Content-Type': 'text/plain' };
  const response = await fetch(`${app.url}/files`, { method: 'POST', headers: head, body: 'whole' });
  expect(response.status).toBeGreaterThanOrEqual(500);
  const isOpen = async () => (await scrape()).includes(`\nrufh_breaker_open{origin="${origin}"} 1\n`);
  await until(isOpen, 'a breaker that is open');
  const status = (await (await fetch(`${app.adminUrl}/status`)).json()) as Status;
  expect(status.origins).toEqual([{ origin, breaker: 'open', active: 0, queued: 0 }]);
  expect(Object.values(status.uploads!).reduce((sum, count) => sum + count, 0)).toBe(1);
  expect(status.spool).toMatchObject({ storedBytes: 5, reservedBytes: 0, freeBytes: expect.any(Number) });
});

test('the status tells whether the node is draining, and when its configuration was applied', async () => {
  const config = 'admin: 127.0.0.1:0\nlisten: 127.0.0.1:0\norigin: http://127.0.0.1:1\n';
  app = await startTestApp({ config });
  const read = async () => (await (await fetch(`${app!.adminUrl}/status`)).json()) as Status;
  const before = await read();
  expect(before).toMatchObject({ draining: false, origins: [], certificates: [], nodeVersion: process.version });
  await fetch(`${app.adminUrl}/drain`, { method: 'POST' });
  expect((await read()).draining).toBe(true);
  await until(() => Date.now() > Date.parse(before.configAppliedAt), 'another millisecond');
  expect(await app.reload(`${config}limits: { idle_timeout: 17s }\n`)).toMatchObject({ kind: 'applied' });
  expect(Date.parse((await read()).configAppliedAt)).toBeGreaterThan(Date.parse(before.configAppliedAt));
  expect(await app.reload(`${config}limits: { idle_timeout: never-ever }\n`)).toMatchObject({ kind: 'refused' });
});
