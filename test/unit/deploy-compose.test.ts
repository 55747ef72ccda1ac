import { execFile, execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { loadShipped, SECRETS } from '../support/deploy-files.js';

const here = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const read = (path: string): string => readFileSync(here(path), 'utf8');

interface Service {
  readonly user?: string;
  readonly entrypoint?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly command?: readonly string[];
  readonly volumes?: readonly string[];
  readonly ports?: readonly string[];
  readonly depends_on?: string[] | Record<string, unknown>;
  readonly stop_grace_period?: string;
}

interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly volumes: Readonly<Record<string, unknown>>;
  readonly networks?: { readonly default: { readonly ipam: { readonly config: readonly { subnet: string }[] } } };
}

const compose = (file: string): Compose => parse(read(file), { merge: true }) as Compose;

describe.each(['docker-compose.single.yml', 'docker-compose.yml'])('%s', (file) => {
  const { services, volumes } = compose(file);

  test('mounts only what there is', () => {
    const sources = Object.values(services).flatMap((service) =>
      (service.volumes ?? []).map((at) => at.split(':')[0]!),
    );
    const missing = sources.filter((source) =>
      source.startsWith('.') ? !existsSync(here(source)) : !(source in volumes),
    );
    expect(missing).toEqual([]);
    expect(Object.keys(volumes).filter((name) => !sources.includes(name))).toEqual([]);
  });

  test('depends only on its own services', () => {
    const needed = Object.values(services).flatMap(({ depends_on: on = {} }) =>
      on instanceof Array ? on : Object.keys(on),
    );
    expect(needed.filter((name) => !(name in services))).toEqual([]);
  });

  test('is reached on port 8080 of this machine, and nothing else of it is', () => {
    expect(Object.values(services).flatMap(({ ports = [] }) => ports)).toEqual(['127.0.0.1:8080:8080']);
  });

  test('gives every proxy the time to drain', () => {
    const periods = Object.entries(services).flatMap(([name, { stop_grace_period: period }]) =>
      name.startsWith('proxy') ? [period] : [],
    );
    expect(periods.length).toBeGreaterThan(0);
    for (const period of periods) expect(Number(/^(\d+)s$/.exec(period ?? '')?.[1])).toBeGreaterThan(30);
  });
});

describe('docker-compose.demo.yml', () => {
  const { services } = compose('docker-compose.demo.yml');
  const { command, ports } = services['demo']!;

  test('serves the page and its buttons on the ports of the container that this machine has too', () => {
    expect(Object.keys(services)).toEqual(['demo']);
    expect(command).toEqual(['demo', '--listen', '0.0.0.0:8080', '--controls', '0.0.0.0:8081']);
    // The page looks for its buttons on the port on which they listen, and its origin has the port of the page.
    expect(ports).toEqual(['127.0.0.1:8080:8080', '127.0.0.1:8081:8081']);
  });

  test('the image has everything that the page is built from', () => {
    const dockerfile = read('Dockerfile');
    const built = /^COPY (.*) \.\/$/gm;
    expect([...dockerfile.matchAll(built)].map(([, files]) => files).join(' ')).toContain('build.js');
    expect(dockerfile).toContain('COPY src ./src\nRUN npm run build && npm prune --omit=dev');
    expect(dockerfile).toContain('COPY --from=build /app/dist ./dist');
    expect(read('.dockerignore').split('\n')).not.toContain('src');
  });
});

/** What the service that makes the token leaves, also when it runs a second time. */
function madeToken({ entrypoint, command, user, volumes }: Service): string {
  expect([user, volumes]).toEqual(['root', [`secrets:${SECRETS}`]]);
  const directory = mkdtempSync(join(tmpdir(), 'rufh-token-'));
  const script = command![0]!.replaceAll(SECRETS, directory).replace('chown node', `chown ${userInfo().uid}`);
  try {
    const made = [1, 2].map(() => {
      execFileSync(entrypoint![0]!, [...entrypoint!.slice(1), script]);
      return readFileSync(join(directory, 'admin-token'), 'utf8');
    });
    expect(made[1]).toBe(made[0]);
    return made[0]!;
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe('many nodes', () => {
  const { services, networks } = compose('docker-compose.yml');
  const token = madeToken(services['admin-token']!);
  const config = loadShipped(read('deploy/many-nodes.yaml'), { secrets: { 'admin-token': token } });
  const haproxy = read('deploy/haproxy.cfg');
  const proxies = Object.keys(services).filter((name) => name.startsWith('proxy-'));

  test('HAProxy takes its configuration', async () => {
    const { stdout } = await promisify(execFile)('haproxy', ['-c', '-f', here('deploy/haproxy.cfg')]);
    expect(stdout).toContain('Configuration file is valid');
  });

  test('HAProxy knows every proxy, on the ports where their configuration listens', () => {
    const servers = [...haproxy.matchAll(/^ {2}server (\S+) (\S+)$/gm)].map(([, name, address]) => [name, address]);
    const { address } = config.listeners[0]!;
    const port = address.kind === 'tcp' ? address.port : undefined;
    const all = proxies.map((name) => [name, `${name}:${port}`]);
    expect(proxies.length).toBeGreaterThan(1);
    expect(servers).toEqual([...all, ...all]);
    expect(/check port (\d+)/.exec(haproxy)![1]).toBe(`${(config.admin!.address as { port: number }).port}`);
    expect(/^ {2}bind :(\d+)$/m.exec(haproxy)![1]).toBe('8080');
  });

  test('everything of the admin listener but its health asks for the token that was made', () => {
    expect(token).toMatch(/^[A-Za-z0-9+/]{43}=\n$/);
    expect(config.admin).toMatchObject({ token: token.trim(), open: ['health'], insecure: false });
    for (const name of proxies) {
      const { environment, volumes, depends_on: on } = services[name]!;
      expect(volumes).toContain(`secrets:${SECRETS}:ro`);
      expect(environment).toEqual({ RUFH_PROXY_CONFIG: volumes![0]!.split(':')[1] });
      expect(on).toMatchObject({ 'admin-token': { condition: 'service_completed_successfully' } });
    }
  });

  test('the proxies share Redis and a directory, and believe only their own network', () => {
    expect(config.store).toMatchObject({ type: 'redis', nodes: [{ host: 'redis', port: 6379 }] });
    expect(config.spool.shared).toBe(true);
    for (const name of proxies) expect(services[name]!.volumes).toContain(`uploads:${config.data}`);
    const [, file] = services[proxies[0]!]!.volumes![0]!.split(':');
    expect(services[proxies[0]!]!.command).toEqual(['serve', '--config', file]);
    const subnets = networks!.default.ipam.config.map(({ subnet }) => ({
      cidr: subnet,
      relaysInterim: true,
      connectionPerClient: false,
    }));
    expect(config.trustedProxies).toEqual(subnets);
  });

  test('Redis appends to a file and evicts nothing', () => {
    const { command } = services['redis']!;
    expect(command!.join(' ')).toContain('--appendonly yes');
    expect(command!.join(' ')).toContain('--maxmemory-policy noeviction');
  });
});
