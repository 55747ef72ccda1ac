import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeCertificate } from '../../test/support/temporary.js';
import { atMost } from '../bars.js';
import type { Contest } from '../contest.js';
import { send, startOrigin, startRelay } from '../programs.js';
import { type Bench, costOf, GIB, MIB } from '../workbench.js';
import { WHOLE } from './entrants.js';

const FIGURES = [
  { key: 'seconds', label: 's/GiB', digits: 2 },
  { key: 'cpu', label: 'CPU s/GiB', digits: 2 },
];
const H2 = 'rufh-proxy, HTTP/2';
const H1 = 'rufh-proxy, HTTP/1.1';

/** The newer version of HTTP must not cost an upload its speed. */
export const http2: Contest = {
  name: 'http2',
  title: 'HTTP/2 beside HTTP/1.1',
  method:
    '1 GiB over TLS to the same listener. The client writes frames of its own, so that it is not what limits HTTP/2.',
  figures: FIGURES,
  readyBytes: (bench) => bench.either(1.5 * GIB, 384 * MIB),
  bars: [atMost(H2, 'seconds', 1.2, H1)],
  prepare: (bench) => contestants(bench, bench.either(GIB, 256 * MIB), 0),
};

/** The same for a client far away: flow control must keep the link full. */
export const http2Far: Contest = {
  name: 'http2-far',
  title: 'HTTP/2 beside HTTP/1.1, 50 ms away',
  method: '256 MiB over TLS through a relay that delays each direction by 25 ms and limits no rate.',
  figures: FIGURES,
  readyBytes: () => 384 * MIB,
  bars: [atMost(H2, 'seconds', 1.2, H1)],
  prepare: (bench) => contestants(bench, bench.either(256, 128) * MIB, 25),
};

async function contestants(bench: Bench, size: number, delayMs: number) {
  const origin = (await bench.use(startOrigin())).url;
  const ours = await bench.useOurs({ origin, config: await tlsSettings(bench) });
  const { host } = new URL(ours.url);
  const way =
    delayMs === 0 ? `https://${host}` : (await bench.use(startRelay(host, delayMs))).url.replace('http:', 'https:');
  return [true, false].map((isHttp2) => ({
    name: isHttp2 ? H2 : H1,
    run: async () => {
      const sending = { url: `${way}/bench`, method: 'POST', headers: WHOLE, size, isHttp2 } as const;
      const { value, cpuSeconds } = await costOf(ours, () => send(sending));
      return { seconds: (value.seconds * GIB) / size, cpu: (cpuSeconds * GIB) / size };
    },
  }));
}

async function tlsSettings(bench: Bench): Promise<string> {
  const directory = await bench.directory();
  const { cert, key } = makeCertificate();
  const [certFile, keyFile] = [join(directory, 'cert.pem'), join(directory, 'key.pem')];
  await writeFile(certFile, cert);
  await writeFile(keyFile, key);
  return `listen: [{ address: '127.0.0.1:0', tls: { cert: ${certFile}, key: ${keyFile} }, http2: true }]\n`;
}
