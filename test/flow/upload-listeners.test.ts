import { stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { makeCertificate } from '../support/certificate.js';
import { TRANSPORTS } from '../support/open-request.js';
import { untilSpooled } from '../support/spooled.js';
import { framed, Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { randomBytes, sha256, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';
import { told } from '../support/told.js';

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
  const stage = await Stage.open({ config });
  expect((await stat(path)).mode & 0o777).toBe(found);
  await stage.close();
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
  let stage: Stage;

  beforeAll(async () => {
    stage = await Stage.open({ config: await config() });
  });

  afterAll(async () => {
    await stage.close();
  });

  test.each(TRANSPORTS)('over %s, an upload is cut, goes on, and reaches the origin once', async (transport) => {
    expect(stage.base).toMatch(base);
    const client = new StageClient(stage, transport, '8');
    const target = `/listeners?${encodeURIComponent(transport)}`;
    const bytes = randomBytes(3_000_000);
    const { request, upload } = await client.begin({ target, length: bytes.length });
    await request.send(bytes.subarray(0, 1_500_000));
    await untilSpooled(stage.app.data, upload.url, 1_500_000);
    request.leave('end');
    const offset = await upload.offset();
    expect(offset).toBe(1_500_000);
    const answer = await upload.append(bytes.subarray(offset), { offset, complete: true });
    expect(told(answer)).toEqual(client.expected.answered(OK, bytes.length));
    const [received, ...others] = stage.requestsFor(target);
    expect(others).toEqual([]);
    expect(received).toMatchObject({ method: 'POST', sha256: sha256(bytes) });
    expect(received!.header('Host')).toBe(stage.host);
    expect(received!.header('Forwarded')).toBe(forwarded(stage.host));
    expect(received!.header('X-Forwarded-For')).toBe(address);
    expect(received!.header('X-Forwarded-Proto')).toBe(scheme);
  });

  test.each(TRANSPORTS)('over %s, ordinary requests pass through', async (transport) => {
    const target = `/ordinary?${encodeURIComponent(transport)}`;
    stage.answer(target, { status: 404, headers: [['X-Own', 'yes']], body: 'not here' });
    const answer = await stage.send(transport, { method: 'PUT', target, headers: [['X-A', 'b']], body: 'plain' });
    expect(answer).toMatchObject({ status: 404, interims: [] });
    expect(answer.body.toString()).toBe('not here');
    expect(answer.header('X-Own')).toBe('yes');
    expect(stage.requestsFor(target)).toMatchObject([{ method: 'PUT', sha256: sha256('plain') }]);
  });
});
