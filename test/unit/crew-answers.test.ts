import { expect, test } from '@jest/globals';
import type { Readiness } from '../../src/admin/admin.js';
import { PrimaryAdmin } from '../../src/workers/primary-admin.js';

const OK = { name: 'store', ok: true };
const RECORDS = { name: 'records', ok: false, problem: 'one cannot be read' };
const DRAINING = { name: 'draining', ok: false, problem: 'stopping' };

/** The readiness page of a program whose workers give these answers; undefined is one that does not listen. */
async function readinessOf(workers: readonly (Readiness | undefined)[]): Promise<object> {
  const slots = workers.map((readiness, at) => ({
    number: at + 1,
    listening: readiness && {
      ask: () => Promise.resolve({ about: 'request', answer: { status: 200, body: JSON.stringify(readiness) } }),
    },
  }));
  const [pool, figures] = [{ slots } as never, {} as never];
  const request = { method: 'GET', path: '/readyz', query: new URLSearchParams(), headers: {} };
  const { status, body } = await new PrimaryAdmin(pool, figures).answer(request);
  return { status, ...(JSON.parse(body!) as object) };
}

test.each<[what: string, worker: Readiness | undefined, ready: boolean, problem?: string]>([
  ['holds', { ready: true, checks: [OK] }, true],
  ['is only told', { ready: true, checks: [OK, RECORDS] }, true, 'records: one cannot be read'],
  ['fails', { ready: false, checks: [DRAINING, OK] }, false, 'draining: stopping'],
  [
    'fails beside one that is told',
    { ready: false, checks: [DRAINING, RECORDS] },
    false,
    'draining: stopping; records: one cannot be read',
  ],
  ['cannot be asked', undefined, false, 'it does not listen (yet)'],
])('what %s in a worker is told of it, and counts as much for all as for that worker', async (...row) => {
  const [, worker, ready, problem] = row;
  expect(await readinessOf([{ ready: true, checks: [OK] }, worker])).toEqual({
    status: ready ? 200 : 503,
    ready,
    checks: [
      { name: 'worker 1', ok: true },
      { name: 'worker 2', ok: problem === undefined, ...(problem === undefined ? {} : { problem }) },
    ],
  });
});
