import { STATUS_CODES } from 'node:http';
import type { HeaderLine } from '../../src/model/headers.js';
import type { Transport } from './open-request.js';
import { completenessValue, versionLines, type ClientDialect } from './resumable-client.js';
import type { Told } from './told.js';

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
  interims(location: string): Told[] {
    if (this.dialect.version === undefined) return [];
    return [this.told(104, [...versionLines(this.dialect), ['Location', location], ...this.limitLines()])];
  }

  created(location: string, offset: number, extra: readonly HeaderLine[] = []): Told {
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
  ): Told {
    const unknown: HeaderLine[] = step.isUnknown ? [['Proxy-Status', UNKNOWN]] : [];
    const length: HeaderLine[] =
      this.dialect.limitKey === undefined || step.length === undefined ? [] : [['Upload-Length', `${step.length}`]];
    const own = [...this.offsetLines(offset, step.complete), ...length, ...this.limitLines(), ...unknown, NO_STORE];
    return this.told(204, [...versionLines(this.dialect), ...own, DATE, ...this.connectionLines()], '');
  }

  appended(offset: number, extra: readonly HeaderLine[] = []): Told {
    const { appendedStatus } = this.dialect;
    const own = [...versionLines(this.dialect), ...this.offsetLines(offset, false), ...extra, NO_STORE];
    // RFC 9110 §8.6: a 204 has no Content-Length.
    const length: HeaderLine[] = appendedStatus === 204 ? [] : [['Content-Length', '0']];
    return this.told(appendedStatus, [...own, ...length, DATE, ...this.connectionLines()], '');
  }

  cancelled(): Told {
    return this.told(204, [...versionLines(this.dialect), NO_STORE, DATE, ...this.connectionLines()], '');
  }

  /** The origin's answer: its own lines first. `location`: of the upload, to a creation in dialects that want one. */
  answered(
    origin: { readonly status: number; readonly lines: readonly HeaderLine[]; readonly body?: string },
    offset: number,
    location?: string,
  ): Told {
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
  refused({ status, type, offset, limits = false, advice = [], members = {}, closes = false }: ExpectedRefusal): Told {
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
  undelivered(offset: number): Told {
    const advice: HeaderLine[] = [['Retry-After', '<seconds>']];
    return this.refused({ status: this.dialect.order >= 9 ? 503 : 502, offset, advice });
  }

  /** Nothing was ever there, or it was cancelled; `gone`: it is known to have ended. */
  unknown(was: 'gone' | 'never' = 'never'): Told {
    return this.refused({ status: was === 'gone' ? this.dialect.goneStatus : 404 });
  }

  /** The same to HEAD, which gets no body. */
  unknownToHead(was?: 'gone' | 'never'): Told {
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
  private told(status: number, lines: readonly HeaderLine[], body?: Told['body']): Told {
    const isHttp1 = this.transport === 'HTTP/1.1';
    const texts = lines.map(([name, value]) => `${isHttp1 ? name : name.toLowerCase()}: ${value}`);
    return body === undefined ? { status, lines: texts } : { status, lines: texts, body };
  }
}
