import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { startCrew, untilGone, workerPids } from '../support/crew.js';
import { type FakeOrigin, startFakeOrigin } from '../support/fake-origin.js';
import type { ProxyProcess } from '../support/proxy.js';
import { connect, type RawClient } from '../support/raw-client.js';
import { until, within } from '../support/temporary.js';

// Issue 4: `workers`.
let origin: FakeOrigin;
let pool: ProxyProcess;
let answerNow: () => void;
let clients: RawClient[];
beforeEach(async () => {
  clients = [];
  const after = new Promise<void>((resolve) => (answerNow = resolve));
  origin = await startFakeOrigin({ after, body: 'late' });
  pool = await startCrew({ origin: origin.url });
  // One for each worker.
  for (let count = 1; count <= 2; count++) {
    const client = await connect(pool.url);
    clients.push(client);
    await client.sendHead('GET', '/');
    await until(() => origin.requests.length === count, 'the request at the origin');
  }
});
afterEach(async () => {
  answerNow();
  for (const client of clients) client.destroy();
  await pool.stop();
  await untilGone(workerPids(pool));
  await origin.close();
});

async function expectLateAnswers(): Promise<void> {
  answerNow();
  for (const client of clients) expect((await client.readFinal()).body.toString()).toBe('late');
}

function logged(msg: string): Record<string, unknown>[] {
  return pool.log.filter((line) => line['msg'] === msg);
}

test('the first signal lets both workers end what is under way', async () => {
  process.kill(pool.pid, 'SIGTERM');
  await until(() => refusesConnections(pool.url), 'no new connections to be taken');
  expect(logged('worker stopped')).toEqual([]);
  await expectLateAnswers();
  expect(await within(pool.exited, 'the primary process to end')).toBe(0);
  const stopped = logged('worker stopped').map(({ worker }) => worker);
  expect(stopped.sort()).toEqual([1, 2]);
  expect(pool.log.at(-1)).toMatchObject({ msg: 'stopped' });
  expect(logged('worker exited; starting another')).toEqual([]);
});

test('a signal to every process at once, as a terminal sends it, is one signal', async () => {
  for (const pid of [...workerPids(pool), pool.pid]) process.kill(pid, 'SIGINT');
  await until(() => logged('stopping; a second signal exits immediately').length === 3, 'all to hear of it');
  await expectLateAnswers();
  expect(await within(pool.exited, 'the primary process to end')).toBe(0);
});

test('the second signal ends all of them at once', async () => {
  process.kill(pool.pid, 'SIGTERM');
  await until(() => logged('stopping; a second signal exits immediately').length === 1, 'the first signal to be heard');
  process.kill(pool.pid, 'SIGTERM');
  expect(await within(pool.exited, 'the primary process to end')).toBe(1);
  await untilGone(workerPids(pool));
  for (const client of clients) await client.ended();
});

test('workers whose primary process is gone stop gently by themselves', async () => {
  process.kill(pool.pid, 'SIGKILL');
  await until(() => logged('the primary process is gone; stopping').length === 2, 'both to notice');
  await expectLateAnswers();
  expect(await pool.exited).toBe('SIGKILL');
  await untilGone(workerPids(pool));
});

test('a signal to one worker has it end gently, and another follows', async () => {
  const [first] = workerPids(pool, 1);
  process.kill(first!, 'SIGTERM');
  await expectLateAnswers();
  await until(() => workerPids(pool, 1).length === 2, 'another to take its place', 60_000);
  expect(logged('worker exited; starting another')).toEqual([expect.objectContaining({ worker: 1, code: 0 })]);
});

async function refusesConnections(url: string): Promise<boolean> {
  const client = await connect(url).catch(() => undefined);
  client?.destroy();
  return client === undefined;
}
