import { connect, type RawClient } from '../../test/support/client.js';
import { appendLines, clientDialect, createUpload, type ResumableUpload } from '../../test/support/resumable-client.js';
import { atMost } from '../bars.js';
import type { Contest, Figures } from '../contest.js';
import { startOrigin } from '../programs.js';
import { median } from '../statistics.js';
import { GIB, MIB } from '../workbench.js';

const DIALECT = clientDialect('10');
const LONG = 'rufh-proxy, long upload';
const SHORT = 'rufh-proxy, short upload';

/** Coming back must not cost more because much is there already. */
export const resume: Contest = {
  name: 'resume',
  title: 'A client comes back to a long upload',
  method:
    'An upload of 4 GiB in 5,000 appends beside one of 1 MiB in one. HEAD, and PATCH until the `100 (Continue)` that says the first byte is wanted; medians of 50 of each in a round, over one connection.',
  figures: [
    { key: 'head', label: 'HEAD ms', digits: 2 },
    { key: 'patch', label: 'PATCH ms', digits: 2 },
  ],
  bars: [atMost(LONG, 'head', 1.1, SHORT), atMost(LONG, 'patch', 1.1, SHORT)],
  async prepare(bench) {
    const origin = (await bench.use(startOrigin())).url;
    const { url } = await bench.useOurs({ origin });
    const appends = bench.either(5000, 250);
    const client = await connect(url);
    const long = await uploadOf(url, client, bench.either(4 * GIB, 200 * MIB), appends);
    client.destroy();
    const times = bench.either(50, 20);
    return [
      { name: LONG, run: () => comeBack(url, long, times) },
      { name: SHORT, run: async () => comeBack(url, await uploadOf(url, await connect(url), MIB, 1), times) },
    ];
  },
};

/** An upload that has so many bytes in so many appends, and is not whole. */
async function uploadOf(url: string, client: RawClient, size: number, appends: number): Promise<ResumableUpload> {
  const upload = await createUpload(DIALECT, (request) => client.request(request), {
    method: 'POST',
    target: '/resume',
  });
  const piece = Buffer.alloc(Math.ceil(size / appends), 'rufh-proxy ');
  for (let at = 0; at < appends; at++) {
    const { status } = await upload.append(piece, { offset: at * piece.length, complete: false });
    if (status !== DIALECT.appendedStatus) throw new Error(`PATCH at ${url} answered with ${status}`);
  }
  return upload;
}

async function comeBack(url: string, upload: ResumableUpload, times: number): Promise<Figures> {
  const client = await connect(url);
  const [heads, patches]: [number[], number[]] = [[], []];
  for (let time = 0; time < times; time++) {
    const askedAt = performance.now();
    const response = await client.request({ method: 'HEAD', target: upload.target, headers: VERSION });
    heads.push(performance.now() - askedAt);
    const offset = Number(response.header('Upload-Offset'));
    const beganAt = performance.now();
    const lines = appendLines(DIALECT, { offset, complete: false });
    await client.sendHead('PATCH', upload.target, [...lines, ['Content-Length', '1'], ['Expect', '100-continue']]);
    while ((await client.readInterim()).status !== 100);
    patches.push(performance.now() - beganAt);
    await client.send(Buffer.from('x'));
    await client.readFinal();
  }
  client.destroy();
  return { head: median(heads), patch: median(patches) };
}

const VERSION = [['Upload-Draft-Interop-Version', '10']] as const;
