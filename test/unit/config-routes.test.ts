import { writeFileSync } from 'node:fs';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { loadConfig } from '../../src/config/load.js';
import { buildRoutes } from '../../src/config/route-table.js';
import type { RouteConfig } from '../../src/config/route.js';
import type { Route } from '../../src/model/route.js';
import { routeTo } from '../support/delivery-harness.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

describe('routes', () => {
  const defaultRoute: Route = {
    name: 'default',
    origin: 'http://top',
    resumable: false,
    limits: { minSize: 0, maxAgeSeconds: 60 },
    delivery: routeTo('http://top').delivery,
    authorize: { preflight: false, recheck: false },
    bindTo: [],
    plainBodies: 'pass',
    protocols: ['rufh', 'tus'],
  };

  function route(
    name: string,
    paths: string[],
    { methods, resumable = true }: { methods?: string[]; resumable?: boolean } = {},
  ): RouteConfig {
    return {
      paths,
      ...(methods ? { methods } : {}),
      route: { ...defaultRoute, name, origin: `http://${name}`, resumable },
    };
  }

  const routes = buildRoutes({
    defaultRoute,
    routes: [
      route('raw', ['/files/raw/**'], { resumable: false }),
      route('put', ['/files/**'], { methods: ['PUT'] }),
      route('files', ['/files/**', '/attachments/*/content']),
      route('asked', ['/asked'], { methods: ['GET', 'POST'] }),
      route('braces', ['/api/{images,videos}/**']),
    ],
  });

  describe('a request finds the first route that its path and method match', () => {
    test.each([
      ['POST', '/files/a', 'files', true],
      ['POST', '/files', 'files', true],
      ['POST', '/files/', 'files', true],
      ['POST', '/files/a/b/c.txt', 'files', true],
      ['POST', '/files/.hidden/a', 'files', true],
      ['PUT', '/files/a', 'put', true],
      ['PATCH', '/files/a', 'files', true],
      ['PURGE', '/files/a', 'files', true],
      ['POST', '/files/raw/a', 'raw', false],
      ['POST', '/attachments/7/content', 'files', true],
      ['POST', '/attachments/7/8/content', 'default', false],
      ['POST', '/filesystem', 'default', false],
      ['POST', '/Files/a', 'default', false],
      ['POST', '/asked', 'asked', true],
      ['PUT', '/asked', 'default', false],
      ['POST', '/api/videos/a', 'braces', true],
      ['POST', '/api/texts/a', 'default', false],
      ['POST', '/', 'default', false],
      ['OPTIONS', '*', 'default', false],
    ])('%s %s goes to %s, resumable: %p', (method, path, name, resumable) => {
      expect(routes.find(method, path)).toMatchObject({
        name,
        resumable,
        origin: name === 'default' ? 'http://top' : `http://${name}`,
      });
    });

    test.each(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT'])(
      '%s goes to the route’s origin and is never resumable',
      (method) => {
        expect(routes.find(method, '/files/a')).toMatchObject({ name: 'files', resumable: false });
      },
    );

    test('a method that is listed but can never be resumable still has the route’s origin', () => {
      expect(routes.find('GET', '/asked')).toMatchObject({ name: 'asked', resumable: false });
    });
  });

  describe('discovery finds what any method makes resumable', () => {
    test.each([
      ['/files/a', 'put'],
      ['/attachments/7/content', 'files'],
      ['/asked', 'asked'],
      ['/files/raw/a', undefined],
      ['/elsewhere', undefined],
    ])('%s: %p', (path, name) => {
      expect(routes.findResumable(path)?.name).toBe(name);
    });

    test('a route whose methods were all taken by earlier ones is never reached', () => {
      const shadowed = buildRoutes({
        defaultRoute: { ...defaultRoute, resumable: true },
        routes: [
          route('off', ['/**'], { methods: ['POST'], resumable: false }),
          route('post', ['/a'], { methods: ['POST'] }),
        ],
      });
      expect(shadowed.findResumable('/a')?.name).toBe('default');
    });
  });

  test('without routes every path is resumable at the top origin', () => {
    const all = buildRoutes({ defaultRoute: { ...defaultRoute, resumable: true }, routes: [] });
    expect(all.find('POST', '/any/path')).toMatchObject({ name: 'default', resumable: true });
    expect(all.find('GET', '/any/path')).toMatchObject({ name: 'default', resumable: false });
    expect(all.findResumable('/any/path')?.name).toBe('default');
  });

  test('a stored upload finds its route by name', () => {
    expect(routes.byName('files')?.origin).toBe('http://files');
    expect(routes.byName('default')?.origin).toBe('http://top');
    expect(routes.byName('unknown')).toBeUndefined();
  });
});

describe('an origin of its own', () => {
  let directory: TemporaryDirectory;
  beforeEach(async () => {
    directory = await temporaryDirectory();
  });
  afterEach(() => directory.remove());

  function problemsOf(yaml: string): string[] {
    const file = join(directory.path, 'rufh-proxy.yaml');
    writeFileSync(file, yaml);
    const loaded = loadConfig({ file, env: {}, flags: {} });
    return 'configErrors' in loaded
      ? loaded.configErrors.map(({ setting, problem }) => `${setting ?? ''} ${problem}`)
      : [];
  }

  const OWN = Object.values(networkInterfaces()).flatMap((some) => some ?? []);
  const IPV4 = OWN.filter(({ family }) => family === 'IPv4').map(({ address }) => address);

  describe('an origin that is the proxy itself is refused', () => {
    test.each([
      ['127.0.0.1:8080', 'http://127.0.0.1:8080'],
      ['127.0.0.1:8080', 'http://127.0.0.1:8080/api'],
      ['127.0.0.1:8080', 'http://localhost:8080'],
      ['127.0.0.1:8080', 'http://LOCALHOST.:8080'],
      ['127.0.0.1:8080', 'http://0.0.0.0:8080'],
      ['127.0.0.1:8080', 'http://127.1:8080'],
      ['127.0.0.1:8080', 'http://0x7f000001:8080'],
      ['127.0.0.1:8080', 'http://[::ffff:127.0.0.1]:8080'],
      ['127.0.0.1:80', 'http://127.0.0.1'],
      ['127.0.0.1:443', 'https://localhost'],
      ['"[::1]:8080"', 'http://[::1]:8080'],
      ['"[::1]:8080"', 'http://[0:0:0:0:0:0:0:1]:8080'],
      ['"[::1]:8080"', 'http://localhost:8080'],
      ['localhost:8080', 'http://127.0.0.1:8080'],
      ['0.0.0.0:8080', 'http://127.0.0.1:8080'],
      ['0.0.0.0:8080', 'http://127.0.0.2:8080'],
      ['0.0.0.0:8080', 'http://localhost:8080'],
      ['0.0.0.0:8080', `http://${hostname()}:8080`],
      ['"[::]:8080"', 'http://[::1]:8080'],
      ['"[::]:8080"', 'http://127.0.0.1:8080'],
      ['"[::]:8080"', 'http://0.0.0.0:8080'],
      ...IPV4.map((address) => ['0.0.0.0:8080', `http://${address}:8080`] as const),
      ['["127.0.0.1:1", "127.0.0.1:8080"]', 'http://127.0.0.1:8080'],
    ])('listen %s, origin %s', (listen, origin) => {
      const problems = problemsOf(`listen: ${listen}\norigin: ${origin}\nadmin: false\n`);
      expect(problems).toEqual([expect.stringMatching(/^origin points back to this proxy, which listens on /)]);
    });

    test('also of one route', () => {
      const route = 'routes: [{ match: { path: /a }, origin: http://localhost:8080 }]';
      const problems = problemsOf(`listen: 127.0.0.1:8080\norigin: http://127.0.0.1:3000\n${route}\n`);
      expect(problems).toEqual([expect.stringMatching(/^routes\[0\]\.origin points back to this proxy/)]);
    });
  });

  describe('so is everything else that would come back', () => {
    const APP = 'origin: http://127.0.0.1:3000';
    const GATE = 'delivery: { gate: { http: "http://127.0.0.1:8080/scan" } }';
    const AUTH = 'authorize: { forward_auth: { url: "http://127.0.0.1:8080/check" } }';
    test.each([
      ['a gate', `${APP}\nadmin: false\n${GATE}`, 'delivery.gate.http'],
      [
        'a route’s gate',
        `${APP}\nadmin: false\nroutes: [{ match: { path: /a }, ${GATE} }]`,
        'routes[0].delivery.gate.http',
      ],
      ['an authorization service', `${APP}\nadmin: false\n${AUTH}`, 'authorize.forward_auth.url'],
      ['the admin listener', 'origin: http://127.0.0.1:9000\nadmin: 127.0.0.1:9000', 'origin'],
    ])('%s', (_, yaml, setting) => {
      const problems = problemsOf(`listen: 127.0.0.1:8080\n${yaml}\n`);
      expect(problems).toEqual([expect.stringContaining(`${setting} points back to this proxy, which listens on `)]);
    });
  });

  test.each([
    ['127.0.0.1:8080', 'http://127.0.0.1:3000'],
    ['127.0.0.1:8080', 'http://127.0.0.2:8080'],
    ['127.0.0.1:8080', 'http://[::1]:8080'],
    ['127.0.0.1:8080', 'http://app.example:8080'],
    ['0.0.0.0:8080', 'http://192.0.2.7:8080'],
    ['127.0.0.1:8080', 'https://127.0.0.1'],
    ['127.0.0.1:0', 'http://127.0.0.1'],
    ['unix:/run/rufh.sock', 'http://127.0.0.1:8080'],
  ])('listen %s, origin %s is somebody else', (listen, origin) => {
    expect(problemsOf(`listen: ${listen}\norigin: ${origin}\n`)).toEqual([]);
  });
});
