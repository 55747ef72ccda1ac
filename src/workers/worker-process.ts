import cluster, { type Worker } from 'node:cluster';
import { once } from 'node:events';
import type { ConnectionGate } from '../server/connection-limits.js';
import type { FromWorker, WorkerRequest, WorkerReply, ToWorker } from './messages.js';
import { identityVariables, type WorkerIdentity } from './worker.js';

/** A worker could not start; the message is for people. */
export class WorkerFailed extends Error {}

/** How a process ended: with a code of its own, or by a signal. */
export interface ProcessExit {
  readonly code?: number;
  readonly signal?: string;
}

/** One process that was forked to be a worker. */
export class WorkerProcess {
  /** Where it listens. Fails with `WorkerFailed` when it ends before it does. */
  readonly listening: Promise<readonly string[]>;
  readonly ended: Promise<ProcessExit>;
  private readonly forked: Worker;
  private readonly connections: AssignedConnections;
  private readonly pending = new Map<number, (outcome: WorkerReply | Error) => void>();
  private lastRequestNumber = 0;
  private failureReason: string | undefined;

  constructor(place: WorkerIdentity, gate?: ClientGate) {
    this.forked = cluster.fork(identityVariables(place));
    this.connections = new AssignedConnections(this.forked, gate);
    // A message to a process that has just ended; that it ended is heard below.
    this.forked.on('error', () => undefined);
    this.ended = this.waitForExit();
    void this.ended.then(() => this.settleAll(new Error('the worker has ended')));
    this.listening = new Promise((resolve, reject) => {
      this.forked.on('message', (message: FromWorker) => this.onMessage(message, resolve));
      void this.ended.then((end) => reject(this.failure(place, end)));
    });
    this.listening.catch(() => undefined);
  }

  get pid(): number {
    return this.forked.process.pid!;
  }

  /** Why it could not start, in its own words. */
  get problem(): string | undefined {
    return this.failureReason;
  }

  send(message: ToWorker): void {
    if (this.forked.isConnected()) this.forked.send(message);
  }

  /** Fails when it ends first, or has nothing to say within that time. */
  ask(question: WorkerRequest, timeoutMs?: number): Promise<WorkerReply> {
    const number = ++this.lastRequestNumber;
    return new Promise((resolve, reject) => {
      const timer =
        timeoutMs && setTimeout(() => this.settle(number, new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
      this.pending.set(number, (outcome) => {
        clearTimeout(timer);
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome);
      });
      if (!this.forked.isConnected()) this.settle(number, new Error('the worker has ended'));
      this.send({ kind: 'ask', number, question });
    });
  }

  /** At once, with whatever is under way. */
  kill(): void {
    this.forked.process.kill('SIGKILL');
  }

  private async waitForExit(): Promise<ProcessExit> {
    // `exit` can come before its last words have been read, `disconnect` not at all while a connection is on its way.
    const [code, signal] = (await once(this.forked.process, 'close')) as [number | null, string | null];
    return signal ? { signal } : { code: code ?? -1 };
  }

  private onMessage(message: FromWorker, listens: (urls: readonly string[]) => void): void {
    switch (message.kind) {
      case 'listening':
        return listens(message.urls);
      case 'failed':
        this.failureReason = message.why;
        return;
      case 'connections-ended':
        return this.connections.ended(message.numbers);
      case 'reply':
        return this.settle(message.number, message.reply);
      case 'no-reply':
        return this.settle(message.number, new Error(message.why));
    }
  }

  private settle(number: number, outcome: WorkerReply | Error): void {
    this.pending.get(number)?.(outcome);
    this.pending.delete(number);
  }

  private settleAll(error: Error): void {
    for (const number of [...this.pending.keys()]) this.settle(number, error);
  }

  private failure({ number }: WorkerIdentity, end: ProcessExit): WorkerFailed {
    return new WorkerFailed(
      this.failureReason ?? `worker ${number} exited ${describeExit(end)} before it was listening`,
    );
  }
}

/** `with code 1`, `by SIGKILL`. */
export function describeExit({ code, signal }: ProcessExit): string {
  return signal === undefined ? `with code ${code}` : `by ${signal}`;
}

/** What node:cluster's messages have in common; `seq` is answered with `ack`. */
interface ClusterMessage {
  readonly cmd?: string;
  readonly act?: string;
  /** Names the listener that a connection came to. */
  readonly key?: string;
  readonly seq?: number;
  readonly ack?: number;
  readonly accepted?: boolean;
}

/** A connection that no process reads from yet. */
interface ConnectionHandle {
  getpeername?(out: { address?: string }): number;
  reset?(): number;
}

export interface ClientGate extends ConnectionGate {
  /** Whether what connects to this listener is a client. */
  readonly isForClients: (key: string) => boolean;
}

/**
 * The connections that one worker is given. Those that a worker left which ended before it said that it had them are ended:
 * Node's primary process would keep its copy open for ever, and the client would wait as long; needed until node:cluster
 * closes them itself. They are not given to another worker, which would take what is left of a request for the beginning of
 * one. Clients beyond the limits are turned away here, before a worker hears of them.
 */
export class AssignedConnections {
  /** Those that the worker has not said it has, by the number of the message; with how they are counted no more. */
  private readonly unconfirmed = new Map<number, () => void>();
  /** Those that clients have with it, by their place in the order in which it took them. */
  private readonly open = new Map<number, () => void>();
  private acceptedCount = 0;
  private isDisconnected = false;

  constructor(
    private readonly worker: Worker,
    private readonly gate?: ClientGate,
  ) {
    const child = worker.process;
    const send = child.send.bind(child) as (...told: unknown[]) => boolean;
    child.send = (message: ClusterMessage, ...more: unknown[]) => {
      const { act, seq } = message;
      if (act !== 'newconn' || seq === undefined || this.assign(message, seq, more[0])) return send(message, ...more);
      return true;
    };
    child.on('internalMessage', (message: ClusterMessage) => this.onInternalMessage(message));
    child.once('disconnect', () => (this.isDisconnected = true));
    // By then every message that it sent has been read.
    child.once('close', () => this.endAll());
  }

  /** The worker tells which of those it took have ended. */
  ended(numbers: readonly number[]): void {
    for (const number of numbers) {
      this.open.get(number)?.();
      this.open.delete(number);
    }
  }

  /** False when it is refused. */
  private assign({ key = '' }: ClusterMessage, seq: number, handle: unknown): boolean {
    const { gate } = this;
    if (!gate?.isForClients(key)) {
      this.unconfirmed.set(seq, NOT_COUNTED);
      return true;
    }
    const release = gate.admit(addressOf(handle as ConnectionHandle));
    if (release) {
      this.unconfirmed.set(seq, release);
      return true;
    }
    (handle as ConnectionHandle).reset?.();
    // Not within the call: the next connection is given when this one is accounted for.
    process.nextTick(() => this.confirm(seq));
    return false;
  }

  private onInternalMessage({ ack, accepted }: ClusterMessage): void {
    const release = ack === undefined ? undefined : this.unconfirmed.get(ack);
    if (ack === undefined || !release) return;
    this.unconfirmed.delete(ack);
    if (!accepted) release();
    else if (release !== NOT_COUNTED) this.open.set(++this.acceptedCount, release);
  }

  private endAll(): void {
    const unheard = [...this.unconfirmed.keys()];
    for (const release of [...this.unconfirmed.values(), ...this.open.values()]) release();
    this.unconfirmed.clear();
    this.open.clear();
    // Left out as well while a connection is on its way: without it, more would be given to the dead.
    if (!this.isDisconnected) this.worker.process.emit('disconnect');
    for (const seq of unheard) this.confirm(seq);
  }

  /** Node takes it for accepted by the worker, and closes its own copy. */
  private confirm(seq: number): void {
    this.worker.process.emit('internalMessage', { cmd: 'NODE_CLUSTER', ack: seq, accepted: true });
  }
}

const NOT_COUNTED = (): void => undefined;

/** Empty for a Unix socket, and for a connection that has ended already. */
function addressOf(handle: ConnectionHandle): string {
  const peer: { address?: string } = {};
  handle.getpeername?.(peer);
  return peer.address ?? '';
}
