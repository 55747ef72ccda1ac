import cluster from 'node:cluster';
import type { App } from '../app/app.js';
import type { Config } from '../config/config.js';
import { maxConnections } from '../server/connection-limits.js';
import type { FromWorker, WorkerRequest, WorkerReply, ToWorker } from './messages.js';

export interface PrimaryCommands {
  /** `primary-gone`: nobody will ask for anything any more. */
  onStop(why: 'asked' | 'primary-gone'): void;
  /** The primary has said that all workers listen. */
  onAnnounced(): void;
}

/** A worker's connection with the primary process that forked it. */
export class PrimaryLink {
  private operators: App['admin'] | undefined;
  private connections: App['connections'] | undefined;
  private ended: number[] = [];

  constructor(orders: PrimaryCommands) {
    process.on('message', (message: ToWorker) => this.onMessage(message, orders));
    cluster.worker?.once('disconnect', () => {
      // Else Node would end this process here and now, with all that its clients are sending.
      cluster.worker!.exitedAfterDisconnect = true;
      orders.onStop('primary-gone');
    });
  }

  /** From here on the primary counts on this worker and may ask what its operators are to be told. */
  ready({ urls, admin: operators, connections }: Pick<App, 'urls' | 'admin' | 'connections'>): void {
    this.operators = operators;
    this.connections = connections;
    connections.whenEnded((number) => this.connectionEnded(number));
    this.send({ kind: 'listening', urls });
  }

  /** Fulfilled when the primary has been told, or is not there any more. */
  reportFailure(why: string): Promise<void> {
    return new Promise((resolve) => this.send({ kind: 'failed', why }, resolve));
  }

  private onMessage(message: ToWorker, orders: PrimaryCommands): void {
    switch (message.kind) {
      case 'stop':
        return orders.onStop('asked');
      case 'announced':
        return orders.onAnnounced();
      case 'end-idle':
        return this.connections?.endIdle();
      case 'ask':
        return this.reply(message.number, message.question);
    }
  }

  /** Those of one turn of the event loop make one message. */
  private connectionEnded(number: number): void {
    if (this.ended.push(number) > 1) return;
    setImmediate(() => this.send({ kind: 'connections-ended', numbers: this.ended.splice(0) }));
  }

  private reply(number: number, question: WorkerRequest): void {
    this.answer(question).then(
      (reply) => this.send({ kind: 'reply', number, reply }),
      (error: unknown) => this.send({ kind: 'no-reply', number, why: String(error) }),
    );
  }

  private async answer(question: WorkerRequest): Promise<WorkerReply> {
    if (!this.operators) throw new Error('the worker is still starting');
    if (question.about === 'figures') return { about: 'figures', figures: await this.operators.metricValues() };
    const { query, ...request } = question.request;
    const answer = await this.operators.respond({ ...request, query: new URLSearchParams(query) });
    return { about: 'request', answer };
  }

  private send(message: FromWorker, done: () => void = () => undefined): void {
    // Without a callback, a channel that has just closed would be an 'error' event of the process.
    if (process.connected) process.send!(message, undefined, undefined, () => done());
    else done();
  }
}

/** Which of the workers a process is. */
export interface WorkerIdentity {
  /** From 1; the one that takes the place of a worker that ended has the same. */
  readonly number: number;
  /** Others listen already on what this one will listen on. */
  readonly othersListen: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Undefined: this process was not forked by a primary of ours. */
export function workerIdentity(env: Environment): WorkerIdentity | undefined {
  const number = env['RUFH_WORKER'];
  return number === undefined
    ? undefined
    : { number: Number(number), othersListen: env['RUFH_WORKER_LATER'] === 'yes' };
}

/** The variables that tell a process its place. */
export function identityVariables({ number, othersListen }: WorkerIdentity): Record<string, string> {
  return { RUFH_WORKER: String(number), RUFH_WORKER_LATER: othersListen ? 'yes' : 'no' };
}

/**
 * The configuration as one worker runs it: operators are the primary's, and so are the limits of connections but for the
 * descriptors of this process; sockets may be shared already.
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
