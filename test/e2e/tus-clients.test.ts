import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { CuttingProxy } from '../support/network.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { randomBytes, sha256, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

/** Long enough that a client is in the middle of it when the connection is cut. */
const FILE = randomBytes(6 * 1024 * 1024 + 5, 3);
const CUT_AT = 2.5 * 1024 * 1024;

const programs = fileURLToPath(new URL('./tus-clients/', import.meta.url));
const installed = fileURLToPath(new URL('../../.cache/tus-clients/', import.meta.url));

/**
 * Real clients of other languages. Of those in Go, the module proxy refuses eventials/go-tus, its forks and tusgo; tusd
 * brings neither a client nor its load tester, and rclone's client does not resume.
 */
interface Client {
  readonly name: string;
  readonly command: readonly string[];
  /** What it prints when the origin has answered 201 with `stored`. */
  readonly success: string;
  /** What it prints when the origin has answered 422 with `no cats`. */
  readonly failure: string;
  /** It takes only the status of the protocol, which an answer without content gets. */
  readonly wantsNoContent?: true;
}

const CLIENTS: readonly Client[] = [
  {
    name: 'tuspy, with checksums',
    command: ['python3', join(programs, 'upload_tuspy.py')],
    success: '201 stored',
    failure: '422 no cats',
  },
  {
    name: 'tus.py',
    command: ['python3', join(programs, 'upload_tus_py.py')],
    success: 'done',
    failure: '422 no cats',
    wantsNoContent: true,
  },
  {
    name: 'tus-java-client',
    command: ['java', '-cp', join(installed, 'tus-java-client.jar'), join(programs, 'UploadTusJava.java')],
    success: 'done',
    failure: '422',
  },
  {
    name: 'tus_client, in Rust',
    command: [join(installed, 'upload_tus_rust')],
    success: 'done',
    failure: '422',
    wantsNoContent: true,
  },
];

let origin: TestOrigin;
let proxy: ProxyProcess;
let network: CuttingProxy;
let directory: TemporaryDirectory;
let file: string;

beforeAll(async () => {
  directory = await temporaryDirectory('rufh-tus-clients-');
  file = join(directory.path, 'file.bin');
  await writeFile(file, FILE);
  origin = await startTestOrigin();
  proxy = await startProxy({ origin: origin.url, config: "delivery: { target: '{path}?name={filename}' }\n" });
  network = await CuttingProxy.start(Number(new URL(proxy.url).port));
});
afterAll(async () => {
  await network.stop();
  await proxy.stop();
  await origin.close();
  await directory.remove();
});
beforeEach(() => {
  origin.requests.length = 0;
  network.onBytesThere = () => undefined;
});

interface Ending {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

/** Runs a client to its end; its file goes through the network that can be cut. */
function run({ command }: Client): Promise<Ending> {
  const [program, ...args] = command;
  const child = spawn(program!, [...args, `${network.url}/files`, file], {
    env: { ...process.env, PYTHONPATH: join(installed, 'python'), PYTHONIOENCODING: 'utf-8' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [output, errors]: Buffer[][] = [[], []];
  child.stdout.on('data', (bytes: Buffer) => output!.push(bytes));
  child.stderr.on('data', (bytes: Buffer) => errors!.push(bytes));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) =>
      resolve({ code, output: Buffer.concat(output!).toString().trim(), errors: Buffer.concat(errors!).toString() }),
    );
  });
}

/** Cuts every connection when this many more bytes have come; gives how often it did. */
function cutOnce(): { times: number } {
  const cuts = { times: 0 };
  let seen = 0;
  network.onBytesThere = ({ length }) => {
    seen += length;
    if (seen < CUT_AT || cuts.times > 0) return;
    cuts.times = 1;
    void network.cut().then(() => network.restore());
  };
  return cuts;
}

describe.each(CLIENTS)('$name', (client) => {
  test('resumes after a cut, and the origin gets one ordinary request', async () => {
    origin.answerWith({ status: 201, body: client.wantsNoContent ? '' : 'stored' });
    const cuts = cutOnce();
    const { code, output, errors } = await run(client);
    expect([code, output, code === 0 ? '' : errors]).toEqual([0, client.success, '']);
    expect(cuts.times).toBe(1);
    expect(origin.requests).toHaveLength(1);
    const [request] = origin.requests;
    expect(request).toMatchObject({ method: 'POST', target: '/files?name=%C3%A4%20b.png', size: FILE.length });
    expect(request!.sha256).toBe(sha256(FILE));
    expect(request!.header('Content-Type')).toBe('image/png');
    expect(request!.headers.filter(([name]) => /^(?:tus|upload)-/i.test(name))).toEqual([]);
  });

  test('learns that the origin has refused the file, which got it once', async () => {
    origin.answerWith({ status: 422, body: 'no cats' });
    const { code, output } = await run(client);
    expect([code, output]).toEqual([1, client.failure]);
    expect(origin.requests).toHaveLength(1);
  });
});
