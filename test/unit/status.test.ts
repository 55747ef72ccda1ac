import { expect, test } from '@jest/globals';
import type { Status } from '../../src/admin/status.js';
import { PrimaryAdmin } from '../../src/workers/primary-admin.js';

/** The status of a node whose workers give these; undefined is one that does not listen. */
async function statusOf(workers: readonly (Partial<Status> | undefined)[]): Promise<{ status: number; body: object }> {
  const slots = workers.map((status, index) => ({
    number: index + 1,
    listening: status && {
      request: () => Promise.resolve({ about: 'request', response: { status: 200, body: JSON.stringify(status) } }),
    },
  }));
  const listening = slots.flatMap((slot) => slot.listening ?? []);
  const pool = { slots, listening, next: () => listening[0] } as never;
  const request = { method: 'GET', path: '/status', query: new URLSearchParams(), headers: {} };
  const { status, body } = await new PrimaryAdmin(pool, {} as never, () => undefined).respond(request);
  return { status, body: JSON.parse(body!) as object };
}

const at = (origin: string, breaker: 'closed' | 'open' | 'probing') => ({ origin, breaker, active: 1, queued: 2 });

test('the status of a node has the origins of all its workers, each in its worst state', async () => {
  const { status, body } = await statusOf([
    { version: '1', origins: [at('http://a', 'closed'), at('http://b', 'open')] },
    undefined,
    { version: '1', origins: [at('http://b', 'closed'), at('http://a', 'probing'), at('http://c', 'closed')] },
  ]);
  expect(status).toBe(200);
  expect(body).toEqual({
    version: '1',
    origins: [
      { origin: 'http://a', breaker: 'probing', active: 2, queued: 4 },
      { origin: 'http://b', breaker: 'open', active: 2, queued: 4 },
      { origin: 'http://c', breaker: 'closed', active: 1, queued: 2 },
    ],
    workers: [
      { number: 1, listening: true },
      { number: 2, listening: false },
      { number: 3, listening: true },
    ],
  });
});

test('a node without a worker that listens has no status', async () => {
  expect((await statusOf([undefined])).status).toBe(503);
});
