import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { RelayedAnswer } from '../../src/model/messages.js';
import { ReceivingRoom } from '../support/receiving-room.js';
import { StoreReach } from '../support/store-reach.js';
import { sha256, temporaryDirectory, type TemporaryDirectory, until, within } from '../support/temporary.js';
import { UploadWorld } from '../support/upload-world.js';
import { UploadWriters } from '../support/upload-writers.js';

/** Clients take "offset = length" for success, so what they call the end is not shown as long as it is not. */
const END = { complete: true } as const;

const FORBIDDEN: RelayedAnswer = {
  status: 403,
  reason: 'Forbidden',
  headers: [],
  bodySize: 0,
  body: (async function* () {})(),
  trailers: () => [],
};

describe('the end of a body, known with its last bytes, of an upload whose length nobody declared', () => {
  let room: ReceivingRoom;

  beforeEach(async () => {
    room = await ReceivingRoom.open({ reach: new StoreReach(), pace: { bytes: 0, everyMs: 0 } });
  });
  afterEach(() => room.close());

  test('is not shown to a client that is turned away with it, and that completes it later', async () => {
    const id = await room.empty();
    const turnAway = { mayComplete: () => Promise.resolve(FORBIDDEN) };
    expect(await room.send(id, 'hello', END, turnAway)).toMatchObject({ kind: 'turned-away' });
    expect(await room.head(id)).toMatchObject({ kind: 'retrieved', upload: { phase: 'receiving', offset: 4 } });
    expect(await room.send(id, 'o', { ...END, offset: 4 })).toMatchObject({ kind: 'pending', upload: { offset: 5 } });
  });

  test('is not shown to a request that comes while it is looked at, and passes it over', async () => {
    const id = await room.empty();
    let asked = false;
    const decide = new Promise<undefined>(() => undefined);
    const { stream } = room.append(id, END, { mayComplete: () => ((asked = true), decide) });
    stream.push('hello');
    stream.push(null);
    await until(() => asked, 'the question whether it may complete');
    expect(await within(room.head(id), 'the offset')).toMatchObject({ upload: { phase: 'receiving', offset: 4 } });
  });

  test('counts with its digest', async () => {
    const id = await room.empty({ reprDigests: [{ algorithm: 'sha-256', value: sha256(Buffer.from('hello')) }] });
    const outcome = await room.send(id, 'hello', END);
    expect(outcome).toMatchObject({
      kind: 'pending',
      upload: { offset: 5, heldBack: { lastByte: 'o'.charCodeAt(0) } },
    });
  });
});

describe('a process that dies over the completion', () => {
  let directory: TemporaryDirectory;

  beforeEach(async () => (directory = await temporaryDirectory()));
  afterEach(() => directory.remove());

  test.each([true, false])('counts nothing that was not committed, with its length declared: %j', async (length) => {
    const options = { directory: join(directory.path, 'data'), pace: { bytes: 0, everyMs: 0 }, graceMs: 60_000 };
    const world = await UploadWorld.open(options);
    const writers = new UploadWriters(world, Buffer.from('hello'), { length, digest: false });
    await writers.create(0, { complete: true, isSized: false, isDigested: false });
    world.gate.hold();
    writers.end(0);
    // The file is made, written and synced; then comes the commit.
    for (let stops = 0; stops < 6; stops++) {
      await world.gate.quiet();
      world.gate.letGo(0);
    }
    writers.forget();
    await world.kill();
    const next = await UploadWorld.open(options);
    const asked = await next.uploads.retrieve({ kind: 'retrieve', id: writers.id });
    expect(asked).toMatchObject({ kind: 'retrieved', upload: { phase: 'receiving', offset: 0 } });
    await next.close();
  });
});
