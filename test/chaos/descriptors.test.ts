import { chmod, readdir, writeFile } from 'node:fs/promises';
import { connect as connectTcp, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { requestOnce } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// Issue 9, §5: what ended or was refused holds no descriptor, and the process has some left whatever clients do.
const DESCRIPTORS = 1024;
const SESSIONS = 1900;
/** Attackers come from another address than honest clients. */
const ATTACKER = '127.0.0.2';

let directory: TemporaryDirectory;
let origin: TestOrigin;
let proxy: ProxyProcess;
beforeAll(async () => {
  directory = await temporaryDirectory();
  const node = join(directory.path, 'node');
  await writeFile(node, `#!/bin/sh\nulimit -n ${DESCRIPTORS}\nexec "${process.execPath}" "$@"\n`);
  await chmod(node, 0o755);
  origin = await startTestOrigin();
  proxy = await startProxy({ origin: origin.url, node, flags: ['--log-level', 'warn'] });
});
afterAll(async () => {
  await proxy.stop();
  await origin.close();
  await directory.remove();
});

async function descriptors(): Promise<number> {
  return (await readdir(`/proc/${proxy.pid}/fd`)).length;
}

const GET = { method: 'GET', target: '/' };

/** New connections, an upload that needs a file, and the admin listener. */
async function isServed(): Promise<void> {
  expect((await requestOnce(proxy.url, GET)).status).toBe(200);
  const client = await connectH2(proxy.url);
  expect((await client.request(GET)).status).toBe(200);
  client.cut();
  const headers = [
    ['Upload-Complete', '?1'],
    ['Upload-Draft-Interop-Version', '6'],
  ] as const;
  expect((await requestOnce(proxy.url, { method: 'POST', target: '/file', headers, body: 'hello' })).status).toBe(200);
  expect((await fetch(`${proxy.adminUrl}/healthz`)).status).toBe(200);
}

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00';
const BEGUN = '\x00\x00\x06\x01\x04\x00\x00\x00\x01\x83\x86\x84\x41\x01a';
const BROKEN = '\x00\x00\x05\x06\x00\x00\x00\x00\x00short';

test.each([
  ['that break the protocol', PREFACE + BROKEN, false],
  ['that break it in the middle of a request', PREFACE + BEGUN + BROKEN, false],
  ['that their clients close in the middle of a request', PREFACE + BEGUN, true],
])(`${SESSIONS} sessions %s leave none behind, and keep nobody out`, async (_name, bytes, closes) => {
  await isServed();
  const before = await descriptors();
  const { hostname, port } = new URL(proxy.url);
  const sockets: Socket[] = [];
  let most = 0;
  for (let count = 0; count < SESSIONS; count++) {
    const socket = connectTcp({ host: hostname, port: Number(port), localAddress: ATTACKER });
    socket.on('error', () => undefined);
    socket.resume().write(bytes, 'latin1', () => closes && socket.destroy());
    sockets.push(socket);
    if (count % 200 !== 199) continue;
    await isServed();
    most = Math.max(most, await descriptors());
  }
  await until(async () => (await descriptors()) <= before + 10, 'the descriptors to be free', 60_000);
  await isServed();
  expect(most).toBeLessThan(DESCRIPTORS / 2);
  for (const socket of sockets) socket.destroy();
});
