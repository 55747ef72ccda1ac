import type { Readable } from 'node:stream';
import type { HeaderLine, Headers } from '../model/headers.js';
import type { OriginInterim } from '../model/messages.js';
import type { OriginBody } from './origin-body.js';
import type { OriginRequestHead } from './origin-request.js';

/** Sends one request to an origin, once. Repeating it is the caller's decision. */
export interface Origin {
  /**
   * Fulfilled with the head of the origin's final response, which may come before the request is sent completely.
   * Rejects with `Unanswered`. The signal, or a body that fails, breaks the connection off: a cut request never looks whole.
   */
  send(
    request: OriginRequest,
    signal: AbortSignal,
    onInterim?: (interim: OriginInterim) => void,
  ): Promise<OriginAnswer>;
  /** Ends every connection. */
  close(): Promise<void>;
}

export interface OriginRequest extends OriginRequestHead {
  readonly content: OriginBody;
  /** Follow a body that is sent in chunks: one with a `size` as well, when there are some before it is sent. Asked again at its end. */
  readonly trailers?: () => Headers;
  /** The origin may be silent for this long. */
  readonly timeoutMs: number;
  /** Its whole answer, with all that comes before it, takes at most this long once the request is sent. */
  readonly answerTimeoutMs?: number;
  /** The body of its answer has at most so many bytes. */
  readonly maxAnswerSize?: number;
  /**
   * `fresh`: one that carried nothing before. An origin may close a kept connection just when the request is on its way, and
   * then nobody knows whether it took it (RFC 9112 §9.3.1): that is for requests that may be repeated.
   */
  readonly connection: 'kept' | 'fresh';
}

export interface OriginAnswer {
  readonly status: number;
  readonly reason: string;
  /** Every field as it came. */
  readonly headers: HeaderLine[];
  /** Fails with the reason when the answer breaks off. Destroying it ends the exchange. */
  readonly body: Readable;
  /** Known when `body` has ended. */
  readonly trailers: () => Headers;
}

/** The origin answers, but its answer goes beyond every bound: nothing is to be expected of another one. */
export class InvalidAnswer extends Error {
  constructor(problem: string, cause?: unknown) {
    super(problem, { cause });
    this.name = 'InvalidAnswer';
  }
}

/** No whole final response. `never-sent`: certainly no byte of the request left us; what cannot be proven counts as sent. */
export class Unanswered extends Error {
  constructor(
    readonly reached: 'never-sent' | 'sent',
    /** For people. */
    readonly problem: string,
    cause: unknown,
  ) {
    super(problem, { cause });
    this.name = 'Unanswered';
  }
}
