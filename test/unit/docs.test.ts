import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { alternatives, jsonSchema, type JsonSchema } from '../../src/config/json-schema.js';
import { loadConfig } from '../../src/config/load.js';
import { schema } from '../../src/config/schema.js';
import { aclRule } from '../../src/store/redis/errors.js';
import { blocksOf } from '../support/pages-of-docs.js';
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
    'docs/clients/tus.md',
    'examples/README.md',
    'docs/architecture.md',
    'docs/decisions/README.md',
    'CONTRIBUTING.md',
    'SECURITY.md',
  ];

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
    const shown = pages.flatMap((page) => blocksOf(page, 'yaml'));
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
    const [demo, tests] = blocksOf('README.md', 'sh');
    expect(demo!.trim()).toBe('npm ci && npm run demo');
    expect(tests!.trim()).toBe('npm ci && npm test');
    expect(Object.keys(scripts)).toEqual(expect.arrayContaining(['demo', 'test', 'bench']));
  });
});

describe('links and paths in Markdown files', () => {
  const SKIPPED = new Set(['node_modules', 'dist', 'coverage']);

  function markdownFiles(directory = '.'): string[] {
    return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) return SKIPPED.has(entry.name) || entry.name.startsWith('.') ? [] : markdownFiles(path);
      return entry.name.endsWith('.md') ? [path] : [];
    });
  }

  const files = markdownFiles();
  const texts = new Map(files.map((file) => [file, readFileSync(file, 'utf8')]));

  function withoutCode(markdown: string): string {
    return markdown.replaceAll(/^ *```[\s\S]*?^ *```/gm, '').replaceAll(/`[^`\n]*`/g, '');
  }

  /** The anchors of a page as GitHub makes them: lower case, hyphens for spaces, no other punctuation, numbered if repeated. */
  function anchorsOf(markdown: string): Set<string> {
    const seen = new Map<string, number>();
    const headings = markdown.replaceAll(/^ *```[\s\S]*?^ *```/gm, '').matchAll(/^#+ (.*)$/gm);
    const anchors = [...headings].map(([, heading]) => {
      const plain = heading!
        .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
        .trim()
        .toLowerCase();
      const slug = plain.replaceAll(/[^\p{L}\p{N}_ -]/gu, '').replaceAll(' ', '-');
      const count = seen.get(slug) ?? 0;
      seen.set(slug, count + 1);
      return count === 0 ? slug : `${slug}-${count}`;
    });
    return new Set(anchors);
  }

  test('the search finds the pages', () => {
    expect(files).toEqual(expect.arrayContaining(['README.md', 'docs/access.md', 'docs/decisions/README.md']));
    expect(files).toContain('examples/README.md');
  });

  test.each(files)('%s: every relative link leads to a file, and its anchor to a heading', (file) => {
    const links = [...withoutCode(texts.get(file)!).matchAll(/\]\((?![a-z]+:)([^)\s#]*)(?:#([^)\s]*))?\)/g)];
    const broken = links.filter(([, path = '', anchor]) => {
      const target = path === '' ? file : join(file, '..', path);
      if (!existsSync(target)) return true;
      if (anchor === undefined) return false;
      return !anchorsOf(readFileSync(target, 'utf8')).has(anchor);
    });
    expect(broken.map(([link]) => link)).toEqual([]);
  });

  test.each(files)('%s: every path of the repository that it names exists', (file) => {
    const named = texts
      .get(file)!
      .matchAll(/(?<![\w./~-])(?:src|test|scripts|bench|config|deploy|docs|examples|demo)\/[\w./*-]*[\w/*]/g);
    const exists = (path: string): boolean => {
      if (!path.includes('*')) return existsSync(path);
      const [directory, name] = [dirname(path), basename(path)];
      const pattern = new RegExp(`^${name.replaceAll('.', '\\.').replaceAll('*', '.*')}$`);
      return existsSync(directory) && readdirSync(directory).some((entry) => pattern.test(entry));
    };
    // The number of a page in the rule for comments, not a path.
    const paths = [...named].map(([path]) => path).filter((path) => path !== 'docs/decisions/NNNN');
    expect(paths.filter((path) => !exists(path))).toEqual([]);
  });
});

describe('decisions', () => {
  const pages = readdirSync('docs/decisions').filter((name) => /^\d{4}-.*\.md$/.test(name));
  const index = readFileSync('docs/decisions/README.md', 'utf8');

  test.each(pages)('%s has its sections, and the index its title, date and status', (name) => {
    const page = readFileSync(join('docs/decisions', name), 'utf8');
    const [, number, title] = /^# (\d+)\. (.*)\n/.exec(page) ?? [];
    expect(Number(number)).toBe(Number(name.slice(0, 4)));
    const [, status, date] = /\n- Status: (.*)\n- Date: (\S+)/.exec(page) ?? [];
    const row = index.split('\n').find((line) => line.includes(`](${name})`)) ?? '';
    const cells = row.split('|').map((cell) => cell.trim());
    expect(cells.slice(1, -1)).toEqual([number, `[${title}](${name})`, date, status]);
    const sections = [...page.matchAll(/^## (.*)$/gm)].map(([, heading]) => heading);
    expect(sections).toEqual(['Context', 'Decision', 'Consequences', 'What would change it']);
  });

  test('every decision about code is linked where it governs, and every link has a page', () => {
    const sources = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
    const linking = [...sources.map((name) => join('src', name)), 'test/unit/layers.test.ts'];
    const linked = linking.flatMap((file) =>
      [...readFileSync(file, 'utf8').matchAll(/docs\/decisions\/(\d{4})/g)].map(([, number]) => number!),
    );
    // Decision 11 is about package.json, which cannot have comments.
    const numbers = pages.map((page) => page.slice(0, 4)).filter((number) => number !== '0011');
    expect([...new Set(linked)].sort()).toEqual(numbers);
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

  test('every npm script that CONTRIBUTING names exists', () => {
    const page = text('CONTRIBUTING.md');
    const { scripts } = JSON.parse(text('package.json')) as { scripts: Record<string, string> };
    const commands = [...page.matchAll(/npm run ([\w:]+)/g)].map(([, command]) => command!);
    expect(commands.length).toBeGreaterThan(5);
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

  test('the README names the page', () => {
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
      expect(readFileSync(new URL(`../e2e/${name}.test.ts`, import.meta.url), 'utf8')).toContain('openNodes(');
    }
  });
});
