import { startProxy } from '../test/support/proxy-process.js';
import { startTestOrigin, type TestOrigin } from '../test/support/test-origin.js';
import type { Plan } from './plan.js';
import { startBenchRedis, startRedisNodes } from './redis-nodes.js';
import { keepResult, printTable } from './report.js';
import { median, percentile } from './statistics.js';
import { type Takeover, takeOver, waits, WARM_UP } from './takeover.js';

/** A client that comes back at another node is served within this time, half of the times at least. */
const PROMISED_MS = 250;

interface Way {
  readonly name: string;
  /** Where the client is first, and where it comes back. */
  readonly urls: readonly [string, string];
  readonly takeovers: Takeover[];
}

/** How long a client waits that comes back at another node while its dead request still seems to be feeding. */
export async function benchNodes(plan: Plan): Promise<void> {
  const redis = await startBenchRedis();
  if (!redis) return;
  const origin = await startTestOrigin({ status: 201 });
  const common = { origin: origin.url, flags: plan.proxyFlags };
  const onRedis = { ...common, nodes: 2, redisUrl: redis.url };
  const alone = await startProxy(common);
  const shared = await startRedisNodes({ ...onRedis, bytes: 'shared', prefix: 'shared' });
  const local = await startRedisNodes({ ...onRedis, bytes: 'node-local', prefix: 'local' });
  try {
    const [sharedA, sharedB] = shared.proxies.map(({ url }) => url) as [string, string];
    const [localA, localB] = local.proxies.map(({ url }) => url) as [string, string];
    const ways: Way[] = [
      { name: 'one node, embedded store', urls: [alone.url, alone.url], takeovers: [] },
      { name: 'one node, Redis', urls: [sharedA, sharedA], takeovers: [] },
      { name: 'two nodes, shared spool', urls: [sharedA, sharedB], takeovers: [] },
      { name: 'two nodes, each its own spool', urls: [localA, localB], takeovers: [] },
    ];
    await measure(ways, plan, origin);
    report(ways, plan);
  } finally {
    await Promise.all([alone.stop(), shared.stop(), local.stop()]);
    await origin.close();
    await redis.stop();
  }
}

/** All ways in turn, over and over, so that a disturbance hits all of them alike. */
async function measure(ways: readonly Way[], { takeovers }: Plan, origin: TestOrigin): Promise<void> {
  for (let run = -WARM_UP; run < takeovers; run++)
    for (const way of ways) {
      const taken = await takeOver(way.urls, origin);
      if (run >= 0) way.takeovers.push(taken);
    }
}

function report(ways: readonly Way[], plan: Plan): void {
  const alone = waits(ways[0]!.takeovers);
  for (const what of Object.keys(alone)) {
    const floor = median(alone[what]!);
    printTable({
      title: `${what}, ${plan.takeovers} times, milliseconds with a new connection each (promised median: ${PROMISED_MS})`,
      columns: ['', 'median', 'p99', 'longest', 'median ×'],
      rows: ways.map(({ name, takeovers }) => {
        const values = waits(takeovers)[what]!;
        const figures = [median(values), percentile(values, 0.99), Math.max(...values)];
        return [name, ...figures.map((ms) => ms.toFixed(1)), `${(median(values) / floor).toFixed(2)} ×`];
      }),
    });
  }
  console.log(
    '  Stalled at one node, back at the other; without HEAD the other way round. × compares with the first line.',
  );
  console.log(
    '  Every upload then went on and reached the origin whole, although the dead requests woke up and sent more.',
  );
  keepResult('nodes', {
    promisedMs: PROMISED_MS,
    proxyFlags: plan.proxyFlags,
    ways: ways.map(({ name, takeovers }) => ({ name, takeovers })),
  });
}
