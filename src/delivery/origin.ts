import type { Readable } from 'node:stream';
import type { HeaderLine, Headers } from '../model/headers.js';
import type { OriginInterim } from '../model/messages.js';
import type { OriginBody } from './origin-body.js';
import type { OriginRequestHead } from './origin-request.js';

/** Sends requests to origins, each one once; the caller decides on a repetition. */
export interface Origin {
  /**
   * Resolves with the head of the origin's final response, which may arrive before the request is sent completely. Rejects with
   * `Unanswered`. An aborted signal or a failing body cuts the connection, so that an incomplete request never looks complete.
   */
  send(
    request: OriginRequest,
    signal: AbortSignal,
    onInterim?: (interim: OriginInterim) => void,
  ): Promise<OriginAnswer>;
  /** Ends every connection. */
  close(): Promise<void>;
}

/** One request to an origin, with its body and its limits. */
export interface OriginRequest extends OriginRequestHead {
  readonly content: OriginBody;
  /**
   * Trailers; read before the request and again at the end of its body. A body with a `size` is chunked if there are some
   * before.
   */
  readonly trailers?: () => Headers;
  /** Longest silence of the origin. */
  readonly timeoutMs: number;
  /** Longest time from the end of the request to the end of the answer. */
  readonly answerTimeoutMs?: number;
  /** Largest body of the answer, in bytes. */
  readonly maxAnswerSize?: number;
  /**
   * `fresh`: a connection that carried no request before. An origin may close a `kept` one while the request is on its way,
   * which leaves the outcome unknown (RFC 9112 §9.3.1), so `kept` is only for requests that may be repeated.
   */
  readonly connection: 'kept' | 'fresh';
}

/** An origin's final response, whose body may still be arriving. */
export interface OriginAnswer {
  readonly status: number;
  readonly reason: string;
  /** All fields as received. */
  readonly headers: HeaderLine[];
  /** Fails with the reason if the answer breaks off. Destroying it ends the exchange. */
  readonly body: Readable;
  /** Known when `body` has ended. */
  readonly trailers: () => Headers;
}

/** The origin's answer exceeds a limit, so a repetition would fail in the same way. */
export class InvalidAnswer extends Error {
  constructor(problem: string, cause?: unknown) {
    super(problem, { cause });
    this.name = 'InvalidAnswer';
  }
}

/**
 * There was no final response. `never-sent`: certainly no byte of the request was sent; without certainty it counts as
 * `sent`.
 */
export class Unanswered extends Error {
  constructor(
    readonly reached: 'never-sent' | 'sent',
    /** For logs and the operator. */
    readonly problem: string,
    cause: unknown,
  ) {
    super(problem, { cause });
    this.name = 'Unanswered';
  }
}
