import { PassThrough } from 'node:stream';
import { describe, expect, test } from '@jest/globals';
import { BodyMemory } from '../../src/uploads/body-memory.js';
import { Body } from '../../src/uploads/request-body.js';
import { until } from '../support/temporary.js';

const KIB = 1024;
const READ = 64 * KIB;

/** A client that sends as fast as its body is read, in pieces as large as one read of a socket. */
function quickBody(memory: BodyMemory): Body {
  const stream = new PassThrough({ highWaterMark: READ });
  const send = (): void => {
    while (stream.write(Buffer.alloc(READ)));
  };
  stream.on('drain', send);
  return new Body(stream, { memory, idleMs: 60_000, onFirstRead: send });
}

async function take(body: Body): Promise<number> {
  const batch = (await body.next()) ?? [];
  return batch.reduce((sum, { length }) => sum + length, 0);
}

describe('the memory of all bodies', () => {
  test('is bounded, but every body gets one read', async () => {
    const memory = new BodyMemory(4 * READ);
    const bodies = Array.from({ length: 10 }, () => quickBody(memory));
    const taken = await Promise.all(bodies.map(take));
    expect(taken.every((bytes) => bytes >= READ)).toBe(true);
    expect(memory.bytes).toBeGreaterThanOrEqual(10 * READ);
    expect(memory.bytes).toBeLessThanOrEqual((4 + 10) * READ);
    for (const body of bodies) body.close();
    expect(memory.bytes).toBe(0);
  });

  test('is shared equally, also with a body that comes late', async () => {
    const memory = new BodyMemory(16 * READ);
    const first = quickBody(memory);
    await take(first);
    await until(() => memory.bytes >= 16 * READ, 'a body that uses everything');
    const late = quickBody(memory);
    for (let rounds = 0; rounds < 20; rounds++) {
      late.free(await take(late));
      expect(memory.bytes).toBeLessThanOrEqual(18 * READ);
    }
    first.close();
    late.close();
  });

  test.each([
    ['everything', 0],
    ['all but the byte that is kept back', 1],
  ])('lets a body go on that has written %s, although others hold the rest', async (_what, keptBytes) => {
    const memory = new BodyMemory(2 * READ);
    const stuck = Array.from({ length: 4 }, () => quickBody(memory));
    for (const body of stuck) await take(body);
    const body = quickBody(memory);
    let writtenBytes = 0;
    for (let rounds = 0; rounds < 20; rounds++) {
      const bytes = await take(body);
      body.free(bytes - (rounds === 0 ? keptBytes : 0));
      writtenBytes += bytes;
    }
    expect(writtenBytes).toBeGreaterThanOrEqual(20 * READ);
    for (const other of stuck) other.close();
    body.close();
    expect(memory.bytes).toBe(0);
  });

  test('wakes those that wait in their order, as many as there is room for', () => {
    const memory = new BodyMemory(8 * READ);
    const woken: number[] = [];
    const full = memory.open(() => undefined);
    const shares = [0, 1, 2].map((number) => memory.open(() => woken.push(number)));
    for (const share of shares) share.add(READ);
    full.add(5 * READ);
    expect(shares.map(({ hasRoom }) => hasRoom)).toEqual([false, false, false]);
    for (const share of shares) share.waitForRoom();
    full.free(READ);
    expect(woken).toEqual([0]);
    shares[0]!.add(READ);
    shares[0]!.waitForRoom();
    full.free(2 * READ);
    expect(woken).toEqual([0, 1, 2]);
  });
});
