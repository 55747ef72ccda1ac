import { atLeast } from '../bars.js';
import type { Contest, Figures } from '../contest.js';
import { useCaddy, useHttpProxy, useNginx } from '../peers.js';
import { get, sendMany, type Server, startOrigin } from '../programs.js';
import { type Bench, costOf, GIB, KIB } from '../workbench.js';
import { entrant } from './entrants.js';

const CONNECTIONS = 64;

/** Ordinary requests, which every user of a whole API pays for. */
export const passThroughPost: Contest = {
  name: 'pass-through-post',
  title: 'Plain POST requests pass through',
  method:
    'POST of 1 KiB over 64 kept connections; all keep their connections to the origin. The last row is the client without a proxy: nobody can be faster.',
  figures: [
    { key: 'rate', label: 'requests/s', digits: 0, isMoreBetter: true },
    { key: 'p99', label: 'p99 ms', digits: 1 },
    { key: 'cpu', label: 'CPU ms each', digits: 3 },
  ],
  bars: [atLeast('rufh-proxy', 'rate', 1.2, 'http-proxy')],
  prepare: (bench) => {
    const requests = bench.either(20_000, 10_000);
    return contestants(bench, async (server) => {
      const sending = { url: `${server.url}/items`, headers: {}, size: KIB, connections: CONNECTIONS, requests };
      const { value, cpuSeconds } = await costOf(server, () => sendMany(sending));
      return { rate: requests / value.seconds, p99: value.p99Ms, cpu: (cpuSeconds * 1000) / requests };
    });
  },
};

/** One large response. */
export const passThroughGet: Contest = {
  name: 'pass-through-get',
  title: 'A large response passes through',
  method: 'GET of 1 GiB over one connection. The last row is the client without a proxy.',
  figures: [
    { key: 'rate', label: 'MiB/s', digits: 0, isMoreBetter: true },
    { key: 'cpu', label: 'CPU s', digits: 2 },
    { key: 'peak', label: 'peak MiB', digits: 0 },
  ],
  bars: [atLeast('rufh-proxy', 'rate', 1.2, 'http-proxy')],
  prepare: (bench) =>
    contestants(bench, async (server) => {
      const { value, cpuSeconds, peakMib } = await costOf(server, () => get({ url: `${server.url}/big`, size: GIB }));
      return { rate: KIB / value.seconds, cpu: cpuSeconds, peak: peakMib };
    }),
};

async function contestants(bench: Bench, run: (server: Pick<Server, 'url' | 'pid'>) => Promise<Figures>) {
  const origin = await bench.use(startOrigin());
  return [
    entrant('rufh-proxy', await bench.useOurs({ origin: origin.url }), run),
    entrant('http-proxy', await useHttpProxy(bench, origin.url), run),
    entrant('Caddy', await useCaddy(bench, origin.url), run),
    entrant('nginx', await useNginx(bench, origin.url), run),
    entrant('no proxy', origin, run),
  ];
}
