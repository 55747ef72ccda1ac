import { atMost } from '../bars.js';
import type { Contest, Figures } from '../contest.js';
import { useTusd, useTusServer } from '../peers.js';
import { send, type Server, startOrigin } from '../programs.js';
import { costOf, GIB, MIB } from '../workbench.js';
import { entrant, PART, tusCreation } from './entrants.js';

/** Receiving one large upload, without delivering it. */
export const ingest: Contest = {
  name: 'ingest',
  title: 'One large upload is received',
  method:
    '1 GiB in one request; it is not delivered, as tus servers do not deliver. CPU until the response. No tus server here forces bytes to the disk, which is `sync: none`; the bar is for our default, `group`.',
  figures: [
    { key: 'cpu', label: 'CPU s/GiB', digits: 2 },
    { key: 'seconds', label: 's/GiB', digits: 2 },
    { key: 'peak', label: 'peak MiB', digits: 0 },
  ],
  readyBytes: (bench) => bench.either(1.5 * GIB, 384 * MIB),
  bars: [atMost('rufh-proxy', 'cpu', 0.9, 'tusd')],
  async prepare(bench) {
    const size = bench.either(GIB, 256 * MIB);
    const origin = await bench.use(startOrigin());
    const ours = await bench.useOurs({ origin: origin.url });
    const unsynced = await bench.useOurs({ origin: origin.url, config: 'spool: { sync: none }\n' });
    return [
      entrant('rufh-proxy', ours, (server) => receive(server, size)),
      entrant('rufh-proxy, sync none', unsynced, (server) => receive(server, size)),
      entrant('tusd', await useTusd(bench), (server) => receiveTus(server, size)),
      entrant('@tus/server', await useTusServer(bench), (server) => receiveTus(server, size)),
      entrant('Node socket that discards', origin, (server) => discard(server, size)),
    ];
  },
};

type Target = Pick<Server, 'url' | 'pid'>;

async function receive(server: Target, size: number): Promise<Figures> {
  const sending = { url: `${server.url}/bench`, method: 'POST', headers: PART, size } as const;
  const { value, ...cost } = await costOf(server, () => send(sending));
  await deleteUpload(value.location!, { 'Upload-Draft-Interop-Version': '10' });
  return figuresOf(cost, value.seconds, size);
}

async function receiveTus(server: Target, size: number): Promise<Figures> {
  const created = await fetch(`${server.url}/files/`, { method: 'POST', headers: tusCreation(size, false) });
  const url = new URL(created.headers.get('location')!, server.url).href;
  const headers = { 'Tus-Resumable': '1.0.0', 'Upload-Offset': '0', 'Content-Type': 'application/offset+octet-stream' };
  const { value, ...cost } = await costOf(server, () => send({ url, method: 'PATCH', headers, size }));
  await deleteUpload(url, { 'Tus-Resumable': '1.0.0' });
  return figuresOf(cost, value.seconds, size);
}

async function discard(server: Target, size: number): Promise<Figures> {
  const { value, ...cost } = await costOf(server, () =>
    send({ url: `${server.url}/bench`, method: 'POST', headers: {}, size }),
  );
  return figuresOf(cost, value.seconds, size);
}

/** What is still to be written of a deleted file does not disturb the next run. */
async function deleteUpload(url: string, headers: Record<string, string>): Promise<void> {
  const { status } = await fetch(url, { method: 'DELETE', headers });
  if (status !== 204) throw new Error(`DELETE ${url} answered with ${status}`);
}

function figuresOf(cost: { cpuSeconds: number; peakMib: number }, seconds: number, size: number): Figures {
  return { cpu: (cost.cpuSeconds * GIB) / size, seconds: (seconds * GIB) / size, peak: cost.peakMib };
}
