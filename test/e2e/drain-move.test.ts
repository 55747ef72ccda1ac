import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { requestOnce } from '../support/client.js';
import { TestNodes } from '../support/nodes.js';
import { clientDialect, createUpload, ResumableUpload, type Send } from '../support/resumable-client.js';
import { SlowUpload } from '../support/rolling-restart.js';
import { randomBytes, sha256, until, within } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// Issue 4: a node with bytes of its own is emptied while it runs, and then stopped for good.
const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));
const DIALECT = clientDialect('10');
const BYTES = randomBytes(60_000);
const SLOW = 6;

let origin: TestOrigin;
let nodes: TestNodes;
beforeEach(async () => {
  origin = await startTestOrigin({ status: 201, headers: [['X-Origin', 'yes']], body: 'kept' });
  nodes = await TestNodes.start({ origin: origin.url, nodes: 2, bytes: 'node-local' });
});
afterEach(async () => {
  await nodes.stop();
  await origin.close();
});

const at =
  (url: string): Send =>
  (request) =>
    requestOnce(url, request);

/** An upload whose bytes are at the first node. */
const place = (target: string, count: number): Promise<ResumableUpload> =>
  createUpload(DIALECT, at(nodes.node('n1').url), { method: 'POST', target, body: BYTES.subarray(0, count) });

/** Runs the built command to its end. */
function drain(...line: string[]): Promise<{ code: number; output: string; errors: string }> {
  const env = { ...process.env, NODE_OPTIONS: '', RUFH_PROXY_CONFIG: '' };
  return new Promise((resolve) => {
    execFile(process.execPath, [BINARY, 'drain', ...line], { env, timeout: 50_000 }, (error, output, errors) => {
      resolve({ code: error ? Number(error.code) : 0, output, errors });
    });
  });
}

test('drain --move empties a node under load: uploads and answers go on with the other, and the node can be stopped', async () => {
  const [idle, ended] = [await place('/idle', 20_000), await place('/ended', 0)];
  expect((await ended.finish(BYTES)).status).toBe(201);
  const uploads = Array.from({ length: SLOW }, (_, number) => {
    const bytes = randomBytes(400_000, number + 1);
    return { bytes, client: new SlowUpload({ url: nodes.url, name: `slow-${number}`, bytes, bytesPerSecond: 60_000 }) };
  });
  const ends = new AbortController();
  const all = Promise.all(uploads.map(({ client }) => client.run(ends.signal)));
  all.catch(() => undefined);
  try {
    await until(() => uploads.every(({ client }) => client.isUnderWay), 'all to be under way', 20_000);
    const { code, output, errors } = await drain('--move', '--admin', nodes.node('n1').adminUrl);
    expect([code, errors]).toEqual([0, '']);
    expect(output).toMatch(/^the proxy accepts no new uploads\n/);
    const [, moved] = /\n(\d+) moved with \d[\d.]* [KM]iB, none is left\n$/.exec(output) ?? [];
    // Those of the slow clients are at both nodes.
    expect(Number(moved)).toBeGreaterThan(2);
    // Whose the spool is stays written there.
    expect(await readdir(join(nodes.data, 'n1', 'spool'))).toEqual(['.store']);
    expect(await nodes.holdersOf(idle)).toEqual(['n2']);
    expect(await nodes.kill('n1', 'SIGTERM')).toBe(0);
    expect((await within(all, 'all uploads to end', 40_000)).map(({ status }) => status)).toEqual(
      uploads.map(() => 201),
    );
  } finally {
    ends.abort(new Error('it is over'));
  }
  expect(uploads.map(({ client }) => client.creations)).toEqual(uploads.map(() => 1));
  const atOther = (upload: ResumableUpload): ResumableUpload => new ResumableUpload(DIALECT, at(nodes.url), upload.url);
  expect(await atOther(idle).offset()).toBe(20_000);
  expect((await atOther(idle).finish(BYTES)).status).toBe(201);
  const answer = await atOther(ended).append(BYTES.subarray(-1), { offset: BYTES.length - 1, complete: true });
  expect([answer.status, answer.body.toString()]).toEqual([201, 'kept']);
  const expected = [BYTES, BYTES, ...uploads.map(({ bytes }) => bytes)];
  expect(origin.requests.map((request) => request.sha256).sort()).toEqual(
    expected.map((bytes) => sha256(bytes)).sort(),
  );
});
