import { readFile, rename, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { makeCertificate } from '../support/certificate.js';
import { startCrew, workerPids } from '../support/crew.js';
import { type FakeOrigin, startFakeOrigin } from '../support/fake-origin.js';
import { connectH2 } from '../support/h2-client.js';
import type { ProxyProcess } from '../support/proxy.js';
import { connect, requestOnce } from '../support/raw-client.js';
import { temporaryDirectory, until, within, type TemporaryDirectory } from '../support/temporary.js';

// Issue 4: `workers`.
let directory: TemporaryDirectory;
let origin: FakeOrigin;
let pool: ProxyProcess | undefined;
beforeEach(async () => {
  directory = await temporaryDirectory();
  origin = await startFakeOrigin();
  pool = undefined;
});
afterEach(async () => {
  await pool?.stop();
  await origin.close();
  await directory.remove();
});

const GET = { method: 'GET', target: '/' };

/** A client's connection that has had an answer. */
interface Connected {
  isOpen(): boolean;
  ask(): Promise<number>;
  end(): void;
}

type Connect = () => Promise<Connected>;

function http1(url: string, socketPath?: string): Connect {
  return async () => {
    const client = await connect(url, socketPath === undefined ? {} : { socketPath });
    let isOpen = true;
    void client.closed.then(() => (isOpen = false));
    const ask = async (): Promise<number> => (await client.request(GET)).status;
    return { isOpen: () => isOpen, ask, end: () => client.destroy() };
  };
}

function http2(url: string): Connect {
  return async () => {
    const client = await connectH2(url);
    const ask = async (): Promise<number> => (await client.request(GET)).status;
    return { isOpen: () => !client.session.destroyed, ask, end: () => client.cut() };
  };
}

/** Cleartext and TLS on whatever ports are free, and a socket where a process that was killed had left one. */
async function everyListener(): Promise<string> {
  const file = (name: string): string => join(directory.path, name);
  const { cert, key } = makeCertificate();
  await writeFile(file('cert.pem'), cert);
  await writeFile(file('key.pem'), key);
  await leaveSocket(file('http.sock'));
  const secure = `{ address: "127.0.0.1:0", tls: { cert: "${file('cert.pem')}", key: "${file('key.pem')}" } }`;
  return `listen: ["127.0.0.1:0", ${secure}, "127.0.0.1:0", "unix:${file('http.sock')}"]\n`;
}

async function leaveSocket(path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(`${path}.before`, resolve));
  // Only the name that it listened on is removed.
  await rename(`${path}.before`, path);
  await new Promise((resolve) => server.close(resolve));
}

test('every listener gives both workers the same share, and a worker that is killed takes only its own', async () => {
  pool = await startCrew({ origin: origin.url, config: await everyListener() });
  const [plain, secure, other] = pool.log[0]!['urls'] as string[];
  const socketPath = join(directory.path, 'http.sock');
  const listeners = [http1(plain!), http2(plain!), http1(secure!), http2(secure!), http1(other!)];
  listeners.push(http1('http://localhost', socketPath));
  const connections: Connected[][] = [];
  for (const listener of listeners) connections.push(await connectAll(listener, 4));
  process.kill(workerPids(pool, 1)[0]!, 'SIGKILL');
  const open = (): number[] => connections.map((some) => some.filter((one) => one.isOpen()).length);
  await until(
    () => open().every((count) => count === 2),
    () => `two open of every four: ${open().join(' ')}`,
  );
  for (const one of connections.flat()) if (one.isOpen()) expect(await one.ask()).toBe(200);
  for (const one of connections.flat()) one.end();
});

async function connectAll(listener: Connect, count: number): Promise<Connected[]> {
  const connections: Connected[] = [];
  for (let at = 0; at < count; at++) {
    const connection = await listener();
    expect(await connection.ask()).toBe(200);
    connections.push(connection);
  }
  return connections;
}

test('a worker that was killed is followed by another, and nobody is turned away meanwhile', async () => {
  const running = (pool = await startCrew({ origin: origin.url }));
  const total = async (): Promise<number> => {
    const text = await (await fetch(`${running.adminUrl}/metrics`)).text();
    return Number(/^rufh_requests_total\{kind="pass-through".*\} (\d+)$/m.exec(text)?.[1]);
  };
  for (let count = 0; count < 4; count++) await requestOnce(running.url, GET);
  await until(async () => (await total()) === 4, 'all four to be counted');
  const [killed] = workerPids(running, 2);
  process.kill(killed!, 'SIGKILL');
  let asked = 4;
  const isUnready = async (): Promise<boolean> => (await fetch(`${running.adminUrl}/readyz`)).status === 503;
  await until(isUnready, 'a worker to be missed');
  await until(
    async () => {
      expect((await requestOnce(running.url, GET)).status).toBe(200);
      asked += 1;
      return workerPids(running, 2).length === 2;
    },
    'the next worker to listen',
    60_000,
  );
  expect(running.log).toContainEqual(
    expect.objectContaining({
      msg: 'worker exited; starting another',
      worker: 2,
      workerPid: killed,
      signal: 'SIGKILL',
    }),
  );
  // What the killed one had counted is still part of it.
  await until(
    async () => (await total()) === asked,
    () => `all ${asked} to be counted`,
  );
  expect((await fetch(`${running.adminUrl}/readyz`)).status).toBe(200);
  const both = await connectAll(http1(running.url), 2);
  process.kill(workerPids(running, 1)[0]!, 'SIGKILL');
  await until(() => both.filter((one) => one.isOpen()).length === 1, 'one of two connections to end');
  for (const one of both) one.end();
});

test('a connection given to a worker that stands still ends with it', async () => {
  const running = (pool = await startCrew({ origin: origin.url }));
  const [still] = workerPids(running, 1);
  process.kill(still!, 'SIGSTOP');
  const stat = (): Promise<string> => readFile(`/proc/${still!}/stat`, 'utf8');
  await until(async () => (await stat()).split(') ')[1]!.startsWith('T'), 'it to stand still');
  const clients = await Promise.all([1, 2, 3, 4].map(() => connect(running.url)));
  const outcomes = clients.map((client) =>
    Promise.race([
      client.request(GET).then(
        ({ status }) => status,
        () => 'cut',
      ),
      client.closed.then(() => 'cut'),
    ]),
  );
  // It was given one, and no more before it has taken that.
  await until(() => origin.requests.length === 3, 'three of four to be served by the other');
  process.kill(still!, 'SIGKILL');
  const results = await within(Promise.all(outcomes), 'the fourth to end');
  expect(results.sort()).toEqual([200, 200, 200, 'cut']);
  await until(() => workerPids(running, 1).length === 2, 'another to take its place', 60_000);
  for (const client of clients) client.destroy();
});
