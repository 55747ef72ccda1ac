import { spawn } from 'node:child_process';
import { Agent, request } from 'node:http';
import { loadavg } from 'node:os';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { startProxy } from '../test/support/proxy-process.js';
import type { Plan } from './plan.js';
import { startOrigin } from './programs.js';
import { keepResult, printTable } from './report.js';
import { percentile } from './statistics.js';

const MEASURED_MS = 10_000;
const PAUSE_MS = 5;
/** An honest client beside 30: three of each kind that trickles, drips or sends one byte at a time. */
const PROMISED_P99_MS = 50;

/** What one client's requests take while others send in tiny pieces. Only figures of a quiet machine say anything. */
export async function benchNeighbour(plan: Plan): Promise<void> {
  const sink = await startOrigin();
  const flags = ['--log-level', 'warn', ...plan.proxyFlags];
  const proxy = await startProxy({ origin: sink.url, data: plan.data, flags });
  const load = loadavg()[0]!;
  try {
    const alone = await measure(proxy.url);
    const program = fileURLToPath(new URL('programs/tiny-pieces.mjs', import.meta.url));
    const attackers = spawn(process.execPath, [program, proxy.url], { stdio: ['ignore', 'pipe', 'inherit'] });
    const told = text(attackers.stdout);
    await pause(1000);
    const beside = await measure(proxy.url);
    attackers.kill('SIGTERM');
    const kinds = JSON.parse(await told) as Kinds;
    const row = (name: string, ms: readonly number[]): string[] => [
      name,
      ...[0.5, 0.99, 1].map((share) => percentile(ms, share).toFixed(1)),
      `${ms.length}`,
    ];
    printTable({
      title: `GETs of a neighbour, ms (load ${load.toFixed(1)} when it began; promised: p99 below ${PROMISED_P99_MS})`,
      columns: ['', 'median', 'p99', 'longest', 'requests'],
      rows: [row('alone', alone), row('beside 30 clients with tiny pieces', beside)],
    });
    printTable({
      title: 'what the others have sent and read',
      columns: ['', 'connections', 'bytes'],
      rows: Object.entries(kinds).map(([name, { connections, bytes }]) => [name, `${connections}`, `${bytes}`]),
    });
    keepResult('neighbour', { load, alone, beside, kinds });
  } finally {
    await proxy.stop();
    await sink.stop();
  }
}

/** By kind of client: how often one connected, and how many bytes moved. */
type Kinds = Readonly<Record<string, { readonly connections: number; readonly bytes: number }>>;

/** One request after the other on one connection. */
async function measure(url: string): Promise<number[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const times: number[] = [];
  const until = performance.now() + MEASURED_MS;
  while (performance.now() < until) {
    const began = performance.now();
    await get(url, agent);
    times.push(performance.now() - began);
    await pause(PAUSE_MS);
  }
  agent.destroy();
  return times;
}

function get(url: string, agent: Agent): Promise<void> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { agent }, (answer) => answer.resume().once('end', resolve));
    sent.once('error', reject).end();
  });
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
