import { fileURLToPath } from 'node:url';
import { ProxyProcess, type ProxyOptions } from './proxy.js';
import { until } from './temporary.js';

const PROGRAM = fileURLToPath(new URL('crew-program.ts', import.meta.url));

export interface WorkerPoolOptions extends ProxyOptions {
  readonly workers?: number;
  /** This worker's process throws while it starts, or ends with code 7. */
  readonly failing?: number;
  readonly ending?: number;
  /** Its directory is for this crew alone. */
  readonly ownSpool?: boolean;
}

/** Several processes of the proxy with one in front, each with uploads of its own; waits for nothing. */
export function spawnCrew({
  workers = 2,
  failing,
  ending,
  ownSpool = false,
  config = '',
  ...options
}: WorkerPoolOptions): Promise<ProxyProcess> {
  // Nothing is ever asked of this server: see the program.
  const store = 'store: { type: redis, url: redis://127.0.0.1:1 }\n';
  const spool = `spool: { shared: ${!ownSpool} }\n`;
  return ProxyProcess.spawn({
    program: PROGRAM,
    nodeFlags: ['--import', 'tsx'],
    ...options,
    config: `workers: ${workers}\n${store}${spool}${config}`,
    env: {
      ...options.env,
      ...(failing === undefined ? {} : { FAILING_WORKER: String(failing) }),
      ...(ending === undefined ? {} : { ENDING_WORKER: String(ending) }),
    },
  });
}

/** Waits until all of them listen. */
export async function startCrew(options: WorkerPoolOptions): Promise<ProxyProcess> {
  const pool = await spawnCrew(options);
  try {
    return await pool.listening();
  } catch (error) {
    await pool.stop();
    throw error;
  }
}

/** Pids of the processes that have been workers, oldest first. */
export function workerPids(pool: ProxyProcess, worker?: number): number[] {
  const said = [...pool.errors, ...pool.lines].filter((line) => line.startsWith('{'));
  return said
    .map((line) => JSON.parse(line) as { msg: string; worker: number; workerPid: number })
    .filter((line) => line.msg === 'worker listening' && (worker === undefined || line.worker === worker))
    .map(({ workerPid }) => workerPid);
}

export async function untilGone(pids: readonly number[]): Promise<void> {
  await until(() => !pids.some(runs), `the processes ${pids.join(', ')} to end`, 20_000);
}

function runs(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
