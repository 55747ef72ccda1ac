import cluster, { type Worker } from 'node:cluster';
import { once } from 'node:events';
import { type ClientGate, GivenConnections } from './given-connections.js';
import type { FromWorker, Question, Reply, ToWorker } from './messages.js';
import { placeVariables, type WorkerPlace } from './worker-place.js';

/** A worker could not start; the message is for people. */
export class WorkerFailed extends Error {}

/** How a process ended: with a code of its own, or by a signal. */
export interface End {
  readonly code?: number;
  readonly signal?: string;
}

/** One process that was forked to be a worker. */
export class WorkerProcess {
  /** Where it listens. Fails with `WorkerFailed` when it ends before it does. */
  readonly listening: Promise<readonly string[]>;
  readonly ended: Promise<End>;
  private readonly forked: Worker;
  private readonly given: GivenConnections;
  private readonly open = new Map<number, (outcome: Reply | Error) => void>();
  private asked = 0;
  private lastWords: string | undefined;

  constructor(place: WorkerPlace, gate?: ClientGate) {
    this.forked = cluster.fork(placeVariables(place));
    this.given = new GivenConnections(this.forked, gate);
    // A message to a process that has just ended; that it ended is heard below.
    this.forked.on('error', () => undefined);
    this.ended = this.untilEnded();
    void this.ended.then(() => this.settleAll(new Error('the worker has ended')));
    this.listening = new Promise((resolve, reject) => {
      this.forked.on('message', (message: FromWorker) => this.hear(message, resolve));
      void this.ended.then((end) => reject(this.failure(place, end)));
    });
    this.listening.catch(() => undefined);
  }

  get pid(): number {
    return this.forked.process.pid!;
  }

  /** Why it could not start, in its own words. */
  get problem(): string | undefined {
    return this.lastWords;
  }

  tell(message: ToWorker): void {
    if (this.forked.isConnected()) this.forked.send(message);
  }

  /** Fails when it ends first, or has nothing to say within that time. */
  ask(question: Question, patienceMs?: number): Promise<Reply> {
    const number = ++this.asked;
    return new Promise((resolve, reject) => {
      const timer =
        patienceMs && setTimeout(() => this.settle(number, new Error(`no answer within ${patienceMs} ms`)), patienceMs);
      this.open.set(number, (outcome) => {
        clearTimeout(timer);
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome);
      });
      if (!this.forked.isConnected()) this.settle(number, new Error('the worker has ended'));
      this.tell({ kind: 'ask', number, question });
    });
  }

  /** At once, with whatever is under way. */
  kill(): void {
    this.forked.process.kill('SIGKILL');
  }

  private async untilEnded(): Promise<End> {
    // `exit` can come before its last words have been read, `disconnect` not at all while a connection is on its way.
    const [code, signal] = (await once(this.forked.process, 'close')) as [number | null, string | null];
    return signal ? { signal } : { code: code ?? -1 };
  }

  private hear(message: FromWorker, listens: (urls: readonly string[]) => void): void {
    switch (message.kind) {
      case 'listening':
        return listens(message.urls);
      case 'failed':
        this.lastWords = message.why;
        return;
      case 'connections-ended':
        return this.given.ended(message.numbers);
      case 'reply':
        return this.settle(message.number, message.reply);
      case 'no-reply':
        return this.settle(message.number, new Error(message.why));
    }
  }

  private settle(number: number, outcome: Reply | Error): void {
    this.open.get(number)?.(outcome);
    this.open.delete(number);
  }

  private settleAll(error: Error): void {
    for (const number of [...this.open.keys()]) this.settle(number, error);
  }

  private failure({ number }: WorkerPlace, end: End): WorkerFailed {
    return new WorkerFailed(this.lastWords ?? `worker ${number} ended ${endWords(end)} before it listened`);
  }
}

/** `with code 1`, `by SIGKILL`. */
export function endWords({ code, signal }: End): string {
  return signal === undefined ? `with code ${code}` : `by ${signal}`;
}
