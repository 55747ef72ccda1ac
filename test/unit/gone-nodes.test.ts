import { beforeEach, describe, expect, test } from '@jest/globals';
import { LostNodes } from '../../src/cluster/lost-nodes.js';
import { Fault } from '../../src/model/fault.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { Metrics } from '../../src/observe/metrics.js';
import type { Lease } from '../../src/store/leases.js';
import type { UploadStore } from '../../src/store/upload-store.js';
import { REQUEST } from '../support/delivery-room.js';
import { FakeNodes } from '../support/fake-nodes.js';

const OWNER_TIMEOUT_MS = 60_000;

let nodes: FakeNodes;
let now: number;
let isStoreUnavailable: boolean;
let uploads: Map<string, Partial<Upload>>;
/** Runs when an upload of the node is about to be forgotten. */
let beforeEnd: () => void;
let gone: LostNodes;

beforeEach(() => {
  nodes = new FakeNodes();
  nodes.set('heir', {});
  nodes.set('other', { silentMs: 0 });
  now = 1_000_000;
  isStoreUnavailable = false;
  const known = { request: REQUEST, attempts: [], node: 'other', phase: 'receiving' } as const;
  uploads = new Map(['a', 'b'].map((id) => [id, { ...known, id }]));
  beforeEnd = () => undefined;
  gone = new LostNodes({
    self: 'heir',
    nodes: {
      all: () => (isStoreUnavailable ? Promise.reject(new Fault('STORE_UNAVAILABLE', 'away', true)) : nodes.all()),
      find: (name) => nodes.find(name),
      forget: (name) => nodes.forget(name),
    },
    leases: { take: () => Promise.resolve({ token: 1, release: () => Promise.resolve() } as Lease), drain: () => {} },
    storeOf: () => storeOfOther() as UploadStore,
    mayCheckLostNodes: () => Promise.resolve(true),
    ownerTimeoutMs: OWNER_TIMEOUT_MS,
    clock: Date.now,
    monotonic: () => now,
    metrics: new Metrics(),
    log: silentLog(),
  });
});

function storeOfOther(): Partial<UploadStore> {
  return {
    expired: () => Promise.resolve([...uploads.keys()]),
    get: (id) => {
      beforeEnd();
      return Promise.resolve(uploads.get(id) as Upload | undefined);
    },
    invalidate: (id) => Promise.resolve(uploads.get(id) as Upload),
    remove: (id) => Promise.resolve(void uploads.delete(id)),
    close: () => Promise.resolve(),
  };
}

/** As much time as the interval between two looks. */
async function lookAfter(ms: number): Promise<void> {
  now += ms;
  await gone.look().catch((error: unknown) => {
    if (!(error instanceof Fault)) throw error;
  });
}

async function watchFor(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 15_000) await lookAfter(15_000);
}

describe('a node that has been silent for longer than the owner timeout', () => {
  test('is forgotten with its uploads by one that has looked on all the time', async () => {
    await watchFor(OWNER_TIMEOUT_MS + 15_000);
    nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
    await lookAfter(15_000);
    await lookAfter(15_000);
    expect([uploads.size, await nodes.find('other')]).toEqual([0, undefined]);
  });

  test('is given the time to say something after Redis has come back with what it knew long ago', async () => {
    await watchFor(OWNER_TIMEOUT_MS + 15_000);
    nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
    await lookAfter(15_000);
    nodes.set('other', { silentMs: 0 });
    await lookAfter(15_000);
    nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
    await lookAfter(15_000);
    expect(uploads.size).toBe(2);
  });

  test('is given time after the store was away: nobody could be heard meanwhile', async () => {
    await watchFor(OWNER_TIMEOUT_MS + 15_000);
    isStoreUnavailable = true;
    await watchFor(OWNER_TIMEOUT_MS);
    isStoreUnavailable = false;
    nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
    await lookAfter(15_000);
    expect(uploads.size).toBe(2);
    await watchFor(OWNER_TIMEOUT_MS);
    expect(uploads.size).toBe(0);
  });

  test('is given time by one that has just started, or was stopped for a while', async () => {
    nodes.set('other', { silentMs: 10 * OWNER_TIMEOUT_MS });
    await watchFor(OWNER_TIMEOUT_MS / 2);
    await lookAfter(OWNER_TIMEOUT_MS);
    await watchFor(OWNER_TIMEOUT_MS / 2);
    expect(uploads.size).toBe(2);
  });

  test('keeps what is left when it comes back in the middle', async () => {
    await watchFor(OWNER_TIMEOUT_MS + 15_000);
    nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
    beforeEnd = () => nodes.set('other', { silentMs: 0 });
    await lookAfter(15_000);
    await lookAfter(15_000);
    expect([uploads.size, await nodes.find('other')]).toEqual([1, expect.objectContaining({ silentMs: 0 })]);
  });

  test('has no say about an upload that another node has by now', async () => {
    await watchFor(OWNER_TIMEOUT_MS + 15_000);
    nodes.set('other', { silentMs: OWNER_TIMEOUT_MS });
    uploads.set('a', { id: 'a', node: 'third', phase: 'receiving' });
    await lookAfter(15_000);
    await lookAfter(15_000);
    expect([...uploads.keys()]).toEqual(['a']);
  });
});
