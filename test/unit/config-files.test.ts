import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { generatedFiles, SAMPLES } from '../../src/config/docs.js';
import { valueAt } from '../../src/config/errors.js';
import { OVERRIDES } from '../../src/config/flags.js';
import { alternatives, jsonSchema, type JsonSchema } from '../../src/config/json-schema.js';
import { loadConfig } from '../../src/config/load.js';
import { schema } from '../../src/config/schema.js';
import { isObject } from '../../src/config/values.js';
import { temporaryDirectory } from '../support/temporary.js';

const root = new URL('../../', import.meta.url);
const read = (name: string) => readFileSync(new URL(name, root), 'utf8');
const example = 'config/rufh-proxy.example.yaml';

/** Every setting that has a value, by its path; `*` for an entry of a list. */
function leaves(form: JsonSchema, path: readonly string[] = []): { path: readonly string[]; form: JsonSchema }[] {
  const inner = alternatives(form).flatMap((one) => [
    ...Object.entries(one.properties ?? {}).flatMap(([key, value]) => leaves(value, [...path, key])),
    ...(one.items ? leaves(one.items, [...path, '*']).filter((leaf) => leaf.path.at(-1) !== '*') : []),
  ]);
  return inner.length > 0 ? [...inner, ...(form.default === undefined ? [] : [{ path, form }])] : [{ path, form }];
}

test.each(Object.keys(generatedFiles()))('%s is what the schema says now (else: npm run docs)', (name) => {
  expect(read(name)).toBe(generatedFiles()[name]);
});

test.each(readdirSync(fileURLToPath(new URL('config', root))).filter((name) => name.endsWith('.yaml')))(
  'config/%s loads as it is',
  (name) => {
    const file = fileURLToPath(new URL(`config/${name}`, root));
    expect(loadConfig({ file, env: {}, flags: {} })).not.toHaveProperty('mistakes');
  },
);

test('the example means the same as an empty file with its origin', () => {
  const file = fileURLToPath(new URL(example, root));
  const flags = { admin: '127.0.0.1:9090' };
  expect(loadConfig({ file, env: {}, flags })).toEqual(
    loadConfig({ env: {}, flags: { ...flags, origin: 'http://127.0.0.1:3000' } }),
  );
});

test('the example sets every setting to its default, and names those that have none', () => {
  const settings: unknown = parse(read(example));
  const all = leaves(jsonSchema());
  expect(all.length).toBeGreaterThan(50);
  for (const { path, form } of all) {
    const isGroup = isObject(valueAt(settings, path));
    if (form.default !== undefined && !path.includes('*') && !isGroup && path[0] !== 'routes') {
      expect([path, valueAt(settings, path)]).toEqual([path, isInSample(path) ? undefined : form.default]);
    }
    if (path.at(-1) !== '*') expect(read(example)).toMatch(new RegExp(`\\b${path.at(-1)!}:`));
  }
});

/** What may also be a group has the group's settings in its sample. */
function isInSample(path: readonly string[]): boolean {
  return /^(listen|admin|store\.sentinel|store\.tls|cluster|delivery\.framing|delivery\.gate|authorize\.forward_auth)\./.test(
    path.join('.'),
  );
}

const samples = Object.entries(SAMPLES).flatMap(([path, text]) =>
  text.split(/\n(?=\S)/).map((form): [string, string] => [path, form]),
);

test.each(samples)('the sample of %s, %j, is right', (path, form) => {
  const parents = path.split('.').slice(0, -1);
  const settings = parents.reduceRight<unknown>((inner, key) => ({ [key]: inner }), parse(form));
  expect(schema.safeParse({ origin: 'http://a', ...(settings as object) }).error).toBeUndefined();
  for (const line of form.split('\n')) expect(read(example)).toContain(line);
});

test('every setting is explained', () => {
  const unexplained = leaves(jsonSchema()).filter(({ path, form }) => path.at(-1) !== '*' && !form.description);
  expect(unexplained.map(({ path }) => path.join('.'))).toEqual([]);
});

test('every flag and variable belongs to a setting that exists', () => {
  const known = new Set(leaves(jsonSchema()).map(({ path }) => path.join('.')));
  for (const { setting } of OVERRIDES) expect(known).toContain(setting.join('.'));
  expect(new Set(OVERRIDES.map(({ variable }) => variable)).size).toBe(OVERRIDES.length);
});

test('the schema for editors refuses what is not in it', () => {
  const schema = JSON.parse(read('config/schema.json')) as { additionalProperties: boolean; required: string[] };
  expect(schema).toMatchObject({ additionalProperties: false, required: [], type: 'object' });
});

const shown = [...read('docs/configuration.md').matchAll(/```yaml\n([\s\S]*?)```/g)].map((match) => match[1]!);

test.each(shown)('what the docs show is right (%#)', async (yaml) => {
  const directory = await temporaryDirectory();
  const file = join(directory.path, 'shown.yaml');
  writeFileSync(file, yaml);
  const env = { NODE_ADDRESS: '10.0.0.5', CLUSTER_SECRET: 'sixteen--letters', REDIS_PASSWORD: 'secret' };
  expect(loadConfig({ file, env, flags: {} })).not.toHaveProperty('mistakes');
  await directory.remove();
});
