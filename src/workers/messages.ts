import type { AdminResponse, AdminRequest } from '../admin/admin-http.js';
import type { Config } from '../config/config.js';
import type { MetricValues } from '../observe/process-metrics.js';

/** Messages from the primary process to a worker. */
export type ToWorker =
  /** The configuration to start with. */
  | { readonly kind: 'config'; readonly config: Config }
  /** Stop gracefully. */
  | { readonly kind: 'stop' }
  /** Connections are scarce: close idle ones. */
  | { readonly kind: 'end-idle' }
  /** All workers listen: from now on logs go to standard output. */
  | { readonly kind: 'announced' }
  | { readonly kind: 'request'; readonly number: number; readonly request: WorkerRequest };

/** Messages from a worker to the primary process. */
export type FromWorker =
  /** The worker waits for its configuration. */
  | { readonly kind: 'ready' }
  | { readonly kind: 'listening'; readonly urls: readonly string[] }
  /** The worker cannot start; `reason` is for humans. */
  | { readonly kind: 'failed'; readonly reason: string }
  /** Numbers of closed connections, in the order in which the worker accepted them, from 1. */
  | { readonly kind: 'connections-ended'; readonly numbers: readonly number[] }
  | { readonly kind: 'reply'; readonly number: number; readonly reply: WorkerReply }
  | { readonly kind: 'no-reply'; readonly number: number; readonly reason: string };

/** A request of the primary process to one worker. */
export type WorkerRequest =
  | { readonly about: 'metrics' }
  | { readonly about: 'request'; readonly request: RequestInTransit }
  /** Prepare to use this configuration. */
  | { readonly about: 'config'; readonly config: Config }
  /** Put the configuration into use that was prepared last. */
  | { readonly about: 'use-config' };

/** The reply to a `WorkerRequest` with the same `about`. */
export type WorkerReply =
  | { readonly about: 'metrics'; readonly values: MetricValues }
  | { readonly about: 'request'; readonly response: AdminResponse }
  | { readonly about: 'config' }
  | { readonly about: 'use-config' };

/** An admin request in the form of a message. */
type RequestInTransit = Omit<AdminRequest, 'query'> & { readonly query: string };
