import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from '@jest/globals';
import { startProxy } from '../support/proxy-process.js';
import { startTestOrigin } from '../support/test-origin.js';
import { rounds } from '../support/thoroughness.js';

const PROGRAM = fileURLToPath(new URL('../support/flood.mjs', import.meta.url));
const run = promisify(execFile);

const seconds = rounds(3, 60);

/** A short flood must use up what a client may create at once, too. */
const SHORT = 'limits: { uploads: { burst: 50 } }\n';

interface Flood {
  readonly statuses: Readonly<Record<string, number>>;
  readonly withoutAdvice: number;
  readonly broken: number;
}

interface Honest {
  readonly count: number;
  readonly failed: Readonly<Record<string, number>>;
  readonly p99: number;
}

async function load<T>(...args: readonly (string | number)[]): Promise<T> {
  return JSON.parse((await run(process.execPath, [PROGRAM, ...args.map(String)])).stdout) as T;
}

async function memoryOf(pid: number, field: 'VmRSS' | 'VmHWM'): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)![1]) / 1024;
}

// Issue 12, admission.
test(
  'a flood of empty creations with large heads is held by the default limits, and others go on',
  async () => {
    const origin = await startTestOrigin();
    const proxy = await startProxy({ origin: origin.url, ...(seconds < 30 && { config: SHORT }) });
    try {
      const quiet = await load<Honest>('upload', proxy.url, seconds, '127.0.0.2');
      const [flood, during] = await Promise.all([
        load<Flood>('create', proxy.url, seconds, 50, 60_000),
        load<Honest>('upload', proxy.url, seconds, '127.0.0.2'),
      ]);
      const mib = { rss: await memoryOf(proxy.pid, 'VmRSS'), peak: await memoryOf(proxy.pid, 'VmHWM') };
      const since = performance.now();
      const again = await proxy.restart();
      const readyMs = Math.round(performance.now() - since);
      process.stdout.write(`flood of ${seconds} s: ${JSON.stringify({ quiet, during, flood, mib, readyMs })}\n`);
      await again.stop();
      expect([during.failed, quiet.failed]).toEqual([{}, {}]);
      expect(during.count).toBeGreaterThan(0);
      expect(Object.keys(flood.statuses).sort()).toEqual(['201', '429']);
      expect([flood.withoutAdvice, flood.broken]).toEqual([0, 0]);
      expect(mib.peak).toBeLessThan(250);
    } finally {
      await proxy.stop();
      await origin.close();
    }
  },
  60_000 + seconds * 4000,
);
