import { Http2ServerRequest } from 'node:http2';
import { fieldValue, fromRawHeaders, type HeaderLine, type Headers } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import { isAuthority, type Provenance, type Trust } from './client-address.js';
import { peerOf, type HttpRequest } from './exchange.js';
import { readTarget, type Target } from './request-target.js';

/** A head that nobody can act on; the client is told why. */
export class BadHead {
  constructor(
    readonly status: 400 | 417 | 501,
    readonly detail: string,
  ) {}
}

/** What is known of a request before its body. What HTTP/1.1 and HTTP/2 say differently is said one way here. */
export function readHead(req: HttpRequest, trust: Pick<Trust, 'provenanceOf'>): RequestHead | BadHead {
  const method = req.method ?? '';
  // Methods are case-sensitive (RFC 9110 §9.1), but Node's client would say this one in capitals to the origin.
  if (method !== method.toUpperCase())
    return new BadHead(501, `The method ${method} is unknown; methods are in capitals.`);
  const target = readTarget(method, req.url ?? '');
  if (!target) return new BadHead(400, 'The request target is malformed.');
  const overHttp2 = req instanceof Http2ServerRequest;
  const headers = overHttp2 ? http2Headers(req) : http1Headers(req.rawHeaders, target);
  const httpVersion = overHttp2 ? '2.0' : req.httpVersion === '1.0' ? '1.0' : '1.1';
  const complaint = hostComplaint(headers, httpVersion) ?? lengthComplaint(headers);
  if (complaint !== undefined) return new BadHead(400, complaint);
  const expectation = httpVersion === '1.0' ? undefined : fieldValue(headers, 'expect')?.trim().toLowerCase();
  if (expectation !== undefined && expectation !== '100-continue') {
    return new BadHead(417, 'The only expectation that can be met is 100-continue.');
  }
  const contentLength = contentLengthOf(headers);
  const peer = peerOf(req);
  const provenance = trust.provenanceOf(peer, headers);
  const { connection } = provenance;
  const host = fieldValue(headers, 'host')?.trim();
  const scheme = provenance.scheme ?? (peer.encrypted ? 'https' : 'http');
  const authority = provenance.authority ?? (host ? host : peer.localAuthority);
  const base = provenance.base ?? baseOf(scheme, authority, provenance);
  return {
    method,
    target: target.target,
    path: target.path,
    ...(target.flaw === undefined ? {} : { flaw: target.flaw }),
    httpVersion,
    scheme,
    authority,
    ...(base === undefined ? {} : { base }),
    headers,
    contentLength,
    hasBody: hasBody(req, headers, contentLength),
    expectsContinue: expectation !== undefined,
    connection,
  };
}

const DEFAULT_PORT = { http: '80', https: '443' } as const;

/** Undefined where scheme and authority say it all. An authority with a port of its own keeps that one. */
function baseOf(scheme: 'http' | 'https', authority: string, { port, prefix = '' }: Provenance): string | undefined {
  const isTold = port !== undefined && port !== DEFAULT_PORT[scheme] && !/:\d+$/.test(authority);
  if (!isTold && prefix === '') return undefined;
  return `${scheme}://${authority}${isTold ? `:${port}` : ''}${prefix}`;
}

/** RFC 9112 §3.2.2: the authority of an absolute target replaces Host. */
function http1Headers(raw: readonly string[], { authority }: Target): HeaderLine[] {
  const lines = fromRawHeaders(raw);
  if (authority === undefined) return lines;
  return lines.map(([name, value]) => [name, name.toLowerCase() === 'host' ? authority : value]);
}

/** Without pseudo-header fields; `:authority` as Host (RFC 9113 §8.3.1), cookie crumbs as one line (§8.2.3). */
function http2Headers(req: Http2ServerRequest): HeaderLine[] {
  const all = fromRawHeaders(req.rawHeaders);
  const authority = fieldValue(all, ':authority');
  const fields = all.filter(([name]) => !name.startsWith(':'));
  const lines: HeaderLine[] = authority === undefined ? [] : [['host', authority]];
  // A Host that says the same is the same line; another one is left for `hostComplaint`.
  lines.push(...fields.filter(([name, value]) => name !== 'host' || value !== authority));
  const crumbs = lines.filter(([name]) => name === 'cookie').map(([, value]) => value);
  const first = lines.findIndex(([name]) => name === 'cookie');
  if (crumbs.length < 2) return lines;
  return lines.flatMap((line, at): HeaderLine[] => {
    if (line[0] !== 'cookie') return [line];
    return at === first ? [['cookie', crumbs.join('; ')]] : [];
  });
}

/** RFC 9112 §3.2: exactly one valid Host in HTTP/1.1. */
function hostComplaint(headers: Headers, httpVersion: string): string | undefined {
  const hosts = headers.filter(([name]) => name.toLowerCase() === 'host').map(([, value]) => value.trim());
  if (hosts.length > 1) return 'The request names more than one host.';
  if (hosts.length === 0) return httpVersion === '1.0' ? undefined : 'The request names no host.';
  const [host] = hosts;
  return host === '' || isAuthority(host!) ? undefined : 'The Host is malformed.';
}

/** The parsers refuse what is no number and what contradicts itself; this holds if one should be more lenient. */
function lengthComplaint(headers: Headers): string | undefined {
  const length = fieldValue(headers, 'content-length');
  if (length === undefined || Number.isSafeInteger(contentLengthOf(headers))) return undefined;
  return /^\d+$/.test(length) ? 'The Content-Length is beyond all limits.' : 'The Content-Length is malformed.';
}

function contentLengthOf(headers: Headers): number | undefined {
  const length = fieldValue(headers, 'content-length');
  return length === undefined ? undefined : /^\d+$/.test(length) ? Number(length) : NaN;
}

function hasBody(req: HttpRequest, headers: Headers, contentLength: number | undefined): boolean {
  if (contentLength === 0) return false;
  if (req instanceof Http2ServerRequest) return !req.stream.endAfterHeaders;
  return contentLength !== undefined || fieldValue(headers, 'transfer-encoding') !== undefined;
}
