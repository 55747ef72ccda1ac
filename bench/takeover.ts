import type { HeaderLine } from '../src/model/headers.js';
import { connect, type RawClient, requestOnce } from '../test/support/client.js';
import { startProxy } from '../test/support/proxy-process.js';
import {
  appendLines,
  clientDialect,
  createUpload,
  type ResumableUpload,
  type Send,
} from '../test/support/resumable-client.js';
import { randomBytes, sha256 } from '../test/support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../test/support/test-origin.js';
import type { Plan } from './plan.js';
import { keepResult, printTable } from './report.js';
import { median, percentile } from './statistics.js';

const DIALECT = clientDialect('10');
const CONTENT = randomBytes(1024 * 1024);
const CONTENT_SHA256 = sha256(CONTENT);
const PIECE = 256 * 1024;
export const WARM_UP = 5;
/** A client that comes back is served within this time. */
const PROMISED_MS = 50;

/** What a client waited for that came back over new connections. */
export interface Takeover {
  /** HEAD, while a PATCH is stalled in the middle of its body. */
  readonly headMs: number;
  /** The PATCH after it. */
  readonly patchMs: number;
  /** PATCH without asking first, while another PATCH is stalled. */
  readonly directMs: number;
}

/** A client that comes back while its own dead request still seems to be feeding: how long it waits. */
export async function benchTakeover(plan: Plan): Promise<void> {
  const origin = await startTestOrigin({ status: 201 });
  const proxy = await startProxy({ origin: origin.url, data: plan.data, flags: plan.proxyFlags });
  try {
    const takeovers: Takeover[] = [];
    const both = [proxy.url, proxy.url] as const;
    for (let run = 0; run < WARM_UP; run++) await takeOver(both, origin);
    for (let run = 0; run < plan.takeovers; run++) takeovers.push(await takeOver(both, origin));
    report(takeovers);
  } finally {
    await proxy.stop();
    await origin.close();
  }
}

/**
 * Stalls a PATCH at one address, comes back at the other, does the same again the other way round without asking, lets both
 * dead ones wake up, and finishes.
 */
export async function takeOver([first, second]: readonly [string, string], origin: TestOrigin): Promise<Takeover> {
  let url = first;
  const send: Send = (request) => requestOnce(url, request);
  const upload = await createUpload(DIALECT, send, { method: 'POST', target: '/takeover' });
  const stalled = await stall(first, upload, 0, PIECE);
  url = second;
  const [headMs, offset] = await timed(() => upload.offset());
  const [patchMs] = await timed(() => append(upload, offset));
  const dead = await stall(second, upload, offset + PIECE, 0);
  url = first;
  const [directMs] = await timed(() => append(upload, offset + PIECE));
  await Promise.all([stalled, dead].map((late) => late.send(Buffer.alloc(PIECE, 'late'))));
  await upload.finish(CONTENT);
  for (const late of [stalled, dead]) late.destroy();
  const got = origin.requests.at(-1);
  if (got?.sha256 !== CONTENT_SHA256) throw new Error('the origin did not get what was uploaded');
  return { headMs, patchMs, directMs };
}

/** A PATCH whose body stops after `size` bytes, on a connection that stays open. */
async function stall(url: string, upload: ResumableUpload, offset: number, size: number): Promise<RawClient> {
  const client = await connect(url);
  const lines = appendLines(DIALECT, { offset, complete: true });
  const rest: HeaderLine[] = [
    ['Content-Length', `${CONTENT.length - offset}`],
    ['Expect', '100-continue'],
  ];
  await client.sendHead('PATCH', upload.target, [...lines, ...rest]);
  // 100 says that the proxy now waits for the body.
  while ((await client.readInterim()).status !== 100);
  if (size > 0) await client.send(CONTENT.subarray(offset, offset + size));
  await new Promise((resolve) => setTimeout(resolve, 10));
  return client;
}

async function append(upload: ResumableUpload, offset: number): Promise<void> {
  const response = await upload.append(CONTENT.subarray(offset, offset + PIECE), { offset, complete: false });
  if (response.status !== DIALECT.appendedStatus) throw new Error(`PATCH answered with ${response.status}`);
}

async function timed<T>(step: () => Promise<T>): Promise<[tookMs: number, value: T]> {
  const startedAt = performance.now();
  const value = await step();
  return [performance.now() - startedAt, value];
}

/** Each thing a client waits for, in milliseconds. */
export function waits(takeovers: readonly Takeover[]): Readonly<Record<string, readonly number[]>> {
  return {
    'HEAD over a stalled PATCH': takeovers.map(({ headMs }) => headMs),
    'HEAD over a stalled PATCH, then PATCH': takeovers.map(({ headMs, patchMs }) => headMs + patchMs),
    'PATCH over a stalled PATCH': takeovers.map(({ directMs }) => directMs),
  };
}

function report(takeovers: readonly Takeover[]): void {
  const milliseconds = (value: number): string => value.toFixed(1);
  printTable({
    title: `Takeover, ${takeovers.length} times, milliseconds with a new connection each (promised: ${PROMISED_MS})`,
    columns: ['', 'median', 'p99', 'longest'],
    rows: Object.entries(waits(takeovers)).map(([name, values]) => [
      name,
      milliseconds(median(values)),
      milliseconds(percentile(values, 0.99)),
      milliseconds(Math.max(...values)),
    ]),
    notes: [
      'Every upload then went on and reached the origin whole, although the dead requests woke up and sent more.',
    ],
  });
  keepResult('takeover', { promisedMs: PROMISED_MS, takeovers });
}
