import type { App } from '../app/app.js';
import { assertUsable, type Closer, lockDirectory } from '../app/storage.js';
import type { Config } from '../config/config.js';
import { type ConfigSources, loadConfig } from '../config/load.js';
import { createLog, type Log, type ProcessLog } from '../observe/log.js';
import { startPrimary } from '../workers/primary.js';
import { PrimaryLink, workerConfig, workerIdentity, type WorkerIdentity } from '../workers/worker.js';
import { printWarnings, printErrors } from './check.js';
import { describeStartupError } from './startup-errors.js';

/** Opens one proxy in this process. */
export type StartApp = (config: Config, log: ProcessLog, version: string) => Promise<App>;

/** Runs the proxy until a signal ends it: in this process, or in several that this one looks after. */
export async function serve(sources: ConfigSources, version: string, startApp: StartApp = startSingle): Promise<void> {
  const loaded = loadConfig(sources);
  if ('configErrors' in loaded) {
    printErrors(loaded.configErrors);
    printWarnings(loaded.warnings);
    process.exit(1);
  }
  const { config } = loaded;
  const identity = workerIdentity(process.env);
  if (!identity) printWarnings(loaded.warnings);
  const log = createLog({ ...config.log, ...(identity ? { fields: { worker: identity.number } } : {}) });
  exitOnUnexpectedErrors(log);
  if (identity) return serveAsWorker({ identity, config, log, startApp: (own) => startApp(own, log, version) });
  const stop = new GracefulShutdown(log, 'stopped');
  try {
    const started: Started =
      config.workers > 1 ? await serveByWorkers(config, log) : await startApp(config, log, version);
    stop.attach(started);
    announce(log, started, version);
  } catch (error) {
    process.stderr.write(`rufh-proxy: ${describeStartupError(error, config)}\n`);
    process.exit(1);
  }
}

/** Loaded only here: a primary process does without most of the program. */
async function startSingle(...task: Parameters<StartApp>): Promise<App> {
  const { startApp } = await import('../app/app.js');
  return startApp(...task);
}

function announce(log: ProcessLog, started: Started, version: string): void {
  const { urls, adminUrl, node, workers } = started;
  const more = {
    ...(adminUrl === undefined ? {} : { admin: adminUrl }),
    ...(node === undefined ? {} : { node }),
    ...(workers === undefined ? {} : { workers }),
  };
  log.announce({ url: urls[0], urls, ...more, version, pid: process.pid }, 'listening', () => started.announce?.());
}

/** Nothing is known about the state after this. Ending is safe: a start recovers all that was acknowledged. */
function exitOnUnexpectedErrors(log: ProcessLog): void {
  const end = (error: unknown) => {
    log.fatal({ err: error }, 'unexpected error; exiting');
    process.exit(1);
  };
  process.on('uncaughtException', end).on('unhandledRejection', end);
}

interface WorkerTask {
  readonly identity: WorkerIdentity;
  readonly config: Config;
  readonly log: ProcessLog;
  readonly startApp: (config: Config) => Promise<App>;
}

/** Runs the proxy as one of several, until the primary process wants it to end or is gone. */
async function serveAsWorker({ identity, config, log, startApp }: WorkerTask): Promise<void> {
  const stop = new GracefulShutdown(log, 'worker stopped');
  const link = new PrimaryLink({
    onStop: (why) => {
      if (why === 'primary-gone') log.error('the primary process is gone; stopping');
      stop.begin();
    },
    onAnnounced: () => log.useStandardOutput(),
  });
  try {
    const app = await startApp(workerConfig(config, identity));
    stop.attach(app);
    link.ready(app);
  } catch (error) {
    await link.reportFailure(describeStartupError(error, config));
    process.exit(1);
  }
}

/** A proxy that runs in one process or several. */
type Started = Pick<App, 'urls' | 'adminUrl' | 'node' | 'stop'> & {
  readonly workers?: number;
  readonly announce?: () => void;
};

/** Runs the proxy in several processes that this one looks after. */
async function serveByWorkers(config: Config, log: ProcessLog): Promise<Started> {
  const { workers, spool, data, store } = config;
  const opened: Closer[] = [];
  const close = async () => {
    for (const one of opened.splice(0)) await one();
  };
  try {
    await assertUsable({ directory: data, store: store.type, isShared: spool.shared });
    // One node has one directory of its own: that its workers share it must let in no other processes.
    if (!spool.shared) await lockDirectory(data, opened);
    const primary = await startPrimary({ ...config, log });
    return { ...primary, workers, stop: () => primary.stop().finally(close) };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Ends the process, gently if there is time: for signals, and for whoever else may ask. */
class GracefulShutdown {
  private running: { stop(): Promise<void> } | undefined;
  private stopping = false;
  private hasSignal = false;

  /** `done`: the last line of the log, when all went well. */
  constructor(
    private readonly log: Log,
    private readonly done: string,
  ) {
    const onSignal = (signal: NodeJS.Signals) => this.onSignal(signal);
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
    // Its default action would end the process at once, which no tool that sends it means.
    process.on('SIGHUP', () => this.log.warn({ signal: 'SIGHUP' }, SIGHUP_IGNORED));
  }

  /** Something runs that must be stopped from here on. */
  attach(running: { stop(): Promise<void> }): void {
    this.running = running;
  }

  /** May be asked again: it goes on stopping. */
  begin(): void {
    if (this.stopping) return;
    // While it is still starting there is nothing to keep.
    if (!this.running) process.exit(0);
    this.stopping = true;
    this.running.stop().then(
      () => {
        this.log.info(this.done);
        process.exit(0);
      },
      (error: unknown) => {
        this.log.error({ err: error }, 'stopping failed');
        process.exit(1);
      },
    );
  }

  /**
   * The first signal lets requests under way keep what they have, the second ends the process at once. The default
   * action would be ignored by the first process of a container. A terminal signals workers and their primary process
   * together: that it has asked them to stop already does not make theirs the second.
   */
  private onSignal(signal: NodeJS.Signals): void {
    if (this.hasSignal) process.exit(1);
    this.hasSignal = true;
    if (this.running) this.log.info({ signal }, 'stopping; a second signal exits immediately');
    this.begin();
  }
}

const SIGHUP_IGNORED =
  'SIGHUP has no effect; to apply a changed configuration, restart the proxy (SIGTERM, then start it again)';
