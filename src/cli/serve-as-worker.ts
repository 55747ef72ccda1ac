import type { App } from '../app.js';
import type { Config } from '../config/config.js';
import type { ProcessLog } from '../observe/log.js';
import { PrimaryLink } from '../workers/primary-link.js';
import { workerConfig } from '../workers/worker-config.js';
import type { WorkerPlace } from '../workers/worker-place.js';
import { GentleStop } from './gentle-stop.js';
import { whyNotStarted } from './why-not-started.js';

export interface WorkerTask {
  readonly place: WorkerPlace;
  readonly config: Config;
  readonly log: ProcessLog;
  readonly startApp: (config: Config) => Promise<App>;
}

/** Runs the proxy as one of several, until the primary process wants it to end or is gone. */
export async function serveAsWorker({ place, config, log, startApp }: WorkerTask): Promise<void> {
  const stop = new GentleStop(log, 'the worker has stopped');
  const link = new PrimaryLink({
    onStop: (why) => {
      if (why === 'primary-gone') log.error('the primary process is gone; stopping');
      stop.begin();
    },
    onAnnounced: () => log.useStandardOutput(),
  });
  try {
    const app = await startApp(workerConfig(config, place));
    stop.stops(app);
    link.listens(app);
  } catch (error) {
    await link.failed(whyNotStarted(error, config));
    process.exit(1);
  }
}
