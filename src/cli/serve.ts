import { startApp, type App } from '../app.js';
import { loadConfig, type ConfigSources } from '../config/load.js';
import { createLog, type ProcessLog } from '../observe/log.js';
import { printMistakes } from './print-mistakes.js';
import { whyNotStarted } from './why-not-started.js';

/** Runs the proxy until a signal ends it. */
export async function serve(sources: ConfigSources, version: string): Promise<void> {
  const loaded = loadConfig(sources);
  if ('mistakes' in loaded) {
    printMistakes(loaded.mistakes);
    process.exitCode = 1;
    return;
  }
  const log = createLog(loaded.config.log);
  endOnTheUnexpected(log);
  const signals = stopOnSignals(log);
  try {
    const app = await startApp(loaded.config, log, version);
    signals.stops(app);
    announce(log, app, version);
  } catch (error) {
    process.stderr.write(`rufh-proxy: ${whyNotStarted(error, loaded.config)}\n`);
    process.exit(1);
  }
}

function announce(log: ProcessLog, { urls, adminUrl }: App, version: string): void {
  const admin = adminUrl === undefined ? {} : { admin: adminUrl };
  log.announce({ url: urls[0], urls, ...admin, version, pid: process.pid }, 'listening');
}

/**
 * The first signal lets requests under way keep what they have, the second ends the process at once. While it is
 * still starting there is nothing to keep: the default action would be ignored by the first process of a container.
 */
function stopOnSignals(log: ProcessLog): { stops(app: App): void } {
  let running: App | undefined;
  let stopping = false;
  const onSignal = (signal: NodeJS.Signals) => {
    if (stopping) process.exit(1);
    if (!running) process.exit(0);
    stopping = true;
    log.info({ signal }, 'stopping; a second signal ends at once');
    running.stop().then(
      () => {
        log.info('stopped');
        process.exit(0);
      },
      (error: unknown) => {
        log.error({ err: error }, 'stopping failed');
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
  return { stops: (app) => void (running = app) };
}

/** Nothing is known about the state after this. Ending is safe: a start recovers all that was acknowledged. */
function endOnTheUnexpected(log: ProcessLog): void {
  const end = (error: unknown) => {
    log.fatal({ err: error }, 'unexpected error; the process ends');
    process.exit(1);
  };
  process.on('uncaughtException', end).on('unhandledRejection', end);
}
