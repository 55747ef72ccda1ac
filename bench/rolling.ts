import { type Rolled, type RollingFigures, rollingRestart } from '../test/support/rolling-restart.js';
import type { Plan } from './plan.js';
import { keepResult, printTable } from './report.js';

const MEBIBYTE = 1024 * 1024;
const NODES = 3;
const UPLOADS = 50;
const SIZE = 6 * MEBIBYTE;
const BYTES_PER_SECOND = 400 * 1024;

/** What slow uploads lose while all nodes behind a balancer are stopped and started again, one by one. */
export async function benchRolling(plan: Plan): Promise<void> {
  const rows: [string, RollingFigures][] = [];
  for (const bytes of ['shared', 'node-local'] as const) {
    const options = { nodes: NODES, bytes, uploads: UPLOADS, size: SIZE, bytesPerSecond: BYTES_PER_SECOND };
    const rolled = await rollingRestart(options);
    check(rolled);
    rows.push([bytes, rolled.figures]);
  }
  report(plan, rows);
}

function check({ figures, atOrigin, expected }: Rolled): void {
  if (figures.creations !== UPLOADS) throw new Error(`${figures.creations - UPLOADS} uploads had to begin anew`);
  const missing = expected.filter((hash) => !atOrigin.includes(hash));
  if (missing.length > 0 || atOrigin.length !== expected.length)
    throw new Error(`the origin got ${atOrigin.length} requests, and ${missing.length} uploads not as they were sent`);
}

function report(plan: Plan, rows: readonly [string, RollingFigures][]): void {
  printTable({
    title: `${UPLOADS} uploads of ${SIZE / MEBIBYTE} MiB at ${BYTES_PER_SECOND / 1024} KiB/s while ${NODES} nodes are restarted one by one`,
    columns: ['spool', 'from zero', 'resumptions', 're-sent', 'seconds', 'undisturbed', 'goodput MiB/s', 'restarts, s'],
    rows: rows.map(([name, rolled]) => [
      name,
      `${rolled.creations - UPLOADS}`,
      `${rolled.resumptions}`,
      `${((rolled.sentBytes / rolled.uploadedBytes - 1) * 100).toFixed(2)} %`,
      rolled.seconds.toFixed(1),
      rolled.leastSeconds.toFixed(1),
      (rolled.uploadedBytes / MEBIBYTE / rolled.seconds).toFixed(1),
      rolled.restartSeconds.toFixed(1),
    ]),
    notes: [
      'Every upload ended, and the origin got each of them once, byte for byte.',
      'Re-sent is what clients sent beyond the size of their files. Goodput is that of all clients together.',
    ],
  });
  keepResult('rolling', {
    nodes: NODES,
    uploads: UPLOADS,
    sizeBytes: SIZE,
    bytesPerSecond: BYTES_PER_SECOND,
    proxyFlags: plan.proxyFlags,
    rows: rows.map(([spool, figures]) => ({ spool, ...figures })),
  });
}
