import { atMost } from '../bars.js';
import type { Contest, Figures } from '../contest.js';
import { residentMemory } from '../process-figures.js';
import { sendMany, startOrigin } from '../programs.js';
import { type Bench, KIB, MIB } from '../workbench.js';
import { PART, WHOLE } from './entrants.js';

/** How long the process is away when it starts among many unfinished uploads. */
export const start: Contest = {
  name: 'start',
  title: 'A start with many unfinished uploads',
  method:
    'Uploads without bytes whose clients have left. From the start of the process until it listens; then 16 KiB uploads over 64 connections beside them.',
  figures: [
    { key: 'seconds', label: 's until it listens', digits: 2 },
    { key: 'peak', label: 'peak MiB', digits: 0 },
    { key: 'rate', label: 'uploads/s beside', digits: 0, isMoreBetter: true },
  ],
  bars: [atMost('rufh-proxy, 100,000 uploads', 'seconds', 5), atMost('rufh-proxy, 100,000 uploads', 'peak', 150)],
  isFresh: true,
  async prepare(bench) {
    const origin = (await bench.use(startOrigin())).url;
    const all = [];
    for (const count of bench.either([10_000, 100_000], [500, 3000])) {
      const data = await bench.directory();
      await createMany(bench, origin, data, count);
      const isLast = count > 10_000;
      const name = `rufh-proxy, ${count.toLocaleString('en')} uploads`;
      all.push({ name, run: () => startAmong(bench, origin, data, isLast ? 1000 : 0) });
    }
    return all;
  },
};

/** Nothing of the preparation is measured: it does without syncs. */
async function createMany(bench: Bench, origin: string, data: string, requests: number): Promise<void> {
  const server = await bench.startOurs({ origin, data, config: 'spool: { sync: none }\n' });
  try {
    await sendMany({ url: `${server.url}/bench`, headers: PART, size: 0, connections: 64, requests });
  } finally {
    await server.stop();
  }
}

/** What is uploaded beside them stays for its client, and makes the next start a little longer. */
async function startAmong(bench: Bench, origin: string, data: string, besides: number): Promise<Figures> {
  const startedAt = performance.now();
  const server = await bench.startOurs({ origin, data });
  try {
    const seconds = (performance.now() - startedAt) / 1000;
    const peak = residentMemory(server.pid)!.highest / MIB;
    if (besides === 0) return { seconds, peak };
    const sending = { url: `${server.url}/bench`, headers: WHOLE, size: 16 * KIB, connections: 64, requests: besides };
    return { seconds, peak, rate: besides / (await sendMany(sending)).seconds };
  } finally {
    await server.stop();
  }
}
