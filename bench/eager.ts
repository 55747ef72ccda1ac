import { startProxy } from '../test/support/proxy-process.js';
import { startNginx } from './nginx.js';
import type { Plan } from './plan.js';
import { send, type Server, startSink } from './programs.js';
import { keepResult, printTable } from './report.js';
import { median } from './statistics.js';

const FIELDS = { 'Upload-Draft-Interop-Version': '10', 'Upload-Complete': '?1' };
const EAGER = 'delivery: { mode: eager }\n';

/** Someone between a client and its origin. */
interface Way {
  readonly name: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

interface Row {
  readonly name: string;
  /** From the client's last byte to its answer. */
  readonly waitSeconds: readonly number[];
  readonly totalSeconds: readonly number[];
}

/** How long a client of everyday speed waits for its answer once it has sent everything. */
export async function benchEager(plan: Plan): Promise<void> {
  const sink = await startSink();
  const options = { origin: sink.url, flags: plan.proxyFlags };
  const spool = await startProxy(options);
  const eager = await startProxy({ ...options, config: EAGER });
  const nginx = await startNginx(sink.url);
  try {
    report(plan, await measure(waysOf(sink, spool, eager, nginx), plan), nginx !== undefined);
  } finally {
    await Promise.all([spool.stop(), eager.stop(), nginx?.stop()]);
    await sink.stop();
  }
}

function waysOf(
  sink: Server,
  spool: { readonly url: string },
  eager: { readonly url: string },
  nginx: Server | undefined,
): Way[] {
  return [
    { name: 'straight into a Node server that throws it away', url: sink.url, headers: {} },
    ...(nginx ? [{ name: 'nginx, whole request buffered', url: nginx.url, headers: {} }] : []),
    { name: 'proxy, mode: spool', url: spool.url, headers: FIELDS },
    { name: 'proxy, mode: eager', url: eager.url, headers: FIELDS },
  ];
}

/** All ways in turn, over and over, so that a disturbance hits all of them alike. */
async function measure(ways: readonly Way[], plan: Plan): Promise<Row[]> {
  const rows = ways.map(({ name }) => ({ name, waitSeconds: [] as number[], totalSeconds: [] as number[] }));
  for (const warm of ways) await send({ ...sendingOf(warm), size: 16 * 1024 ** 2 });
  for (let round = 0; round < plan.runs; round++) {
    for (const [at, way] of ways.entries()) {
      const sent = await send({ ...sendingOf(way), size: plan.size, bytesPerSecond: plan.rate });
      rows[at]!.waitSeconds.push(sent.afterLastByteSeconds);
      rows[at]!.totalSeconds.push(sent.seconds);
    }
  }
  return rows;
}

function sendingOf({ url, headers }: Way) {
  return { url: `${url}/bench`, method: 'POST', headers } as const;
}

function report(plan: Plan, rows: readonly Row[], hasNginx: boolean): void {
  const milliseconds = (seconds: number): string => (seconds * 1000).toFixed(0);
  printTable({
    title: `From the client's last byte to its answer, ${plan.size / 1024 ** 2} MiB at ${plan.rate / 1e6} MB/s, ${plan.runs} runs`,
    columns: ['', 'median ms', 'min … max', 'whole upload, s'],
    rows: rows.map(({ name, waitSeconds, totalSeconds }) => [
      name,
      milliseconds(median(waitSeconds)),
      `${milliseconds(Math.min(...waitSeconds))} … ${milliseconds(Math.max(...waitSeconds))}`,
      median(totalSeconds).toFixed(2),
    ]),
    notes: [
      'The origin is on this machine: behind a slower link the others wait for as long as the whole takes to cross it.',
      ...(hasNginx ? [] : ['nginx is not installed here.']),
    ],
  });
  keepResult('eager', { sizeBytes: plan.size, bytesPerSecond: plan.rate, proxyFlags: plan.proxyFlags, rows });
}
