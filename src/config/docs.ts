import { GUIDE } from './docs-guide.js';
import { alternatives, jsonSchema, type JsonSchema } from './json-schema.js';
import { OVERRIDES } from './overrides.js';

const INTRODUCTION = `# Configuration

<!-- Made from src/config/schema.ts by "npm run docs"; a change made here is lost. -->

\`rufh-proxy serve --origin http://127.0.0.1:3000\` needs no file. For more, \`rufh-proxy init\` writes one with every
setting explained, \`rufh-proxy check --config FILE\` tells all mistakes in it at once, with their lines, and
\`rufh-proxy serve --config FILE\` (or \`RUFH_PROXY_CONFIG\`) runs with it. Editors complete and check the file with
[\`config/schema.json\`](../config/schema.json).

- **Flags win over variables, variables over the file, the file over defaults.** Flags and variables that belong to a
  listener (\`--tls-cert\`, \`--tls-key\`, \`--no-http2\`) hold for every listener.
- **Sizes**: \`10GiB\`, \`512KiB\` (powers of 1024), \`5MB\`, \`1GB\` (powers of 1000), or a plain number of bytes.
- **Times**: \`500ms\`, \`30s\`, \`5m\`, \`24h\`, \`7d\`; always with a unit.
- **Paths** of files count from the working directory of the process.
- **Variables in the file**: \`\${NAME}\` and \`\${NAME:-default}\`, anywhere in a value, also inside a text. A variable that
  is not set and has no default is a mistake. \`$\${\` stands for a plain \`\${\`. What a variable holds can never change the
  file's structure.
- **YAML**: anchors, aliases and merge keys (\`<<\`) work, for routes that have much in common.
- A setting with nothing behind its colon counts as left out. \`null\` and nothing are the same where \`null\` is allowed.
- A setting that does not exist, or a value that is not allowed, is a mistake, never ignored. \`check\` looks at the data
  directory too, and \`check\` and \`serve\` warn of what works and is probably not meant: variables that nobody reads, routes that
  no request reaches, secrets that every user can read.
`;

/** docs/configuration.md: every setting in a table of its section. */
export function renderDocs(): string {
  const root = jsonSchema();
  return [INTRODUCTION, ...sections('', root), GUIDE].join('\n');
}

/** The settings of one group as a table, then each group inside it. */
function sections(path: string, group: JsonSchema): string[] {
  const settings = Object.entries(group.properties ?? {}).map(([key, setting]) => ({
    path: path === '' ? key : `${path}.${key}`,
    setting,
  }));
  const values = settings.filter((one) => isValue(one.setting) || isInherited(one.path));
  const others = settings.filter((one) => !isInherited(one.path));
  const inner = others.flatMap((one) => innerGroups(one.path, one.setting));
  return [table(path, group, values), ...inner.flatMap(({ name, group: one }) => sections(name, one))];
}

interface Row {
  readonly path: string;
  readonly setting: JsonSchema;
}

function table(path: string, group: JsonSchema, rows: readonly Row[]): string {
  const title = path === '' ? '## Top level' : `## ${path}`;
  const about = path === '' || !group.description ? [] : [`${group.description}\n`];
  const head = '| setting | default | values | flag, variable | meaning |\n| --- | --- | --- | --- | --- |';
  return [`${title}\n`, ...about, head, ...rows.map(row), ''].join('\n');
}

function row({ path, setting }: Row): string {
  const name = path.slice(path.lastIndexOf('.') + 1);
  const override = OVERRIDES.find(({ setting }) => {
    const shown = setting.join('.').replace('listen.*.', 'listen[].');
    return shown === path || shown === `${path}.address`;
  });
  const given = override ? `\`${override.flag}\`<br>\`${override.variable}\`` : '';
  return `| ${[`\`${name}\``, defaultOf(path, setting), unitOf(setting), given, setting.description ?? ''].join(' | ')} |`;
}

function defaultOf(path: string, setting: JsonSchema): string {
  if (setting.default !== undefined) return `\`${plain(setting.default)}\``;
  return isInherited(path) ? 'as at the top' : '';
}

/** What a route takes over from the top when it does not name it; its settings are told there. */
function isInherited(path: string): boolean {
  return /^routes\[\]\.(limits|delivery|authorize|bind_to|plain_bodies)$/.test(path);
}

/** A default as it would stand in the file. */
function plain(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function unitOf(setting: JsonSchema): string {
  const forms = alternatives(setting);
  const own = units(forms.filter((form) => !form.items));
  const listed = units(forms.flatMap((form) => (form.items ? alternatives(form.items) : [])));
  if (listed === '') return own;
  return own === '' ? `list of ${listed}` : `${own}, or a list`;
}

function units(forms: readonly JsonSchema[]): string {
  const names = forms.map((form) => form.unit ?? (form.properties ? 'group' : ''));
  return [...new Set(names.filter((name) => name !== ''))].join(' or ');
}

/** Has a place in a table: anything but a mere group. */
function isValue(setting: JsonSchema): boolean {
  return !setting.properties || setting.unit !== undefined;
}

/** Groups a setting consists of, or is a list of. */
function innerGroups(name: string, setting: JsonSchema): { name: string; group: JsonSchema }[] {
  const forms = alternatives(setting);
  const lists = forms.flatMap((form) => (form.items ? alternatives(form.items) : [])).filter((form) => form.properties);
  if (lists.length > 0) return lists.map((group) => ({ name: `${name}[]`, group }));
  return forms.filter((form) => form.properties).map((group) => ({ name, group }));
}
