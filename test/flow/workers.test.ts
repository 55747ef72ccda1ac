import { createServer, type AddressInfo, type Server } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { spawnCrew, startCrew, untilGone, workerPids, type WorkerPoolOptions } from '../support/crew.js';
import { type FakeOrigin, startFakeOrigin } from '../support/fake-origin.js';
import type { ProxyProcess } from '../support/proxy.js';
import { requestOnce } from '../support/raw-client.js';
import { until, within } from '../support/temporary.js';

// Issue 4: `workers`.
let origin: FakeOrigin;
beforeAll(async () => {
  origin = await startFakeOrigin();
});
afterAll(() => origin.close());

describe('two workers that run', () => {
  let pool: ProxyProcess;
  beforeAll(async () => {
    pool = await startCrew({ origin: origin.url });
  });
  afterAll(() => pool.stop());

  async function ask(path: string): Promise<{ status: number; body: string }> {
    const answer = await fetch(`${pool.adminUrl}${path}`);
    return { status: answer.status, body: await answer.text() };
  }

  test('say so once, when both listen, in the first line on standard output', () => {
    const announced = pool.log.filter(({ msg }) => msg === 'listening');
    expect(announced).toEqual([pool.log[0]]);
    expect(pool.log[0]).toMatchObject({
      url: pool.url,
      urls: [pool.url],
      admin: pool.adminUrl,
      workers: 2,
      pid: pool.pid,
    });
    expect(pool.url).toMatch(/^http:\/\/127\.0\.0\.1:[1-9]\d*$/);
    expect(workerPids(pool)).toHaveLength(2);
  });

  test('add up their figures', async () => {
    const before = origin.requests.length;
    for (let count = 0; count < 6; count++) await requestOnce(pool.url, { method: 'GET', target: '/' });
    expect(origin.requests.length - before).toBe(6);
    const counted = '\nrufh_requests_total{kind="pass-through",method="GET",status="200"} 6\n';
    const body = await until(
      async () => [(await ask('/metrics')).body].find((text) => text.includes(counted)),
      'all six to be counted',
    );
    expect(body).toContain(`\nrufh_build_info{version="test",node="${process.version}"} 1\n`);
    expect(body).toContain('\nrufh_request_duration_seconds_bucket{le="+Inf",kind="pass-through"} 6\n');
  });

  test('are alive and ready together', async () => {
    expect(await ask('/healthz')).toEqual({ status: 200, body: '{"alive":true}\n' });
    const { status, body } = await ask('/readyz');
    const ready = { ready: true, checks: [1, 2].map((worker) => ({ name: `worker ${worker}`, ok: true })) };
    expect([status, JSON.parse(body)]).toEqual([200, ready]);
  });

  test('are asked in turn for what operators want of uploads', async () => {
    const head = await requestOnce(pool.url, {
      method: 'POST',
      target: '/files',
      headers: [
        ['Upload-Complete', '?0'],
        ['Upload-Draft-Interop-Version', '8'],
        ['Content-Length', '3'],
      ],
      body: 'abc',
    });
    expect(head.status).toBe(201);
    // Here each worker knows only its own.
    const lists = [await ask('/uploads?phase=receiving'), await ask('/uploads?phase=receiving')];
    const counts = lists.map(({ body }) => (JSON.parse(body) as { uploads: unknown[] }).uploads.length);
    expect(counts.sort()).toEqual([0, 1]);
    expect((await ask('/uploads?phase=none')).status).toBe(400);
    expect((await ask('/nothing')).status).toBe(404);
  });

  test('refuse web pages as one process does', async () => {
    const headers = [['Host', 'rebound.example']] as const;
    const rebound = await requestOnce(pool.adminUrl, { method: 'GET', target: '/uploads', headers });
    expect(rebound.status).toBe(403);
    const wrong = await requestOnce(pool.adminUrl, { method: 'POST', target: '/metrics' });
    expect([wrong.status, wrong.header('allow')]).toEqual([405, 'GET, HEAD']);
  });
});

describe('workers that do not come to listen', () => {
  let started: ProxyProcess[];
  let holder: Server | undefined;
  beforeEach(() => {
    started = [];
    holder = undefined;
  });
  afterEach(async () => {
    holder?.close();
    for (const pool of started) await pool.stop();
  });

  async function takenPort(): Promise<number> {
    const server = (holder = createServer());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return (server.address() as AddressInfo).port;
  }

  async function startInVain(
    options: WorkerPoolOptions,
  ): Promise<{ code: unknown; problems: string[]; pool: ProxyProcess }> {
    const pool = await spawnCrew({ origin: origin.url, ...options });
    started.push(pool);
    const code = await within(pool.exited, 'the primary process to end', 60_000);
    expect(pool.lines).toEqual([]);
    return { code, problems: pool.errors.filter((line) => line.startsWith('rufh-proxy: ')), pool };
  }

  test('tell their common reason once', async () => {
    const port = await takenPort();
    const { code, problems } = await startInVain({ listen: `127.0.0.1:${port}` });
    const advice = 'another process is listening there; stop it, or choose another address (port 0 picks a free port)';
    expect([code, problems]).toEqual([1, [`rufh-proxy: cannot listen on 127.0.0.1:${port}: ${advice}`]]);
  });

  test('end the others, if only one fails', async () => {
    const { code, problems, pool } = await startInVain({ failing: 2, workers: 3 });
    expect(code).toBe(1);
    expect(problems).toEqual([expect.stringContaining('worker 2 is meant to fail')]);
    expect(workerPids(pool)).not.toEqual([]);
    await untilGone(workerPids(pool));
  });

  test('that end without a word are told of', async () => {
    const { code, problems } = await startInVain({ ending: 1 });
    expect([code, problems]).toEqual([1, ['rufh-proxy: worker 1 exited with code 7 before it was listening']]);
  });

  test('a taken admin address is told before any worker starts', async () => {
    const port = await takenPort();
    const { code, problems, pool } = await startInVain({ admin: `127.0.0.1:${port}` });
    expect([code, problems]).toEqual([1, [expect.stringContaining(`cannot listen on 127.0.0.1:${port}: another`)]]);
    expect(workerPids(pool)).toEqual([]);
  });

  test('a directory that other workers have to themselves is told once', async () => {
    const first = await startCrew({ origin: origin.url, ownSpool: true });
    started.push(first);
    const { code, problems } = await startInVain({ data: first.data, ownSpool: true });
    expect([code, problems]).toEqual([
      1,
      [expect.stringContaining('stop the other process, or choose another --data')],
    ]);
    expect(await first.kill('SIGTERM')).toBe(0);
    const second = await startCrew({ origin: origin.url, data: first.data, ownSpool: true });
    started.push(second);
  });

  test('a signal while they start ends all of them', async () => {
    const pool = await spawnCrew({ origin: origin.url });
    started.push(pool);
    await until(() => workerPids(pool).length > 0 || pool.errors.length > 0, 'the first worker to listen', 60_000);
    expect(await pool.kill('SIGTERM')).toBe(0);
    await untilGone(workerPids(pool));
  });
});
