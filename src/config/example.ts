import { alternatives, jsonSchema, type JsonSchema } from './json-schema.js';

const HEAD = `# yaml-language-server: $schema=./schema.json
#
# Every setting of rufh-proxy with its default. Only \`origin\` has none: all others may be left out.
# Check it with: rufh-proxy check --config FILE
# Sizes: 10GiB, 5MB or bytes. Times: 500ms, 30s, 5m, 24h, 7d.
# \${NAME} and \${NAME:-default} take a value from the environment.
`;

/** What a default alone does not show, one or more forms of each setting. */
export const SAMPLES: Readonly<Record<string, string>> = {
  listen: `listen:
  - address: 0.0.0.0:8443
    tls:
      cert: /etc/rufh-proxy/tls.crt
      key: /etc/rufh-proxy/tls.key
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
  fields_from_headers: { sender: X-Sender }`,
  'delivery.gate': `gate: { http: http://127.0.0.1:3310/scan, timeout: 5m }
gate: { command: [clamdscan, --no-summary, '-'], timeout: 5m }`,
  'authorize.forward_auth': `forward_auth:
  url: http://127.0.0.1:4181/verify
  timeout: 5s
  copy_headers: [Remote-User, Remote-Groups]
  principal_header: Remote-User`,
  bind_to: `bind_to: [Authorization]
bind_to: principal`,
  'cors.allow_origins': `allow_origins: [https://app.example.com]`,
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
export function renderExample(): string {
  const settings = Object.entries(jsonSchema().properties ?? {});
  return [HEAD, ...settings.map(([key, setting]) => `${entry(key, key, setting, '')}\n`)].join('\n').trimEnd() + '\n';
}

function entry(path: string, key: string, setting: JsonSchema, indent: string): string {
  const about = comment(setting.description ?? '', indent);
  const own = setting.properties;
  if (own) {
    const inner = Object.entries(own).map(([name, one]) => entry(`${path}.${name}`, name, one, `${indent}  `));
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

/** The words a setting may be, which its explanation need not list again. */
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
