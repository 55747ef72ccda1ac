import cluster, { type Worker } from 'node:cluster';
import type { Config } from '../config/config.js';
import type { ConnectionGate } from '../server/connection-limits.js';
import type { FromWorker, WorkerRequest, WorkerReply, ToWorker } from './messages.js';
import { identityVariables, type WorkerIdentity } from './worker.js';

/** A worker could not start; the message is for humans. */
export class WorkerFailed extends Error {}

/** The end of a process: an exit code or a signal. */
export interface ProcessExit {
  readonly code?: number;
  readonly signal?: string;
}

/** A forked worker process. */
export class WorkerProcess {
  /** URLs on which it listens. Rejects with `WorkerFailed` if it ends first. */
  readonly listening: Promise<readonly string[]>;
  readonly ended: Promise<ProcessExit>;
  private readonly forked: Worker;
  private readonly connections: AssignedConnections;
  private readonly pending = new Map<number, (outcome: WorkerReply | Error) => void>();
  private lastRequestNumber = 0;
  private reportedProblem: string | undefined;
  private config: Config | undefined;

  /** `currentConfig`: the configuration that applies when the worker asks for it. */
  constructor(
    identity: WorkerIdentity,
    private readonly currentConfig: () => Config,
    gate?: ClientGate,
  ) {
    this.forked = cluster.fork(identityVariables(identity));
    this.connections = new AssignedConnections(this.forked, gate);
    // Emitted for a message to a process that has just ended; `ended` reports the end.
    this.forked.on('error', () => undefined);
    this.ended = this.waitForExit();
    void this.ended.then(() => this.settleAll(new Error('the worker has ended')));
    this.listening = new Promise((resolve, reject) => {
      this.forked.on('message', (message: FromWorker) => this.onMessage(message, resolve));
      void this.ended.then((end) => reject(this.failure(identity, end)));
    });
    this.listening.catch(() => undefined);
  }

  get pid(): number {
    return this.forked.process.pid!;
  }

  /** The reason why it could not start, as reported by the worker. */
  get problem(): string | undefined {
    return this.reportedProblem;
  }

  /** Whether the worker uses this configuration, or was told to. */
  hasConfig(config: Config): boolean {
    return this.config === config;
  }

  /** Prepares to use another configuration. Rejects if the worker cannot use it. */
  async prepareConfig(config: Config): Promise<void> {
    await this.request({ about: 'config', config }, CONFIG_TIMEOUT_MS);
  }

  /** Puts the prepared configuration into use. A worker that is blocked does so as soon as it goes on. */
  async useConfig(config: Config): Promise<void> {
    this.config = config;
    await this.request({ about: 'use-config' }, CONFIG_TIMEOUT_MS);
  }

  send(message: ToWorker): void {
    if (this.forked.isConnected()) this.forked.send(message);
  }

  /** Sends a request. Rejects if the worker ends first or does not answer within `timeoutMs`. */
  request(request: WorkerRequest, timeoutMs?: number): Promise<WorkerReply> {
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
      this.send({ kind: 'request', number, request });
    });
  }

  /** Kills the process immediately. */
  kill(): void {
    this.forked.process.kill('SIGKILL');
  }

  /** Never rejects, unlike `once` of node:events, which also waits for `error`. */
  private waitForExit(): Promise<ProcessExit> {
    return new Promise((resolve) => {
      // `exit` can precede the last messages, and `disconnect` is not emitted while a connection is being passed.
      this.forked.process.once('close', (code: number | null, signal: string | null) =>
        resolve(signal ? { signal } : { code: code ?? -1 }),
      );
    });
  }

  private onMessage(message: FromWorker, listens: (urls: readonly string[]) => void): void {
    switch (message.kind) {
      case 'ready':
        this.config = this.currentConfig();
        return this.send({ kind: 'config', config: this.config });
      case 'listening':
        return listens(message.urls);
      case 'failed':
        this.reportedProblem = message.reason;
        return;
      case 'connections-ended':
        return this.connections.onEnded(message.numbers);
      case 'reply':
        return this.settle(message.number, message.reply);
      case 'no-reply':
        return this.settle(message.number, new Error(message.reason));
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
      this.reportedProblem ?? `worker ${number} exited ${describeExit(end)} before it was listening`,
    );
  }
}

/** A worker that takes longer is suspended or blocked. */
const CONFIG_TIMEOUT_MS = 10_000;

/** The end as text: `with code 1`, `by SIGKILL`. */
export function describeExit({ code, signal }: ProcessExit): string {
  return signal === undefined ? `with code ${code}` : `by ${signal}`;
}

/** An internal message of node:cluster; `seq` is acknowledged by `ack`. */
interface ClusterMessage {
  readonly cmd?: string;
  readonly act?: string;
  /** Identifies the listener of a connection. */
  readonly key?: string;
  readonly seq?: number;
  readonly ack?: number;
  readonly accepted?: boolean;
}

/** A connection that no worker has accepted yet. */
interface ConnectionHandle {
  getpeername?(out: { address?: string }): number;
  reset?(): number;
}

/** Decides which client connections are admitted. */
export interface ClientGate extends ConnectionGate {
  /** Whether the listener with this key is for clients. */
  readonly isForClients: (key: string) => boolean;
}

/**
 * The connections passed to one worker, counted against the limits of clients. Connections that a worker had not
 * confirmed when it ended are closed: the primary process would keep its copies open forever, and another worker would
 * take the rest of a request for the beginning of one. Needed until node:cluster closes them itself.
 */
export class AssignedConnections {
  /** Release functions of connections that the worker has not confirmed, by message number. */
  private readonly unconfirmed = new Map<number, () => void>();
  /** Release functions of open client connections, by the order in which the worker accepted them. */
  private readonly open = new Map<number, () => void>();
  private acceptedCount = 0;
  private isDisconnected = false;

  constructor(
    private readonly worker: Worker,
    private readonly gate?: ClientGate,
  ) {
    const child = worker.process;
    const send = child.send.bind(child) as (...args: unknown[]) => boolean;
    child.send = (message: ClusterMessage, ...more: unknown[]) => {
      const { act, seq } = message;
      if (act !== 'newconn' || seq === undefined || this.assign(message, seq, more[0])) return send(message, ...more);
      return true;
    };
    child.on('internalMessage', (message: ClusterMessage) => this.onInternalMessage(message));
    child.once('disconnect', () => (this.isDisconnected = true));
    // At `close` every message of the worker has been read.
    child.once('close', () => this.endAll());
  }

  /** Called with the numbers of accepted connections that have closed. */
  onEnded(numbers: readonly number[]): void {
    for (const number of numbers) {
      this.open.get(number)?.();
      this.open.delete(number);
    }
  }

  /** Counts a connection before it is passed on. False if the limits refuse it. */
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
    // Deferred, because confirming this connection makes node:cluster pass on the next one.
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
    const unconfirmedNumbers = [...this.unconfirmed.keys()];
    for (const release of [...this.unconfirmed.values(), ...this.open.values()]) release();
    this.unconfirmed.clear();
    this.open.clear();
    // Node omits `disconnect` while a connection is being passed; without it, more connections would go to the ended worker.
    if (!this.isDisconnected) this.worker.process.emit('disconnect');
    for (const seq of unconfirmedNumbers) this.confirm(seq);
  }

  /** Makes Node treat the connection as accepted by the worker, so that it closes its own copy. */
  private confirm(seq: number): void {
    this.worker.process.emit('internalMessage', { cmd: 'NODE_CLUSTER', ack: seq, accepted: true });
  }
}

const NOT_COUNTED = (): void => undefined;

/** Address of the peer; empty for a Unix socket or a closed connection. */
function addressOf(handle: ConnectionHandle): string {
  const peer: { address?: string } = {};
  handle.getpeername?.(peer);
  return peer.address ?? '';
}
