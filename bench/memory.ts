import { startProxy } from '../test/support/proxy-process.js';
import type { Plan } from './plan.js';
import { residentMemory } from './process-figures.js';
import { send, type Sent, startOrigin } from './programs.js';
import { keepResult, printTable } from './report.js';

const MEBIBYTE = 1024 * 1024;
const SAMPLE_MS = 100;
/** The proxy holds no more than this beyond what it needs when idle, however large the upload. */
const PROMISED_BYTES = 64 * MEBIBYTE;

const FIELDS = { 'Upload-Draft-Interop-Version': '10', 'Upload-Complete': '?1' };

interface Memory {
  /** Just started. */
  readonly fresh: number;
  /** After a few small uploads: all code is loaded. */
  readonly idle: number;
  /** As the kernel saw it, between the samples too. */
  readonly highest: number;
  readonly samples: readonly number[];
}

/** Resident memory while one very large upload is received and delivered, against an idle proxy. */
export async function benchMemory(plan: Plan): Promise<void> {
  const sink = await startOrigin();
  const proxy = await startProxy({ origin: sink.url, data: plan.data, flags: plan.proxyFlags });
  try {
    if (!residentMemory(proxy.pid)) console.log('\nMemory: not measured, there is no /proc on this machine.');
    else await measure(proxy, plan.memorySize);
  } finally {
    await proxy.stop();
    await sink.stop();
  }
}

async function measure({ pid, url }: { readonly pid: number; readonly url: string }, size: number): Promise<void> {
  const upload = (bytes: number): Promise<Sent> =>
    send({ url: `${url}/bench`, method: 'POST', headers: FIELDS, size: bytes });
  const now = (): number => residentMemory(pid)?.now ?? Number.NaN;
  const fresh = now();
  for (let warmUp = 0; warmUp < 3; warmUp++) await upload(MEBIBYTE);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const idle = now();
  const samples: number[] = [];
  const sampling = setInterval(() => samples.push(now()), SAMPLE_MS);
  const sent = await upload(size).finally(() => clearInterval(sampling));
  const highest = residentMemory(pid)?.highest ?? Number.NaN;
  report(size, sent.seconds, { fresh, idle, highest, samples });
}

function report(sizeBytes: number, seconds: number, memory: Memory): void {
  const mebibytes = (bytes: number): string => (bytes / MEBIBYTE).toFixed(1);
  const growth = memory.highest - memory.idle;
  const mean = memory.samples.reduce((sum, sample) => sum + sample, 0) / Math.max(memory.samples.length, 1);
  const figures = [memory.fresh, memory.idle, mean, memory.highest, growth, PROMISED_BYTES];
  printTable({
    title: `Memory of the proxy during an upload of ${sizeBytes / MEBIBYTE} MiB (${seconds.toFixed(0)} s), MiB resident`,
    columns: ['', 'just started', 'idle', 'mean', 'highest', 'highest − idle', 'promised'],
    rows: [['proxy', ...figures.map(mebibytes)]],
    notes: [
      growth <= PROMISED_BYTES ? 'Within what is promised.' : 'MORE THAN IS PROMISED.',
      'Idle is after three uploads of 1 MiB, when all code is loaded.',
    ],
  });
  keepResult('memory', { sizeBytes, seconds, promisedBytes: PROMISED_BYTES, ...memory });
}
