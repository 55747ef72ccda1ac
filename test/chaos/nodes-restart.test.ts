import { afterEach, expect, test } from '@jest/globals';
import { TestNodes } from '../support/nodes.js';
import { PausedWriter } from '../support/paused-writer.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

/** So many that waiting for the lease of each, one after the other, would make the start look like a failure. */
const UPLOADS = 15;

let origin: TestOrigin;
let nodes: TestNodes;

afterEach(async () => {
  await nodes.stop();
  await origin.close();
});

test('a node that died with many uploads under way is soon back with all of them', async () => {
  origin = await startTestOrigin({ status: 201 });
  const config = 'uploads: { rfc104: true }';
  nodes = await TestNodes.start({ isCuttable: true, origin: origin.url, bytes: 'node-local', nodes: 1, config });
  const url = nodes.urlOf(0);
  const bytes = randomBytes(400_000, 6);
  const names = Array.from({ length: UPLOADS }, (_, at) => `upload-${at}`);
  const open = (name: string) => PausedWriter.open({ name, bytes, createdAt: url, writesAt: url });
  const writers = await Promise.all(names.map(open));
  await nodes.node(0).kill();
  await nodes.restart(0);
  for (const writer of writers) {
    expect(await writer.offsetAt(url)).toBeGreaterThanOrEqual(writer.shown);
    expect((await writer.finishAt(url)).status).toBe(201);
  }
  expect(origin.requests.map((request) => request.sha256)).toEqual(writers.map(() => sha256(bytes)));
}, 90_000);
