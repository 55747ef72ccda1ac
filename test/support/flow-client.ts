import { STATUS_CODES } from 'node:http';
import { expect } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { type OpenRequest, type Transport, TRANSPORTS } from './client.js';
import {
  appendLines,
  clientDialect,
  type ClientDialect,
  completenessValue,
  creationLines,
  type DialectName,
  DIALECTS,
  ResumableUpload,
  versionLines,
} from './resumable-client.js';
import type { TestProxy } from './test-proxy.js';
import type { ResponseHead, WireRequest, WireResponse } from './wire.js';

/** Every dialect over every transport, each with a seed of its own. */
export const VARIANTS = TRANSPORTS.flatMap((transport, at) =>
  DIALECTS.map((interop, number) => ({ transport, interop, seed: at * 100 + number + 1 })),
);

/** Dialects that stand for the others where the subject is not what is said. */
export const REPRESENTATIVES: readonly DialectName[] = ['3', '6', 'final'];

/** Every dialect, and over HTTP/2 those that stand for the others: what a refusal says does not depend on the transport. */
export const FEWER_VARIANTS = VARIANTS.filter(
  ({ transport, interop }) => transport === 'HTTP/1.1' || REPRESENTATIVES.includes(interop),
);

/** A request whose body is still to be sent, and the upload that it feeds. */
export interface StartedAppend {
  readonly request: OpenRequest;
  readonly upload: ResumableUpload;
}

/** What a new upload is for. */
export interface Creation {
  readonly target: string;
  readonly method?: string;
  readonly lines?: readonly HeaderLine[];
  /** Of the whole; undefined when the client does not know it beforehand. */
  readonly length: number | undefined;
}

/** A client of one dialect over one transport. Whatever it is told on the way to its upload is asserted. */
export class FlowClient {
  readonly dialect: ClientDialect;
  readonly expected: ExpectedResponses;

  constructor(
    readonly proxy: TestProxy,
    readonly transport: Transport,
    interop: DialectName,
    /** The members of `Upload-Limit` that the proxy's configuration makes, but the lifetime. */
    limits?: string,
  ) {
    this.dialect = clientDialect(interop);
    // A response over HTTP/1.1 that HAProxy relayed reads like one over HTTP/2.
    this.expected = new ExpectedResponses(this.dialect, proxy.app.isRelayed ? 'HTTP/2' : transport, limits);
  }

  send(request: WireRequest): Promise<WireResponse> {
    return this.proxy.send(this.transport, request);
  }

  at(url: string): ResumableUpload {
    return new ResumableUpload(this.dialect, (request) => this.send(request), url);
  }

  /** Begins an upload whose whole body is about to be sent: a 104 says where to go on, else a creation without content. */
  begin(creation: Creation): Promise<StartedAppend> {
    return this.dialect.version === undefined ? this.beginCarefully(creation) : this.beginOptimistically(creation);
  }

  /** Asks for a place first (RUFH §4.2, careful creation). */
  async place({ target, method = 'POST', lines = [], length }: Creation): Promise<ResumableUpload> {
    const headers = [...creationLines(this.dialect, { complete: false, length }), ...lines];
    const response = await this.send({ method, target, headers, body: '' });
    const url = this.urlIn(response.header('Location'));
    expect(comparable(response)).toEqual(this.expected.created(url, 0));
    expect(response.interims.map((interim) => comparable(interim))).toEqual(this.expected.interims(url));
    return this.at(url);
  }

  /** An append whose body is about to be sent. */
  append(upload: ResumableUpload, step: { offset: number; complete: boolean; bytes?: number }): Promise<OpenRequest> {
    const headers = [...appendLines(this.dialect, step), ...lengthLine(step.bytes)];
    return this.proxy.begin(this.transport, { method: 'PATCH', target: upload.target, headers });
  }

  private async beginOptimistically({ target, method = 'POST', lines = [], length }: Creation): Promise<StartedAppend> {
    const headers = [...creationLines(this.dialect, { complete: true }), ...lines, ...lengthLine(length)];
    const request = await this.proxy.begin(this.transport, { method, target, headers });
    const interim = await request.readInterim();
    const url = this.urlIn(interim.header('Location'));
    expect([comparable(interim)]).toEqual(this.expected.interims(url));
    return { request, upload: this.at(url) };
  }

  private async beginCarefully(creation: Creation): Promise<StartedAppend> {
    const upload = await this.place(creation);
    const request = await this.append(upload, { offset: 0, complete: true, bytes: creation.length });
    return { request, upload };
  }

  private urlIn(location: string | undefined): string {
    expect(location).toMatch(new RegExp(`^${this.proxy.base}/\\.uploads/[A-Za-z0-9_-]{32}$`));
    return location!;
  }
}

function lengthLine(bytes: number | undefined): HeaderLine[] {
  return bytes === undefined ? [] : [['Content-Length', `${bytes}`]];
}

/** All that a response tells, for one comparison: its status, every line, and its body as text. */
export interface ComparableResponse {
  readonly status: number;
  /** `Name: value`, in their order and case on the wire. */
  readonly lines: readonly string[];
  /** A problem's (RFC 9457) as an object. */
  readonly body?: string | Readonly<Record<string, unknown>>;
}

const DAY_SECONDS = 86_400;

/** The life of an upload that has no bytes yet, by default. */
const EMPTY_SECONDS = 600;

/**
 * What changes with the clock is checked here and named instead: `Date` is now, and an upload that was just dealt with
 * has the whole of `maxAgeSeconds` before it, or that of an upload without bytes. So are the words of a problem, its size, and when to come again.
 */
export function comparable(
  response: ResponseHead | WireResponse,
  { maxAgeSeconds = DAY_SECONDS } = {},
): ComparableResponse {
  const { status, headerLines } = response;
  const isProblem = response.header('Content-Type') === 'application/problem+json';
  // A response to HEAD tells the size of the body that it does not have.
  const size = 'body' in response && response.body.length > 0 ? `${response.body.length}` : /^[1-9]\d*$/;
  const lines = headerLines.map(([name, value]) => {
    if (/^date$/i.test(name)) return `${name}: ${dateOf(value)}`;
    if (/^upload-limit$/i.test(name)) return `${name}: ${limitsOf(value, maxAgeSeconds)}`;
    if (/^retry-after$/i.test(name) && /^[1-9]\d*$/.test(value)) return `${name}: <seconds>`;
    if (isProblem && /^content-length$/i.test(name) && value.match(size)?.[0] === value) return `${name}: <body>`;
    return `${name}: ${value}`;
  });
  if (!('body' in response)) return { status, lines };
  return { status, lines, body: isProblem ? problemIn(response.body) : response.body.toString('latin1') };
}

/** What was wrong and what to do stands in whole sentences. */
function problemIn(body: Buffer): ComparableResponse['body'] {
  if (body.length === 0) return '';
  const problem = JSON.parse(body.toString()) as Record<string, unknown>;
  const { detail } = problem;
  const isSentence = typeof detail === 'string' && /^[A-Z].{20,}\.$/.test(detail);
  return isSentence ? { ...problem, detail: '<sentences>' } : problem;
}

function dateOf(value: string): string {
  const isNow = Math.abs(Date.parse(value) - Date.now()) < 60_000;
  return isNow && new Date(value).toUTCString() === value ? '<now>' : value;
}

function limitsOf(value: string, maxAgeSeconds: number): string {
  return value.replace(/(?<=\b(?:expires|max-age)=)\d+/, (seconds) => {
    const isWhole = (age: number): boolean => Number(seconds) <= age && Number(seconds) > age - 60;
    return isWhole(maxAgeSeconds) || isWhole(EMPTY_SECONDS) ? '<all>' : seconds;
  });
}

/** Node's own lines at the end of a response over HTTP/1.1 whose connection stays. */
const KEPT_ALIVE: readonly HeaderLine[] = [
  ['Connection', 'keep-alive'],
  ['Keep-Alive', 'timeout=75'],
];

/** The problem types of RUFH. */
type ProblemType = 'mismatching-upload-offset' | 'inconsistent-upload-length' | 'completed-upload';

const UNKNOWN =
  'rufh-proxy; error=http_response_incomplete; ' +
  'details="the upload was sent to its target, and nobody knows whether it took it; appending its end sends it once more"';

/** The first and last version that has the type, by `ClientDialect.order`. */
const KNOWN: Readonly<Record<ProblemType, readonly [number, number]>> = {
  'mismatching-upload-offset': [6, Infinity],
  'inconsistent-upload-length': [7, Infinity],
  'completed-upload': [6, 8],
};

const TITLES: Readonly<Record<ProblemType, string>> = {
  'mismatching-upload-offset': 'Mismatching Upload Offset',
  'inconsistent-upload-length': 'Inconsistent Upload Length Values',
  'completed-upload': 'Upload Is Completed',
};

export interface ExpectedRefusal {
  readonly status: number;
  /** Where the dialect has it. */
  readonly type?: ProblemType;
  readonly offset?: number;
  /** All limits are told. */
  readonly limits?: boolean;
  /** Lines that help with this refusal in particular. */
  readonly advice?: readonly HeaderLine[];
  readonly members?: Readonly<Record<string, number>>;
  /** The connection ends with it (HTTP/1.1). */
  readonly closes?: boolean;
}

const DATE: HeaderLine = ['Date', '<now>'];
const MAY_HAVE_ARRIVED =
  'rufh-proxy; error=http_response_incomplete; details="the upload was sent to its target, and nobody knows whether it took it; appending its end sends it once more"';
const NO_STORE: HeaderLine = ['Cache-Control', 'no-store'];

/**
 * Every response a proxy gives to a client of one dialect over one transport, status and all header lines. Written from
 * the drafts, apart from the proxy's own table.
 */
export class ExpectedResponses {
  constructor(
    private readonly dialect: ClientDialect,
    private readonly transport: Transport,
    /** The members of `Upload-Limit` but the lifetime. */
    private readonly limits = 'min-size=0',
  ) {}

  /** What comes before the final response to a creation: one 104, or nothing where the dialect has none. */
  interims(location: string): ComparableResponse[] {
    if (this.dialect.version === undefined) return [];
    return [this.told(104, [...versionLines(this.dialect), ['Location', location], ...this.limitLines()])];
  }

  created(location: string, offset: number, extra: readonly HeaderLine[] = []): ComparableResponse {
    const lines = [
      ...versionLines(this.dialect),
      ['Location', location] as const,
      ...this.offsetLines(offset, false),
      ...this.limitLines(),
      ...extra,
      NO_STORE,
    ];
    return this.told(201, [...lines, ['Content-Length', '0'], DATE, ...this.connectionLines()], '');
  }

  /** `isUnknown`: nobody knows what came of its delivery, and each retrieval says so. */
  retrieved(
    offset: number,
    step: { readonly complete: boolean; readonly length?: number; readonly isUnknown?: boolean },
  ): ComparableResponse {
    const unknown: HeaderLine[] = step.isUnknown ? [['Proxy-Status', UNKNOWN]] : [];
    const length: HeaderLine[] =
      this.dialect.limitKey === undefined || step.length === undefined ? [] : [['Upload-Length', `${step.length}`]];
    const own = [...this.offsetLines(offset, step.complete), ...length, ...this.limitLines(), ...unknown, NO_STORE];
    return this.told(204, [...versionLines(this.dialect), ...own, DATE, ...this.connectionLines()], '');
  }

  appended(offset: number, extra: readonly HeaderLine[] = []): ComparableResponse {
    const { appendedStatus } = this.dialect;
    const own = [...versionLines(this.dialect), ...this.offsetLines(offset, false), ...extra, NO_STORE];
    // RFC 9110 §8.6: a 204 has no Content-Length.
    const length: HeaderLine[] = appendedStatus === 204 ? [] : [['Content-Length', '0']];
    return this.told(appendedStatus, [...own, ...length, DATE, ...this.connectionLines()], '');
  }

  cancelled(): ComparableResponse {
    return this.told(204, [...versionLines(this.dialect), NO_STORE, DATE, ...this.connectionLines()], '');
  }

  /** The origin's answer: its own lines first. `location`: of the upload, to a creation in dialects that want one. */
  answered(
    origin: { readonly status: number; readonly lines: readonly HeaderLine[]; readonly body?: string },
    offset: number,
    location?: string,
  ): ComparableResponse {
    const ours = [
      ...versionLines(this.dialect),
      ...(location === undefined ? [] : [['Location', location] as const]),
      ...this.offsetLines(offset, true),
    ];
    return this.told(origin.status, [...origin.lines, ...ours, ...this.connectionLines()], origin.body ?? '');
  }

  /** Whether the answer to a creation gets the upload's URL when the origin gives none. */
  get answerHasLocation(): boolean {
    return this.dialect.answerHasLocation;
  }

  /** The proxy's own "no", which never completes anything. */
  refused({
    status,
    type,
    offset,
    limits = false,
    advice = [],
    members = {},
    closes = false,
  }: ExpectedRefusal): ComparableResponse {
    const registered = type !== undefined && this.knows(type);
    const lines = [
      ...versionLines(this.dialect),
      ...(offset === undefined ? [] : [['Upload-Offset', `${offset}`] as const]),
      [this.dialect.completeness, completenessValue(this.dialect, false)] as const,
      ...(limits ? this.limitLines() : []),
      ...advice,
      NO_STORE,
    ];
    const framing = [['Content-Type', 'application/problem+json'], ['Content-Length', '<body>'], DATE] as const;
    return this.told(status, [...lines, ...framing, ...this.connectionLines(closes)], {
      type: registered ? `https://iana.org/assignments/http-problem-types#${type}` : 'about:blank',
      title: registered ? TITLES[type] : STATUS_CODES[status]!.replace('Payload', 'Content'),
      status,
      detail: '<sentences>',
      ...members,
    });
  }

  /** The whole is here, but the origin has not answered, and may have taken it. */
  undelivered(offset: number): ComparableResponse {
    const advice: HeaderLine[] = [
      ['Retry-After', '<seconds>'],
      ['Proxy-Status', MAY_HAVE_ARRIVED],
    ];
    return this.refused({ status: this.dialect.order >= 9 ? 503 : 502, offset, advice });
  }

  /** Nothing was ever there, or it was cancelled; `gone`: it is known to have ended. */
  unknown(was: 'gone' | 'never' = 'never'): ComparableResponse {
    return this.refused({ status: was === 'gone' ? this.dialect.goneStatus : 404 });
  }

  /** The same to HEAD, which gets no body. */
  unknownToHead(was?: 'gone' | 'never'): ComparableResponse {
    return { ...this.unknown(was), body: '' };
  }

  private knows(type: ProblemType): boolean {
    const { order } = this.dialect;
    const [from, to] = KNOWN[type];
    return order >= from && order <= to;
  }

  private offsetLines(offset: number, complete: boolean): HeaderLine[] {
    return [
      ['Upload-Offset', `${offset}`],
      [this.dialect.completeness, completenessValue(this.dialect, complete)],
    ];
  }

  private limitLines(): HeaderLine[] {
    const { limitKey } = this.dialect;
    return limitKey === undefined ? [] : [['Upload-Limit', `${this.limits}, ${limitKey}=<all>`]];
  }

  private connectionLines(closes = false): readonly HeaderLine[] {
    if (this.transport === 'HTTP/2') return [];
    return closes ? [['Connection', 'close']] : KEPT_ALIVE;
  }

  /** RFC 9113 §8.2.1: names are in lower case over HTTP/2. */
  private told(status: number, lines: readonly HeaderLine[], body?: ComparableResponse['body']): ComparableResponse {
    const isHttp1 = this.transport === 'HTTP/1.1';
    const texts = lines.map(([name, value]) => `${isHttp1 ? name : name.toLowerCase()}: ${value}`);
    return body === undefined ? { status, lines: texts } : { status, lines: texts, body };
  }
}
