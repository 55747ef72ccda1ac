import type { AdminResponse, AdminRequest } from '../admin/admin-http.js';
import type { MetricValues } from '../observe/metrics.js';

/** What the primary process says to a worker. */
export type ToWorker =
  /** End gently. */
  | { readonly kind: 'stop' }
  /** Connections are short: those that wait for their next request may end. */
  | { readonly kind: 'end-idle' }
  /** Standard output belongs to the log from here on. */
  | { readonly kind: 'announced' }
  | { readonly kind: 'ask'; readonly number: number; readonly question: WorkerRequest };

/** What a worker says to the primary process. */
export type FromWorker =
  | { readonly kind: 'listening'; readonly urls: readonly string[] }
  /** It cannot start, for the reason that is told to people. */
  | { readonly kind: 'failed'; readonly why: string }
  /** Of the connections that it was given, by their place in that order. */
  | { readonly kind: 'connections-ended'; readonly numbers: readonly number[] }
  | { readonly kind: 'reply'; readonly number: number; readonly reply: WorkerReply }
  | { readonly kind: 'no-reply'; readonly number: number; readonly why: string };

export type WorkerRequest =
  { readonly about: 'figures' } | { readonly about: 'request'; readonly request: RequestInTransit };

export type WorkerReply =
  | { readonly about: 'figures'; readonly figures: MetricValues }
  | { readonly about: 'request'; readonly answer: AdminResponse };

/** A request of an operator as a message can carry it. */
type RequestInTransit = Omit<AdminRequest, 'query'> & { readonly query: string };
