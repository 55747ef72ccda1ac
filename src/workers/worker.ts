import cluster from 'node:cluster';
import type { App } from '../app/app.js';
import type { Config } from '../config/config.js';
import { maxConnections } from '../server/connection-limits.js';
import type { FromWorker, Question, Reply, ToWorker } from './messages.js';

export interface Orders {
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

  constructor(orders: Orders) {
    process.on('message', (message: ToWorker) => this.hear(message, orders));
    cluster.worker?.once('disconnect', () => {
      // Else Node would end this process here and now, with all that its clients are sending.
      cluster.worker!.exitedAfterDisconnect = true;
      orders.onStop('primary-gone');
    });
  }

  /** From here on the primary counts on this worker and may ask what its operators are to be told. */
  listens({ urls, admin: operators, connections }: Pick<App, 'urls' | 'admin' | 'connections'>): void {
    this.operators = operators;
    this.connections = connections;
    connections.whenEnded((number) => this.connectionEnded(number));
    this.say({ kind: 'listening', urls });
  }

  /** Fulfilled when the primary has been told, or is not there any more. */
  failed(why: string): Promise<void> {
    return new Promise((resolve) => this.say({ kind: 'failed', why }, resolve));
  }

  private hear(message: ToWorker, orders: Orders): void {
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
    setImmediate(() => this.say({ kind: 'connections-ended', numbers: this.ended.splice(0) }));
  }

  private reply(number: number, question: Question): void {
    this.answer(question).then(
      (reply) => this.say({ kind: 'reply', number, reply }),
      (error: unknown) => this.say({ kind: 'no-reply', number, why: String(error) }),
    );
  }

  private async answer(question: Question): Promise<Reply> {
    if (!this.operators) throw new Error('the worker is still starting');
    if (question.about === 'figures') return { about: 'figures', figures: await this.operators.metricValues() };
    const { query, ...request } = question.request;
    const answer = await this.operators.respond({ ...request, query: new URLSearchParams(query) });
    return { about: 'request', answer };
  }

  private say(message: FromWorker, done: () => void = () => undefined): void {
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
  readonly isLater: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Undefined: this process was not forked by a primary of ours. */
export function workerIdentity(env: Environment): WorkerIdentity | undefined {
  const number = env['RUFH_WORKER'];
  return number === undefined ? undefined : { number: Number(number), isLater: env['RUFH_WORKER_LATER'] === 'yes' };
}

/** The variables that tell a process its place. */
export function identityVariables({ number, isLater }: WorkerIdentity): Record<string, string> {
  return { RUFH_WORKER: String(number), RUFH_WORKER_LATER: isLater ? 'yes' : 'no' };
}

/**
 * The configuration as one worker runs it: operators are the primary's, and so are the limits of connections but for the
 * descriptors of this process; sockets may be shared already.
 */
export function workerConfig(config: Config, { isLater }: WorkerIdentity): Config {
  const listeners = config.listeners.map((listener) =>
    listener.address.kind === 'unix' && isLater
      ? { ...listener, address: { ...listener.address, isShared: true } }
      : listener,
  );
  return { ...config, admin: undefined, listeners, connections: ownShare() };
}

function ownShare(): Config['connections'] {
  const total = maxConnections();
  return { total, perAddress: total };
}
