import { startProxy } from '../test/support/proxy.js';
import type { Plan } from './plan.js';
import { residentMemory } from './process-figures.js';
import { send, startSink } from './programs.js';
import { keepResult, printTable } from './report.js';

const MEBIBYTE = 1024 * 1024;
const SAMPLE_MS = 100;
/** The proxy holds no more than this beyond what it needs when idle, however large the upload. */
const PROMISED_BYTES = 64 * MEBIBYTE;

/** Resident memory while one very large upload is received and delivered, against an idle proxy. */
export async function benchMemory(plan: Plan): Promise<void> {
  const sink = await startSink();
  const proxy = await startProxy({ origin: sink.url, data: plan.data, flags: plan.proxyFlags });
  try {
    const idle = residentMemory(proxy.pid);
    if (!idle) {
      console.log('\nMemory: not measured, there is no /proc on this machine.');
      return;
    }
    const samples: number[] = [];
    const sampling = setInterval(() => samples.push(residentMemory(proxy.pid)?.now ?? 0), SAMPLE_MS);
    const headers = { 'Upload-Draft-Interop-Version': '10', 'Upload-Complete': '?1' };
    const sent = await send({ url: `${proxy.url}/bench`, method: 'POST', headers, size: plan.memorySize });
    clearInterval(sampling);
    const highest = residentMemory(proxy.pid)?.highest ?? 0;
    report(plan.memorySize, sent.seconds, { idle: idle.now, highest, samples });
  } finally {
    await proxy.stop();
    await sink.stop();
  }
}

interface Memory {
  readonly idle: number;
  /** As the kernel saw it, between the samples too. */
  readonly highest: number;
  readonly samples: readonly number[];
}

function report(sizeBytes: number, seconds: number, memory: Memory): void {
  const mebibytes = (bytes: number): string => (bytes / MEBIBYTE).toFixed(1);
  const growth = memory.highest - memory.idle;
  const mean = memory.samples.reduce((sum, sample) => sum + sample, 0) / Math.max(memory.samples.length, 1);
  printTable({
    title: `Memory of the proxy during an upload of ${sizeBytes / MEBIBYTE} MiB (${seconds.toFixed(0)} s), MiB resident`,
    columns: ['', 'idle', 'mean', 'highest', 'highest − idle', 'promised'],
    rows: [
      [
        'proxy',
        mebibytes(memory.idle),
        mebibytes(mean),
        mebibytes(memory.highest),
        mebibytes(growth),
        mebibytes(PROMISED_BYTES),
      ],
    ],
    notes: [growth <= PROMISED_BYTES ? 'Within what is promised.' : 'MORE THAN IS PROMISED.'],
  });
  keepResult('memory', { sizeBytes, seconds, promisedBytes: PROMISED_BYTES, ...memory });
}
