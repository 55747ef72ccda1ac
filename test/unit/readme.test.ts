import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { loadConfig } from '../../src/config/load.js';
import { temporaryDirectory } from '../support/temporary.js';
import { writeFile } from 'node:fs/promises';

const pages = [
  'README.md',
  'docs/how-it-works.md',
  'docs/deployment.md',
  'docs/many-nodes.md',
  'docs/operating.md',
  'docs/access.md',
  'docs/delivery.md',
  'examples/README.md',
];

function blocks(page: string, language: string): string[] {
  const fence = new RegExp('```' + language + '\\n([\\s\\S]*?)```', 'g');
  return [...readFileSync(page, 'utf8').matchAll(fence)].map((match) => match[1]!);
}

/** What the docs tell the operator to set, each for its node. */
const ASKED_FOR = { NODE_ADDRESS: '10.0.0.5', CLUSTER_SECRET: 'as-long-as-openssl-makes-it' };

test('every configuration shown in the docs is valid', async () => {
  const directory = await temporaryDirectory();
  const token = join(directory.path, 'token');
  await writeFile(token, 'as-long-as-openssl-makes-it', { mode: 0o600 });
  const shown = pages.flatMap((page) => blocks(page, 'yaml'));
  expect(shown.length).toBeGreaterThanOrEqual(3);
  for (const yaml of shown) {
    const file = join(directory.path, 'shown.yaml');
    // Certificates and the token of the examples are not on this machine.
    const here = yaml.replace(/tls: \{[^}]*\}/, 'http2: true').replace(/token_file: [^\s,}]+/, `token_file: ${token}`);
    await writeFile(file, here);
    const loaded = loadConfig({
      file,
      env: ASKED_FOR,
      flags: yaml.includes('origin:') ? {} : { origin: 'http://127.0.0.1:1' },
    });
    expect('configErrors' in loaded ? loaded.configErrors : []).toEqual([]);
  }
  await directory.remove();
});

test('every file the docs link to exists', () => {
  for (const page of pages) {
    const links = [...readFileSync(page, 'utf8').matchAll(/\]\((?!https?:)([^)#]+)\)/g)].map((match) => match[1]!);
    for (const link of links) expect([link, existsSync(join(page, '..', link))]).toEqual([link, true]);
  }
});

test('every file the docs link to is in the package, whose docs have no others', () => {
  const { files } = JSON.parse(readFileSync('package.json', 'utf8')) as { files: string[] };
  const docs = readdirSync('docs').filter((name) => name.endsWith('.md'));
  for (const page of ['README.md', ...docs.map((name) => join('docs', name))]) {
    const links = [...readFileSync(page, 'utf8').matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)].map((match) => match[1]!);
    for (const link of links) expect(files).toContain(join(page, '..', link).split('/')[0]);
  }
});

test('the commands the README promises are there', () => {
  const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };
  const [demo, tests] = blocks('README.md', 'sh');
  expect(demo!.trim()).toBe('npm ci && npm run demo');
  expect(tests!.trim()).toBe('npm ci && npm test');
  expect(Object.keys(scripts)).toEqual(expect.arrayContaining(['demo', 'test', 'bench']));
});
