import { spawn } from 'node:child_process';
import { symlink, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { blockOf } from '../support/pages-of-docs.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { randomBytes, sha256, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { expectTus, FILE as BYTES, STREAM, TusClient } from '../support/tus-client.js';

const GUIDE = 'docs/clients/tus.md';
const FILE = randomBytes(300_000, 4);
const INSTALLED = resolve('.cache/tus-clients');

/** The configuration that contains this text, for the origin of the tests. */
function shownConfig(text: string): string {
  return blockOf(GUIDE, 'yaml', text).replace(/^origin: .*$/m, `origin: ${origin.url}`);
}

/** Calls the function of the guide as a page would. */
const CALLER = `import { readFileSync } from 'node:fs';
import { send } from './send.mjs';
const file = Object.assign(readFileSync('holiday.jpg'), { name: 'holiday.jpg', type: 'image/jpeg' });
const { status, body } = await send(file, { token: 'secret', onProgress: () => {} });
console.log(status, body);
`;

interface Program {
  readonly language: string;
  readonly text: string;
  readonly file: string;
  readonly command: readonly string[];
  /** The last line that it prints. */
  readonly last: RegExp;
}

const PROGRAMS: readonly Program[] = [
  {
    language: 'js',
    text: 'tus-js-client',
    file: 'send.mjs',
    command: [process.execPath, 'caller.mjs'],
    last: /^201 stored$/,
  },
  { language: 'python', text: 'tusclient', file: 'send.py', command: ['python3', 'send.py'], last: /^201 stored$/ },
  {
    language: 'java',
    text: 'TusClient',
    file: 'Send.java',
    command: ['java', '-cp', join(INSTALLED, 'tus-java-client.jar'), 'Send.java'],
    last: /^The answer is at http:\S+\/\.uploads\/\S+\/answer$/,
  },
];

let origin: TestOrigin;
let proxy: ProxyProcess;
let directory: TemporaryDirectory;
beforeAll(async () => {
  directory = await temporaryDirectory('rufh-tus-guide-');
  await writeFile(join(directory.path, 'holiday.jpg'), FILE);
  await writeFile(join(directory.path, 'caller.mjs'), CALLER);
  await symlink(resolve('node_modules'), join(directory.path, 'node_modules'));
  origin = await startTestOrigin();
  origin.answerWith({ status: 201, body: 'stored' });
  proxy = await startProxy({ config: shownConfig('protocols: [rufh, tus]') });
});
afterAll(async () => {
  await proxy.stop();
  await origin.close();
  await directory.remove();
});

/** What a program prints; rejects with its errors if it fails. */
function outputOf([program, ...args]: readonly string[]): Promise<string> {
  const env = { ...process.env, PYTHONPATH: join(INSTALLED, 'python'), TOKEN: 'secret' };
  const child = spawn(program!, args, { cwd: directory.path, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let [output, errors] = ['', ''];
  child.stdout.on('data', (bytes: Buffer) => (output += bytes.toString()));
  child.stderr.on('data', (bytes: Buffer) => (errors += bytes.toString()));
  return new Promise((done, reject) => {
    child.once('error', reject);
    child.once('close', (code) => (code === 0 ? done(output) : reject(new Error(errors + output))));
  });
}

test.each(PROGRAMS)(
  'the $language program of the guide uploads a file',
  async ({ language, text, file, command, last }) => {
    origin.requests.length = 0;
    const program = blockOf(GUIDE, language, text).replace('https://api.example.com', proxy.url);
    await writeFile(join(directory.path, file), program);
    const lines = (await outputOf(command)).trim().split('\n');
    expect(lines.at(-1)).toMatch(last);
    expect(origin.requests).toHaveLength(1);
    const [request] = origin.requests;
    expect(request).toMatchObject({ method: 'POST', target: '/photos/', sha256: sha256(FILE) });
    expect(['Content-Type', 'Authorization'].map((name) => request!.header(name))).toEqual([
      'image/jpeg',
      'Bearer secret',
    ]);
  },
);

test('the answer stays readable at the URL that the guide names', async () => {
  const program = blockOf(GUIDE, 'java', 'TusClient').replace('https://api.example.com', proxy.url);
  await writeFile(join(directory.path, 'Send.java'), program);
  const output = await outputOf(['java', '-cp', join(INSTALLED, 'tus-java-client.jar'), 'Send.java']);
  const answer = await fetch(/http:\S+\/answer/.exec(output)![0]);
  expect([answer.status, await answer.text()]).toEqual([201, 'stored']);
});

test('metadata becomes fields of the form and parts of the target, as the guide configures it', async () => {
  const configured = await startProxy({ config: shownConfig('fields_from_metadata') });
  origin.requests.length = 0;
  const metadata = { album: 'Sea & Sun', caption: 'line\nline', userTag: 'ü', taken: '2026-12-01T10:00', other: 'x' };
  const pairs = Object.entries(metadata).map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`);
  const tus = new TusClient(() => configured.url);
  const fields = [STREAM, ['Upload-Length', String(BYTES.length)], ['Upload-Metadata', pairs.join(',')]] as const;
  expectTus(await tus.send('POST', '/photos/', fields, BYTES), 201);
  const [request] = origin.requests;
  expect(request!.target).toBe('/albums/Sea%20%26%20Sun/photos?taken=2026-12-01T10%3A00');
  const [caption, tag, file] = request!.body
    .toString('utf8')
    .split(/--rufh-[\w-]+\r\n/)
    .slice(1);
  expect([caption, tag]).toEqual([
    'Content-Disposition: form-data; name="caption"\r\n\r\nline\r\nline\r\n',
    'Content-Disposition: form-data; name="tag"\r\n\r\nü\r\n',
  ]);
  expect(file).toContain('name="photo"; filename="upload"');
  await configured.stop();
});
