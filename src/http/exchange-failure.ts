/** Why an exchange came to nothing, and what the client is told of it (RFC 9110 §15.5.9, §15.6). */
export interface ExchangeFailure {
  readonly status: 408 | 413 | 501 | 502 | 504;
  /** For people, without addresses of the inner network. */
  readonly detail: string;
  /** For figures. */
  readonly code: string;
  /** For logs. */
  readonly cause?: unknown;
}

const REFUSED = 'The origin refused the connection. It may be down or restarting; try again later.';
const UNREACHABLE = 'The origin could not be reached over the network.';
const UNKNOWN_NAME = "The origin's name could not be resolved.";
const BROKE_OFF =
  'The origin closed the connection without an answer. It is not known whether it processed the request.';

const DETAILS: ReadonlyMap<string, string> = new Map([
  ['ECONNREFUSED', REFUSED],
  ['EHOSTUNREACH', UNREACHABLE],
  ['ENETUNREACH', UNREACHABLE],
  ['ENOTFOUND', UNKNOWN_NAME],
  ['EAI_AGAIN', UNKNOWN_NAME],
  ['ECONNRESET', BROKE_OFF],
  ['EPIPE', BROKE_OFF],
]);

/** What an error of a request to an origin means. */
export function explain(error: unknown): ExchangeFailure {
  const code = codeOf(error);
  if (code === 'ETIMEDOUT') {
    return { status: 504, code, detail: 'The origin did not accept a connection in time.', cause: error };
  }
  return { status: 502, code, detail: DETAILS.get(code) ?? detailOf(code), cause: error };
}

/** The origin's answer, or the request itself, is nothing that may be passed on. */
export function unfit(detail: string, cause?: unknown): ExchangeFailure {
  return { status: 502, code: codeOf(cause), detail, cause };
}

/** RFC 9112 §6.1: the body is in a transfer coding that we would have to undo and cannot. */
export function unknownCoding(coding: string): ExchangeFailure {
  return {
    status: 501,
    code: 'CODING',
    detail: `The transfer coding ${JSON.stringify(coding)} is not supported; use "chunked".`,
  };
}

/** The origin moved no byte for too long. */
export function silentFor(limitMs: number): ExchangeFailure {
  return { status: 504, code: 'ETIMEDOUT', detail: `The origin was silent for more than ${limitMs / 1000} s.` };
}

/** The client has announced a body and does not go on with it. */
export function bodyStopped(limitMs: number): ExchangeFailure {
  const detail = `Nothing came of the request's body for more than ${limitMs / 1000} s.`;
  return { status: 408, code: 'BODY_STOPPED', detail };
}

/** It comes, but at a rate at which a client could keep a connection for ever. */
export function bodyTooSlow(): ExchangeFailure {
  return { status: 408, code: 'BODY_TOO_SLOW', detail: "The request's body came too slowly." };
}

/** RFC 9110 §15.5.14: the route's `max_size`. */
export function bodyTooLarge(maxBytes: number): ExchangeFailure {
  return { status: 413, code: 'BODY_TOO_LARGE', detail: `A request may have at most ${maxBytes} bytes here.` };
}

/** The connection ended before a byte of an answer. */
export function isBrokenConnection(error: unknown): boolean {
  return ['ECONNRESET', 'EPIPE'].includes(codeOf(error));
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : 'other';
}

function detailOf(code: string): string {
  if (code.startsWith('HPE_')) return "The origin's answer is not valid HTTP/1.1.";
  if (/CERT|SSL|TLS|SIGNATURE|ALTNAME/.test(code)) return 'A secure connection to the origin could not be established.';
  return 'The exchange with the origin failed.';
}
