import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { AdminClient, resolveAdminTarget } from '../../src/cli/admin-client.js';
import { uploadTag } from '../../src/observe/log.js';
import { attempt, newUpload } from '../contract/sample-upload.js';
import { FakeAdmin } from '../support/fake-admin.js';
import { temporaryDirectory, type TemporaryDirectory, withoutRights } from '../support/temporary.js';

const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));

let directory: TemporaryDirectory;
let admin: FakeAdmin;
beforeEach(async () => {
  directory = await temporaryDirectory();
  admin = await FakeAdmin.start();
});
afterEach(async () => {
  await admin.listener.close();
  await directory.remove();
});

/** Runs the built binary to its end, against the admin listener unless the line says something else. */
function uploads(
  line: readonly string[],
  env: Record<string, string> = { RUFH_PROXY_ADMIN: new URL(admin.listener.url).host },
): Promise<{ code: number; output: string; errors: string }> {
  const nothing = {
    NODE_OPTIONS: '',
    RUFH_PROXY_ADMIN: '',
    RUFH_PROXY_ADMIN_TOKEN_FILE: '',
    RUFH_PROXY_CONFIG: '',
  };
  const options = { cwd: directory.path, env: { ...process.env, ...nothing, ...env }, timeout: 20_000 };
  return new Promise((resolve) => {
    execFile(process.execPath, [BINARY, 'uploads', ...line], options, (error, output, errors) => {
      resolve({ code: error ? Number(error.code) : 0, output, errors });
    });
  });
}

const MINUTE = 60_000;

describe('uploads list', () => {
  test('names those whose record cannot be read, and so does show', async () => {
    const aside = { id: newUpload().id, state: 'unreadable', reason: 'its record: EIO', since: Date.now() } as const;
    admin.setAside = [aside];
    const row = new RegExp(`^${uploadTag(aside.id)}  unreadable  \\S+Z  its record: EIO$`, 'm');
    expect((await uploads(['list'])).output).toMatch(row);
    expect((await uploads(['show', uploadTag(aside.id)])).output).toMatch(row);
  });

  test('is a table with the newest first, which tells phase, size, age, attempts and why', async () => {
    const createdAt = Date.now() - 5 * MINUTE;
    const refused = { reason: 'refused', status: 503, problem: 'the origin answered 503' } as const;
    const [receiving, undelivered, waiting] = [
      admin.upload({ createdAt, offset: 3 * 2 ** 20, length: 2 ** 30 }),
      admin.upload({ createdAt: createdAt - MINUTE, phase: 'undelivered', attemptCount: 5, undelivered: refused }),
      admin.upload({
        createdAt: createdAt - 2 * MINUTE,
        phase: 'complete',
        offset: 1536,
        length: 1536,
        attempts: [attempt(1, { reached: 'never-sent', problem: 'ECONNREFUSED\u001b[2J' })],
        attemptCount: 1,
        dueAt: Date.now() + 30 * MINUTE,
      }),
    ];
    const { code, output, errors } = await uploads(['list']);
    expect([code, errors]).toEqual([0, '']);
    const lines = output.trimEnd().split('\n');
    expect(lines[0]).toMatch(/^TAG +PHASE +SIZE +AGE +ATTEMPTS +REQUEST +WHY$/);
    expect(lines.slice(1)).toEqual([
      expect.stringMatching(
        new RegExp(
          `^${uploadTag(receiving.id)}  receiving    3\\.0 MiB of 1\\.0 GiB  5m( \\ds)?  +0 +POST /files\\?name=$`,
        ),
      ),
      expect.stringMatching(
        new RegExp(
          `^${uploadTag(undelivered.id)}  undelivered  5 B +6m( \\ds)?  +5 +POST /files\\?name=  refused: the origin answered 503$`,
        ),
      ),
      expect.stringMatching(
        new RegExp(
          `^${uploadTag(waiting.id)}  complete     1\\.5 KiB .* again in (30m|29m \\d+s): ECONNREFUSED\\?\\[2J$`,
        ),
      ),
    ]);
  });

  test('can be of one phase, and of tags alone for other commands', async () => {
    admin.upload();
    const { id } = admin.upload({ phase: 'undelivered' });
    expect(await uploads(['list', '--phase', 'undelivered', '-q'])).toEqual({
      code: 0,
      output: `${uploadTag(id)}\n`,
      errors: '',
    });
  });

  test('tells that there are more than it shows', async () => {
    for (let count = 0; count < 3; count++) admin.upload();
    const { output, errors } = await uploads(['list', '--limit', '2', '--json']);
    expect((JSON.parse(output) as { uploads: unknown[] }).uploads).toHaveLength(2);
    expect(errors).toBe('There are more uploads; --limit 20 lists up to 20 of them.\n');
  });

  test('goes on from page to page for as many as are wanted', async () => {
    for (let count = 0; count < 1003; count++) admin.upload();
    const { output, errors } = await uploads(['list', '--limit', '2000', '-q']);
    expect([new Set(output.trimEnd().split('\n')).size, errors]).toEqual([1003, '']);
  });

  test('says so when there are none', async () => {
    expect(await uploads(['list'])).toEqual({ code: 0, output: 'no uploads\n', errors: '' });
  });

  test('of a phase that does not exist is a mistake', async () => {
    const { code, output, errors } = await uploads(['list', '--phase', 'lost']);
    expect([code, output]).toEqual([1, '']);
    expect(errors).toMatch(/argument 'lost' is invalid. Allowed choices are receiving, complete, .*undelivered, /);
    expect((await uploads(['list', '--help'])).output).toMatch(/--phase <phase> .*"receiving",\s/);
  });

  test('says where the gate had a part in it', async () => {
    const dueAt = Date.now() + 30 * MINUTE;
    const answer = { status: 422, reason: '', headers: [], trailers: [], bodySize: 3, at: Date.now() };
    const refused = admin.upload({ phase: 'answered', answer: { ...answer, body: { in: 'record', crc: 0 } } });
    const unasked = admin.upload({ phase: 'complete', dueAt });
    const { output } = await uploads(['list']);
    const line = ({ id }: { id: string }, why: string) => new RegExp(`^${uploadTag(id)}  .*${why}`, 'm');
    expect(output).toMatch(line(refused, 'the gate answered 422$'));
    expect(output).toMatch(
      line(unasked, 'again in .*: the gate gave no verdict, or requests to the origin are paused'),
    );
    expect((await uploads(['show', uploadTag(refused.id)])).output).toMatch(/^answer +422 \(of the gate\), 3 B/m);
    expect((await uploads(['show', uploadTag(unasked.id)])).output).toMatch(/^why +the gate gave no verdict/m);
  });
});

describe('uploads show', () => {
  test('tells all there is, with every attempt', async () => {
    const { id, deliveryKey } = admin.upload({
      phase: 'undelivered',
      length: 5,
      attemptCount: 1,
      attempts: [attempt(1, { endedAt: 1_700_000_002_001, reached: 'sent', problem: 'the connection broke' })],
      undelivered: { reason: 'outcome-unknown', problem: 'the connection broke' },
    });
    const { code, output } = await uploads(['show', uploadTag(id)]);
    expect(code).toBe(0);
    const lines = output.split('\n').map((line) => line.replace(/ {2,}/g, '  '));
    expect(lines).toEqual(
      expect.arrayContaining([
        `tag  ${uploadTag(id)}`,
        'why  outcome-unknown: the connection broke',
        'request  POST /files?name=',
        'of  2001:db8::1, HTTP/1.1, to http://example.test',
        'headers  Content-Type, X-Twice, x-twice',
        'received  5 of 5 (5 B)',
        `Idempotency-Key  ${deliveryKey}`,
        '  1  2023-11-14T22:13:20.001Z  2s  http://127.0.0.1:3000  sent  the connection broke',
      ]),
    );
  });

  test('tells the same as JSON', async () => {
    const { id } = admin.upload();
    const { output } = await uploads(['show', uploadTag(id), '--json']);
    const shown = await (await fetch(`${admin.listener.url}/uploads/${uploadTag(id)}`)).json();
    expect(JSON.parse(output)).toEqual(shown);
  });

  // Issue 9, §6.
  test('takes whatever an operator may know, and lists several', async () => {
    const { request: sample } = newUpload();
    const id = 'AbCdEfGhIjKlMnOpQrStUvWxYz-_0123';
    const request = { ...sample, target: '/files/a.pdf?sig=x', clientAddress: '192.0.2.7' };
    const own = admin.upload({ id, request, deliveryKey: 'key-of-one' });
    const other = admin.upload({ request: { ...request, target: '/files/b.pdf' } });
    const tag = uploadTag(own.id);
    const ways = [
      ...[tag, id, `https://api.example.com/.uploads/${id}`, `/.uploads/${id}/status`],
      ...['/files/a.pdf', 'https://api.example.com/files/a.pdf?sig=y', 'key-of-one'],
    ];
    for (const what of ways) {
      const { code, output, errors } = await uploads(['show', what, '--json']);
      expect([what, code, errors]).toEqual([what, 0, '']);
      expect(JSON.parse(output)).toMatchObject({ tag, idempotencyKey: 'key-of-one' });
    }
    const both = await uploads(['show', '192.0.2.7']);
    expect([both.code, both.errors]).toEqual([0, '2 uploads match; show one of them by its tag.\n']);
    for (const one of [tag, uploadTag(other.id)]) expect(both.output).toMatch(new RegExp(`^${one} `, 'm'));
    const none = await uploads(['show', '/files/c.pdf']);
    expect([none.code, none.errors]).toEqual([
      1,
      expect.stringMatching(/^rufh-proxy: No upload matches "\/files\/c\.pdf"/),
    ]);
    const gone = await uploads(['show', `https://a/.uploads/${'x'.repeat(32)}`]);
    expect([gone.code, gone.errors]).toEqual([1, expect.stringContaining(uploadTag('x'.repeat(32)))]);
  });

  test('of a tag that nobody has ends with 1', async () => {
    const { code, output, errors } = await uploads(['show', '0123456789']);
    expect([code, output]).toEqual([1, '']);
    expect(errors).toMatch(/^rufh-proxy: No upload has the tag "0123456789"/);
  });
});

describe.each([
  ['cancel', 'cancelled'],
  ['redeliver', 'is being delivered'],
])('uploads %s', (command, done) => {
  test('does it to every upload that is named, also after one that refuses', async () => {
    const [one, other] = [admin.upload(), admin.upload()];
    const tags = [uploadTag(one.id), 'nobody', uploadTag(other.id)];
    const { code, output, errors } = await uploads([command, ...tags]);
    expect(code).toBe(1);
    expect(output).toBe(`${tags[0]!}  ${done}\n${tags[2]!}  ${done}\n`);
    expect(errors).toMatch(/^rufh-proxy: nobody: No upload has the tag "nobody".*\n$/);
    expect(admin.asked).toEqual([`${command} ${one.id}`, `${command} ${other.id}`]);
  });
});

// Issue 9, §6.
test('uploads redeliver --past-gate says so, and who does it', async () => {
  const { id } = admin.upload();
  const tag = uploadTag(id);
  expect(await uploads(['redeliver', tag, '--past-gate', '--as', 'Zoë, ticket 417'])).toMatchObject({
    code: 0,
    output: `${tag}  is being delivered past its gate\n`,
  });
  expect(await uploads(['redeliver', tag])).toMatchObject({ code: 0 });
  expect(admin.asked).toEqual([`redeliver ${id} past its gate`, `redeliver ${id}`]);
  expect(admin.log).toMatchObject([{ operator: 'Zoë, ticket 417' }, { operator: expect.stringMatching(/./) }]);
});

// Issue 9, §5.
describe('the token of the admin listener', () => {
  const TOKEN = 'the-token-of-the-test';
  let own: FakeAdmin;
  let file: string;
  beforeEach(async () => {
    own = await FakeAdmin.start({ token: TOKEN });
    file = join(directory.path, 'token');
    writeFileSync(file, `${TOKEN}\n`);
  });
  afterEach(() => own.listener.close());
  const at = () => new URL(own.listener.url).host;
  const write = (yaml: string) => {
    const config = join(directory.path, 'a.yaml');
    writeFileSync(config, `origin: http://a\n${yaml}`);
    return config;
  };

  test.each<[string, () => { line?: string[]; env?: Record<string, string> }]>([
    ['a flag', () => ({ line: ['--admin', at(), '--admin-token-file', file] })],
    ['a variable', () => ({ env: { RUFH_PROXY_ADMIN: at(), RUFH_PROXY_ADMIN_TOKEN_FILE: file } })],
    [
      'a variable, with a URL',
      () => ({ env: { RUFH_PROXY_ADMIN: own.listener.url, RUFH_PROXY_ADMIN_TOKEN_FILE: file } }),
    ],
    [
      'the configuration',
      () => ({ line: ['--config', write(`admin: { address: '${at()}', token_file: '${file}' }`)] }),
    ],
    [
      'the configuration, for another address',
      () => ({ line: ['--config', write(`admin: { token_file: '${file}' }`), '--admin', own.listener.url] }),
    ],
    [
      'a flag, in place of that in the configuration',
      () => ({
        line: ['--config', write(`admin: { address: '${at()}', token_file: /none }`), '--admin-token-file', file],
      }),
    ],
  ])('is found by %s', async (_, given) => {
    const { line = [], env = {} } = given();
    expect(await uploads(['list', ...line], env)).toEqual({ code: 0, output: 'no uploads\n', errors: '' });
  });

  test('that is not given, is another, or cannot be read is told with what to do', async () => {
    const other = join(directory.path, 'other');
    writeFileSync(other, 'another-token-of-letters');
    const none = await uploads(['list', '--admin', at()], {});
    expect([none.code, none.errors]).toEqual([
      1,
      expect.stringMatching(/requires a token: pass its file with --admin-token-file/),
    ]);
    const wrong = await uploads(['list', '--admin', at(), '--admin-token-file', other], {});
    expect([wrong.code, wrong.errors]).toEqual([1, expect.stringMatching(/does not accept this token/)]);
    const unread = await uploads(['list', '--admin', at(), '--admin-token-file', '/none'], {});
    expect([unread.code, unread.errors]).toEqual([
      2,
      'rufh-proxy: cannot use the admin token: cannot read /none: ENOENT\n',
    ]);
    expect([none, wrong, unread].map(({ errors }) => errors).join('')).not.toMatch(/the-token-of|another-token/);
  });
});

describe('the admin listener', () => {
  // A port that no other process is given.
  const nowhere = '127.0.0.1:1';

  test.each([
    ['a URL', (url: string) => url],
    ['an address', (url: string) => new URL(url).host],
  ])('is given as %s, which wins over the variable', async (_, given) => {
    const { code } = await uploads(['list', '--admin', given(admin.listener.url)], { RUFH_PROXY_ADMIN: nowhere });
    expect(code).toBe(0);
  });

  test('is taken from the configuration, whatever else is wrong with that', async () => {
    const file = join(directory.path, 'a.yaml');
    writeFileSync(file, `admin: ${new URL(admin.listener.url).host}\norigin: \${NOT_SET_HERE}\n`);
    expect((await uploads(['list', '--config', file], {})).code).toBe(0);
    expect((await uploads(['list'], { RUFH_PROXY_CONFIG: file })).code).toBe(0);
  });

  test.each([
    ['admin: false', /this configuration has no admin listener/],
    ['admin: 127.0.0.1:0', /picked a free port/],
    ['admin: nonsense', /admin: found "nonsense", expected HOST:PORT/],
  ])('that a configuration with %s does not tell ends with 2', async (line, message) => {
    const file = join(directory.path, 'a.yaml');
    writeFileSync(file, `${line}\norigin: http://a\n`);
    const { code, errors } = await uploads(['list', '--config', file], {});
    expect([code, errors]).toEqual([2, expect.stringMatching(message)]);
  });

  test('that nobody answers at ends with 2 and says what to look at', async () => {
    const { code, output, errors } = await uploads(['list', '--admin', nowhere]);
    expect([code, output]).toEqual([2, '']);
    expect(errors).toBe(
      `rufh-proxy: nothing answers at http://${nowhere} (ECONNREFUSED). Is the proxy running, and is this its admin listener? The proxy logs the address in its "listening" line; pass it with --admin.\n`,
    );
  });

  test.each([
    { command: ['list'], answer: 'hello', type: 'text/plain' },
    { command: ['list'], answer: '{"ok":true}', type: 'application/json' },
    { command: ['list'], answer: '{"uploads":3}', type: 'application/json' },
    { command: ['list'], answer: '[]', type: 'application/json' },
    // A listener for clients whose origin is down.
    { command: ['list'], answer: '{"detail":"The origin"}', type: 'application/problem+json', status: 502 },
    { command: ['show', '0123456789'], answer: '{"ok":true}', type: 'application/json' },
  ])('that is somebody else’s ends with 2: $command, $answer', async ({ command, answer, type, status = 200 }) => {
    const other = createServer((_, response) => response.writeHead(status, { 'Content-Type': type }).end(answer));
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`;
    const { code, errors } = await uploads([...command, '--admin', url]);
    other.close();
    expect(code).toBe(2);
    expect(errors).toContain(`rufh-proxy: ${url} is not the admin listener of a rufh-proxy. Is the proxy running`);
  });

  test('may be a URL in RUFH_PROXY_ADMIN', async () => {
    const { code, output } = await uploads(['list'], { RUFH_PROXY_ADMIN: admin.listener.url });
    expect([code, output]).toEqual([0, 'no uploads\n']);
  });

  test('that is no address is told', async () => {
    const { code, errors } = await uploads(['list', '--admin', 'over there']);
    expect([code, errors]).toEqual([
      2,
      'rufh-proxy: --admin: found "over there", expected a URL such as http://127.0.0.1:9090, HOST:PORT, or unix:/path for a Unix socket\n',
    ]);
  });

  test.each([
    [
      'speaks something else',
      'http',
      (socket: Socket) => socket.end('-ERR unknown command\r\n'),
      /does not answer in HTTP/,
    ],
    [
      'switches protocols',
      'http',
      (socket: Socket) => socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'),
      /switched to another protocol/,
    ],
    [
      'hangs up, as one that speaks TLS',
      'http',
      (socket: Socket) => socket.destroy(),
      /does not answer in HTTP; it may speak TLS/,
    ],
    [
      'speaks no TLS',
      'https',
      (socket: Socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'),
      /does not speak TLS/,
    ],
  ])('where somebody %s ends with 2 and says so', async (_what, scheme, answer, message) => {
    const somebody = createTcpServer((socket) =>
      socket.on('error', () => undefined).once('data', () => answer(socket)),
    );
    await once(somebody.listen(0, '127.0.0.1'), 'listening');
    const { port } = somebody.address() as AddressInfo;
    const { code, errors } = await uploads(['list', '--admin', `${scheme}://127.0.0.1:${port}`]);
    somebody.close();
    expect([code, errors]).toEqual([2, expect.stringMatching(message)]);
    expect(errors).not.toContain('nothing answers');
  });

  // Issue 9, §6.
  test.each([
    ...['over there', '/run/a.sock', 'unix:', 'UNIX:/run/a.sock', '9090', ':9090', 'localhost', '127.0.0.1:99999'],
    ...['http+unix://%2Frun%2Fa.sock', 'http://unix:/run/a.sock', 'http://'],
  ])('written as %s, which is no address, is told with every form that is one', (written) => {
    const told = `found "${written}", expected a URL such as http://127.0.0.1:9090, HOST:PORT, or unix:/path for a Unix socket`;
    const byVariable = resolveAdminTarget({ env: { RUFH_PROXY_ADMIN: written } });
    expect(byVariable).toEqual({ problem: `RUFH_PROXY_ADMIN: ${told}` });
    expect(resolveAdminTarget({ admin: written, env: {} })).toEqual({ problem: `--admin: ${told}` });
  });

  test('switched off by the variable is told', async () => {
    const { code, errors } = await uploads(['list'], { RUFH_PROXY_ADMIN: 'false' });
    expect([code, errors]).toEqual([2, expect.stringMatching(/this configuration has no admin listener/)]);
  });

  test('may be a Unix socket that is not for this user', async () => {
    const socketPath = join(directory.path, 'theirs.sock');
    const theirs = createServer().listen(socketPath);
    await once(theirs, 'listening');
    chmodSync(socketPath, 0);
    chmodSync(directory.path, 0o755);
    const asking = withoutRights(() => new AdminClient({ socketPath }).request('GET', '/uploads'));
    await expect(asking).rejects.toThrow(
      /^this user may not connect to unix:.*theirs\.sock \(EACCES\)\. Run the command as the user of the proxy.*admin\.mode/,
    );
    theirs.close();
  });

  test('may be a Unix socket', async () => {
    const { code, errors } = await uploads(['list', '--admin', `unix:${join(directory.path, 'no.sock')}`]);
    expect([code, errors]).toEqual([2, expect.stringMatching(/nothing answers at unix:.*no\.sock \(ENOENT\)/)]);
  });
});
