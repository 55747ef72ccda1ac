import { execFile } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type ProxyOptions, ProxyProcess, startProxy } from '../support/proxy-process.js';
import { temporaryDirectory, type TemporaryDirectory, until, within } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));
const VERSION = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;

let directory: TemporaryDirectory;
let origin: TestOrigin;
let proxies: ProxyProcess[];
beforeEach(async () => {
  directory = await temporaryDirectory();
  origin = await startTestOrigin();
  proxies = [];
});
afterEach(async () => {
  await Promise.all(proxies.map((proxy) => proxy.stop()));
  await origin.close();
  await directory.remove();
});

interface Ran {
  readonly code: number;
  readonly output: string;
  readonly errors: string;
}

/** Runs the binary to its end in the temporary directory. */
function run(line: readonly string[], env: Record<string, string> = {}, binary = BINARY): Promise<Ran> {
  const options = { cwd: directory.path, env: { ...process.env, NODE_OPTIONS: '', ...env }, timeout: 20_000 };
  return new Promise((resolve) => {
    execFile(process.execPath, [binary, ...line], options, (error, output, errors) => {
      resolve({ code: error ? Number(error.code) : 0, output, errors });
    });
  });
}

async function start(options: Partial<ProxyOptions> = {}): Promise<ProxyProcess> {
  const proxy = await startProxy({ origin: origin.url, ...options });
  proxies.push(proxy);
  return proxy;
}

/** Starts what will not come to listen, and waits for its end. */
async function startInVain(options: Partial<ProxyOptions>): Promise<{ code: number | NodeJS.Signals; errors: string }> {
  const proxy = await ProxyProcess.spawn({ origin: origin.url, ...options });
  proxies.push(proxy);
  const code = await within(proxy.exited, 'the proxy to end', 20_000);
  expect(proxy.lines).toEqual([]);
  return { code, errors: proxy.errors.join('\n') };
}

describe('help', () => {
  test('--version is the package’s', async () => {
    expect(await run(['--version'])).toEqual({ code: 0, output: `${VERSION}\n`, errors: '' });
  });

  test('a checkout that is not built says what to do', async () => {
    mkdirSync(join(directory.path, 'bin'));
    const binary = join(directory.path, 'bin/rufh-proxy.mjs');
    copyFileSync(BINARY, binary);
    const errors = 'rufh-proxy: this checkout is not built yet: run `npm ci && npm run build`\n';
    expect(await run(['--version'], {}, binary)).toEqual({ code: 1, output: '', errors });
  });

  test('--help names the commands and shows examples', async () => {
    const { code, output } = await run(['--help']);
    expect(code).toBe(0);
    for (const word of ['serve', 'check', 'init', 'Examples:', '--origin http://127.0.0.1:3000'])
      expect(output).toContain(word);
  });

  test('serve --help names flags with their variables', async () => {
    const { output } = await run(['serve', '--help']);
    expect(output.replace(/\s+/g, ' ')).toContain('--origin <url> the API behind the proxy [RUFH_PROXY_ORIGIN]');
    expect(output).toContain('RUFH_PROXY_LOG_FORMAT');
  });

  test.each([[['serv']], [['serve', '--orign', 'http://a']], [['check', '--config']]])(
    '%j is a mistake on standard error',
    async (line) => {
      const { code, output, errors } = await run(line);
      expect([code, output]).toEqual([1, '']);
      expect(errors).toMatch(/^error: .*\n(.*Did you mean.*\n)?\(rufh-proxy --help/);
    },
  );
});

describe('check', () => {
  test.each(['/proc/x', '/proc/x/y', '/sys/x'])('finds that no start could make %s', async (data) => {
    const { code, errors } = await run(['check', '--origin', 'http://a', '--data', data]);
    expect([code, errors]).toEqual([1, expect.stringContaining(`${data} does not exist and cannot be created: `)]);
  });

  const write = (yaml: string) => writeFileSync(join(directory.path, 'a.yaml'), yaml);

  test('says ok and what would be served', async () => {
    write('origin: http://a\nadmin: false\nroutes: [{ match: { path: /f/**, methods: POST }, origin: http://b }]');
    const { code, output, errors } = await run(['check', '--config', 'a.yaml', '--data', '/srv/d']);
    expect([code, errors]).toEqual([0, '']);
    expect(output).toBe(
      [
        'ok',
        'listen    0.0.0.0:8080 (http, HTTP/2)',
        'admin     none',
        'data      /srv/d',
        'store     embedded, for one process',
        'spool     local, sync: group',
        'workers   1',
        'route     POST /f/** -> http://b, resumable',
        'route     everything else -> http://a',
        '',
      ].join('\n'),
    );
  });

  // Issue 9, §6.
  test('looks at the data directory, and changes nothing', async () => {
    const data = join(directory.path, 'd');
    write('origin: http://a\nadmin: false\ndata: ./d');
    expect((await run(['check', '--config', 'a.yaml'])).output).toMatch(/^ok\n/);
    expect(existsSync(data)).toBe(false);
    mkdirSync(data);
    writeFileSync(join(data, 'letter.txt'), 'mine');
    const foreign = await run(['check', '--config', 'a.yaml']);
    expect([foreign.code, foreign.output]).toEqual([1, '']);
    expect(foreign.errors).toMatch(
      /^rufh-proxy: one error in the configuration\n {2}a\.yaml:3:7: data: .*letter\.txt.*contains nothing of this program/,
    );
    expect(readdirSync(data)).toEqual(['letter.txt']);
    rmSync(join(data, 'letter.txt'));
    chmodSync(data, 0o777);
    expect((await run(['check', '--config', 'a.yaml'])).errors).toMatch(/a\.yaml:3:7: data: .*chmod/);
    const below = await run(['check', '--config', 'a.yaml', '--data', join(directory.path, 'a.yaml', 'd')]);
    expect([below.code, below.errors]).toEqual([1, expect.stringMatching(/^rufh-proxy: .*\n {2}--data: data: /)]);
  });

  // Issue 9, §6.
  test('tells what is wrong with the data directory beside every other mistake, once', async () => {
    const data = join(directory.path, 'd');
    mkdirSync(data);
    chmodSync(data, 0o777);
    const configErrors = [
      ['orign: http://a', /^1:1: orign: unknown setting/],
      ['origin: http://a', undefined],
      ['data: ./d', /^3:7: data: .*\/d can be written by every user: chmod o-w/],
      ['log: { level: loud }', /^4:15: log\.level: found "loud"/],
    ] as const;
    write(configErrors.map(([line]) => line).join('\n'));
    const lines = (await run(['check', '--config', 'a.yaml'])).errors.split('\n');
    expect(lines[0]).toBe('rufh-proxy: 3 errors in the configuration');
    const told = lines.slice(1, -1).map((line) => line.replace('  a.yaml:', ''));
    expect(told).toEqual(configErrors.flatMap(([, message]) => (message ? [expect.stringMatching(message)] : [])));
    // Its own path is what is wrong; nothing is said of the default in its place.
    write('origin: http://a\ndata: ${NOT_SET_HERE}/d\nlog: { level: loud }');
    expect((await run(['check', '--config', 'a.yaml'])).errors.match(/^ {2}a\.yaml:2:/gm)).toHaveLength(1);
    write('origin: http://a\ndata: 7\nlog: { level: loud }');
    expect((await run(['check', '--config', 'a.yaml'])).errors).toMatch(/^rufh-proxy: 2 errors.*(\n {2}.*){2}\n$/);
    // With a store that is not known, as far as its rights go.
    write('origin: http://a\ndata: ./d\nstore: { type: redis }');
    chmodSync(data, 0o755);
    expect((await run(['check', '--config', 'a.yaml'])).errors).toMatch(/^rufh-proxy: one error.*\n.*store\.url/);
  });

  test('warns of a variable that nobody reads, also where that makes something missing', async () => {
    const { code, errors } = await run(['check'], { RUFH_PROXY_ORIGN: 'http://a' });
    expect(code).toBe(1);
    expect(errors).toContain('warning: RUFH_PROXY_ORIGN: unknown variable; did you mean RUFH_PROXY_ORIGIN?');
  });

  test('tells every mistake with its line and ends with 1', async () => {
    write('orign: http://a\nlog: { level: loud }');
    const { code, output, errors } = await run(['check'], { RUFH_PROXY_CONFIG: 'a.yaml' });
    expect([code, output]).toEqual([1, '']);
    expect(errors.split('\n')).toEqual([
      'rufh-proxy: 3 errors in the configuration',
      expect.stringMatching(/^ {2}a\.yaml:1:1: (origin: is missing|orign: unknown setting; did you mean origin\?)/),
      expect.stringMatching(/^ {2}a\.yaml:1:1: (origin: is missing|orign: unknown setting; did you mean origin\?)/),
      expect.stringMatching(/^ {2}a\.yaml:2:15: log\.level: found "loud", expected one of trace/),
      '',
    ]);
  });
});

describe('init', () => {
  test('writes a configuration that is right as it is', async () => {
    expect(await run(['init'])).toMatchObject({ code: 0, output: expect.stringContaining('wrote rufh-proxy.yaml') });
    expect((await run(['check', '--config', 'rufh-proxy.yaml'])).output).toMatch(/^ok\n/);
    const schema = /\$schema=(.*)\n/.exec(readFileSync(join(directory.path, 'rufh-proxy.yaml'), 'utf8'))?.[1];
    expect(existsSync(schema ?? '')).toBe(true);
  });

  test('leaves an existing file as it is', async () => {
    writeFileSync(join(directory.path, 'mine.yaml'), 'mine');
    const { code, errors } = await run(['init', 'mine.yaml']);
    expect(code).toBe(1);
    expect(errors).toBe('rufh-proxy: mine.yaml already exists and was not changed; choose another file\n');
    expect(readFileSync(join(directory.path, 'mine.yaml'), 'utf8')).toBe('mine');
  });

  test('says why it cannot write', async () => {
    expect((await run(['init', 'no/such/dir.yaml'])).errors).toBe(
      'rufh-proxy: cannot write no/such/dir.yaml: ENOENT\n',
    );
  });
});

describe('serve', () => {
  test('says that it listens in the first line of its output, and where', async () => {
    const proxy = await start();
    expect(JSON.parse(proxy.lines[0]!)).toEqual({
      level: 'info',
      time: expect.any(String),
      msg: 'listening',
      url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/),
      urls: [proxy.url],
      admin: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/),
      version: VERSION,
      pid: proxy.pid,
    });
    expect((await fetch(`${proxy.url}/hello`)).status).toBe(200);
    expect((await fetch(`${proxy.adminUrl}/readyz`)).status).toBe(200);
  });

  test('says so whatever the level of its log', async () => {
    expect((await start({ flags: ['--log-level', 'silent'] })).lines).toHaveLength(1);
  });

  test('says so in words when it is to be pretty', async () => {
    const proxy = await ProxyProcess.spawn({ origin: origin.url, flags: ['--log-format', 'pretty'] });
    proxies.push(proxy);
    await until(() => /http:\/\/127\.0\.0\.1:\d+/.test(proxy.lines.join('\n')), 'a pretty line');
    expect(proxy.lines[0]).toMatch(/listening/);
    expect(proxy.lines[0]).not.toMatch(/^\{/);
  });

  test('takes its settings from a file, variables and flags', async () => {
    const config = `origin: http://127.0.0.1:1\nadmin: { address: \${ADMIN} }\n`;
    const env = { ADMIN: '127.0.0.1:0', RUFH_PROXY_ORIGIN: origin.url };
    const proxy = await start({ origin: undefined, config, env });
    expect((await fetch(`${proxy.url}/x`)).status).toBe(200);
  });

  test('does not start with a mistake, and tells it', async () => {
    const { code, errors } = await startInVain({ flags: ['--sync', 'sometimes'] });
    expect(code).toBe(1);
    expect(errors).toContain('--sync: spool.sync: found "sometimes", expected one of always, group, none');
  });

  test('does not start on an address that is taken, and tells what to do', async () => {
    const listen = new URL((await start()).url).host;
    const { code, errors } = await startInVain({ listen });
    expect(code).toBe(1);
    expect(errors).toContain(`cannot listen on ${listen}: another process is listening there`);
    expect(errors).not.toMatch(/\n\s+at /);
  });

  // Issue 9, §6.
  test('does not start on an admin address that is taken, and tells which setting it is', async () => {
    const admin = new URL((await start()).adminUrl).host;
    const { code, errors } = await startInVain({ admin });
    expect(code).toBe(1);
    expect(errors).toContain(`the admin listener cannot listen on ${admin}: another process is listening there`);
    expect(errors).toContain('Set another address with `admin` or --admin');
    expect(errors).not.toMatch(/\n\s+at /);
  });

  // Issue 9, §5.
  test('does not start with an admin listener that others reach without a token, unless that is meant', async () => {
    const { code, errors } = await startInVain({ admin: '0.0.0.0:0' });
    expect([code, errors]).toEqual([1, expect.stringMatching(/--admin: admin\.address: .*set `token_file`/)]);
    const proxy = await start({ admin: '0.0.0.0:0', config: 'admin: { insecure: true }' });
    expect(proxy.errors.join('')).toContain('the admin listener can be reached from other machines');
    const token = join(directory.path, 'token');
    writeFileSync(token, 'the-token-of-the-test', { mode: 0o600 });
    const guarded = await start({ admin: '0.0.0.0:0', flags: ['--admin-token-file', token] });
    expect(guarded.errors).toEqual([]);
    const url = guarded.adminUrl.replace('0.0.0.0', '127.0.0.1');
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
    expect((await fetch(`${url}/metrics`)).status).toBe(401);
    const listed = await run(['uploads', 'list', '--admin', url, '--admin-token-file', token]);
    expect(listed).toEqual({ code: 0, output: 'no uploads\n', errors: '' });
    expect([...guarded.lines, ...guarded.errors].join('')).not.toContain('the-token-of-the-test');
  });

  test('does not start on a data directory that is in use, and tells what to do', async () => {
    const { data } = await start();
    const { code, errors } = await startInVain({ data });
    expect(code).toBe(1);
    expect(errors).toContain('stop the other process, or choose another --data');
    expect(errors).not.toMatch(/\n\s+at /);
  });

  test('does not start where it may not write, and tells what to do', async () => {
    // The superuser may write everywhere but below a file.
    const path = join(directory.path, 'no');
    if (process.getuid?.() === 0) writeFileSync(path, '');
    else mkdirSync(path);
    chmodSync(path, 0o500);
    const { code, errors } = await startInVain({ data: join(path, 'data') });
    expect(code).toBe(1);
    expect(errors).toContain(join(path, 'data'));
    expect(errors).not.toMatch(/\n\s+at /);
  });
});

describe('signals', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)('the first %s ends an idle proxy with 0', async (signal) => {
    const proxy = await start();
    expect(await proxy.kill(signal)).toBe(0);
    expect(proxy.log.map(({ msg }) => msg)).toEqual(
      expect.arrayContaining(['stopping; a second signal exits immediately', 'stopped']),
    );
    expect(proxy.errors).toEqual([]);
  });

  test('SIGHUP is logged, and it goes on', async () => {
    const proxy = await start();
    process.kill(proxy.pid, 'SIGHUP');
    await until(() => proxy.log.find(({ signal }) => signal === 'SIGHUP'), 'a line about SIGHUP');
    expect((await fetch(new URL('/healthz', proxy.adminUrl))).status).toBe(200);
    expect(await proxy.kill('SIGTERM')).toBe(0);
  });

  test('a request that waits for the origin is let finish by the first signal', async () => {
    let answer!: () => void;
    origin.answerWith({ body: 'late', after: new Promise<void>((resolve) => (answer = resolve)) });
    const proxy = await start();
    const asked = fetch(`${proxy.url}/slow`);
    await origin.waitForRequests(1);
    process.kill(proxy.pid, 'SIGTERM');
    await until(() => proxy.log.some(({ msg }) => String(msg).startsWith('stopping')), 'the stop to begin');
    answer();
    expect(await (await asked).text()).toBe('late');
    expect(await proxy.exited).toBe(0);
  });

  test('the second signal ends at once with 1', async () => {
    origin.answerWith({ after: new Promise(() => undefined) });
    const proxy = await start();
    const asked = fetch(`${proxy.url}/never`).catch((error: unknown) => error);
    await origin.waitForRequests(1);
    process.kill(proxy.pid, 'SIGTERM');
    await until(() => proxy.log.some(({ msg }) => String(msg).startsWith('stopping')), 'the stop to begin');
    expect(proxy.running).toBe(true);
    expect(await proxy.kill('SIGINT')).toBe(1);
    expect(await asked).toMatchObject({ name: 'TypeError' });
  });
});
