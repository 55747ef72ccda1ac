import { execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { connect, requestOnce } from '../support/client.js';
import { type ProxyProcess, startProxy, startWorkers, untilState, workerPids } from '../support/proxy-process.js';
import { temporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// Issue 12: SIGHUP, `rufh-proxy reload`, and workers.
const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));

let origin: TestOrigin;
let proxy: ProxyProcess;
beforeAll(async () => {
  origin = await startTestOrigin();
});
afterEach(() => proxy.stop());
afterAll(() => origin.close());

/** The file that the proxy was started with. */
const configFile = (): string => join(dirname(proxy.data), 'rufh-proxy.yaml');

/** Runs the built binary to its end. */
function run(...line: string[]): Promise<{ code: number; output: string; errors: string }> {
  const env = {
    ...process.env,
    NODE_OPTIONS: '',
    RUFH_PROXY_CONFIG: '',
    RUFH_PROXY_ADMIN: new URL(proxy.adminUrl).host,
  };
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [BINARY, ...line], { env }, (_, output, errors) =>
      resolve({ code: child.exitCode!, output, errors }),
    );
  });
}

const send = async (body: string): Promise<number> =>
  (await requestOnce(proxy.url, { method: 'POST', target: '/x', body })).status;

describe('a single process', () => {
  test('reloads on SIGHUP, and stays as it is when the file has mistakes', async () => {
    proxy = await startProxy({ origin: origin.url, config: 'log: { level: warn }\n' });
    const told = (message: string) => proxy.log.find(({ msg }) => msg === message);
    writeFileSync(configFile(), 'limits: { max_size: 3 }\nlog: { level: info }\n');
    process.kill(proxy.pid, 'SIGHUP');
    await until(() => told('the configuration was reloaded'), 'the reload');
    expect(told('the configuration was reloaded')).toMatchObject({ changed: ['limits.max_size', 'log.level'] });
    expect(await send('1234')).toBe(413);
    await until(() => told('request'), 'a line at the new level');
    writeFileSync(configFile(), 'limits: { max_size: 3\nnonsense\n');
    process.kill(proxy.pid, 'SIGHUP');
    await until(() => told('the configuration was refused; the former one still applies'), 'the refusal');
    expect(await send('1234')).toBe(413);
    expect(await proxy.kill('SIGTERM')).toBe(0);
  });

  test('is reloaded by `rufh-proxy reload`, which prints every mistake with its line', async () => {
    proxy = await startProxy({ origin: origin.url, config: 'limits: { max_size: 9 }\n' });
    writeFileSync(configFile(), 'limits: { max_size: 3 }\n');
    expect(await run('reload')).toEqual({
      code: 0,
      output: 'the configuration was reloaded; changed: limits.max_size\n',
      errors: '',
    });
    expect(await send('1234')).toBe(413);
    writeFileSync(configFile(), 'limits: { max_size: some }\nhttp3: true\n');
    const refused = await run('reload');
    expect([refused.code, refused.output]).toEqual([1, '']);
    expect(refused.errors).toMatch(/^rufh-proxy: 2 errors in the configuration\n/);
    expect(refused.errors).toContain(`${configFile()}:1:21: limits.max_size: found "some"`);
    expect(refused.errors).toContain(`${configFile()}:2:1: http3: unknown setting`);
    writeFileSync(configFile(), 'limits: { max_size: 3 }\nspool: { sync: none }\n');
    const fixed = await run('reload', '--json');
    expect(fixed.code).toBe(1);
    expect(JSON.parse(fixed.output)).toMatchObject({ reloaded: false, errors: [{ setting: 'spool.sync', line: 2 }] });
    expect((await run('reload', '--admin', '127.0.0.1:1')).code).toBe(2);
    expect((await requestOnce(proxy.adminUrl, { method: 'GET', target: '/reload' })).status).toBe(405);
  });

  test('is drained and taken back into service', async () => {
    proxy = await startProxy({ origin: origin.url });
    const create = async (): Promise<number> => {
      const headers = [
        ['Upload-Complete', '?1'],
        ['Upload-Draft-Interop-Version', '8'],
      ] as const;
      return (await requestOnce(proxy.url, { method: 'POST', target: '/x', headers, body: 'hello' })).status;
    };
    const ready = async (): Promise<number> => (await fetch(`${proxy.adminUrl}/readyz`)).status;
    expect(await run('drain')).toMatchObject({ code: 0 });
    expect([await create(), await ready()]).toEqual([503, 503]);
    expect(await run('drain', '--undo')).toEqual({ code: 0, output: 'the proxy accepts new uploads\n', errors: '' });
    expect([await create(), await ready()]).toEqual([200, 200]);
    expect(await run('drain', '--undo', '--move')).toMatchObject({ code: 2 });
  });
});

test('SIGHUP while the configuration is read for the first time has it read again', async () => {
  proxy = await startProxy({ origin: origin.url });
  const directory = await temporaryDirectory('rufh-sighup-');
  const pipe = join(directory.path, 'pipe');
  execFileSync('mkfifo', [pipe]);
  const config = `origin: ${origin.url}\nlisten: 127.0.0.1:0\nadmin: false\ndata: ${join(directory.path, 'data')}\n`;
  const child = spawn(process.execPath, [BINARY, 'serve', '--config', pipe], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  // Opens when the program has opened it to read.
  const first = await open(pipe, 'w');
  child.kill('SIGHUP');
  await first.writeFile(config);
  await first.close();
  const lines: string[] = [];
  const output = createInterface(child.stdout).on('line', (line) => lines.push(line));
  const listens = once(output, 'line').then(() => 'it listens');
  expect(await Promise.race([listens, ended.then(() => 'it has ended')])).toBe('it listens');
  const second = await open(pipe, 'w');
  await second.writeFile(config);
  await second.close();
  await until(() => lines.some((line) => line.includes('the configuration was reloaded')), 'the reload');
  child.kill('SIGKILL');
  await ended;
  await directory.remove();
});

describe('workers', () => {
  const sizes = async (): Promise<number[]> => {
    const statuses: number[] = [];
    for (let count = 0; count < 4; count++) statuses.push(await send('1234'));
    return statuses;
  };

  test('all follow a reload, also one that is started later, whatever the file says by then', async () => {
    proxy = await startWorkers({ origin: origin.url });
    const initial = readFileSync(configFile(), 'utf8');
    expect(await sizes()).toEqual([200, 200, 200, 200]);
    writeFileSync(configFile(), `${initial}limits: { max_size: 3 }\n`);
    expect((await run('reload')).code).toBe(0);
    expect(await sizes()).toEqual([413, 413, 413, 413]);
    writeFileSync(configFile(), 'this: { is: broken\n');
    expect((await run('reload')).code).toBe(1);
    process.kill(workerPids(proxy, 1)[0]!, 'SIGKILL');
    await until(() => workerPids(proxy).length === 3, 'another worker');
    expect(await sizes()).toEqual([413, 413, 413, 413]);
    const text = await (await fetch(`${proxy.adminUrl}/metrics`)).text();
    expect(text).toContain('\nrufh_config_reloads_total{result="applied"} 1\n');
    expect(text).toContain('\nrufh_config_reloads_total{result="refused"} 1\n');
  });

  test('none uses a configuration before all are ready for it', async () => {
    proxy = await startWorkers({ origin: origin.url });
    const clients = [await connect(proxy.url), await connect(proxy.url)];
    const ask = async (client: (typeof clients)[number]): Promise<number> => {
      await client.sendHead('POST', '/x', [['Content-Length', '4']]);
      await client.send('1234');
      return (await client.readFinal()).status;
    };
    writeFileSync(configFile(), `${readFileSync(configFile(), 'utf8')}limits: { max_size: 3 }\n`);
    const [suspended] = workerPids(proxy, 1) as [number];
    process.kill(suspended, 'SIGSTOP');
    await untilState(suspended, 'T');
    const first = clients.map(async (client) => ({ client, status: await ask(client) }));
    const { client: live } = await Promise.race(first);
    const reload = { isOver: false };
    const result = run('reload').finally(() => (reload.isOver = true));
    const statuses = new Set<number>();
    while (!reload.isOver) statuses.add(await ask(live));
    const { code, errors } = await result;
    expect(code).toBe(1);
    expect(errors).toContain('no answer within');
    expect([...statuses]).toEqual([200]);
    process.kill(suspended, 'SIGCONT');
    expect((await Promise.all(first)).map(({ status }) => status)).toEqual([200, 200]);
    expect((await run('reload')).code).toBe(0);
    expect(await Promise.all(clients.map(ask))).toEqual([413, 413]);
    for (const client of clients) client.destroy();
  });
});
