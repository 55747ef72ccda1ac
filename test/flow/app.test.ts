import { execFile, execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { format } from 'prettier';
import { type App, startApp } from '../../src/app/app.js';
import type { Config } from '../../src/config/config.js';
import { loadConfig } from '../../src/config/load.js';
import { silentLog } from '../../src/observe/log.js';
import { connect } from '../support/client.js';
import { CLIENTS, expectedCell, matrixTable, originFaults, runCase } from '../support/delivery-matrix.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import {
  makeCertificate,
  serverPort,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
} from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

describe('start and stop', () => {
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
      flags: {
        origin: origin.url,
        data: join(directory.path, 'data'),
        listen: '127.0.0.1:0',
        admin: 'false',
        ...flags,
      },
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
    const tls = { ...files, minVersion: 'TLSv1.2' } as const;
    const listeners = config.listeners.map((listener) => ({ ...listener, tls }));
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
});

describe('operator', () => {
  const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));
  const version = { 'Upload-Draft-Interop-Version': '10' };

  let origin: TestOrigin;
  let proxy: ProxyProcess;
  beforeEach(async () => {
    origin = await startTestOrigin({ status: 503 });
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
    await expect(uploads('redeliver', (await uploads('list', '-q')).trim())).rejects.toThrow('not complete yet');
  });
});

describe('the table of deliveries', () => {
  // Issue 3, item 1.
  const faults = originFaults();

  describe.each(['at_most_once', 'at_least_once'] as const)('%s: an origin that', (guarantee) => {
    test.each(faults)('$name', async (fault) => {
      const methods = fault.isCostly ? [guarantee === 'at_most_once' ? 'POST' : 'PUT'] : ['POST', 'PUT'];
      const cells = methods.flatMap((method) => CLIENTS.map((client) => ({ method, client })));
      const played = await Promise.all(
        cells.map(async (cell) => ({ ...cell, ...(await runCase({ ...cell, fault, guarantee })) })),
      );
      const { course } = fault;
      const isRepeated = course.is === 'refused' || (course.is === 'gateways' && guarantee === 'at_least_once');
      const pause = isRepeated ? course.afterMs : 0;
      const stated = cells.map((cell) => ({ ...cell, ...expectedCell(fault.course, guarantee, cell.client) }));
      expect(played).toMatchObject(stated);
      // `Retry-After` counts from the answer's head, a moment before the attempt has ended.
      for (const { pauseMs = pause } of played) expect(pauseMs).toBeGreaterThanOrEqual(pause * 0.9);
    });
  });

  // `UPDATE_DOCS=1` writes it anew.
  test('the documentation shows this matrix', async () => {
    const file = join(import.meta.dirname, '..', '..', 'docs', 'delivery.md');
    const text = readFileSync(file, 'utf8');
    const [before = '', rest = ''] = text.split('<!-- matrix -->');
    const after = rest.slice(rest.indexOf('<!-- /matrix -->'));
    const markdown = `${before}<!-- matrix -->\n\n${matrixTable(faults)}\n\n${after}`;
    const wanted = await format(markdown, { parser: 'markdown', printWidth: 120 });
    if (process.env['UPDATE_DOCS']) writeFileSync(file, wanted);
    else expect(text).toBe(wanted);
  });
});
