import { isFieldValue, isToken } from '../model/grammar.js';
import type { HeaderLine } from '../model/headers.js';
import { remembered } from '../model/remembered.js';

/** The head of a response, with every octet as received. */
export interface ResponseHead {
  readonly status: number;
  /** May be empty. */
  readonly reason: string;
  readonly headers: readonly HeaderLine[];
  /** Where the content ends. */
  readonly framing: ContentFraming;
  /** The value of `Content-Length`. */
  readonly contentLength?: number;
  /** The origin keeps the connection open after this response, and its end is beyond doubt (RFC 9112 §9.3). */
  readonly isPersistent: boolean;
  /** The head announces content that this response must not have. Some origins send it all the same. */
  readonly announcesForbiddenContent: boolean;
  /** Seconds for which the origin keeps an idle connection, if it says so. */
  readonly keepAliveSeconds?: number;
}

/** The end of a response's content. `none`: there is none; `switched`: the connection no longer speaks HTTP. */
export type ContentFraming = 'none' | 'length' | 'chunks' | 'connection' | 'switched';

/** A response that is not valid HTTP/1.1. The codes are those of Node's parser, which metrics and logs have always used. */
export class InvalidResponse extends Error {
  constructor(
    readonly code: `HPE_${string}`,
    message: string,
  ) {
    super(message);
    this.name = 'InvalidResponse';
  }
}

export function notHttp(): InvalidResponse {
  return new InvalidResponse('HPE_INVALID_CONSTANT', 'the response does not begin with an HTTP/1.1 status line');
}

export function invalidLine(): InvalidResponse {
  return new InvalidResponse('HPE_INVALID_HEADER_TOKEN', 'the response has a malformed header line');
}

const STATUS_LINE = /^HTTP\/(1\.[01]) ([1-9]\d{2})(?: ([^\r\n]*))?$/;

/** Reads the head of a response to a request with this method. Throws an `InvalidResponse`. */
export function readHead(text: string, method: string): ResponseHead {
  const lineEnd = text.indexOf('\r\n');
  const [, version, code, reason = ''] = STATUS_LINE.exec(lineEnd === -1 ? text : text.slice(0, lineEnd)) ?? [];
  if (code === undefined) throw notHttp();
  const status = Number(code);
  const { headers, options, coding, contentLength, keepAliveSeconds } = readFields(
    lineEnd === -1 ? '' : text.slice(lineEnd + 2),
  );
  const framing = framingOf({ method, status, coding, contentLength });
  const isKept = version === '1.1' ? !options.includes('close') : options.includes('keep-alive');
  return {
    status,
    reason,
    headers,
    framing,
    contentLength,
    // RFC 9112 §6.1: in HTTP/1.0 a transfer coding makes the end of the response doubtful.
    isPersistent: isKept && framing !== 'connection' && (version === '1.1' || coding === undefined),
    announcesForbiddenContent: framing === 'none' && (coding !== undefined || (contentLength ?? 0) > 0),
    keepAliveSeconds,
  };
}

interface FramingFacts {
  readonly method: string;
  readonly status: number;
  /** The value of `Transfer-Encoding`. */
  readonly coding?: string;
  readonly contentLength?: number;
}

/**
 * The rules of RFC 9112 §6.3 in their order. A response whose end could be read in two ways is refused, because its rest would
 * be taken for the next response.
 */
function framingOf({ method, status, coding, contentLength }: FramingFacts): ContentFraming {
  if (coding !== undefined && contentLength !== undefined)
    throw new InvalidResponse(
      'HPE_INVALID_CONTENT_LENGTH',
      'the response has both Content-Length and Transfer-Encoding',
    );
  // The request offers no coding (`TE`), and the proxy decodes none.
  if (coding !== undefined && coding !== 'chunked')
    throw new InvalidResponse(
      'HPE_INVALID_TRANSFER_ENCODING',
      'the response has a transfer coding that was not requested',
    );
  if (status === 101) return 'switched';
  if (method === 'HEAD' || status < 200 || status === 204 || status === 304) return 'none';
  if (coding !== undefined) return 'chunks';
  return contentLength === undefined ? 'connection' : 'length';
}

/** The header lines or trailers of a response, and those among them that concern its connection. */
interface Fields {
  readonly headers: HeaderLine[];
  /** The options in `Connection`, in lower case. */
  readonly options: readonly string[];
  /** The value of `Transfer-Encoding`, in lower case. */
  readonly coding?: string;
  readonly contentLength?: number;
  readonly keepAliveSeconds?: number;
}

/** More lines are refused: each one costs memory and time in every later step. */
const MAX_LINES = 2000;

/** Reads the lines of a head or trailer section. Throws an `InvalidResponse`. */
export function readFields(text: string): Fields {
  const headers: HeaderLine[] = [];
  const options: string[] = [];
  const codings: string[] = [];
  let contentLength: number | undefined;
  let keepAliveSeconds: number | undefined;
  for (let at = 0; at < text.length;) {
    const lineEnd = text.indexOf('\r\n', at);
    const end = lineEnd === -1 ? text.length : lineEnd;
    const line = readLine(text, at, end);
    if (headers.push(line) > MAX_LINES)
      throw new InvalidResponse('HPE_HEADER_OVERFLOW', `the response has more than ${MAX_LINES} header lines`);
    at = end + 2;
    const [name, value] = line;
    switch (name.length) {
      case 10:
        if (name.toLowerCase() === 'connection') {
          if (value === 'keep-alive') options.push(value);
          else options.push(...tokensOf(value));
        } else if (name.toLowerCase() === 'keep-alive') keepAliveSeconds = timeoutIn(value);
        break;
      case 14:
        if (name.toLowerCase() === 'content-length') contentLength = readLength(value, contentLength);
        break;
      case 17:
        if (name.toLowerCase() === 'transfer-encoding') codings.push(value.toLowerCase());
    }
  }
  const coding = codings.length === 0 ? undefined : codings.join(', ');
  return { headers, options, coding, contentLength, keepAliveSeconds };
}

function readLine(text: string, start: number, end: number): HeaderLine {
  const colon = text.indexOf(':', start);
  if (colon === -1 || colon > end) throw invalidLine();
  const name = text.slice(start, colon);
  const value = trimmed(text, colon + 1, end);
  if (!isToken(name) || !isFieldValue(value)) throw invalidLine();
  return [name, value];
}

function trimmed(text: string, from: number, to: number): string {
  let start = from;
  let end = to;
  while (start < end && isBlank(text.charCodeAt(start))) start++;
  while (end > start && isBlank(text.charCodeAt(end - 1))) end--;
  return text.slice(start, end);
}

function isBlank(code: number): boolean {
  return code === 32 || code === 9;
}

function tokensOf(value: string): string[] {
  return value.split(',').map((token) => token.trim().toLowerCase());
}

const timeoutIn = remembered((value): number | undefined => {
  const [, seconds] = /(?:^|[,;\s])timeout=(\d{1,6})/i.exec(value) ?? [];
  return seconds === undefined ? undefined : Number(seconds);
});

/** A second length could be read as another end of the response (RFC 9112 §6.3), so it is refused. */
function readLength(value: string, previous: number | undefined): number {
  if (previous !== undefined)
    throw new InvalidResponse('HPE_UNEXPECTED_CONTENT_LENGTH', 'the response has two lengths');
  const length = /^\d{1,19}$/.test(value) ? Number(value) : NaN;
  if (!Number.isSafeInteger(length))
    throw new InvalidResponse('HPE_INVALID_CONTENT_LENGTH', 'the Content-Length of the response is malformed');
  return length;
}
