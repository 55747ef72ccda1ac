import { validateHeaderName, validateHeaderValue } from 'node:http';
import type { Http2ServerResponse, OutgoingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { endToEnd, type Headers } from '../model/headers.js';

/** Fields of the connection, which HTTP/2 does not have (RFC 9113 §8.2.2), taken away; names in lower case, repeated lines as a list. */
export function toHttp2Fields(headers: Headers): OutgoingHttpHeaders {
  const fields = new Map<string, string[]>();
  for (const [name, value] of endToEnd(headers)) {
    // Unlike over HTTP/1.1, Node sends whatever it is given.
    validateHeaderName(name);
    validateHeaderValue(name, value);
    const lower = name.toLowerCase();
    fields.set(lower, [...(fields.get(lower) ?? []), value]);
  }
  return Object.fromEntries([...fields].map(([name, values]) => [name, values.length === 1 ? values[0] : values]));
}

/**
 * The status as it can be sent over HTTP/2. Node refuses those from 600 on, which mean no more than a 5xx to anybody (RFC
 * 9110 §15), and some origins use them: fields and content reach the client under a 502.
 */
export function http2Status(status: number): number {
  return status > 599 ? 502 : status;
}

/** Fields that this client cannot be sent: it would lose its connection, and with it every other answer. */
export class HeadTooLarge extends Error {
  constructor() {
    super('the header fields are larger than this client takes over HTTP/2');
    this.name = 'HeadTooLarge';
  }
}

/** What nghttp2 sends at most of one block; beyond it Node ends the session. */
const LARGEST_BLOCK = 64 * 1024;
/** RFC 9113 §6.5.2: what each field counts besides name and value. */
const FIELD_OVERHEAD = 32;
/** `:status` and, where Node adds it, the date. */
const ADDED_BYTES = 128;

/** Whether the client takes them: its SETTINGS_MAX_HEADER_LIST_SIZE says how much (RFC 9113 §10.5.1). */
export function fits({ session }: ServerHttp2Stream, fields: OutgoingHttpHeaders): boolean {
  const { maxHeaderListSize = Infinity } = session && !session.destroyed ? session.remoteSettings : {};
  let size = ADDED_BYTES;
  for (const [name, value] of Object.entries(fields))
    for (const line of Array.isArray(value) ? value : [value])
      size += name.length + String(line).length + FIELD_OVERHEAD;
  return size <= Math.min(maxHeaderListSize, LARGEST_BLOCK);
}

/** Gives the fields to `write`. Node refuses to repeat some: then one joined line says the same (RFC 9110 §5.3). */
export function writeHttp2Fields(headers: Headers, write: (fields: OutgoingHttpHeaders) => void): void {
  const fields = toHttp2Fields(headers);
  try {
    write(fields);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_HTTP2_HEADER_SINGLE_VALUE') throw error;
    write(Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, joined(name, value)])));
  }
}

function joined(name: string, value: OutgoingHttpHeaders[string]): OutgoingHttpHeaders[string] {
  return Array.isArray(value) && name !== 'set-cookie' ? value.join(', ') : value;
}

/**
 * Trailers that are too large are left out, because the whole stream would be reset for them; any recipient may drop
 * trailers (RFC 9110 §6.5.1).
 */
export function addHttp2Trailers(response: Http2ServerResponse, trailers: Headers): void {
  const fields = toHttp2Fields(trailers);
  if (fits(response.stream, fields)) response.addTrailers(fields);
}
