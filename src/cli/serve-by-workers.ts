import type { App } from '../app.js';
import type { Config } from '../config/config.js';
import type { ProcessLog } from '../observe/log.js';
import { assertUsable, lockDirectory, type Closing } from '../storage.js';
import { startPrimary } from '../workers/primary.js';

/** A proxy that runs in one process or several. */
export type Started = Pick<App, 'urls' | 'adminUrl' | 'node' | 'stop'> & {
  readonly workers?: number;
  readonly announced?: () => void;
};

/** Runs the proxy in several processes that this one looks after. */
export async function serveByWorkers(config: Config, log: ProcessLog): Promise<Started> {
  const { workers, spool, data, store } = config;
  const opened: Closing[] = [];
  const close = async () => {
    for (const one of opened.splice(0)) await one();
  };
  try {
    await assertUsable({ directory: data, store: store.type, shared: spool.shared });
    // One node has one directory of its own: that its workers share it must let in no other processes.
    if (!spool.shared) await lockDirectory(data, opened);
    const primary = await startPrimary({ ...config, log });
    return { ...primary, workers, stop: () => primary.stop().finally(close) };
  } catch (error) {
    await close();
    throw error;
  }
}
