import { statSync } from 'node:fs';
import { appendFile, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { startLimitingHop } from '../support/limiting-hop.js';
import { CuttingProxy } from '../support/network.js';
import { startProxy } from '../support/proxy-process.js';
import {
  freePort,
  makeCertificate,
  randomBytes,
  sha256,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
} from '../support/temporary.js';
import { type OriginAnswer, type OriginRequest, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';
import { stateFiles, UploadCommand } from '../support/upload-command.js';

// Issue 13: the built command against whole proxies and an unchanged origin.

const MIB = 1024 * 1024;

let proxy: TestProxy;
beforeAll(async () => {
  proxy = await TestProxy.open({ config: 'delivery: { retry: { attempts: 1, first_delay: 100ms } }' });
});
afterAll(() => proxy.close());

let directory: TemporaryDirectory;
let relays: CuttingProxy[];
beforeEach(async () => {
  directory = await temporaryDirectory();
  relays = [];
});
afterEach(async () => {
  await Promise.all(relays.map((relay) => relay.stop()));
  await directory.remove();
});

let files = 0;
/** A new file in the directory, and a target of its own. */
async function newFile(size: number): Promise<{ name: string; path: string; target: string; hash: string }> {
  files += 1;
  const name = `film-${files}.mp4`;
  const path = join(directory.path, name);
  const bytes = randomBytes(size, files);
  await writeFile(path, bytes);
  return { name, path, target: `/command/${files}`, hash: sha256(bytes) };
}

function run(line: readonly string[], input?: Buffer): ReturnType<typeof UploadCommand.run> {
  return UploadCommand.run(line, { directory: directory.path, input });
}

function start(line: readonly string[]): UploadCommand {
  return UploadCommand.start(line, { directory: directory.path });
}

/** A network in front of a server, in which everything stops after so many bytes. */
async function stoppingAfter(
  bytes: number,
  url = proxy.app.url,
): Promise<{ relay: CuttingProxy; stopped: Promise<unknown> }> {
  const relay = await CuttingProxy.start(Number(new URL(url).port));
  relays.push(relay);
  const stopped = new Promise<void>((resolve) => {
    relay.onBytesThere = () => {
      if (relay.bytes < bytes) return;
      relay.onBytesThere = () => undefined;
      relay.hang();
      resolve();
    };
  });
  return { relay, stopped };
}

/** The requests that uploads became. The command asks with OPTIONS first, which the origin gets too. */
function requestsFor(target: string): OriginRequest[] {
  return proxy.requestsFor(target).filter(({ method }) => method !== 'OPTIONS');
}

function hashesOf(target: string): string[] {
  return requestsFor(target).map(({ sha256: hash }) => hash);
}

/** How the origin answers uploads. */
function answer(target: string, script: OriginAnswer | (() => OriginAnswer | Promise<OriginAnswer>)): void {
  proxy.answer(target, ({ method }) => {
    if (method === 'OPTIONS') return { status: 204 };
    return typeof script === 'function' ? script() : script;
  });
}

describe('rufh-proxy upload', () => {
  test('sends a file as one request, prints the answer, and shows progress elsewhere', async () => {
    const { name, target, hash } = await newFile(3 * MIB);
    answer(target, { status: 201, body: '{"id":7}' });
    const { code, output, errors } = await run([name, proxy.base + target]);
    expect([code, output]).toEqual([0, '{"id":7}']);
    expect(errors).toContain(`${name}: 100 %  3.0 MiB of 3.0 MiB  waiting for the answer\n`);
    expect(errors).toMatch(new RegExp(`^${name}: 201 Created  3\\.0 MiB in `, 'm'));
    expect(hashesOf(target)).toEqual([hash]);
    const [request] = requestsFor(target);
    expect([request!.method, request!.header('content-type'), request!.header('content-length')]).toEqual([
      'POST',
      'application/octet-stream',
      `${3 * MIB}`,
    ]);
    expect(stateFiles(directory.path)).toEqual([]);
  });

  test('sends several files in turn, with PUT under their own names, and prints an object for each', async () => {
    const [one, two] = [await newFile(1000), await newFile(0)];
    answer(`/folder/${two.name}`, { status: 500, body: 'full' });
    const url = `${proxy.base}/folder/`;
    const { code, output, errors } = await run(['-q', '--json', '-X', 'put', one.name, 'none', two.name, url]);
    const results = output
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as object);
    expect(results).toEqual([
      {
        file: one.name,
        url: url + one.name,
        ok: true,
        status: 200,
        size: 1000,
        seconds: expect.any(Number),
        body: 'ok',
      },
      { file: 'none', ok: false, error: 'there is no such file' },
      {
        file: two.name,
        url: url + two.name,
        ok: false,
        status: 500,
        size: 0,
        seconds: expect.any(Number),
        body: 'full',
      },
    ]);
    expect(code).toBe(1);
    expect(errors).toBe('rufh-proxy: none: there is no such file\n');
    expect(hashesOf(`/folder/${one.name}`)).toEqual([one.hash]);
    expect(hashesOf(`/folder/${two.name}`)).toEqual([two.hash]);
  });

  test.each([20 * MIB + 5, 16 * MIB, 0])(
    'sends %d bytes of standard input, whose length it does not know',
    async (size) => {
      const target = `/command/stdin-${size}`;
      const bytes = randomBytes(size, 5);
      const { code, output } = await run(['-', proxy.base + target], bytes);
      expect([code, output]).toEqual([0, 'ok']);
      expect(hashesOf(target)).toEqual([sha256(bytes)]);
      expect(stateFiles(directory.path)).toEqual([]);
    },
  );

  test('sends a file as the field of a form', async () => {
    const { path, target } = await newFile(70_000);
    const { code } = await run(['--form', 'pho"to', '--type', 'video/mp4', path, proxy.base + target]);
    expect(code).toBe(0);
    const [request] = requestsFor(target);
    const [, boundary] = /^multipart\/form-data; boundary=(\S+)$/.exec(request!.header('content-type')!)!;
    const disposition = `form-data; name="pho%22to"; filename="film-${files}.mp4"`;
    const head = `--${boundary!}\r\nContent-Disposition: ${disposition}\r\nContent-Type: video/mp4\r\n\r\n`;
    const expected = Buffer.concat([Buffer.from(head), await readFile(path), Buffer.from(`\r\n--${boundary!}--\r\n`)]);
    expect(request!.body.equals(expected)).toBe(true);
    expect(request!.header('content-length')).toBe(`${expected.length}`);
  });

  test('sends standard input as the field of a form', async () => {
    const { code } = await run(['--form', 'log', '-', `${proxy.base}/command/form-stdin`], Buffer.from('a\nb'));
    expect(code).toBe(0);
    const [request] = requestsFor('/command/form-stdin');
    expect(request!.body.toString()).toContain(
      'filename="stdin"\r\nContent-Type: application/octet-stream\r\n\r\na\nb\r\n--',
    );
  });

  test('sends header fields from the command line and from a file, and credentials', async () => {
    const { name, target } = await newFile(10);
    await writeFile(join(directory.path, 'headers.txt'), 'X-Token: abc\n\nX-More: 1: 2\r\n');
    const line = ['-H', 'Content-Type: video/mp4', '-H', '@headers.txt', '-u', 'me:pass word', '-o', 'out', name];
    const { code, output } = await run([...line, proxy.base + target]);
    expect([code, output]).toEqual([0, '']);
    expect(await readFile(join(directory.path, 'out'), 'utf8')).toBe('ok');
    const [request] = requestsFor(target);
    const sent = ['content-type', 'x-token', 'x-more', 'authorization'].map((field) => request!.header(field));
    expect(sent).toEqual(['video/mp4', 'abc', '1: 2', `Basic ${Buffer.from('me:pass word').toString('base64')}`]);
    const other = await newFile(10);
    await run([other.name, `${proxy.base.replace('://', '://you:s%20t@')}${other.target}`]);
    const authorization = requestsFor(other.target)[0]!.header('authorization');
    expect(authorization).toBe(`Basic ${Buffer.from('you:s t').toString('base64')}`);
  });

  test.each([422, 500])('exits with 1 when the origin answers %d, whose body it prints', async (status) => {
    const { name, hash } = await newFile(100);
    const target = `/command/status-${status}`;
    answer(target, { status, body: 'not a film' });
    const { code, output } = await run([name, proxy.base + target]);
    expect([code, output]).toEqual([1, 'not a film']);
    expect(hashesOf(target)).toEqual([hash]);
    expect(stateFiles(directory.path)).toEqual([]);
  });

  test.each([
    [['film.mp4'], 'the last argument has to be the URL (http://… or https://…), found "film.mp4"'],
    [['http://127.0.0.1:1/'], 'no file was given: rufh-proxy upload FILE... URL'],
    [['-H', 'nonsense', 'a', 'http://127.0.0.1:1/'], '--header: found "nonsense", expected "Name: value"'],
    [['-H', 'Content-Length: 5', 'a', 'http://127.0.0.1:1/'], '--header: Content-Length cannot be set'],
    [['-', '-', 'http://127.0.0.1:1/'], 'standard input can be sent only once'],
    [['-o', 'x', 'a', 'b', 'http://127.0.0.1:1/'], '--output takes the answer to one file, and several were given'],
    [
      ['--form', 'a', '-H', 'Content-Type: x/y', 'a', 'http://127.0.0.1:1/'],
      '--form sets the Content-Type; the media type of the file is set with --type',
    ],
  ])('explains a wrong command (%#)', async (line, problem) => {
    const { code, errors } = await run(line);
    expect([code, errors]).toEqual([2, `rufh-proxy: ${problem}\n`]);
  });

  test('exits with 2 when nothing answers, at once', async () => {
    const { name } = await newFile(10);
    const url = `http://127.0.0.1:${await freePort()}/x`;
    const { code, errors } = await run([name, url]);
    expect(code).toBe(2);
    expect(errors).toMatch(`rufh-proxy: ${name}: ${url} cannot be reached: connect ECONNREFUSED`);
  });

  test('sends nothing to a server that takes no resumable uploads', async () => {
    const origin = await startTestOrigin();
    const { name } = await newFile(10);
    const { url } = origin;
    const { code, errors } = await run([name, `${url}/x`]);
    await origin.close();
    expect(code).toBe(1);
    expect(errors).toContain(`${url}/x takes no resumable uploads: its answer to OPTIONS (200) has no Upload-Limit`);
    expect(origin.requests.map(({ method }) => method)).toEqual(['OPTIONS']);
  });

  test('trusts the certificate of --cacert, and names the option where it is missing', async () => {
    const { cert, key } = makeCertificate();
    const [certFile, keyFile] = [join(directory.path, 'cert.pem'), join(directory.path, 'key.pem')];
    await Promise.all([writeFile(certFile, cert), writeFile(keyFile, key, { mode: 0o600 })]);
    const listen = `listen: [{ address: 127.0.0.1:0, tls: { cert: ${certFile}, key: ${keyFile} } }]`;
    const secure = await startTestApp({ origin: proxy.origin.url, config: listen });
    const { name, target, hash } = await newFile(10);
    const url = `${secure.url}${target}`;
    const distrusting = await run([name, url]);
    const trusting = await run(['--cacert', certFile, name, url]);
    await secure.stop();
    expect(distrusting.code).toBe(2);
    expect(distrusting.errors).toContain('--cacert FILE trusts the certificate of your own server');
    expect([trusting.code, trusting.output]).toEqual([0, 'ok']);
    expect(hashesOf(target)).toEqual([hash]);
  });
});

describe('a file of its own that the command cannot use', () => {
  test('is named, with the reason: the directory of the states', async () => {
    const { name, target } = await newFile(1000);
    await writeFile(join(directory.path, 'rufh-proxy'), 'a file in the way');
    const { code, errors } = await run([name, proxy.base + target]);
    expect(code).toBe(1);
    expect(errors).toMatch(/^rufh-proxy: \S+: ENOTDIR: not a directory, open '.*\.json'\n$/);
    expect(requestsFor(target)).toEqual([]);
  });

  test('is named, with the reason: the file for the answer', async () => {
    const { name, target, hash } = await newFile(1000);
    const { code, errors } = await run(['--output', 'no/such/folder', name, proxy.base + target]);
    expect(code).toBe(1);
    expect(errors).toMatch(/^rufh-proxy: \S+: ENOENT: no such file or directory, open 'no\/such\/folder'$/m);
    expect(hashesOf(target)).toEqual([hash]);
  });
});

describe('limits on the way', () => {
  let limited: TestApp;
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await startTestOrigin();
    limited = await startTestApp({ origin: origin.url, config: 'limits: { max_append_size: 1MiB, max_size: 8MiB }' });
  });
  afterAll(async () => {
    await limited.stop();
    await origin.close();
  });

  test('the largest append of the server is obeyed', async () => {
    const { name, hash } = await newFile(5 * MIB + 3);
    expect((await run([name, `${limited.url}/x`])).code).toBe(0);
    expect(origin.requests.filter(({ method }) => method === 'POST').map(({ sha256: hash }) => hash)).toEqual([hash]);
  });

  test('a file that is too large is refused before it is sent', async () => {
    const { name } = await newFile(9 * MIB);
    const { code, output } = await run([name, `${limited.url}/large`]);
    expect(code).toBe(1);
    expect(output).toContain('An upload may have at most 8388608 bytes here.');
  });

  test.each(['file', 'standard input'])('a hop that refuses large bodies gets smaller ones of a %s', async (kind) => {
    const hop = await startLimitingHop(proxy.app.url, 3_000_000);
    const { name, path, target, hash } = await newFile(20 * MIB);
    const { code, errors } =
      kind === 'file' ? await run([name, hop.url + target]) : await run(['-', hop.url + target], await readFile(path));
    await hop.close();
    expect([code, errors.includes('rufh-proxy:')]).toEqual([0, false]);
    expect(hop.sizes[0]).toBe(kind === 'file' ? 20 * MIB : 8 * MIB);
    expect(hashesOf(target)).toEqual([hash]);
  });
});

describe('interruptions', () => {
  test('a network that is cut in the middle only delays the upload', async () => {
    const { name, target, hash } = await newFile(40 * MIB);
    const { relay, stopped } = await stoppingAfter(20 * MIB);
    const command = start([name, relay.url + target]);
    await stopped;
    await relay.cut();
    await until(() => command.errors.includes('tries again in'), 'the command to notice');
    await relay.restore();
    expect(await command.exited).toBe(0);
    expect(hashesOf(target)).toEqual([hash]);
  });

  test('a network that is cut while standard input is sent loses nothing', async () => {
    const { path, target, hash } = await newFile(40 * MIB);
    const { relay, stopped } = await stoppingAfter(20 * MIB);
    const running = UploadCommand.run(['-', relay.url + target], {
      directory: directory.path,
      input: await readFile(path),
    });
    await stopped;
    await relay.cut();
    await relay.restore();
    expect((await running).code).toBe(0);
    expect(hashesOf(target)).toEqual([hash]);
  });

  test('a proxy that is killed and started again continues', async () => {
    const origin = await startTestOrigin({ status: 201, body: 'done' });
    let own = await startProxy({ origin: origin.url });
    const { name, hash } = await newFile(40 * MIB);
    const { relay, stopped } = await stoppingAfter(20 * MIB, own.url);
    const command = start([name, `${relay.url}/x`]);
    await stopped;
    await own.kill();
    await relay.restore();
    own = await own.restart();
    expect(await command.exited).toBe(0);
    expect(command.output).toBe('done');
    const posts = origin.requests.filter(({ method }) => method === 'POST');
    expect(posts.map(({ sha256: received }) => received)).toEqual([hash]);
    await own.stop();
    await origin.close();
  });

  test.each<[NodeJS.Signals, number | NodeJS.Signals]>([
    ['SIGKILL', 'SIGKILL'],
    ['SIGINT', 130],
  ])('after %s the same command continues, and keeps its state to itself', async (signal, code) => {
    const { name, target, hash } = await newFile(40 * MIB);
    const { relay, stopped } = await stoppingAfter(30 * MIB);
    const first = start(['--form', 'film', name, relay.url + target]);
    await stopped;
    expect(await first.kill(signal)).toBe(code);
    if (signal === 'SIGINT')
      expect(first.errors).toContain(`${name}: interrupted; run the same command again to continue\n`);
    const [state] = stateFiles(directory.path);
    expect(statSync(state!).mode & 0o777).toBe(0o600);
    expect(requestsFor(target)).toEqual([]);
    await relay.restore();
    const bytesBefore = relay.bytes;
    const second = await run(['--form', 'film', name, relay.url + target]);
    expect(second.code).toBe(0);
    expect(second.errors).toMatch(/continues at [1-9]/);
    expect(relay.bytes - bytesBefore).toBeLessThan(39 * MIB);
    expect(requestsFor(target)).toHaveLength(1);
    expect(requestsFor(target)[0]!.size).toBeGreaterThan(40 * MIB);
    expect(stateFiles(directory.path)).toEqual([]);
    expect(hash).toBe(sha256(await readFile(join(directory.path, name))));
  });

  test('a file that has changed meanwhile is sent from its beginning', async () => {
    const { name, path, target } = await newFile(40 * MIB);
    const { relay, stopped } = await stoppingAfter(30 * MIB);
    const first = start([name, relay.url + target]);
    await stopped;
    await first.kill();
    await relay.restore();
    await appendFile(path, 'more');
    const { code, errors } = await run([name, relay.url + target]);
    expect(code).toBe(0);
    expect(errors).toContain('the file has changed since its upload was interrupted, so it is sent from its beginning');
    expect(hashesOf(target)).toEqual([sha256(await readFile(path))]);
  });

  test('a file that changes while it is sent never reaches the origin', async () => {
    const { name, path, target } = await newFile(40 * MIB);
    const { relay, stopped } = await stoppingAfter(10 * MIB);
    const command = start([name, relay.url + target]);
    await stopped;
    await utimes(path, new Date(), new Date(0));
    await relay.restore();
    expect(await command.exited).toBe(1);
    expect(command.errors).toContain(
      'was changed while it was being sent; run the command again to send it from its beginning',
    );
    expect(requestsFor(target)).toEqual([]);
    expect(stateFiles(directory.path)).toEqual([]);
  });

  test('an answer that is lost, or breaks off, is asked for again', async () => {
    const { name, target, hash } = await newFile(1000);
    const relay = await CuttingProxy.start(Number(new URL(proxy.app.url).port));
    relays.push(relay);
    answer(target, async () => {
      await relay.cut();
      await relay.restore();
      return { status: 201, body: 'film 8' };
    });
    const { code, output } = await run([name, relay.url + target]);
    expect([code, output]).toEqual([0, 'film 8']);
    expect(hashesOf(target)).toEqual([hash]);
  });

  test('a request that the origin may have processed is sent again only by another command', async () => {
    const { name, target, hash } = await newFile(1000);
    let times = 0;
    answer(target, () => ((times += 1) === 1 ? { hangUp: true } : { status: 201, body: 'again' }));
    const first = await run([name, proxy.base + target]);
    expect(first.code).toBe(1);
    expect(first.output).toContain('may have taken it');
    expect(hashesOf(target)).toEqual([hash]);
    const later = [await run([name, proxy.base + target]), await run([name, proxy.base + target])];
    expect(later.at(-1)!.output).toBe('again');
    expect(times).toBe(2);
  });

  test('ends when too many attempts fail, and the same command continues later', async () => {
    const { name, target, hash } = await newFile(40 * MIB);
    const { relay, stopped } = await stoppingAfter(20 * MIB);
    const command = start(['--retries', '1', name, relay.url + target]);
    await stopped;
    await relay.cut();
    expect(await command.exited).toBe(1);
    expect(command.errors).toMatch(/rufh-proxy: .*; run the same command again to continue\n$/);
    await relay.restore();
    expect((await run([name, relay.url + target])).code).toBe(0);
    expect(hashesOf(target)).toEqual([hash]);
  });
});
