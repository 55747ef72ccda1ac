import type { App } from '../app/app.js';
import { assertUsable, type Closer, lockDirectory } from '../app/storage.js';
import type { ConfigSource } from '../app/reload.js';
import type { Config } from '../config/config.js';
import { type ConfigSources, loadConfig, settingError } from '../config/load.js';
import { createLog, type Log, type ProcessLog } from '../observe/log.js';
import { keepHeapSmall } from '../streams/idle-collection.js';
import { startPrimary } from '../workers/primary.js';
import { PrimaryLink, workerConfig, workerIdentity, type WorkerIdentity } from '../workers/worker.js';
import { printErrors, printWarnings } from './config-errors.js';
import { describeStartupError } from './startup-errors.js';

/** Starts one proxy in this process. It can reload its configuration if it gets a source. */
export type StartApp = (config: Config, log: ProcessLog, version: string, source?: ConfigSource) => Promise<App>;

/** Runs the proxy until a signal stops it, in this process or in several workers that it supervises. */
export async function serve(sources: ConfigSources, version: string, startApp: StartApp = startSingle): Promise<void> {
  const identity = workerIdentity(process.env);
  if (identity) return serveAsWorker(identity, (config, log) => startApp(config, log, version));
  const attachReload = reloadOnSighup();
  const loaded = loadConfig(sources);
  if ('configErrors' in loaded) {
    printErrors(loaded.configErrors);
    printWarnings(loaded.warnings);
    process.exit(1);
  }
  const { config, settings } = loaded;
  printWarnings(loaded.warnings);
  const log = createLog(config.log);
  exitOnUnexpectedErrors(log);
  keepHeapSmall();
  const shutdown = new GracefulShutdown(log, 'stopped');
  const source: ConfigSource = {
    settings,
    load: () => loadConfig(sources),
    locate: (path, problem) => settingError(sources, path, problem),
  };
  try {
    const started: Started =
      config.workers > 1 ? await serveWithWorkers(config, log, source) : await startApp(config, log, version, source);
    shutdown.attach(started);
    attachReload(started, log);
    announce(log, started, version);
  } catch (error) {
    process.stderr.write(`rufh-proxy: ${describeStartupError(error, config)}\n`);
    process.exit(1);
  }
}

/** Imports the app lazily, because a primary process does not need most of it. */
async function startSingle(...[config, log, version, source]: Parameters<StartApp>): Promise<App> {
  const { startApp } = await import('../app/app.js');
  return startApp(config, log, version, undefined, source);
}

/** Reloads on SIGHUP, once the proxy has started: the caller passes it and its log to the returned function. */
function reloadOnSighup(): (started: Pick<Started, 'reload'>, log: Log) => void {
  let reload: (() => void) | undefined;
  let isRequested = false;
  process.on('SIGHUP', () => {
    if (reload) reload();
    else isRequested = true;
  });
  return (started, log) => {
    reload = () => {
      log.info({ signal: 'SIGHUP' }, 'reloading the configuration');
      void started.reload?.();
    };
    if (isRequested) reload();
  };
}

function announce(log: ProcessLog, started: Started, version: string): void {
  const { urls, adminUrl, node, workers } = started;
  const optional = {
    ...(adminUrl === undefined ? {} : { admin: adminUrl }),
    ...(node === undefined ? {} : { node }),
    ...(workers === undefined ? {} : { workers }),
  };
  log.announce({ url: urls[0], urls, ...optional, version, pid: process.pid }, 'listening', () => started.announce?.());
}

/** Exits on unexpected errors, because the state is unknown afterwards. A restart recovers all acknowledged bytes. */
function exitOnUnexpectedErrors(log: ProcessLog): void {
  const exit = (error: unknown) => {
    log.fatal({ err: error }, 'unexpected error; exiting');
    process.exit(1);
  };
  process.on('uncaughtException', exit).on('unhandledRejection', exit);
}

/** Runs the proxy as a worker until the primary process stops it or exits. */
async function serveAsWorker(
  identity: WorkerIdentity,
  startApp: (config: Config, log: ProcessLog) => Promise<App>,
): Promise<void> {
  // A terminal sends it to the workers too; the primary process reloads them.
  process.on('SIGHUP', () => undefined);
  const worker: { running?: { readonly log: ProcessLog; readonly shutdown: GracefulShutdown } } = {};
  const link = new PrimaryLink({
    onStop: (reason) => {
      // Without a configuration there is nothing to finish.
      const { running } = worker;
      if (!running) process.exit(0);
      if (reason === 'primary-gone') running.log.error('the primary process is gone; stopping');
      running.shutdown.begin();
    },
    onAnnounced: () => worker.running?.log.useStandardOutput(),
  });
  const config = await link.config;
  const log = createLog({ ...config.log, fields: { worker: identity.number } });
  exitOnUnexpectedErrors(log);
  keepHeapSmall();
  const shutdown = new GracefulShutdown(log, 'worker stopped');
  worker.running = { log, shutdown };
  try {
    const own = workerConfig(config, identity);
    const app = await startApp(own, log);
    shutdown.attach(app);
    link.ready({ ...app, prepare: (next) => app.prepare(workerConfig(next, identity)) });
  } catch (error) {
    await link.reportFailure(describeStartupError(error, config));
    process.exit(1);
  }
}

/** A running proxy, in one process or several. */
type Started = Pick<App, 'urls' | 'adminUrl' | 'node' | 'reload' | 'stop'> & {
  readonly workers?: number;
  readonly announce?: () => void;
};

/** Runs the proxy in several worker processes that this one supervises. */
async function serveWithWorkers(config: Config, log: ProcessLog, source: ConfigSource): Promise<Started> {
  const { workers, spool, data, store } = config;
  const closers: Closer[] = [];
  const close = async () => {
    for (const closer of closers.splice(0)) await closer();
  };
  try {
    await assertUsable({ directory: data, store: store.type, isShared: spool.shared });
    // The workers of a node share its directory; the lock keeps other processes out.
    if (!spool.shared) await lockDirectory(data, closers);
    const primary = await startPrimary({ config, log, source });
    return { ...primary, workers, stop: () => primary.stop().finally(close) };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Stops the process gracefully, on a signal or on request. */
class GracefulShutdown {
  private running: { stop(): Promise<void> } | undefined;
  private stopping = false;
  private hasSignal = false;

  /** `stoppedMessage`: the last log line after a successful stop. */
  constructor(
    private readonly log: Log,
    private readonly stoppedMessage: string,
  ) {
    const onSignal = (signal: NodeJS.Signals) => this.onSignal(signal);
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
  }

  /** Sets the proxy that `begin` stops. */
  attach(running: { stop(): Promise<void> }): void {
    this.running = running;
  }

  /** Begins to stop the proxy. Further calls have no effect. */
  begin(): void {
    if (this.stopping) return;
    // Before startup is complete there is nothing to finish.
    if (!this.running) process.exit(0);
    this.stopping = true;
    this.running.stop().then(
      () => {
        this.log.info(this.stoppedMessage);
        process.exit(0);
      },
      (error: unknown) => {
        this.log.error({ err: error }, 'stopping failed');
        process.exit(1);
      },
    );
  }

  /**
   * The first signal stops gracefully, the second exits immediately. A stop requested by the primary does not count as
   * a signal, because a terminal sends signals to the workers and the primary alike.
   */
  private onSignal(signal: NodeJS.Signals): void {
    // The exit is explicit, because the first process of a container ignores the default actions of signals.
    if (this.hasSignal) process.exit(1);
    this.hasSignal = true;
    if (this.running) this.log.info({ signal }, 'stopping; a second signal exits immediately');
    this.begin();
  }
}
