import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { type App, startApp } from '../../src/app/app.js';
import type { Config } from '../../src/config/config.js';
import { loadConfig } from '../../src/config/load.js';
import { silentLog } from '../../src/observe/log.js';
import { makeCertificate } from '../support/certificate.js';
import { connect } from '../support/raw-client.js';
import { type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { serverPort } from '../support/server-port.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';

let directory: TemporaryDirectory;
let origin: RawOrigin;
beforeEach(async () => {
  directory = await temporaryDirectory();
  origin = await startRawOrigin((exchange) => exchange.closed);
});
afterEach(async () => {
  await origin.close();
  await directory.remove();
});

function configured(flags: Record<string, unknown>): Config {
  const loaded = loadConfig({
    env: {},
    flags: { origin: origin.url, data: join(directory.path, 'data'), listen: '127.0.0.1:0', admin: 'false', ...flags },
  });
  if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
  return loaded.config;
}

test('a proxy is not ready before it listens', async () => {
  const admin = `127.0.0.1:${await serverPort()}`;
  const config = configured({ admin });
  const { cert, key } = makeCertificate();
  const files = { cert: join(directory.path, 'cert.pem'), key: join(directory.path, 'key.pem') };
  // Reading it takes until somebody writes.
  execFileSync('mkfifo', [files.cert]);
  await writeFile(files.key, key);
  const listeners = config.listeners.map((listener) => ({ ...listener, tls: files }));
  const starting = startApp({ ...config, listeners }, silentLog());
  const ready = await until(() => fetch(`http://${admin}/readyz`).catch(() => undefined), 'the admin listener');
  expect(ready.status).toBe(503);
  expect(await ready.json()).toMatchObject({
    checks: [
      { name: 'listening', ok: false, problem: 'it is still starting' },
      { name: 'draining', ok: true },
      {},
      {},
      {},
      {},
    ],
  });
  await writeFile(files.cert, cert);
  const app: App = await starting;
  expect((await fetch(`http://${admin}/readyz`)).status).toBe(200);
  await app.stop();
});

test('deliveries and other traffic together get the grace time once', async () => {
  const app = await startApp(configured({ stopGrace: '4s' }), silentLog());
  const [uploading, passing] = [await connect(app.urls[0]!), await connect(app.urls[0]!)];
  await uploading.sendHead('POST', '/files', [
    ['Upload-Draft-Interop-Version', '10'],
    ['Upload-Complete', '?1'],
    ['Content-Length', '5'],
  ]);
  await uploading.send('hello');
  await passing.sendHead('GET', '/slow');
  await until(() => origin.exchanges.length === 2, 'both at the origin');
  const begun = performance.now();
  await app.stop();
  expect(performance.now() - begun).toBeLessThan(7500);
  expect((await uploading.readFinal()).status).toBe(503);
});
