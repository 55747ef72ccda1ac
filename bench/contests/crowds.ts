import { atLeast, atMost } from '../bars.js';
import type { Contest, Contestant, Figures } from '../contest.js';
import { peerState, startNginx } from '../peers.js';
import { forgetHighestMemory, residentMemory } from '../process-figures.js';
import { sendMany, type Server, startHttpProxy, startOrigin, startSlowCrowd, stop } from '../programs.js';
import { median } from '../statistics.js';
import { costOf, GIB, KIB, MIB } from '../workbench.js';
import { WHOLE } from './entrants.js';

const SAMPLE_MS = 100;
const SETTLE_MS = 2000;

/** Many clients that take their time: what each costs while it does. */
export const slow: Contest = {
  name: 'slow',
  title: 'Slow uploads',
  method:
    '2,000 connections, each with an upload of 1 MiB of which it sends 1 KiB a second; resident memory over that of the idle process, for each connection. The peak is judged.',
  figures: [
    { key: 'peak', label: 'peak KiB each', digits: 1 },
    { key: 'middle', label: 'median KiB each', digits: 1 },
    { key: 'idle', label: 'idle MiB', digits: 0 },
  ],
  bars: [atMost('rufh-proxy', 'peak', 48)],
  isFresh: true,
  async prepare(bench) {
    const origin = (await bench.use(startOrigin())).url;
    const connections = bench.either(2000, 1000);
    const run = (start: () => Promise<Server>) => async (): Promise<Figures> => {
      const server = await start();
      try {
        return await watchSlowCrowd(server, connections, bench.either(6000, 2000));
      } finally {
        await server.stop();
      }
    };
    return [
      { name: 'rufh-proxy', run: run(() => bench.startOurs({ origin })) },
      await freshPeer(
        'http-proxy',
        run(() => startHttpProxy(origin)),
      ),
      await freshPeer(
        'nginx',
        run(() => startNginx(bench, origin)),
      ),
    ];
  },
};

async function watchSlowCrowd({ url, pid }: Server, connections: number, watchedMs: number): Promise<Figures> {
  await warmUp(url);
  const idle = residentMemory(pid)!.now;
  forgetHighestMemory(pid);
  const crowd = await startSlowCrowd({ url: `${url}/bench`, headers: WHOLE, size: MIB, connections });
  const samples: number[] = [];
  const sampling = setInterval(() => samples.push(residentMemory(pid)!.now), SAMPLE_MS);
  await pause(watchedMs);
  clearInterval(sampling);
  const isWhole = crowd.exitCode === null;
  await stop(crowd);
  if (!isWhole) throw new Error('the slow clients were not served');
  const each = (bytes: number): number => (bytes - idle) / connections / KIB;
  return { peak: each(residentMemory(pid)!.highest), middle: each(median(samples)), idle: idle / MIB };
}

/** Many quick clients at once: how much is done, and what stays. */
export const crowd: Contest = {
  name: 'crowd',
  title: '1,000 connections with 1 MiB each',
  method:
    'Every connection sends one upload of 1 MiB; each run has a fresh process, which has served 1,000 uploads of 16 KiB before, as any server under load has. What stays is resident memory after 10 s, over that of the process before all of them.',
  figures: [
    { key: 'rate', label: 'MiB/s', digits: 0, isMoreBetter: true },
    { key: 'cpu', label: 'CPU s', digits: 2 },
    { key: 'peak', label: 'peak MiB', digits: 0 },
    { key: 'stays', label: 'MiB over idle after 10 s', digits: 0 },
  ],
  readyBytes: () => 1.5 * GIB,
  bars: [
    atLeast('rufh-proxy', 'rate', 0.9, 'nginx'),
    atMost('rufh-proxy', 'peak', 256),
    atMost('rufh-proxy', 'stays', 64),
  ],
  isFresh: true,
  async prepare(bench) {
    const origin = (await bench.use(startOrigin())).url;
    const connections = bench.either(1000, 250);
    const run = (start: () => Promise<Server>, waitMs: number) => () => sendCrowd(start, connections, waitMs);
    return [
      { name: 'rufh-proxy', run: run(() => bench.startOurs({ origin }), 10_000) },
      await freshPeer(
        'nginx',
        run(() => startNginx(bench, origin), 0),
      ),
    ];
  },
};

/** How throughput and memory follow the number of clients. */
export const growth: Contest = {
  name: 'growth',
  title: 'From 10 to 1,000 clients',
  method:
    '1,000 uploads of 1 MiB, by so many clients at the same time; each run has a fresh process, which has served 1,000 uploads of 16 KiB before.',
  figures: [
    { key: 'rate', label: 'MiB/s', digits: 0, isMoreBetter: true },
    { key: 'cpu', label: 'CPU s', digits: 2 },
    { key: 'peak', label: 'peak MiB', digits: 0 },
  ],
  readyBytes: () => 1.5 * GIB,
  bars: [],
  isFresh: true,
  async prepare(bench) {
    const origin = (await bench.use(startOrigin())).url;
    const requests = bench.either(1000, 250);
    return [10, 100, requests].map((connections) => ({
      name: `rufh-proxy, ${connections} clients`,
      run: () => sendCrowd(() => bench.startOurs({ origin }), connections, 0, requests),
    }));
  },
};

async function sendCrowd(
  start: () => Promise<Server>,
  connections: number,
  waitMs: number,
  requests = connections,
): Promise<Figures> {
  const server = await start();
  try {
    await warmUp(server.url);
    const idle = residentMemory(server.pid)!.now;
    await compileHotCode(server.url, requests);
    const sending = { url: `${server.url}/bench`, headers: WHOLE, size: MIB, connections, requests };
    const { value, cpuSeconds, peakMib } = await costOf(server, () => sendMany(sending));
    await pause(waitMs);
    const stays = (residentMemory(server.pid)!.now - idle) / MIB;
    return { rate: requests / value.seconds, cpu: cpuSeconds, peak: peakMib, ...(waitMs > 0 ? { stays } : {}) };
  } finally {
    await server.stop();
  }
}

/** Loads the code that uploads need, which is no part of what they cost, and gives the process time to settle. */
async function warmUp(url: string): Promise<void> {
  await sendMany({ url: `${url}/bench`, headers: WHOLE, size: KIB, connections: 1, requests: 3 });
  await pause(SETTLE_MS);
}

/**
 * Sends small uploads first. While V8 compiles what runs often they take twice the CPU of later ones, and a server under
 * load is past that.
 */
async function compileHotCode(url: string, requests: number): Promise<void> {
  await sendMany({ url: `${url}/bench`, headers: WHOLE, size: 16 * KIB, connections: 16, requests });
}

/** A peer that every run starts anew, because memory that a process once had tells nothing of the next run. */
async function freshPeer(name: 'nginx' | 'http-proxy', run: () => Promise<Figures>): Promise<Contestant> {
  const state = await peerState(name);
  return 'missing' in state ? { name, missing: state.missing } : { name, run };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
