import { atLeast } from '../bars.js';
import type { Contest, Contestant, Figures } from '../contest.js';
import { peerState, useTusd, useTusServer } from '../peers.js';
import { sendMany, type Server, startOrigin } from '../programs.js';
import { startBenchRedis, startRedisNodes } from '../redis-nodes.js';
import { type Bench, costOf, KIB } from '../workbench.js';
import { entrant, tusCreation, WHOLE } from './entrants.js';

const SIZE = 16 * KIB;
const CONNECTIONS = 64;

const FIGURES = [
  { key: 'rate', label: 'uploads/s', digits: 0, isMoreBetter: true },
  { key: 'p99', label: 'p99 ms', digits: 0 },
  { key: 'cpu', label: 'CPU ms each', digits: 2 },
];

/** Many small uploads at the same time, each whole with its creation. */
export const small: Contest = {
  name: 'small',
  title: 'Small uploads',
  method:
    '16 KiB each, whole with the creation, over 64 connections. Ours are delivered to the origin; tus servers only store them, and force nothing to the disk (`sync: none`).',
  figures: FIGURES,
  bars: [
    atLeast('rufh-proxy, sync group', 'rate', 2, '@tus/server'),
    atLeast('rufh-proxy, sync none', 'rate', 2, '@tus/server'),
  ],
  async prepare(bench) {
    const requests = bench.either(2000, 800);
    const origin = (await bench.use(startOrigin())).url;
    const tus = (server: Target): Promise<Figures> => sendSmall(server, '/files/', tusCreation(SIZE, true), requests);
    return [
      ...(await oursBySync(bench, origin, ['group', 'none'], requests)),
      entrant('@tus/server', await useTusServer(bench), tus),
      entrant('tusd', await useTusd(bench), tus),
    ];
  },
};

/** What it costs to force bytes and records to the disk before they are acknowledged. */
export const durability: Contest = {
  name: 'durability',
  title: 'The price of durability',
  method: '16 KiB uploads over 64 connections, and one after the other over one, with each setting of `spool.sync`.',
  figures: [...FIGURES, { key: 'alone', label: 'ms, one after the other', digits: 2 }],
  bars: [],
  async prepare(bench) {
    const origin = (await bench.use(startOrigin())).url;
    const both = async (server: Target): Promise<Figures> => {
      const many = await sendSmall(server, '/bench', WHOLE, bench.either(2000, 500));
      const one = { url: `${server.url}/bench`, headers: WHOLE, size: SIZE, connections: 1 };
      const { medianMs } = await sendMany({ ...one, requests: bench.either(300, 50) });
      return { ...many, alone: medianMs };
    };
    const all: Contestant[] = [];
    for (const sync of ['none', 'group', 'always'])
      all.push(entrant(`rufh-proxy, sync ${sync}`, await startSynced(bench, origin, sync), both));
    return all;
  },
};

/** The embedded store beside Redis with one worker and two. */
export const redis: Contest = {
  name: 'redis',
  title: 'Redis, with one worker and two',
  method:
    '16 KiB uploads over 64 connections. Clients, origin and Redis run on the same cores as the proxy: a second worker gains what they leave over. Redis has `appendonly yes` and `appendfsync everysec`.',
  figures: FIGURES,
  bars: [],
  async prepare(bench) {
    const requests = bench.either(2000, 500);
    const origin = (await bench.use(startOrigin())).url;
    const all: Contestant[] = await oursBySync(bench, origin, ['group'], requests);
    const state = await peerState('Redis');
    const server = 'missing' in state ? undefined : await startBenchRedis();
    if (server) await bench.use(Promise.resolve(server));
    for (const workers of [1, 2]) {
      const name = `rufh-proxy, Redis, ${workers} worker${workers > 1 ? 's' : ''}`;
      if (!server) all.push({ name, missing: 'missing' in state ? state.missing : 'not here' });
      else
        all.push(
          entrant(name, await startOnRedis(bench, origin, server.url, workers), (ours) =>
            sendSmall(ours, '/bench', WHOLE, requests),
          ),
        );
    }
    return all;
  },
};

type Target = Pick<Server, 'url' | 'pid'>;

async function oursBySync(bench: Bench, origin: string, syncs: readonly string[], requests: number) {
  const all = [];
  for (const sync of syncs)
    all.push(
      entrant(`rufh-proxy, sync ${sync}`, await startSynced(bench, origin, sync), (server) =>
        sendSmall(server, '/bench', WHOLE, requests),
      ),
    );
  return all;
}

function startSynced(bench: Bench, origin: string, sync: string) {
  return bench.useOurs({ origin, config: `spool: { sync: ${sync} }\n` });
}

async function startOnRedis(bench: Bench, origin: string, redisUrl: string, workers: number): Promise<Target> {
  const flags = ['--log-level', 'warn', ...bench.thoroughness.proxyFlags];
  const where = { nodes: 1, bytes: 'shared', prefix: `workers-${workers}`, redisUrl } as const;
  const nodes = await bench.use(startRedisNodes({ origin, flags, workers, ...where }));
  return nodes.proxies[0]!;
}

async function sendSmall(
  server: Target,
  path: string,
  headers: Record<string, string>,
  requests: number,
): Promise<Figures> {
  const sending = { url: server.url + path, headers, size: SIZE, connections: CONNECTIONS, requests };
  const { value, cpuSeconds } = await costOf(server, () => sendMany(sending));
  return { rate: requests / value.seconds, p99: value.p99Ms, cpu: (cpuSeconds * 1000) / requests };
}
