import { beforeEach, describe, expect, test } from '@jest/globals';
import { Metrics } from '../../src/observe/metrics.js';

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
  expect((await figures()).sort()).toEqual(
    [
      'rufh_active_deliveries 2',
      'rufh_active_receives 1',
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
