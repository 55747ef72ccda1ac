// Makes the files that describe the configuration from its schema: "npm run docs" writes them, and a test compares them.
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { isFixed } from '../src/config/changes.js';
import { OVERRIDES } from '../src/config/flags.js';
import { alternatives, jsonSchema, type JsonSchema } from '../src/config/json-schema.js';

/** The content of all files that are generated from the schema, by their path in the project. */
export function generatedFiles(): Readonly<Record<string, string>> {
  return {
    'config/schema.json': `${JSON.stringify(jsonSchema(), null, 2)}\n`,
    'config/rufh-proxy.example.yaml': renderExample(),
    'docs/configuration.md': renderDocs(),
  };
}

const INTRODUCTION = `# Configuration

<!-- Made from src/config/schema.ts by "npm run docs"; do not edit by hand. -->

\`rufh-proxy serve --origin http://127.0.0.1:3000\` needs no file. For more, \`rufh-proxy init\` writes one with every
setting explained, \`rufh-proxy check --config FILE\` reports all errors in it at once, with their lines, and
\`rufh-proxy serve --config FILE\` (or \`RUFH_PROXY_CONFIG\`) runs with it. Editors complete and check the file with
[\`config/schema.json\`](../config/schema.json). How routes, nodes and the URL of Redis work together is in
[configuration-guide.md](configuration-guide.md).

- **Flags win over variables, variables over the file, the file over defaults.** Flags and variables that belong to a
  listener (\`--tls-cert\`, \`--tls-key\`, \`--no-http2\`) apply to every listener.
- **Sizes**: \`10GiB\`, \`512KiB\` (powers of 1024), \`5MB\`, \`1GB\` (powers of 1000), or a plain number of bytes.
- **Times**: \`500ms\`, \`30s\`, \`5m\`, \`24h\`, \`7d\`; always with a unit.
- **Paths** of files are relative to the working directory of the process.
- **Variables in the file**: \`\${NAME}\` and \`\${NAME:-default}\`, anywhere in a value, also inside text. A variable that
  is not set and has no default is an error. \`$\${\` stands for a plain \`\${\`. The value of a variable can never change the
  file's structure.
- **A running proxy** takes a changed configuration with \`rufh-proxy reload\` or SIGHUP ([operating](operating.md#reload)).
  Settings marked **Fixed** cannot change then: such a configuration is refused as a whole, and takes a restart.
- **YAML**: anchors, aliases and merge keys (\`<<\`) work; use them for routes that share most of their settings.
- A setting without a value counts as not set. Where \`null\` is allowed, an empty value means \`null\`.
- An unknown setting or an invalid value is an error and never ignored. \`check\` inspects the data
  directory too, and \`check\` and \`serve\` warn about settings that work but are probably not intended: variables that are never read, routes that
  no request reaches, secrets that every user can read.
`;

/** docs/configuration.md: every setting in a table of its section. */
function renderDocs(): string {
  const root = jsonSchema();
  return [INTRODUCTION, ...sections('', root)].join('\n');
}

/** The settings of one group as a table, then each group inside it. */
function sections(path: string, group: JsonSchema): string[] {
  const settings = Object.entries(group.properties ?? {}).map(([key, setting]) => ({
    path: path === '' ? key : `${path}.${key}`,
    setting,
  }));
  const values = settings.filter(({ path, setting }) => isValue(setting) || isInherited(path));
  const others = settings.filter((setting) => !isInherited(setting.path));
  const inner = others.flatMap(({ path, setting }) => innerGroups(path, setting));
  return [table(path, group, values), ...inner.flatMap(({ name, group: innerGroup }) => sections(name, innerGroup))];
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
  return `| ${[`\`${name}\``, defaultOf(path, setting), unitOf(setting), given, meaningOf(path, setting)].join(' | ')} |`;
}

function meaningOf(path: string, { description = '' }: JsonSchema): string {
  return isFixed(path.replace('[]', '.*').split('.')) ? `${description} **Fixed.**` : description;
}

function defaultOf(path: string, setting: JsonSchema): string {
  if (setting.default !== undefined) return `\`${yamlScalar(setting.default)}\``;
  return isInherited(path) ? 'as at the top' : '';
}

/** Whether a route inherits the group from the top level, where its settings are documented. */
function isInherited(path: string): boolean {
  return /^routes\[\]\.(limits|delivery|authorize|bind_to|plain_bodies)$/.test(path);
}

/** A default as it is written in the file. */
function yamlScalar(value: unknown): string {
  return typeof value === 'string' && value !== '' ? value : JSON.stringify(value);
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

/** Whether a setting gets a row in a table: everything but plain groups. */
function isValue(setting: JsonSchema): boolean {
  return !setting.properties || setting.unit !== undefined;
}

/** The groups that a setting contains, directly or in a list. */
function innerGroups(name: string, setting: JsonSchema): { name: string; group: JsonSchema }[] {
  const forms = alternatives(setting);
  const lists = forms.flatMap((form) => (form.items ? alternatives(form.items) : [])).filter((form) => form.properties);
  if (lists.length > 0) return lists.map((group) => ({ name: `${name}[]`, group }));
  return forms.filter((form) => form.properties).map((group) => ({ name, group }));
}

const HEAD = `# yaml-language-server: $schema=./schema.json
#
# Every setting of rufh-proxy with its default. Only \`origin\` is required.
# Check it with: rufh-proxy check --config FILE
# Sizes: 10GiB, 5MB or bytes. Times: 500ms, 30s, 5m, 24h, 7d.
# \${NAME} and \${NAME:-default} take a value from the environment.
`;

/** Sample values for settings whose default does not show their form. */
export const SAMPLES: Readonly<Record<string, string>> = {
  listen: `listen:
  - address: 0.0.0.0:8443
    tls:
      cert: /etc/rufh-proxy/tls.crt
      key: /etc/rufh-proxy/tls.key
      min_version: TLSv1.3
      client_ca: /etc/rufh-proxy/clients-ca.crt
    http2: true
    keep_alive: 620s # behind a balancer of Google's
  - unix:/run/rufh-proxy/http.sock`,
  admin: `admin:
  address: 0.0.0.0:9090
  token_file: /run/secrets/rufh-proxy/admin-token
  open: [health, metrics]
  hosts: [rufh-proxy.internal]
admin: { address: 'unix:/run/rufh-proxy/admin.sock', mode: '0660' }
admin: { address: 10.0.0.5:9090, insecure: true }`,
  'store.url': `url: rediss://redis.example.com:6379/0
url: [redis://10.0.0.1:6379, redis://10.0.0.2:6379]`,
  'store.sentinel': `sentinel: { master: mymaster, username: rufh, password_file: /run/secrets/sentinel }`,
  'store.password': `password: "\${REDIS_PASSWORD:-}"`,
  'store.tls': `tls:
  ca: /etc/rufh-proxy/redis-ca.crt
  cert: /etc/rufh-proxy/redis.crt
  key: /etc/rufh-proxy/redis.key
  server_name: redis.example.com`,
  cluster: `cluster:
  listen: 0.0.0.0:8081
  advertise: http://10.0.0.5:8081
  secret_file: /run/secrets/rufh-cluster
  tls: { cert: /etc/rufh-proxy/node.crt, key: /etc/rufh-proxy/node.key, ca: /etc/rufh-proxy/nodes-ca.crt }
  owner_timeout: 10m
cluster: { listen: 10.0.0.5:8081, advertise: http://10.0.0.5:8081, secret: "\${CLUSTER_SECRET}" }`,
  workers: `workers: auto`,
  trusted_proxies: `trusted_proxies:
  - 10.0.0.0/8
  - cidr: 192.168.1.7
    relays_interim: true
    connection_per_client: true`,
  'delivery.target': `target: /store{path}?name={filename}`,
  'delivery.framing': `framing:
  type: multipart
  field: file
  fields: { folder: inbox }
  fields_from_headers: { sender: X-Sender }
  fields_from_metadata: { album: albumName }`,
  'delivery.gate': `gate: { http: http://127.0.0.1:3310/scan, timeout: 5m }
gate: { command: [clamdscan, --no-summary, '-'], timeout: 5m }`,
  'authorize.forward_auth': `forward_auth:
  url: http://127.0.0.1:4181/verify
  timeout: 5s
  copy_headers: [Remote-User, Remote-Groups]
  principal_header: Remote-User`,
  bind_to: `bind_to: [Authorization]
bind_to: principal`,
  'cors.allow_origins': `allow_origins: [https://app.example.com, 'https://*.preview.example.com', 'http://localhost:*']`,
  routes: `routes:
  - name: raw
    match: { path: /api/files/raw/** }
    resumable: false
  - match: { path: [/api/files/**, '/api/{images,videos}/**'], methods: [POST, PUT], ignore_case: true }
    origin: http://127.0.0.1:4000
    limits: { max_size: 10GiB, min_size: 1, max_append_size: 1GiB, min_append_size: 5MiB, max_age: 7d }
    delivery:
      timeout: 10m
      guarantee: at_least_once
      framing: { field: upload }
      retry: { attempts: 3 }
    authorize: { preflight: true }`,
};

const WIDTH = 110;

/** config/rufh-proxy.example.yaml: every setting explained, set to its default. */
function renderExample(): string {
  const settings = Object.entries(jsonSchema().properties ?? {});
  return [HEAD, ...settings.map(([key, setting]) => `${entry(key, key, setting, '')}\n`)].join('\n').trimEnd() + '\n';
}

function entry(path: string, key: string, setting: JsonSchema, indent: string): string {
  const about = comment(setting.description ?? '', indent);
  const own = setting.properties;
  if (own) {
    const inner = Object.entries(own).map(([name, inner]) => entry(`${path}.${name}`, name, inner, `${indent}  `));
    return [...about, `${indent}${key}:`, ...inner].join('\n');
  }
  if (key === 'routes') return [...about, ...commentedOut(SAMPLES['routes']!, indent)].join('\n');
  const sample = SAMPLES[path] ? [`${indent}# For example:`, ...commentedOut(SAMPLES[path], indent)] : [];
  return [...about, ...values(setting, indent), `${indent}${key}: ${value(path, setting)}`, ...sample].join('\n');
}

function value(path: string, setting: JsonSchema): string {
  if (path === 'origin') return 'http://127.0.0.1:3000';
  const { default: preset } = setting;
  if (Array.isArray(preset)) return `[${preset.join(', ')}]`;
  return typeof preset === 'string' ? preset : JSON.stringify(preset);
}

/** A comment with the words that a setting accepts. */
function values(setting: JsonSchema, indent: string): string[] {
  const words = alternatives(setting).flatMap((form) => (form.enum ?? []).map(String));
  return words.length > 1 ? [`${indent}# ${words.join(' | ')}`] : [];
}

function comment(text: string, indent: string): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && indent.length + last.length + word.length < WIDTH)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines.map((line) => `${indent}# ${line}`);
}

function commentedOut(yaml: string, indent: string): string[] {
  return yaml.split('\n').map((line) => `${indent}# ${line}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = new URL('../', import.meta.url);
  for (const [name, content] of Object.entries(generatedFiles()))
    writeFileSync(fileURLToPath(new URL(name, root)), content);
}
