import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { alternatives, jsonSchema, type JsonSchema } from '../../src/config/json-schema.js';
import { loadConfig } from '../../src/config/load.js';
import { schema } from '../../src/config/schema.js';
import { aclRule } from '../../src/store/redis/errors.js';
import { temporaryDirectory } from '../support/temporary.js';

describe('README', () => {
  const pages = [
    'README.md',
    'docs/how-it-works.md',
    'docs/deployment.md',
    'docs/many-nodes.md',
    'docs/operating.md',
    'docs/access.md',
    'docs/delivery.md',
    'docs/configuration-guide.md',
    'examples/README.md',
    'docs/architecture.md',
    'docs/decisions/README.md',
    'CONTRIBUTING.md',
    'SECURITY.md',
  ];

  function blocks(page: string, language: string): string[] {
    const fence = new RegExp('```' + language + '\\n([\\s\\S]*?)```', 'g');
    return [...readFileSync(page, 'utf8').matchAll(fence)].map((match) => match[1]!);
  }

  /** What the docs tell the operator to set, each for its node. */
  const ASKED_FOR = {
    NODE_ADDRESS: '10.0.0.5',
    CLUSTER_SECRET: 'as-long-as-openssl-makes-it',
    REDIS_PASSWORD: 'secret',
  };

  test('every configuration shown in the docs is valid', async () => {
    const directory = await temporaryDirectory();
    const token = join(directory.path, 'token');
    await writeFile(token, 'as-long-as-openssl-makes-it', { mode: 0o600 });
    const shown = pages.flatMap((page) => blocks(page, 'yaml'));
    expect(shown.length).toBeGreaterThanOrEqual(3);
    for (const yaml of shown) {
      const file = join(directory.path, 'shown.yaml');
      // Certificates and the token of the examples are not on this machine.
      const here = yaml
        .replace(/tls: \{[^}]*\}/, 'http2: true')
        .replace(/token_file: [^\s,}]+/, `token_file: ${token}`);
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
    // The map of the code is for those who have the code.
    const docs = readdirSync('docs').filter((name) => name.endsWith('.md') && name !== 'architecture.md');
    for (const page of ['README.md', ...docs.map((name) => join('docs', name))]) {
      const links = [...readFileSync(page, 'utf8').matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)].map(
        (match) => match[1]!,
      );
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
});

describe('architecture and contributing', () => {
  const text = (page: string): string => readFileSync(page, 'utf8');

  test('every name that is linked to a source file is declared there', () => {
    const links = [...text('docs/architecture.md').matchAll(/\[`(\w+)`\]\(\.\.\/(src\/[^)]+\.ts)\)/g)];
    expect(links.length).toBeGreaterThan(15);
    const declared = (name: string) => new RegExp(`(class|function|interface|const|type|async) ${name}\\b`);
    const wrong = links.filter(([, name, file]) => !declared(name!).test(text(file!))).map(([link]) => link);
    expect(wrong).toEqual([]);
  });

  test('every folder of the source is on the map', () => {
    const folders = readdirSync('src', { withFileTypes: true }).filter((entry) => entry.isDirectory());
    const map = text('docs/architecture.md');
    expect(folders.map(({ name }) => name).filter((name) => !map.includes(`\`${name}/\``))).toEqual([]);
  });

  test('every file and command that contributors are told of exists', () => {
    const page = text('CONTRIBUTING.md');
    const files = [...page.matchAll(/`((?:src|test|config|docs)\/[\w./-]+\.(?:ts|md|yaml|json))`/g)].map(
      ([, file]) => file!,
    );
    expect(files.length).toBeGreaterThan(10);
    expect(files.filter((file) => !existsSync(file))).toEqual([]);
    const { scripts } = JSON.parse(text('package.json')) as { scripts: Record<string, string> };
    const commands = [...page.matchAll(/npm run ([\w:]+)/g)].map(([, command]) => command!);
    expect(commands.filter((command) => !(command in scripts))).toEqual([]);
  });
});

describe('hardening', () => {
  const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
  const page = read('docs/hardening.md');

  /** The forms of a setting; none when there is no such setting. Of a list, those of its entries. */
  function formsOf(path: string): readonly JsonSchema[] {
    let forms: readonly JsonSchema[] = [jsonSchema()];
    for (const step of path.replaceAll('[]', '').split('.'))
      forms = forms
        .flatMap(alternatives)
        .flatMap((form) => (form.items ? alternatives(form.items) : [form]))
        .flatMap((form) => form.properties?.[step] ?? []);
    return forms;
  }

  const top = Object.keys(jsonSchema().properties!);
  /** Settings of a route that the page names alone. */
  const OF_ROUTES = ['match'];

  const named = [...page.matchAll(/`([a-z_]+(?:\[\])?(?:\.[a-z_]+)+)`/g)].map(([, path]) => path!);

  test('the page names settings', () => {
    expect(new Set(named).size).toBeGreaterThan(25);
  });

  test.each([...new Set(named)])('%s is a setting', (path) => {
    const [first] = path.split(/[.[]/);
    expect([...top, ...OF_ROUTES]).toContain(first);
    expect(formsOf(OF_ROUTES.includes(first!) ? `routes.${path}` : path)).not.toEqual([]);
  });

  const rows = [...page.matchAll(/^\| `([a-z0-9_.]+)` +\| `([^`]+)` +\|/gm)].map(
    ([, path, preset]) => [path!, preset!] as const,
  );

  describe('the defaults that the page tells', () => {
    test('are there', () => expect(rows.length).toBeGreaterThan(8));

    test.each(rows)('%s is %s', (path, preset) => {
      expect(
        formsOf(path).map(({ default: value = null }) => (typeof value === 'string' ? value : JSON.stringify(value))),
      ).toEqual([preset]);
    });
  });

  test('the configuration to begin with is right', () => {
    const [, yaml] = /```yaml\n([\s\S]*?)```/.exec(page)!;
    expect(schema.safeParse(parse(yaml!)).error).toBeUndefined();
  });

  test('the pages that it names are there, and the README names it', () => {
    const links = [...page.matchAll(/\]\(([^)#]+)[^)]*\)/g)].map(([, path]) =>
      new URL(path!, 'file:///docs/').pathname.slice(1),
    );
    expect(links.length).toBeGreaterThan(5);
    for (const link of links) expect(read(link)).not.toBe('');
    expect(read('README.md')).toContain('(docs/hardening.md)');
  });
});

describe('many nodes', () => {
  const page = readFileSync(new URL('../../docs/many-nodes.md', import.meta.url), 'utf8');

  test('the page gives a user of Redis the rights that the proxy itself asks for', () => {
    const [, rights] = /ACL SETUSER rufh on >password (.*)/.exec(page)!;
    expect(rights).toBe(aclRule('rufh'));
  });

  test('every test that the page names as a witness is there', () => {
    const named = [...page.matchAll(/\| `(many-nodes-\w+)` +\|/g)].map(([, name]) => name!);
    expect(new Set(named).size).toBe(3);
    for (const name of named) {
      expect(readFileSync(new URL(`../e2e/${name}.test.ts`, import.meta.url), 'utf8')).toContain('NodeStage.open');
    }
  });
});
