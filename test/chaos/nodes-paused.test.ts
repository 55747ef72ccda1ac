import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from '@jest/globals';
import { type Bytes, SPOOLS, TestNodes } from '../support/nodes.js';
import { PausedWriter } from '../support/paused-writer.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

/** Longer than a lease; where the paused node only relays, it has none. */
const PAUSE_MS: Readonly<Record<Bytes, number>> = { shared: 9000, 'node-local': 3000 };

let origin: TestOrigin;
let nodes: TestNodes;

afterEach(async () => {
  await nodes.stop();
  await origin.close();
});

// Issue 4, item 3.
test.each(SPOOLS)(
  'a node that was paused in the middle of uploads, and goes on after they went on elsewhere, changes nothing (%s spool)',
  async (spool) => {
    origin = await startTestOrigin({ status: 201, body: 'made' });
    nodes = await TestNodes.start({
      isCuttable: true,
      origin: origin.url,
      bytes: spool,
      nodes: 2,
      program: 'short-claims',
      config: 'uploads: { rfc104: true }',
    });
    const bytes = randomBytes(900_000, 4);
    // Uploads belong to the first node, and the other one is paused: with node-local bytes it is but a relay.
    const [owner, paused] = [nodes.urlOf(0), nodes.urlOf(1)];
    const open = (name: string) => PausedWriter.open({ name, bytes, createdAt: owner, writesAt: paused });
    const [ends, half, cancels, late] = await Promise.all(['ends', 'half', 'cancels', 'late'].map(open));
    const writers = [ends!, half!, cancels!, late!];

    const { pid } = nodes.node(1);
    process.kill(pid, 'SIGSTOP');
    const pausedAt = Date.now();
    for (const writer of writers) await writer.sendUnread(300_000);

    // All of them go on at the other node.
    const offsets = await Promise.all(writers.map((writer) => writer.offsetAt(owner)));
    for (const [at, offset] of offsets.entries()) expect(offset).toBeGreaterThanOrEqual(writers[at]!.shown);
    expect((await ends!.finishAt(owner)).status).toBe(201);
    await half!.appendAt(owner, 700_000);
    expect((await cancels!.cancelAt(owner)).status).toBe(204);
    const request = await late!.requestUnread(offsets[3]!);
    await late!.appendAt(owner, 800_000);

    await sleep(Math.max(0, pausedAt + PAUSE_MS[spool] - Date.now()));
    process.kill(pid, 'SIGCONT');
    for (const writer of writers) await writer.sendRest();

    // Whoever was overtaken hears nothing that is not true.
    for (const writer of writers) expect(await writer.isGivenUp()).toBe(true);
    expect(await request.answer()).toMatchObject({ status: 409, offset: 800_000 });
    expect(await half!.offsetAt(paused)).toBe(700_000);
    expect(await late!.offsetAt(paused)).toBe(800_000);
    expect((await cancels!.retrieveAt(paused)).status).toBe(404);
    expect((await half!.finishAt(paused)).status).toBe(201);
    expect((await late!.finishAt(owner)).status).toBe(201);
    for (const node of [owner, paused]) expect((await ends!.repeatEndAt(node)).body.toString()).toBe('made');

    const whole = ['ends', 'half', 'late'].map((name) => [`/${name}`, sha256(bytes)]);
    expect(origin.requests.map((at) => [at.target, at.sha256]).sort()).toEqual(whole.sort());
  },
  120_000,
);
