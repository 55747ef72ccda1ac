import { fieldValue, type HeaderLine } from '../../src/model/headers.js';

/** A response head, interim or final, as it was received over any HTTP version. */
export class ResponseHead {
  constructor(
    readonly status: number,
    /** Empty over HTTP/2. */
    readonly reason: string,
    /** In their order and case on the wire, duplicates kept; lower case over HTTP/2. */
    readonly headerLines: readonly HeaderLine[],
    /** `HTTP/1.1 200 OK`; empty over HTTP/2. */
    readonly statusLine = '',
  ) {}

  /** All lines of a field joined with ", "; undefined when there is none. */
  header(name: string): string | undefined {
    return fieldValue(this.headerLines, name);
  }
}

/** A final response with everything around it. */
export interface WireResponse extends ResponseHead {
  /** The interim responses before it, in order. */
  readonly interims: readonly ResponseHead[];
  readonly body: Buffer;
  readonly trailers: readonly HeaderLine[];
}

/** What a one-step request needs; every client here can send it. */
export interface WireRequest {
  readonly method: string;
  /** Path and query, exactly as sent. */
  readonly target: string;
  readonly headers?: readonly HeaderLine[];
  readonly body?: string | Uint8Array;
}

export function wireResponse(
  head: ResponseHead,
  rest: Pick<WireResponse, 'interims' | 'body' | 'trailers'>,
): WireResponse {
  return Object.assign(new ResponseHead(head.status, head.reason, head.headerLines, head.statusLine), rest);
}
