import cluster from 'node:cluster';
import type { App } from '../app/app.js';
import type { Config } from '../config/config.js';
import { maxConnections } from '../server/connection-limits.js';
import type { FromWorker, WorkerRequest, WorkerReply, ToWorker } from './messages.js';

export interface PrimaryCommands {
  /** `primary-gone`: the primary process has exited. */
  onStop(reason: 'requested' | 'primary-gone'): void;
  /** Called when all workers are listening. */
  onAnnounced(): void;
}

/** The parts of the app that the primary process uses. */
type LinkedApp = Pick<App, 'urls' | 'admin' | 'connections' | 'prepare'>;

/** The channel of a worker to its primary process. */
export class PrimaryLink {
  /** The configuration that the primary process has loaded: the file may have changed since. */
  readonly config: Promise<Config>;
  private receiveConfig: (config: Config) => void = () => undefined;
  private app: LinkedApp | undefined;
  /** Puts the configuration into use that was requested last. */
  private prepared: Promise<() => void> | undefined;
  private ended: number[] = [];

  constructor(commands: PrimaryCommands) {
    this.config = new Promise((resolve) => (this.receiveConfig = resolve));
    process.on('message', (message: ToWorker) => this.onMessage(message, commands));
    cluster.worker?.once('disconnect', () => {
      // Otherwise Node would end this process immediately, with all requests in progress.
      cluster.worker!.exitedAfterDisconnect = true;
      commands.onStop('primary-gone');
    });
    this.send({ kind: 'ready' });
  }

  /** Reports that this worker is listening; from now on the primary may send requests. */
  ready(app: LinkedApp): void {
    this.app = app;
    app.connections.onEnded((number) => this.connectionEnded(number));
    this.send({ kind: 'listening', urls: app.urls });
  }

  /** Resolves when the message was sent, or the primary has exited. */
  reportFailure(reason: string): Promise<void> {
    return new Promise((resolve) => this.send({ kind: 'failed', reason }, resolve));
  }

  private onMessage(message: ToWorker, commands: PrimaryCommands): void {
    switch (message.kind) {
      case 'config':
        return this.receiveConfig(message.config);
      case 'stop':
        return commands.onStop('requested');
      case 'announced':
        return commands.onAnnounced();
      case 'end-idle':
        return this.app?.connections.endIdle();
      case 'request':
        return this.reply(message.number, message.request);
    }
  }

  /** Reports closed connections, one message per turn of the event loop. */
  private connectionEnded(number: number): void {
    if (this.ended.push(number) > 1) return;
    setImmediate(() => this.send({ kind: 'connections-ended', numbers: this.ended.splice(0) }));
  }

  private reply(number: number, request: WorkerRequest): void {
    this.execute(request).then(
      (reply) => this.send({ kind: 'reply', number, reply }),
      (error: unknown) => this.send({ kind: 'no-reply', number, reason: String(error) }),
    );
  }

  private async execute(request: WorkerRequest): Promise<WorkerReply> {
    const { app } = this;
    if (!app) throw new Error('the worker is still starting');
    switch (request.about) {
      case 'metrics':
        return { about: 'metrics', values: await app.admin.metricValues() };
      case 'config':
        await (this.prepared = app.prepare(request.config));
        return { about: 'config' };
      case 'use-config':
        (await this.prepared)?.();
        return { about: 'use-config' };
      case 'request': {
        const { query, ...adminRequest } = request.request;
        const response = await app.admin.respond({ ...adminRequest, query: new URLSearchParams(query) });
        return { about: 'request', response };
      }
    }
  }

  private send(message: FromWorker, done: () => void = () => undefined): void {
    // Without a callback, a channel that has just closed would emit 'error' on the process.
    if (process.connected) process.send!(message, undefined, undefined, () => done());
    else done();
  }
}

/** Identifies a worker process. */
export interface WorkerIdentity {
  /** From 1; a replacement has the same number as the worker that ended. */
  readonly number: number;
  /** Whether other workers already listen on the same addresses. */
  readonly othersListen: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** The identity of this process; undefined if it is not a worker. */
export function workerIdentity(env: Environment): WorkerIdentity | undefined {
  const number = env['RUFH_WORKER'];
  return number === undefined
    ? undefined
    : { number: Number(number), othersListen: env['RUFH_WORKER_LATER'] === 'yes' };
}

/** The environment variables that pass the identity to a worker. */
export function identityVariables({ number, othersListen }: WorkerIdentity): Record<string, string> {
  return { RUFH_WORKER: String(number), RUFH_WORKER_LATER: othersListen ? 'yes' : 'no' };
}

/**
 * The configuration of one worker. The primary handles the admin listener and the connection limits, except for the
 * descriptors of this process; Unix sockets may already be shared.
 */
export function workerConfig(config: Config, { othersListen }: WorkerIdentity): Config {
  const listeners = config.listeners.map((listener) =>
    listener.address.kind === 'unix' && othersListen
      ? { ...listener, address: { ...listener.address, isShared: true } }
      : listener,
  );
  return { ...config, admin: undefined, listeners, connections: processLimit() };
}

function processLimit(): Config['connections'] {
  const total = maxConnections();
  return { total, perAddress: total };
}
