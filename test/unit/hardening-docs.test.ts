import { describe, expect, test } from '@jest/globals';
import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { alternatives, jsonSchema, type JsonSchema } from '../../src/config/json-schema.js';
import { schema } from '../../src/config/schema.js';

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
