import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { checkReadiness, type Readiness } from '../../src/admin/admin.js';
import type { DeliveryResult } from '../../src/delivery/delivery.js';
import type { InterimUpdate } from '../../src/model/messages.js';
import type { Upload } from '../../src/model/upload.js';
import { Metrics } from '../../src/observe/metrics.js';
import { type AnswerCall, Answers } from '../../src/uploads/answers.js';
import { nextRestart } from '../../src/workers/pool.js';
import { PrimaryAdmin } from '../../src/workers/primary-admin.js';

describe('metrics', () => {
  let metrics: Metrics;
  beforeEach(() => {
    metrics = new Metrics('1.2.3');
  });

  /** The lines of our own figures that are not zero, without buckets of histograms. */
  async function figures(): Promise<string[]> {
    const lines = (await metrics.text()).split('\n');
    return lines.filter((line) => line.startsWith('rufh_') && !line.includes('_bucket') && !line.endsWith(' 0'));
  }
  const info = `rufh_build_info{version="1.2.3",node="${process.version}"} 1`;

  test('a new process has its build and the figures of the process itself', async () => {
    expect(await figures()).toEqual([info]);
    expect(await metrics.text()).toContain('process_resident_memory_bytes ');
    expect(await metrics.text()).toContain('nodejs_eventloop_lag_seconds ');
  });

  test('two sets of figures in one process do not mix', async () => {
    new Metrics('other').takeover();
    expect(await figures()).toEqual([info]);
  });

  test('each thing that happens moves its figure', async () => {
    metrics.requestEnded({ kind: 'create', method: 'POST', status: 201, seconds: 2 });
    metrics.requestEnded({ kind: 'append', method: 'PATCH', seconds: 3 });
    metrics.bytesReceived(10);
    metrics.bytesReceived(5);
    metrics.uploadCreated('8');
    metrics.uploadEnded('answered');
    metrics.takeover();
    metrics.commit(0.25);
    metrics.deliveryAttempt('answered', 503);
    metrics.deliveryAttempt('never-sent');
    metrics.deliveryEnded(4, 'answered');
    metrics.interimSent('resumable');
    metrics.passThroughError('ECONNREFUSED');
    metrics.activeReceives.inc();
    metrics.activeDeliveries.inc(2);
    metrics.countConnections(() => 2);
    metrics.countBodyMemory(() => 65_536);
    expect((await figures()).sort()).toEqual(
      [
        'rufh_active_deliveries 2',
        'rufh_active_receives 1',
        'rufh_body_memory_bytes 65536',
        info,
        'rufh_commit_duration_seconds_count 1',
        'rufh_commit_duration_seconds_sum 0.25',
        'rufh_delivery_attempts_total{reached="answered",status="5xx"} 1',
        'rufh_delivery_attempts_total{reached="never-sent",status="none"} 1',
        'rufh_delivery_duration_seconds_count{outcome="answered"} 1',
        'rufh_delivery_duration_seconds_sum{outcome="answered"} 4',
        'rufh_interim_responses_total{kind="resumable"} 1',
        'rufh_open_connections 2',
        'rufh_pass_through_errors_total{code="ECONNREFUSED"} 1',
        'rufh_received_bytes_total 15',
        'rufh_request_duration_seconds_count{kind="append"} 1',
        'rufh_request_duration_seconds_count{kind="create"} 1',
        'rufh_request_duration_seconds_sum{kind="append"} 3',
        'rufh_request_duration_seconds_sum{kind="create"} 2',
        'rufh_requests_total{kind="append",method="PATCH",status="none"} 1',
        'rufh_requests_total{kind="create",method="POST",status="201"} 1',
        'rufh_takeovers_total 1',
        'rufh_uploads_created_total{dialect="8"} 1',
        'rufh_uploads_ended_total{phase="answered"} 1',
      ].sort(),
    );
  });

  describe('what clients and origins choose freely does not make new series', () => {
    test('methods we do not know are one', async () => {
      for (const method of ['PURGE', 'X1', 'X2']) {
        metrics.requestEnded({ kind: 'pass-through', method, status: 200, seconds: 1 });
      }
      expect(await figures()).toContain('rufh_requests_total{kind="pass-through",method="other",status="200"} 3');
    });

    test('statuses that do not exist are one', async () => {
      for (const status of [700, 999, 99])
        metrics.requestEnded({ kind: 'pass-through', method: 'GET', status, seconds: 1 });
      expect(await figures()).toContain('rufh_requests_total{kind="pass-through",method="GET",status="other"} 3');
    });

    test('error codes we do not know are one', async () => {
      for (const code of ['E1', 'E2']) metrics.passThroughError(code);
      expect(await figures()).toContain('rufh_pass_through_errors_total{code="other"} 2');
    });
  });

  test('what is counted at a scrape is asked anew each time', async () => {
    let counts: Record<string, number> = { receiving: 2, answered: 1 };
    metrics.countUploads(() => Promise.resolve(counts));
    metrics.countSpoolBytes(() => Promise.resolve(4096));
    expect(await figures()).toEqual(
      expect.arrayContaining([
        'rufh_uploads{phase="receiving"} 2',
        'rufh_uploads{phase="answered"} 1',
        'rufh_spool_bytes 4096',
      ]),
    );
    counts = { answered: 3 };
    const later = await figures();
    expect(later.filter((line) => line.startsWith('rufh_uploads{'))).toEqual(['rufh_uploads{phase="answered"} 3']);
  });

  test('what nobody knows at a scrape is left out of it', async () => {
    let known = true;
    metrics.countUploads(() => Promise.resolve(known ? { receiving: 2 } : undefined));
    metrics.countSpoolBytes(() => Promise.resolve(known ? 4096 : undefined));
    expect(await figures()).toContain('rufh_spool_bytes 4096');
    known = false;
    expect((await figures()).filter((line) => /^rufh_(uploads|spool_bytes)/.test(line))).toEqual([]);
    known = true;
    expect(await figures()).toEqual(
      expect.arrayContaining(['rufh_uploads{phase="receiving"} 2', 'rufh_spool_bytes 4096']),
    );
  });

  test('every name follows the conventions: prefix, base unit, total for counters', async () => {
    const types = (await metrics.text()).split('\n').filter((line) => line.startsWith('# TYPE rufh_'));
    expect(types.length).toBeGreaterThan(10);
    for (const line of types) {
      const [, , name, type] = line.split(' ') as [string, string, string, string];
      expect([name, type === 'counter']).toEqual([name, name.endsWith('_total')]);
      expect([name, type === 'histogram']).toEqual([name, name.endsWith('_seconds')]);
    }
  });
});

describe('readiness', () => {
  const ok = (name: string) => ({ name, check: () => Promise.resolve(undefined) });

  test('all that holds makes ready, and nothing to hold too', async () => {
    expect(await checkReadiness([ok('store'), ok('spool')])).toEqual({
      ready: true,
      checks: [
        { name: 'store', ok: true },
        { name: 'spool', ok: true },
      ],
    });
    expect(await checkReadiness([])).toEqual({ ready: true, checks: [] });
  });

  test('one that is only told does not keep requests away', async () => {
    const records = {
      name: 'records',
      isInformational: true,
      check: () => Promise.resolve('one cannot be read'),
    } as const;
    const checks = [
      { name: 'store', ok: true },
      { name: 'records', ok: false, problem: 'one cannot be read' },
    ];
    expect(await checkReadiness([ok('store'), records])).toEqual({ ready: true, checks });
  });

  test('a check that fails, throws or never ends is told, and the others beside it', async () => {
    const checks = [
      ok('store'),
      { name: 'draining', check: () => Promise.resolve('stopping') },
      { name: 'spool', check: () => Promise.reject(new Error('read-only')) },
      { name: 'disk', check: () => new Promise<undefined>(() => undefined) },
    ];
    expect(await checkReadiness(checks, 20)).toEqual({
      ready: false,
      checks: [
        { name: 'store', ok: true },
        { name: 'draining', ok: false, problem: 'stopping' },
        { name: 'spool', ok: false, problem: 'read-only' },
        { name: 'disk', ok: false, problem: 'no answer within 20 ms' },
      ],
    });
  });
});

describe('heartbeats', () => {
  beforeEach(() => {
    jest.useFakeTimers();
  });

  afterEach(() => {
    jest.useRealTimers();
  });

  test('a client that waits for the origin hears every ten seconds what it knows already, and nothing after the answer', async () => {
    let settle!: (result: DeliveryResult) => void;
    const result = new Promise<DeliveryResult>((resolve) => (settle = resolve));
    const told: InterimUpdate[] = [];
    const upload = { id: 'x', phase: 'delivering', offset: 5, heldBack: { lastByte: 1 } } as Upload;
    const call = {
      credentials: [],
      clientLeft: new AbortController().signal,
      sendInterim: (news: InterimUpdate) => told.push(news),
    };
    const outcome = new Answers({ result: () => result }).answer(upload, 'append', call as unknown as AnswerCall);
    jest.advanceTimersByTime(29_000);
    const news = { kind: 'progress', during: 'append', upload, offset: 4 };
    expect(told).toEqual([news, news]);
    settle({ kind: 'gone' });
    expect((await outcome).kind).toBe('refused');
    jest.advanceTimersByTime(60_000);
    expect(told.length).toBe(2);
    expect(jest.getTimerCount()).toBe(0);
  });
});

describe('answers of the primary', () => {
  const OK = { name: 'store', ok: true };
  const RECORDS = { name: 'records', ok: false, problem: 'one cannot be read' };
  const DRAINING = { name: 'draining', ok: false, problem: 'stopping' };

  /** The readiness page of a program whose workers give these answers; undefined is one that does not listen. */
  async function readinessOf(workers: readonly (Readiness | undefined)[]): Promise<object> {
    const slots = workers.map((readiness, at) => ({
      number: at + 1,
      listening: readiness && {
        request: () =>
          Promise.resolve({ about: 'request', response: { status: 200, body: JSON.stringify(readiness) } }),
      },
    }));
    const [pool, figures] = [{ slots } as never, {} as never];
    const request = { method: 'GET', path: '/readyz', query: new URLSearchParams(), headers: {} };
    const { status, body } = await new PrimaryAdmin(pool, figures, () => undefined).respond(request);
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
});

describe('restart delays', () => {
  test('a worker that ends again and again is replaced less and less often, at least every half minute', () => {
    const delays: number[] = [];
    let failures = 0;
    for (let count = 0; count < 10; count++) {
      const next = nextRestart(failures, 1000);
      failures = next.failures;
      delays.push(next.afterMs);
    }
    expect(delays).toEqual([250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  });

  test('one that ran for a minute was sound', () => {
    expect(nextRestart(7, 60_000)).toEqual({ failures: 1, afterMs: 250 });
    expect(nextRestart(7, 59_999)).toEqual({ failures: 8, afterMs: 30_000 });
  });
});
