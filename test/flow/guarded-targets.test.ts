import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { connectH2 } from '../support/h2-client.js';
import { connect } from '../support/raw-client.js';

/** The little of Express that is used here. */
interface Application extends RequestListener {
  use(path: string, handler: (request: IncomingMessage, response: ServerResponse) => void): void;
}

const express = createRequire(import.meta.url)('express') as () => Application;

let app: TestApp;
let auth: FakeOrigin;
let server: Server;

afterEach(async () => {
  await app.stop();
  await auth.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

/** The marker that a request carries and its origin tells of, so that answers are not mixed up. */
const MARK = 'x-mark';

/** An origin that notes which requests have reached its protected part. */
async function startOrigin(listener: RequestListener): Promise<string> {
  server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function startProxy(origin: string, ignoreCase: string): Promise<void> {
  // Requests for the path with a token in it are let in, so that the service decides by what it is told of the target.
  auth = await startFakeOrigin((request) => ({
    status: /^\/protected\/ok(?:[/?]|$)/i.test(request.header('X-Forwarded-Uri') ?? '') ? 200 : 401,
  }));
  const match = `{ path: [/protected, /protected/**]${ignoreCase} }`;
  const config = `routes:\n  - match: ${match}\n    authorize: { forward_auth: "${auth.url}" }\n  - match: { path: /open/** }\n`;
  app = await startTestApp({ origin, config });
}

/** Ways to say "slash", "dot segment" and "protected" that some server understands. */
const SLASHES = [
  '/',
  '//',
  '\\',
  '%2f',
  '%2F',
  '%5c',
  '/./',
  '/;/',
  '/%2e/',
  '%252f',
  '%c0%af',
  '%ef%bc%8f',
  '/\\',
  ';a/',
];
const UPS = [
  '..',
  '%2e%2e',
  '.%2e',
  '%2E.',
  '..;',
  '..;a=b',
  '%252e%252e',
  '..%00',
  '%c0%ae%c0%ae',
  '..%20',
  '%u002e%u002e',
];
const NAMES = [
  'protected',
  'Protected',
  'PROTECTED',
  '%70rotected',
  'pro%74ected',
  'p%72otecte%64',
  '%2570rotected',
  'protected;a',
  'protected.',
  'protected%20',
  'protected%00',
  'pro%09tected',
  '%ef%bd%90rotected',
];

/** Every name behind every way down and up; the same ones in every run. */
function targets(): string[] {
  const all = new Set<string>();
  for (const name of NAMES) {
    for (const slash of SLASHES) {
      all.add(`${slash.startsWith('/') || slash === '\\' ? '' : '/'}${slash}${name}/x`).add(`/${name}${slash}x`);
      all.add(`/${name}${slash}`).add(`/${name}${slash}ok${slash}x`).add(`/${name}/ok${slash}..${slash}x`);
      for (const up of UPS) all.add(`/open${slash}${up}${slash}${name}/x`).add(`/${name}${slash}${up}${slash}open/x`);
    }
    all.add(`/${name}`).add(`/${name}?x`).add(`/${name}%3fx`).add(`/${name}%23x`).add(`http://h/${name}/x`);
  }
  return [...all].filter((target) => target.startsWith('/') || target.startsWith('http'));
}

/** Sends every target over its own few connections; the statuses by target. */
async function sendAll(over: 'HTTP/1.1' | 'HTTP/2'): Promise<Map<string, number>> {
  const statuses = new Map<string, number>();
  const all = targets();
  if (over === 'HTTP/2') {
    const h2 = await connectH2(app.url);
    const send = async (target: string): Promise<void> => {
      const path = target.replace(/^http:\/\/h/, '');
      const response = await h2.request({
        method: 'GET',
        target: path,
        headers: [
          ['Host', 'h'],
          [MARK, path],
        ],
      });
      statuses.set(target, response.status);
    };
    for (let at = 0; at < all.length; at += 50) await Promise.all(all.slice(at, at + 50).map(send));
    await h2.close();
    return statuses;
  }
  const client = await connect(app.url);
  for (const target of all) {
    await client.send(`GET ${target} HTTP/1.1\r\nHost: h\r\n${MARK}: ${target}\r\n\r\n`);
    statuses.set(target, (await client.readFinal()).status);
  }
  client.destroy();
  return statuses;
}

/** What the service has said yes to. */
function letIn(): Set<string> {
  const yes = auth.requests.filter((request) => /^\/protected\/ok(?:[/?]|$)/i.test(request.header('X-Forwarded-Uri')!));
  return new Set(yes.map((request) => request.header(MARK)!));
}

test.each(['HTTP/1.1', 'HTTP/2'] as const)(
  'over %s no spelling reaches the protected handler of an Express application unasked',
  async (over) => {
    const reached: string[] = [];
    const application = express();
    application.use('/protected', (request, response) => {
      reached.push(request.headers[MARK] as string);
      response.end('secret');
    });
    application.use('/', (_request, response) => void response.end('public'));
    await startProxy(await startOrigin(application), ', ignore_case: true');
    const statuses = await sendAll(over);
    expect(statuses.size).toBeGreaterThan(2000);
    const yes = letIn();
    expect(reached.filter((mark) => !yes.has(mark))).toEqual([]);
    // The service was asked, and has let in, what is spelt properly.
    expect(reached.length).toBeGreaterThan(0);
    expect([...new Set(statuses.values())].sort()).toEqual([200, 400, 401]);
  },
);

/** Ways in which servers read a path. */
const READERS: readonly ((path: string) => string)[] = [
  (path) => path,
  (path) => new URL(unescapeOnce(path).replaceAll('\\', '/'), 'http://h').pathname,
  (path) => unescapeOnce(new URL(path.replace(/^\/+/, '/'), 'http://h').pathname),
  (path) => new URL(unescapeOnce(unescapeOnce(path)).replaceAll('\\', '/'), 'http://h').pathname,
  (path) => new URL(path.replace(/;[^/]*/g, ''), 'http://h').pathname,
  (path) => path.replace(/\/+/g, '/'),
  (path) => (URL.canParse(path, 'http://h') ? new URL(path, 'http://h').pathname : path),
];

test('no spelling reaches the protected part of an origin, in whatever way that reads a path', async () => {
  const reached = new Set<string>();
  const origin = await startOrigin((request, response) => {
    const path = request.url!.split('?')[0]!;
    if (READERS.some((read) => /^\/protected(?:[/.;]|$)/i.test(read(path))))
      reached.add(request.headers[MARK] as string);
    response.end('ok');
  });
  await startProxy(origin, '');
  expect((await sendAll('HTTP/2')).size).toBeGreaterThan(2000);
  const yes = letIn();
  expect([...reached].filter((mark) => !yes.has(mark))).toEqual([]);
  expect(reached.size).toBeGreaterThan(0);
});

function unescapeOnce(path: string): string {
  return path.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)));
}
