import { startProxy } from '../test/support/proxy-process.js';
import type { Plan } from './plan.js';
import { cpuSeconds } from './process-figures.js';
import { send, type Sending, startSink } from './programs.js';
import { keepResult, printTable } from './report.js';
import { median } from './statistics.js';

const GIBIBYTE = 1024 ** 3;
const WHOLE = { 'Upload-Draft-Interop-Version': '10', 'Upload-Complete': '?1' };
const PART = { 'Upload-Draft-Interop-Version': '10', 'Upload-Complete': '?0' };

/** One way of sending the same body. */
interface Case {
  readonly name: string;
  readonly url: string;
  /** Whose CPU time is counted. */
  readonly pid: number;
  readonly headers: Readonly<Record<string, string>>;
}

interface Run {
  readonly seconds: number;
  readonly cpuSeconds: number | undefined;
}

interface Row {
  readonly name: string;
  readonly runs: readonly Run[];
  readonly mebibytesPerSecond: number;
  readonly cpuSecondsPerGibibyte: number | undefined;
}

/** Throughput and CPU time of one large upload: straight into a server that throws it away, and through the proxy. */
export async function benchUpload(plan: Plan): Promise<void> {
  const sink = await startSink();
  const proxy = await startProxy({ origin: sink.url, data: plan.data, flags: plan.proxyFlags });
  try {
    const cases: Case[] = [
      { name: 'straight into a Node server that throws it away', url: sink.url, pid: sink.pid, headers: {} },
      { name: 'proxy, pass-through', url: proxy.url, pid: proxy.pid, headers: {} },
      { name: 'proxy, resumable: receive only', url: proxy.url, pid: proxy.pid, headers: PART },
      { name: 'proxy, resumable: receive, deliver, answer', url: proxy.url, pid: proxy.pid, headers: WHOLE },
    ];
    report(plan, await measure(cases, plan));
  } finally {
    await proxy.stop();
    await sink.stop();
  }
}

/** All cases in turn, over and over, so that a disturbance hits all of them alike. */
async function measure(cases: readonly Case[], plan: Plan): Promise<Row[]> {
  const runs = cases.map((): Run[] => []);
  for (const warm of cases) await runOnce(warm, Math.min(plan.size, 64 * 1024 ** 2));
  for (let round = 0; round < plan.runs; round++) {
    for (const [at, one] of cases.entries()) runs[at]!.push(await runOnce(one, plan.size));
  }
  return cases.map(({ name }, at) => toRow(name, runs[at]!, plan.size));
}

async function runOnce(one: Case, size: number): Promise<Run> {
  const sending: Sending = { url: `${one.url}/bench`, method: 'POST', headers: one.headers, size };
  const before = cpuSeconds(one.pid);
  const sent = await send(sending);
  const after = cpuSeconds(one.pid);
  if (sent.location !== undefined) await forget(sent.location);
  return {
    seconds: sent.seconds,
    cpuSeconds: before === undefined || after === undefined ? undefined : after - before,
  };
}

/** Gives the space back, so that no run meets a fuller disk than the one before. */
async function forget(location: string): Promise<void> {
  const headers = { 'Upload-Draft-Interop-Version': '10' };
  await fetch(location, { method: 'DELETE', headers, signal: AbortSignal.timeout(30_000) });
}

function toRow(name: string, runs: readonly Run[], size: number): Row {
  const cpu = runs.map((run) => run.cpuSeconds).filter((seconds) => seconds !== undefined);
  return {
    name,
    runs,
    mebibytesPerSecond: size / 1024 ** 2 / median(runs.map((run) => run.seconds)),
    cpuSecondsPerGibibyte: cpu.length === 0 ? undefined : (median(cpu) * GIBIBYTE) / size,
  };
}

function report(plan: Plan, rows: readonly Row[]): void {
  const floor = rows[0]!;
  const ratio = (mine: number | undefined, theirs: number | undefined): string =>
    mine === undefined || theirs === undefined || theirs === 0 ? '–' : `${(mine / theirs).toFixed(2)} ×`;
  printTable({
    title: `Upload of ${plan.size / 1024 ** 2} MiB, median of ${plan.runs} runs`,
    columns: ['', 'seconds', 'min … max', 'MiB/s', 'time', 'CPU s/GiB', 'CPU'],
    rows: rows.map((row) => {
      const seconds = row.runs.map((run) => run.seconds);
      return [
        row.name,
        median(seconds).toFixed(2),
        `${Math.min(...seconds).toFixed(2)} … ${Math.max(...seconds).toFixed(2)}`,
        row.mebibytesPerSecond.toFixed(0),
        ratio(median(seconds), median(floor.runs.map((run) => run.seconds))),
        row.cpuSecondsPerGibibyte?.toFixed(2) ?? '–',
        ratio(row.cpuSecondsPerGibibyte, floor.cpuSecondsPerGibibyte),
      ];
    }),
    notes: ['CPU is that of the proxy, and in the first line that of the server. × compares with the first line.'],
  });
  keepResult('upload', { sizeBytes: plan.size, proxyFlags: plan.proxyFlags, rows });
}
