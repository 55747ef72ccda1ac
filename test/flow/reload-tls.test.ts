import { once } from 'node:events';
import { mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { connect } from '../support/client.js';
import { makeCertificate, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

// Issue 12: certificates that change, client certificates, and the oldest version of TLS.
const [FIRST, SECOND, CLIENT, STRANGER] = Array.from({ length: 4 }, () => makeCertificate()) as [
  Pair,
  Pair,
  Pair,
  Pair,
];
type Pair = ReturnType<typeof makeCertificate>;

let origin: TestOrigin;
let app: TestApp;
let directory: TemporaryDirectory;
beforeEach(async () => {
  origin = await startTestOrigin();
  directory = await temporaryDirectory('rufh-tls-');
});
afterEach(async () => {
  await app.stop();
  await origin.close();
  await directory.remove();
});

const at = (...path: string[]): string => join(directory.path, ...path);

/** Replaces a file by another one, as programs do that never leave half of one. */
function put(name: string, content: string): void {
  writeFileSync(at(`${name}.new`), content);
  renameSync(at(`${name}.new`), at(name));
}

function configOf(tls = '', [cert, key] = [at('cert.pem'), at('key.pem')]): string {
  return `origin: ${origin.url}\nlisten: { address: 127.0.0.1:0, tls: { cert: ${cert}, key: ${key}${tls} } }\n`;
}

async function start(config = configOf()): Promise<void> {
  app = await startTestApp({ config, timings: { certificatePollMs: 20 } });
}

/** A connection whose handshake has ended, and that the server has not ended after it. */
async function shakeHands(options: ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = connectTls({ port: Number(new URL(app.url).port), rejectUnauthorized: false, ...options });
  // With TLS 1.3 a client's handshake ends before the server has looked at its certificate.
  const closed = new Promise<never>((_, reject) => socket.once('close', () => reject(new Error('closed'))));
  closed.catch(() => undefined);
  await Promise.race([once(socket, 'secureConnect'), closed]);
  socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  await Promise.race([once(socket, 'data'), closed]);
  return socket;
}

async function shown(): Promise<string> {
  const socket = await shakeHands();
  const certificate = socket.getPeerX509Certificate()!.toString();
  socket.destroy();
  return certificate;
}

async function isRefused(options: ConnectionOptions): Promise<boolean> {
  try {
    (await shakeHands(options)).destroy();
    return false;
  } catch {
    return true;
  }
}

const untilShown = (pair: Pair): Promise<boolean> =>
  until(async () => (await shown()) === pair.cert, 'the certificate');

describe('a certificate whose files change', () => {
  beforeEach(() => {
    put('cert.pem', FIRST.cert);
    put('key.pem', FIRST.key);
  });

  test('is used by new connections, and a request in progress goes on', async () => {
    await start();
    const client = await connect(app.url);
    await client.sendHead('POST', '/x', [['Content-Length', '4']]);
    await client.send('ab');
    put('cert.pem', SECOND.cert);
    put('key.pem', SECOND.key);
    await untilShown(SECOND);
    await client.send('cd');
    expect((await client.readFinal()).status).toBe(200);
    client.destroy();
    expect(app.log.filter(({ msg }) => msg === 'the certificate was renewed from its files')).toHaveLength(1);
  });

  test('is not used before its key is there, and the log says so', async () => {
    await start();
    put('cert.pem', SECOND.cert);
    const told = await until(() => app.log.find(({ level }) => level === 'error'), 'the error');
    expect(told).toMatchObject({ msg: 'changed TLS files cannot be used; the former ones stay in use' });
    expect(await shown()).toBe(FIRST.cert);
    put('key.pem', SECOND.key);
    await untilShown(SECOND);
    expect(app.log.filter(({ level }) => level === 'error')).toHaveLength(1);
  });

  test('is used when a link leads to another directory, as Kubernetes does it', async () => {
    for (const [name, pair] of Object.entries({ one: FIRST, two: SECOND })) {
      mkdirSync(at(name));
      writeFileSync(at(name, 'cert.pem'), pair.cert);
      writeFileSync(at(name, 'key.pem'), pair.key);
    }
    symlinkSync('one', at('data'));
    await start(configOf('', [at('data', 'cert.pem'), at('data', 'key.pem')]));
    expect(await shown()).toBe(FIRST.cert);
    symlinkSync('two', at('data.new'));
    renameSync(at('data.new'), at('data'));
    await untilShown(SECOND);
  });
});

test('the file of client_ca is not used before it is complete', async () => {
  put('cert.pem', FIRST.cert);
  put('key.pem', FIRST.key);
  put('client.pem', CLIENT.cert);
  await start(configOf(`, client_ca: ${at('client.pem')}`));
  const both = CLIENT.cert + STRANGER.cert;
  const lines = (message: string): number => app.log.filter(({ msg }) => msg === message).length;
  for (const [index, half] of ['', CLIENT.cert.slice(0, 100), both.slice(0, -100)].entries()) {
    put('client.pem', half);
    await until(() => lines('changed TLS files cannot be used; the former ones stay in use') > index, 'the error');
    expect([await isRefused(CLIENT), await isRefused(STRANGER)]).toEqual([false, true]);
    put('client.pem', CLIENT.cert);
    await until(() => lines('the certificate was renewed from its files') > index, 'the complete file');
  }
  put('client.pem', both);
  await until(async () => !(await isRefused(STRANGER)), 'the other authority');
});

describe('a reload', () => {
  beforeEach(() => {
    put('cert.pem', FIRST.cert);
    put('key.pem', FIRST.key);
    put('client.pem', CLIENT.cert);
  });

  test('takes other files, and refuses those that do not work together', async () => {
    await start();
    put('second.pem', SECOND.cert);
    put('second-key.pem', SECOND.key);
    expect(await app.reload(configOf('', [at('second.pem'), at('key.pem')]))).toMatchObject({
      kind: 'refused',
      errors: [{ setting: 'listen.tls', line: 2 }],
    });
    expect(await shown()).toBe(FIRST.cert);
    expect(await app.reload(configOf('', [at('second.pem'), at('second-key.pem')]))).toMatchObject({
      kind: 'applied',
      changed: ['listen[0].tls.cert', 'listen[0].tls.key'],
    });
    expect(await shown()).toBe(SECOND.cert);
    // From now on these files are watched.
    put('second-key.pem', FIRST.key);
    put('second.pem', FIRST.cert);
    await untilShown(FIRST);
  });

  test('changes the oldest version', async () => {
    const old = { maxVersion: 'TLSv1.2' } as const;
    await start();
    expect(await isRefused(old)).toBe(false);
    await app.reload(configOf(', min_version: TLSv1.3'));
    expect([await isRefused(old), await isRefused({})]).toEqual([true, false]);
    await app.reload(configOf());
    expect(await isRefused(old)).toBe(false);
  });

  test.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'asks clients for a certificate, also in resumed sessions (%s)',
    async (version) => {
      await start();
      const before = connectTls({
        port: Number(new URL(app.url).port),
        rejectUnauthorized: false,
        maxVersion: version,
      });
      const [session] = (await once(before.resume(), 'session')) as [Buffer];
      before.destroy();
      expect(await isRefused({ maxVersion: version, session })).toBe(false);
      await app.reload(configOf(`, client_ca: ${at('client.pem')}`));
      expect(await isRefused({ maxVersion: version, ...CLIENT })).toBe(false);
      expect(await isRefused({ maxVersion: version })).toBe(true);
      expect(await isRefused({ maxVersion: version, session })).toBe(true);
      expect(await isRefused({ maxVersion: version, ...STRANGER })).toBe(true);
      // A second reload, which changes nothing here, keeps the demand.
      await app.reload(`${configOf(`, client_ca: ${at('client.pem')}`)}limits: { max_size: 1 }\n`);
      expect([await isRefused({ ...CLIENT }), await isRefused({})]).toEqual([false, true]);
      await app.reload(configOf());
      expect(await isRefused({})).toBe(false);
    },
  );

  test('adds no TLS to a listener, and removes none', async () => {
    await start();
    expect(await app.reload(`origin: ${origin.url}\nlisten: { address: 127.0.0.1:0 }\n`)).toMatchObject({
      kind: 'refused',
      errors: [{ setting: 'listen.tls' }],
    });
    expect(await app.reload(`origin: ${origin.url}\nlisten: [127.0.0.1:0, 127.0.0.1:0]\n`)).toMatchObject({
      kind: 'refused',
      errors: [{ setting: 'listen', line: 2 }],
    });
    expect(await shown()).toBe(FIRST.cert);
  });
});
