import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { nodeFileSystem, useFileSystem } from '../../src/fs/files.js';
import { requestOnce } from '../support/client.js';
import { clientDialect, creationLines } from '../support/resumable-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

// Issue 11: 500 to 1,000 quick clients took 1 GiB of memory.
const MIB = 2 ** 20;
const CLIENTS = 100;
const CONTENT = randomBytes(2 * MIB);
const TOTAL_BYTES = 64 * MIB;
const READ_BYTES = 64 * 1024;

let origin: TestOrigin;
let app: TestApp;
/** Writes to the disk wait for it. */
let diskIsBack: Promise<void>;
let letGo: () => void;

beforeEach(async () => {
  diskIsBack = new Promise((resolve) => (letGo = resolve));
  useFileSystem({
    ...nodeFileSystem,
    writev: async (fd, buffers, position) => {
      await diskIsBack;
      return nodeFileSystem.writev(fd, buffers, position);
    },
  });
  origin = await startTestOrigin();
  app = await startTestApp({ origin: origin.url, config: 'admin: 127.0.0.1:0' });
});
afterEach(async () => {
  await app.stop();
  await origin.close();
  useFileSystem();
});

/** What `rufh_body_memory_bytes` says. */
async function bytesInMemory(): Promise<number> {
  const text = await (await fetch(new URL('/metrics', app.adminUrl))).text();
  return Number(/^rufh_body_memory_bytes (\d+)$/m.exec(text)![1]);
}

test('many quick clients of a disk that hangs hold a bounded number of bytes, and all are served when it is back', async () => {
  const headers = creationLines(clientDialect('10'), { complete: true });
  const uploads = Array.from({ length: CLIENTS }, (_, at) =>
    requestOnce(app.url, { method: 'POST', target: `/files/${at}`, headers, body: CONTENT }),
  );
  let most = 0;
  let unchanged = 0;
  // Without a bound they would hold 200 MiB.
  await until(async () => {
    const bytes = await bytesInMemory();
    unchanged = bytes === most ? unchanged + 1 : 0;
    most = Math.max(most, bytes);
    return most >= TOTAL_BYTES / 2 && unchanged >= 10;
  }, 'clients that wait');
  expect(most).toBeLessThanOrEqual(TOTAL_BYTES + CLIENTS * READ_BYTES);
  letGo();
  const answers = await Promise.all(uploads);
  expect(answers.map(({ status }) => status)).toEqual(Array(CLIENTS).fill(200));
  expect(new Set(origin.requests.map((request) => request.sha256))).toEqual(new Set([sha256(CONTENT)]));
  expect(origin.requests).toHaveLength(CLIENTS);
  expect(await bytesInMemory()).toBe(0);
});
