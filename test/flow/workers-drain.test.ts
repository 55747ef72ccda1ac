import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { startCrew, workerPids } from '../support/crew.js';
import { type FakeOrigin, startFakeOrigin } from '../support/fake-origin.js';
import type { ProxyProcess } from '../support/proxy.js';
import { requestOnce } from '../support/raw-client.js';
import { until } from '../support/temporary.js';

const MOVED = { draining: true, move: { moved: 0, bytes: 0, left: 0, isDone: true } };

let origin: FakeOrigin;
let pool: ProxyProcess;
beforeEach(async () => {
  origin = await startFakeOrigin();
  pool = await startCrew({ origin: origin.url });
});
afterEach(async () => {
  await pool.stop();
  await origin.close();
});

async function ask(path: string, method = 'GET'): Promise<{ status: number; body: unknown }> {
  const answer = await fetch(`${pool.adminUrl}${path}`, { method });
  return { status: answer.status, body: await answer.json() };
}

/** What is wrong with each worker, as far as anything is. */
async function problems(): Promise<(string | undefined)[]> {
  const { checks } = (await ask('/readyz')).body as { checks: { problem?: string }[] };
  return checks.map(({ problem }) => problem);
}

test('workers that are drained stay so, also in the place of one that dies; another moves on for that one', async () => {
  expect(await ask('/drain?move=true', 'POST')).toEqual({ status: 202, body: MOVED });
  const leaving = 'draining: this node is being drained';
  expect(await problems()).toEqual([leaving, leaving]);
  process.kill(workerPids(pool, 1)[0]!, 'SIGKILL');
  await until(async () => (await problems())[0] !== leaving, 'the death of the first');
  // One that has ended, and is not known to have, has no answer.
  const drain = await until(
    () => ask('/drain').then((answer) => answer.status !== 503 && answer),
    'another to tell of it',
  );
  expect(drain).toEqual({ status: 200, body: MOVED });
  await until(() => workerPids(pool, 1).length === 2, 'another in its place', 60_000);
  await until(async () => (await problems())[0] === leaving, 'it to be drained as well');
  for (let request = 0; request < 4; request++) {
    const headers = [['Upload-Draft-Interop-Version', '8'] as const, ['Upload-Complete', '?0'] as const];
    expect((await requestOnce(pool.url, { method: 'POST', target: '/files', headers, body: 'abc' })).status).toBe(503);
  }
});

test('a question about the drain that is none drains nobody', async () => {
  expect((await ask('/drain?move=maybe', 'POST')).status).toBe(400);
  process.kill(workerPids(pool, 1)[0]!, 'SIGKILL');
  await until(() => workerPids(pool, 1).length === 2, 'another in its place', 60_000);
  expect(await ask('/drain')).toEqual({ status: 200, body: { draining: false } });
  expect(await problems()).toEqual([undefined, undefined]);
});
