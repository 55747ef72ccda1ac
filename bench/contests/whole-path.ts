import { atMost } from '../bars.js';
import type { Contest, Figures } from '../contest.js';
import { useCaddy, useNginx } from '../peers.js';
import { send, type Sending, type Server, startOrigin } from '../programs.js';
import { type Bench, costOf, GIB, MIB } from '../workbench.js';
import { entrant, WHOLE } from './entrants.js';

const EAGER = 'delivery: { mode: eager }\n';

/** From the client's first byte to the origin's answer, as fast as everybody can. */
export const wholePath: Contest = {
  name: 'whole-path',
  title: 'One large upload reaches the origin',
  method:
    '1 GiB in one request, until the client has the answer of the origin. nginx stores the whole request first; Caddy streams it and stores nothing, for comparison.',
  figures: [
    { key: 'seconds', label: 's/GiB', digits: 2 },
    { key: 'cpu', label: 'CPU s/GiB', digits: 2 },
    { key: 'peak', label: 'peak MiB', digits: 0 },
  ],
  readyBytes: (bench) => bench.either(1.5 * GIB, 384 * MIB),
  bars: [
    atMost('rufh-proxy, spool', 'seconds', 1, 'nginx'),
    atMost('rufh-proxy, eager', 'seconds', 0.8, 'nginx'),
    atMost('rufh-proxy, spool', 'cpu', 1, 'nginx'),
    atMost('rufh-proxy, eager', 'cpu', 1, 'nginx'),
  ],
  prepare: (bench) =>
    contestants(bench, ['spool', 'eager', 'nginx', 'Caddy'], async (server, headers) => {
      const size = bench.either(GIB, 256 * MIB);
      const sending = { url: `${server.url}/bench`, method: 'POST', headers, size } as const;
      const { value, cpuSeconds, peakMib } = await costOf(server, () => send(sending));
      return { seconds: (value.seconds * GIB) / size, cpu: (cpuSeconds * GIB) / size, peak: peakMib };
    }),
};

/** A client of everyday speed: how long it waits for the answer once it has sent everything. */
export const eager: Contest = {
  name: 'eager',
  title: 'From the last byte of the client to its answer',
  method:
    '512 MiB at 100 MB/s. The origin is on the same machine: behind a slower link everybody but `eager` waits as long as the whole body takes to cross it.',
  figures: [{ key: 'wait', label: 'ms', digits: 1 }],
  readyBytes: (bench) => bench.either(GIB, 256 * MIB),
  bars: [atMost('rufh-proxy, eager', 'wait', 10), atMost('rufh-proxy, spool', 'wait', 1, 'nginx')],
  prepare: (bench) =>
    contestants(bench, ['spool', 'eager', 'nginx'], async ({ url }, headers) => {
      const body = { size: bench.either(512, 64) * MIB, bytesPerSecond: 1e8 };
      const sent = await send({ url: `${url}/bench`, method: 'POST', headers, ...body });
      return { wait: sent.afterLastByteSeconds * 1000 };
    }),
};

async function contestants(
  bench: Bench,
  names: readonly ('spool' | 'eager' | 'nginx' | 'Caddy')[],
  run: (server: Pick<Server, 'url' | 'pid'>, headers: Sending['headers']) => Promise<Figures>,
) {
  const origin = (await bench.use(startOrigin())).url;
  const start = {
    spool: () => bench.useOurs({ origin }),
    eager: () => bench.useOurs({ origin, config: EAGER }),
    nginx: () => useNginx(bench, origin),
    Caddy: () => useCaddy(bench, origin),
  };
  const isOurs = (name: string): boolean => name === 'spool' || name === 'eager';
  const all = [];
  for (const name of names)
    all.push(
      entrant(isOurs(name) ? `rufh-proxy, ${name}` : name, await start[name](), (server) =>
        run(server, isOurs(name) ? WHOLE : {}),
      ),
    );
  return all;
}
