import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { hostname, networkInterfaces } from 'node:os';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadConfig } from '../../src/config/load.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

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
