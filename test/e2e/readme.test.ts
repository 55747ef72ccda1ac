import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { chmod, chown, cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { serverPort, sha256, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

const README = readFileSync('README.md', 'utf8');

/** What the README shows between two of its headings or phrases, in order. */
function shown(from: string, to: string): { readonly language: string; readonly text: string }[] {
  const part = README.slice(README.indexOf(from), README.indexOf(to));
  return [...part.matchAll(/```(sh|yaml)\n([\s\S]*?)```/g)].map(([, language, text]) => ({
    language: language!,
    text: text!,
  }));
}

/** The user `nobody`, who owns nothing; without the right to become that one, the user of the tests. */
const NOBODY =
  process.getuid?.() === 0 ? ({ uid: 65_534, gid: 65_534 } as const) : ({} as { uid?: number; gid: number });

let home: TemporaryDirectory;
/** The global directory of npm, in place of the machine's. */
let prefix: string;

beforeAll(async () => {
  home = await temporaryDirectory('rufh-readme-');
  prefix = join(home.path, 'global');
  await chmod(home.path, 0o755);
});

afterAll(async () => {
  await home.remove();
});

test('the command that puts rufh-proxy on the PATH gives a program that does not need the checkout', async () => {
  const [install] = shown('## Use it', 'puts `rufh-proxy` on your');
  expect(install!.text.trim()).toBe('npm ci && npm install -g "$(npm pack --silent)"');
  // `npm ci` is what has brought the tests here.
  const command = install!.text.replace('npm ci && ', '');
  const checkout = join(home.path, 'checkout');
  await mkdir(checkout);
  for (const part of [
    'bin',
    'config',
    'dist',
    'docs',
    'deploy',
    'package.json',
    'README.md',
    'CHANGELOG.md',
    'LICENSE',
  ])
    await cp(part, join(checkout, part), { recursive: true });
  const env = { ...process.env, npm_config_prefix: prefix, npm_config_ignore_scripts: 'true' };
  await promisify(execFile)('bash', ['-euc', command], { cwd: checkout, env });
  await promisify(execFile)('rm', ['-r', checkout]);
  const program = join(prefix, 'bin', 'rufh-proxy');
  const { stdout } = await promisify(execFile)(program, ['--version'], { cwd: '/', ...NOBODY });
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  expect(stdout.trim()).toBe(version);
});

test('the command of the systemd unit starts and stops the installed program for a user without any rights', async () => {
  const unit = await readFile('deploy/systemd/rufh-proxy.service', 'utf8');
  const [program, ...args] = /^ExecStart=(.*)$/m.exec(unit)![1]!.split(' ');
  expect(program).toBe('/usr/local/bin/rufh-proxy');
  const [state, config] = [join(home.path, 'state'), join(home.path, 'service.yaml')];
  await mkdir(state, { mode: 0o700 });
  if (NOBODY.uid !== undefined) await chown(state, NOBODY.uid, NOBODY.gid);
  await writeFile(config, `listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\norigin: http://127.0.0.1:1\ndata: ${state}\n`);
  const own = args.map((arg) => (arg === '/etc/rufh-proxy.yaml' ? config : arg));
  const env = { PATH: process.env['PATH'] };
  const child = spawn(join(prefix, 'bin', 'rufh-proxy'), own, {
    cwd: '/',
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...NOBODY,
  });
  const closed = once(child, 'close');
  const [first] = (await Promise.race([once(createInterface({ input: child.stdout }), 'line'), closed])) as unknown[];
  expect(JSON.parse(String(first))).toMatchObject({ msg: 'listening' });
  child.kill('SIGTERM');
  expect(await closed).toEqual([0, null]);
});

test('what the README shows can be copied into an empty shell, in order', async () => {
  const [proxyPort, originPort] = [await serverPort(), await serverPort()];
  const elsewhere = (text: string): string =>
    text.replaceAll('127.0.0.1:8080', `127.0.0.1:${proxyPort}`).replaceAll('127.0.0.1:3000', `127.0.0.1:${originPort}`);
  const directory = join(home.path, 'shell');
  await mkdir(join(directory, 'demo'), { recursive: true });
  await cp('demo/origin.mjs', join(directory, 'demo', 'origin.mjs'));
  const blocks = [...shown('With a file you say which', '## What it promises'), ...shown('**curl** —', '**iPhone** —')];
  expect(blocks.map(({ language }) => language)).toEqual(['yaml', 'sh', 'sh', 'sh']);
  // The default port may be taken on the machine of the tests.
  await writeFile(join(directory, 'rufh-proxy.yaml'), `${elsewhere(blocks[0]!.text)}admin: 127.0.0.1:0\n`);
  const script = `${blocks
    .slice(1)
    .map(({ text }) => elsewhere(text))
    .join('\n')}\nkill $(jobs -p)\n`;
  const path = `${resolve('bin')}:${process.env['PATH']}`;
  await writeFile(join(directory, 'rufh-proxy'), `#!/bin/sh\nexec node ${resolve('bin/rufh-proxy.js')} "$@"\n`, {
    mode: 0o755,
  });
  const shell = spawn('bash', ['-c', script], {
    cwd: directory,
    env: { ...process.env, PATH: `${directory}:${path}`, PORT: `${originPort}` },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said: string[] = [];
  for (const stream of [shell.stdout, shell.stderr]) stream.on('data', (text) => said.push(String(text)));
  await once(shell, 'close');
  const answers = said
    .join('')
    .match(/\{"id":\d+,"size":\d+,"sha256":"[0-9a-f]+"\}/g)
    ?.map((text) => JSON.parse(text) as object);
  const big = await readFile(join(directory, 'big'));
  expect(answers).toEqual([
    { id: 1, size: 11, sha256: sha256('hello world') },
    { id: 2, size: big.length, sha256: sha256(big) },
  ]);
  expect(said.join('')).toMatch(/^Upload-Offset: 6\r$/m);
});

test('what the README shows ends with the reason where the proxy cannot start', async () => {
  const [yaml, start] = shown('With a file you say which', '## What it promises');
  const directory = join(home.path, 'taken');
  await mkdir(directory);
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const { port } = taken.address() as AddressInfo;
  const here = yaml!.text.replace('127.0.0.1:8080', `127.0.0.1:${port}`);
  await writeFile(join(directory, 'rufh-proxy.yaml'), `${here}admin: 127.0.0.1:0\n`);
  // The little API is not what this is about.
  const script = start!.text
    .replace(/^node .*\n/, '')
    .replaceAll('rufh-proxy ', `node ${resolve('bin/rufh-proxy.js')} `);
  const shell = spawn('bash', ['-c', script], { cwd: directory, stdio: ['ignore', 'ignore', 'pipe'], timeout: 20_000 });
  const said: string[] = [];
  shell.stderr.on('data', (text) => said.push(String(text)));
  const [, signal] = (await once(shell, 'close')) as [number | null, string | null];
  taken.close();
  expect(signal).toBeNull();
  expect(said.join('')).toContain(`127.0.0.1:${port}`);
});

test('the bench starts outside of the tests, although it shares their servers and clients', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', 'bench/main.ts', '--help']);
  expect(stdout).toContain('npm run bench -- [NAME ...]');
  const wrong = promisify(execFile)(process.execPath, ['--import', 'tsx', 'bench/main.ts', 'nothing']);
  await expect(wrong).rejects.toMatchObject({ code: 2 });
});

test('a contest is held to its end and judged', async () => {
  const args = ['--import', 'tsx', 'bench/main.ts', '--quick', 'resume'];
  // Missed bars are no concern of the tests.
  const { stdout } = await promisify(execFile)(process.execPath, args).catch(
    (error: unknown) => error as { stdout: string },
  );
  expect(stdout).toMatch(/rufh-proxy, long upload +\d+\.\d+ \(/);
  expect(stdout).toMatch(/rufh-proxy, short upload +\d+\.\d+ \(/);
  expect(stdout.match(/^ {2}(HELD|MISSED) /gm)).toHaveLength(2);
});
