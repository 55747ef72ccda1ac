import { describe, expect, test } from '@jest/globals';
import { buildRoutes } from '../../src/config/route-table.js';
import type { RouteConfig } from '../../src/config/route.js';
import type { Route } from '../../src/model/route.js';
import { routeTo } from '../support/delivery-room.js';

const defaultRoute: Route = {
  name: 'default',
  origin: 'http://top',
  resumable: false,
  limits: { minSize: 0, maxAgeSeconds: 60 },
  delivery: routeTo('http://top').delivery,
  authorize: { preflight: false, recheck: false },
  bindTo: [],
  plainBodies: 'pass',
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
