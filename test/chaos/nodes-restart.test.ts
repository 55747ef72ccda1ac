import { afterEach, expect, test } from '@jest/globals';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { NodesStage } from '../support/nodes-stage.js';
import { PausedWriter } from '../support/nodes-writer.js';
import { randomBytes, sha256 } from '../support/temporary.js';

/** So many that waiting for the lease of each, one after the other, would make the start look like a failure. */
const UPLOADS = 15;

let origin: FakeOrigin;
let stage: NodesStage;

afterEach(async () => {
  await stage.close();
  await origin.close();
});

test('a node that died with many uploads under way is soon back with all of them', async () => {
  origin = await startFakeOrigin({ status: 201 });
  const config = 'uploads: { rfc104: true }';
  stage = await NodesStage.open({ origin: origin.url, spool: 'node-local', nodes: 1, config });
  const url = stage.url(0);
  const bytes = randomBytes(400_000, 6);
  const names = Array.from({ length: UPLOADS }, (_, at) => `upload-${at}`);
  const open = (name: string) => PausedWriter.open({ name, bytes, createdAt: url, writesAt: url });
  const writers = await Promise.all(names.map(open));
  await stage.node(0).kill();
  await stage.revive(0);
  for (const writer of writers) {
    expect(await writer.offsetAt(url)).toBeGreaterThanOrEqual(writer.shown);
    expect((await writer.finishAt(url)).status).toBe(201);
  }
  expect(origin.requests.map((request) => request.sha256)).toEqual(writers.map(() => sha256(bytes)));
}, 90_000);
