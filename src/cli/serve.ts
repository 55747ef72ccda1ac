import type { App } from '../app.js';
import type { Config } from '../config/config.js';
import { loadConfig, type ConfigSources } from '../config/load.js';
import { createLog, type ProcessLog } from '../observe/log.js';
import { workerPlace } from '../workers/worker-place.js';
import { GentleStop } from './gentle-stop.js';
import { printDoubts, printMistakes } from './print-mistakes.js';
import { serveAsWorker } from './serve-as-worker.js';
import { serveByWorkers, type Started } from './serve-by-workers.js';
import { whyNotStarted } from './why-not-started.js';

/** Opens one proxy in this process. */
export type StartApp = (config: Config, log: ProcessLog, version: string) => Promise<App>;

/** Runs the proxy until a signal ends it: in this process, or in several that this one looks after. */
export async function serve(sources: ConfigSources, version: string, startApp: StartApp = startWhole): Promise<void> {
  const loaded = loadConfig(sources);
  if ('mistakes' in loaded) {
    printMistakes(loaded.mistakes);
    printDoubts(loaded.doubts);
    process.exit(1);
  }
  const { config } = loaded;
  const place = workerPlace(process.env);
  if (!place) printDoubts(loaded.doubts);
  const log = createLog({ ...config.log, ...(place ? { fields: { worker: place.number } } : {}) });
  endOnTheUnexpected(log);
  if (place) return serveAsWorker({ place, config, log, startApp: (own) => startApp(own, log, version) });
  const stop = new GentleStop(log, 'stopped');
  try {
    const started: Started =
      config.workers > 1 ? await serveByWorkers(config, log) : await startApp(config, log, version);
    stop.stops(started);
    announce(log, started, version);
  } catch (error) {
    process.stderr.write(`rufh-proxy: ${whyNotStarted(error, config)}\n`);
    process.exit(1);
  }
}

/** Loaded only here: a primary process does without most of the program. */
async function startWhole(...task: Parameters<StartApp>): Promise<App> {
  const { startApp } = await import('../app.js');
  return startApp(...task);
}

function announce(log: ProcessLog, started: Started, version: string): void {
  const { urls, adminUrl, node, workers } = started;
  const more = {
    ...(adminUrl === undefined ? {} : { admin: adminUrl }),
    ...(node === undefined ? {} : { node }),
    ...(workers === undefined ? {} : { workers }),
  };
  log.announce({ url: urls[0], urls, ...more, version, pid: process.pid }, 'listening', () => started.announced?.());
}

/** Nothing is known about the state after this. Ending is safe: a start recovers all that was acknowledged. */
function endOnTheUnexpected(log: ProcessLog): void {
  const end = (error: unknown) => {
    log.fatal({ err: error }, 'unexpected error; the process ends');
    process.exit(1);
  };
  process.on('uncaughtException', end).on('unhandledRejection', end);
}
