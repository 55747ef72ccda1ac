import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { blocksOf } from '../support/pages-of-docs.js';
import { CuttingProxy } from '../support/network.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { randomBytes, sha256, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// What docs/clients shows is run as it stands there; only addresses are others.

const FILM = randomBytes(6_000_000, 9);

let directory: TemporaryDirectory;
let origin: TestOrigin;
let proxy: ProxyProcess;
/** The network between the client and the proxy. */
let network: CuttingProxy;

beforeAll(async () => {
  directory = await temporaryDirectory('rufh-guides-');
  await writeFile(join(directory.path, 'film.mp4'), FILM);
  origin = await startTestOrigin();
  proxy = await startProxy({ origin: origin.url });
  network = await CuttingProxy.start(Number(new URL(proxy.url).port));
});
afterAll(async () => {
  await network.stop();
  await proxy.stop();
  await origin.close();
  await directory.remove();
});
beforeEach(() => {
  origin.requests.length = 0;
  origin.answerWith({ status: 201, body: 'stored' });
  network.onBytesThere = () => undefined;
});

/** Runs a block of a guide, and gives what it prints. */
async function run(block: string): Promise<string> {
  const bin = join(directory.path, 'bin');
  const script = block.replaceAll('http://127.0.0.1:8080', network.url);
  const { stdout } = await promisify(execFile)('bash', ['-c', script], {
    cwd: directory.path,
    timeout: 60_000,
    env: { ...process.env, PATH: `${bin}:${process.env['PATH']}`, XDG_STATE_HOME: directory.path },
  });
  return stdout;
}

/** Cuts every connection when so many more bytes have come through, so often. */
function cut(times: number, everyBytes: number): { readonly done: () => number } {
  let [limit, done] = [network.bytes + everyBytes, 0];
  network.onBytesThere = () => {
    if (done === times || network.bytes < limit) return;
    done += 1;
    limit = network.bytes + everyBytes;
    void network.cut().then(() => network.restore());
  };
  return { done: () => done };
}

test.each([0, 1, 3])('the curl commands survive %i cuts, and the API gets one request', async (times) => {
  const [curl] = blocksOf('docs/clients/curl.md', 'sh');
  const cuts = cut(times, 1_500_000);
  expect(await run(curl!)).toBe('stored');
  expect(cuts.done()).toBe(times);
  expect(origin.requests.map((request) => [request.method, request.target, request.sha256])).toEqual([
    ['POST', '/files/', sha256(FILM)],
  ]);
});

test('a folder is sent file by file, each by the command that resumes', async () => {
  const [, , folder] = blocksOf('docs/clients/curl.md', 'sh');
  await mkdir(join(directory.path, 'films'));
  const names = ['a b.mp4', "it's.mp4", 'ü.mp4'];
  for (const name of names) await writeFile(join(directory.path, 'films', name), name);
  const command = `#!/bin/sh\nexec node ${resolve('bin/rufh-proxy.js')} "$@"\n`;
  await mkdir(join(directory.path, 'bin'));
  await writeFile(join(directory.path, 'bin', 'rufh-proxy'), command, { mode: 0o755 });
  await run(folder!);
  const targets = origin.requests.filter(({ method }) => method === 'PUT').map(({ target }) => target);
  expect(targets.sort()).toEqual(names.map((name) => `/files/${encodeURIComponent(name)}`).sort());
});

test('the configuration for an app lets small requests pass, and begins to resume with larger ones', async () => {
  const [app] = blocksOf('docs/clients/ios.md', 'yaml');
  const guided = await startProxy({ config: app!.replace(/^origin: .*$/m, `origin: ${origin.url}`) });
  const interims = async (size: number): Promise<string> => {
    const args = ['-sv', '-o', '/dev/null', '--data-binary', '@-', `${guided.url}/photos/`];
    const fields = ['-H', 'Upload-Complete: ?1', '-H', 'Upload-Draft-Interop-Version: 6', '-H', 'Expect:'];
    const child = promisify(execFile)('curl', [...args, ...fields]);
    child.child.stdin!.end(Buffer.alloc(size));
    return (await child).stderr;
  };
  expect(await interims(1000)).not.toContain('HTTP/1.1 104');
  expect(await interims(100_000)).toContain('HTTP/1.1 104');
  expect(origin.requests.map(({ size }) => size)).toEqual([1000, 100_000]);
  await guided.stop();
});
