import { rename, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { connect, type RawClient, requestOnce } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import {
  type ProxyProcess,
  spawnWorkers,
  startWorkers,
  untilGone,
  untilState,
  workerPids,
  type WorkerPoolOptions,
} from '../support/proxy-process.js';
import { makeCertificate, temporaryDirectory, type TemporaryDirectory, until, within } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

describe('workers', () => {
  // Issue 4: `workers`.
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await startTestOrigin();
  });
  afterAll(() => origin.close());

  describe('two workers that run', () => {
    let pool: ProxyProcess;
    beforeAll(async () => {
      pool = await startWorkers({ origin: origin.url });
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
      const pool = await spawnWorkers({ origin: origin.url, ...options });
      started.push(pool);
      const code = await within(pool.exited, 'the primary process to end', 60_000);
      expect(pool.lines).toEqual([]);
      return { code, problems: pool.errors.filter((line) => line.startsWith('rufh-proxy: ')), pool };
    }

    test('tell their common reason once', async () => {
      const port = await takenPort();
      const { code, problems } = await startInVain({ listen: `127.0.0.1:${port}` });
      const advice =
        'another process is listening there; stop it, or choose another address (port 0 picks a free port)';
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
      const first = await startWorkers({ origin: origin.url, ownSpool: true });
      started.push(first);
      const { code, problems } = await startInVain({ data: first.data, ownSpool: true });
      expect([code, problems]).toEqual([
        1,
        [expect.stringContaining('stop the other process, or choose another --data')],
      ]);
      expect(await first.kill('SIGTERM')).toBe(0);
      const second = await startWorkers({ origin: origin.url, data: first.data, ownSpool: true });
      started.push(second);
    });

    test('a signal while they start ends all of them', async () => {
      const pool = await spawnWorkers({ origin: origin.url });
      started.push(pool);
      await until(() => workerPids(pool).length > 0 || pool.errors.length > 0, 'the first worker to listen', 60_000);
      expect(await pool.kill('SIGTERM')).toBe(0);
      await untilGone(workerPids(pool));
    });
  });
});

describe('connections', () => {
  // Issue 4: `workers`.
  let directory: TemporaryDirectory;
  let origin: TestOrigin;
  let pool: ProxyProcess | undefined;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    origin = await startTestOrigin();
    pool = undefined;
  });
  afterEach(async () => {
    await pool?.stop();
    await origin.close();
    await directory.remove();
  });

  const GET = { method: 'GET', target: '/' };

  /** A client's connection that has had an answer. */
  interface Connected {
    isOpen(): boolean;
    ask(): Promise<number>;
    end(): void;
  }

  type Connect = () => Promise<Connected>;

  function http1(url: string, socketPath?: string): Connect {
    return async () => {
      const client = await connect(url, socketPath === undefined ? {} : { socketPath });
      let isOpen = true;
      void client.closed.then(() => (isOpen = false));
      const ask = async (): Promise<number> => (await client.request(GET)).status;
      return { isOpen: () => isOpen, ask, end: () => client.destroy() };
    };
  }

  function http2(url: string): Connect {
    return async () => {
      const client = await connectH2(url);
      const ask = async (): Promise<number> => (await client.request(GET)).status;
      return { isOpen: () => !client.session.destroyed, ask, end: () => client.cut() };
    };
  }

  /** Cleartext and TLS on whatever ports are free, and a socket where a process that was killed had left one. */
  async function everyListener(): Promise<string> {
    const file = (name: string): string => join(directory.path, name);
    const { cert, key } = makeCertificate();
    await writeFile(file('cert.pem'), cert);
    await writeFile(file('key.pem'), key);
    await leaveSocket(file('http.sock'));
    const secure = `{ address: "127.0.0.1:0", tls: { cert: "${file('cert.pem')}", key: "${file('key.pem')}" } }`;
    return `listen: ["127.0.0.1:0", ${secure}, "127.0.0.1:0", "unix:${file('http.sock')}"]\n`;
  }

  async function leaveSocket(path: string): Promise<void> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(`${path}.before`, resolve));
    // Only the name that it listened on is removed.
    await rename(`${path}.before`, path);
    await new Promise((resolve) => server.close(resolve));
  }

  test('every listener gives both workers the same share, and a worker that is killed takes only its own', async () => {
    pool = await startWorkers({ origin: origin.url, config: await everyListener() });
    const [plain, secure, other] = pool.log[0]!['urls'] as string[];
    const socketPath = join(directory.path, 'http.sock');
    const listeners = [http1(plain!), http2(plain!), http1(secure!), http2(secure!), http1(other!)];
    listeners.push(http1('http://localhost', socketPath));
    const connections: Connected[][] = [];
    for (const listener of listeners) connections.push(await connectAll(listener, 4));
    process.kill(workerPids(pool, 1)[0]!, 'SIGKILL');
    const open = (): number[] => connections.map((some) => some.filter((one) => one.isOpen()).length);
    await until(
      () => open().every((count) => count === 2),
      () => `two open of every four: ${open().join(' ')}`,
    );
    for (const one of connections.flat()) if (one.isOpen()) expect(await one.ask()).toBe(200);
    for (const one of connections.flat()) one.end();
  });

  async function connectAll(listener: Connect, count: number): Promise<Connected[]> {
    const connections: Connected[] = [];
    for (let at = 0; at < count; at++) {
      const connection = await listener();
      expect(await connection.ask()).toBe(200);
      connections.push(connection);
    }
    return connections;
  }

  test('a worker that was killed is followed by another, and nobody is turned away meanwhile', async () => {
    const running = (pool = await startWorkers({ origin: origin.url }));
    const total = async (): Promise<number> => {
      const text = await (await fetch(`${running.adminUrl}/metrics`)).text();
      return Number(/^rufh_requests_total\{kind="pass-through".*\} (\d+)$/m.exec(text)?.[1]);
    };
    for (let count = 0; count < 4; count++) await requestOnce(running.url, GET);
    await until(async () => (await total()) === 4, 'all four to be counted');
    const [killed] = workerPids(running, 2);
    process.kill(killed!, 'SIGKILL');
    let asked = 4;
    const isUnready = async (): Promise<boolean> => (await fetch(`${running.adminUrl}/readyz`)).status === 503;
    await until(isUnready, 'a worker to be missed');
    await until(
      async () => {
        expect((await requestOnce(running.url, GET)).status).toBe(200);
        asked += 1;
        return workerPids(running, 2).length === 2;
      },
      'the next worker to listen',
      60_000,
    );
    expect(running.log).toContainEqual(
      expect.objectContaining({
        msg: 'worker exited; starting another',
        worker: 2,
        workerPid: killed,
        signal: 'SIGKILL',
      }),
    );
    // What the killed one had counted is still part of it.
    await until(
      async () => (await total()) === asked,
      () => `all ${asked} to be counted`,
    );
    expect((await fetch(`${running.adminUrl}/readyz`)).status).toBe(200);
    const both = await connectAll(http1(running.url), 2);
    process.kill(workerPids(running, 1)[0]!, 'SIGKILL');
    await until(() => both.filter((one) => one.isOpen()).length === 1, 'one of two connections to end');
    for (const one of both) one.end();
  });

  test.each(['/readyz', '/metrics', '/uploads'])(
    'a worker that dies before the primary process asks it for %s ends alone',
    async (target) => {
      const running = (pool = await startWorkers({ origin: origin.url }));
      const admin = await connect(running.adminUrl);
      expect((await admin.request({ method: 'GET', target: '/healthz' })).status).toBe(200);
      const [killed] = workerPids(running, 1);
      // The request lies there when the primary process wakes up, before the news of the death.
      process.kill(running.pid, 'SIGSTOP');
      await untilState(running.pid, 'T');
      await admin.sendHead('GET', target);
      process.kill(killed!, 'SIGKILL');
      await untilState(killed!, 'Z');
      process.kill(running.pid, 'SIGCONT');
      expect((await admin.readFinal()).status).not.toBe(500);
      await until(() => workerPids(running, 1).length === 2, 'another to take its place', 60_000);
      expect((await requestOnce(running.url, GET)).status).toBe(200);
      admin.destroy();
    },
  );

  test('a connection given to a worker that stands still ends with it', async () => {
    const running = (pool = await startWorkers({ origin: origin.url }));
    const [still] = workerPids(running, 1);
    process.kill(still!, 'SIGSTOP');
    await untilState(still!, 'T');
    const clients = await Promise.all([1, 2, 3, 4].map(() => connect(running.url)));
    const outcomes = clients.map((client) =>
      Promise.race([
        client.request(GET).then(
          ({ status }) => status,
          () => 'cut',
        ),
        client.closed.then(() => 'cut'),
      ]),
    );
    // It was given one, and no more before it has taken that.
    await until(() => origin.requests.length === 3, 'three of four to be served by the other');
    process.kill(still!, 'SIGKILL');
    const results = await within(Promise.all(outcomes), 'the fourth to end');
    expect(results.sort()).toEqual([200, 200, 200, 'cut']);
    await until(() => workerPids(running, 1).length === 2, 'another to take its place', 60_000);
    for (const client of clients) client.destroy();
  });
});

describe('drain', () => {
  const MOVED = { draining: true, move: { moved: 0, bytes: 0, left: 0, isDone: true } };

  let origin: TestOrigin;
  let pool: ProxyProcess;
  beforeEach(async () => {
    origin = await startTestOrigin();
    pool = await startWorkers({ origin: origin.url });
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
      expect((await requestOnce(pool.url, { method: 'POST', target: '/files', headers, body: 'abc' })).status).toBe(
        503,
      );
    }
  });

  test('a question about the drain that is none drains nobody', async () => {
    expect((await ask('/drain?move=maybe', 'POST')).status).toBe(400);
    process.kill(workerPids(pool, 1)[0]!, 'SIGKILL');
    await until(() => workerPids(pool, 1).length === 2, 'another in its place', 60_000);
    expect(await ask('/drain')).toEqual({ status: 200, body: { draining: false } });
    expect(await problems()).toEqual([undefined, undefined]);
  });
});

describe('stops', () => {
  // Issue 4: `workers`.
  let origin: TestOrigin;
  let pool: ProxyProcess;
  let answerNow: () => void;
  let clients: RawClient[];
  beforeEach(async () => {
    clients = [];
    const after = new Promise<void>((resolve) => (answerNow = resolve));
    origin = await startTestOrigin({ after, body: 'late' });
    pool = await startWorkers({ origin: origin.url });
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
    await until(
      () => logged('stopping; a second signal exits immediately').length === 1,
      'the first signal to be heard',
    );
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
});
