import { startProxy } from '../test/support/proxy-process.js';
import type { Plan } from './plan.js';
import { cpuSecondsOfAll } from './process-figures.js';
import { type Crowd, sendMany, startSink } from './programs.js';
import { startBenchRedis, startRedisNodes } from './redis-nodes.js';
import { keepResult, printTable } from './report.js';
import { median } from './statistics.js';

const SIZE = 10 * 1024;
const WHOLE = { 'Upload-Draft-Interop-Version': '10', 'Upload-Complete': '?1' };

interface Case {
  readonly name: string;
  readonly url: string;
  readonly pid: number;
  readonly headers: Readonly<Record<string, string>>;
}

/** One crowd, and what its uploads cost those who served it. */
interface Run extends Crowd {
  readonly proxyCpuSeconds: number;
  readonly redisCpuSeconds: number;
}

interface Row {
  readonly name: string;
  readonly runs: readonly Run[];
}

/** Many small uploads at the same time, each whole with its creation: on one store and the other, by one worker and two. */
export async function benchSmall(plan: Plan): Promise<void> {
  const redis = await startBenchRedis();
  const sink = await startSink();
  const common = { origin: sink.url, flags: plan.proxyFlags };
  const closing: (() => Promise<unknown>)[] = [() => sink.stop()];
  const onRedis = async (workers: number): Promise<Case> => {
    const where = { nodes: 1, bytes: 'shared', prefix: `workers-${workers}`, redisUrl: redis!.url } as const;
    const nodes = await startRedisNodes({ ...common, ...where, workers });
    closing.push(() => nodes.stop());
    const { url, pid } = nodes.proxies[0]!;
    return { name: `Redis, ${workers} worker${workers > 1 ? 's' : ''}`, url, pid, headers: WHOLE };
  };
  try {
    const alone = await startProxy({ ...common, data: plan.data });
    closing.push(() => alone.stop());
    const cases: Case[] = [
      { name: 'pass-through', url: alone.url, pid: alone.pid, headers: {} },
      { name: 'embedded store', url: alone.url, pid: alone.pid, headers: WHOLE },
      ...(redis ? [await onRedis(1), await onRedis(2)] : []),
    ];
    report(plan, await measure(cases, redis?.pid, plan));
  } finally {
    for (const close of closing.reverse()) await close();
    await redis?.stop();
  }
}

/** All cases in turn, over and over, so that a disturbance hits all of them alike. */
async function measure(cases: readonly Case[], redisPid: number | undefined, plan: Plan): Promise<Row[]> {
  const rows = cases.map(({ name }) => ({ name, runs: [] as Run[] }));
  for (const warm of cases) await runOnce(warm, redisPid, { ...plan, uploads: plan.connections });
  for (let round = 0; round < plan.runs; round++)
    for (const [at, one] of cases.entries()) rows[at]!.runs.push(await runOnce(one, redisPid, plan));
  return rows;
}

async function runOnce({ url, pid, headers }: Case, redisPid: number | undefined, plan: Plan): Promise<Run> {
  const used = (): readonly [number, number] => [
    cpuSecondsOfAll(pid) ?? Number.NaN,
    (redisPid !== undefined && cpuSecondsOfAll(redisPid)) || 0,
  ];
  const before = used();
  const { connections, uploads } = plan;
  const crowd = await sendMany({ url: `${url}/bench`, headers, size: SIZE, connections, uploads });
  const after = used();
  return { ...crowd, proxyCpuSeconds: after[0] - before[0], redisCpuSeconds: after[1] - before[1] };
}

function report(plan: Plan, rows: readonly Row[]): void {
  const perSecond = ({ seconds }: Run): number => plan.uploads / seconds;
  const perThousand = (seconds: number): number => (seconds * 1000) / plan.uploads;
  const middle = ({ runs }: Row, figure: (run: Run) => number): number => median(runs.map(figure));
  const floor = middle(rows[1]!, perSecond);
  printTable({
    title: `${plan.uploads} uploads of ${SIZE / 1024} KiB, whole with their creation, over ${plan.connections} connections, median of ${plan.runs} runs`,
    columns: ['', 'a second', '×', 'wait ms', 'p99 ms', 'CPU s per 1,000: proxy', 'Redis', 'clients'],
    rows: rows.map((row) => [
      row.name,
      middle(row, perSecond).toFixed(0),
      `${(middle(row, perSecond) / floor).toFixed(2)} ×`,
      middle(row, ({ medianMs }) => medianMs).toFixed(0),
      middle(row, ({ p99Ms }) => p99Ms).toFixed(0),
      middle(row, ({ proxyCpuSeconds }) => perThousand(proxyCpuSeconds)).toFixed(2),
      middle(row, ({ redisCpuSeconds }) => perThousand(redisCpuSeconds)).toFixed(2),
      middle(row, ({ cpuSeconds }) => perThousand(cpuSeconds)).toFixed(2),
    ]),
    notes: [
      'Clients, origin and Redis run on the same cores as the proxy: a second worker gains what they leave over.',
      '× compares with the embedded store. CPU is all that was used, by the operating system for them too.',
    ],
  });
  keepResult('small', { ...plan, sizeBytes: SIZE, rows });
}
