import type { HeaderLine } from '../../src/model/headers.js';
import type { ResponseHead, WireRequest, WireResponse } from './wire.js';

/** The interop versions this client speaks; `final` sends no version. */
export const DIALECTS = ['3', '4', '5', '6', '7', '8', '9', '10', 'final'] as const;
export type DialectName = (typeof DIALECTS)[number];

/** What a client of one interop version writes and expects. Written from the drafts, apart from the proxy's own table. */
export interface ClientDialect {
  readonly name: DialectName;
  /** Its place among the versions: its number; the form without one comes after all. */
  readonly order: number;
  /** `Upload-Draft-Interop-Version` on every request (RUFH, interop note). */
  readonly version: string | undefined;
  readonly completeness: 'Upload-Incomplete' | 'Upload-Complete';
  /** The status of an append that more is to follow. */
  readonly appendedStatus: 201 | 204;
  /** The media type of an append's body, mandatory from interop 6 on. */
  readonly appendType: string | undefined;
  readonly limitKey: 'expires' | 'max-age' | undefined;
  readonly problemJson: boolean;
  /** The status for an upload that is known to have ended. */
  readonly goneStatus: 404 | 410;
  /** The answer to a creation names the upload where the origin named nothing. */
  readonly answerHasLocation: boolean;
}

export function clientDialect(name: DialectName): ClientDialect {
  const order = name === 'final' ? Infinity : Number(name);
  return {
    name,
    order,
    version: name === 'final' ? undefined : name,
    completeness: order === 3 ? 'Upload-Incomplete' : 'Upload-Complete',
    appendedStatus: order < 7 ? 201 : 204,
    appendType: order < 6 ? undefined : 'application/partial-upload',
    limitKey: order < 6 ? undefined : order === 6 ? 'expires' : 'max-age',
    problemJson: order >= 6,
    goneStatus: order < 7 ? 404 : 410,
    answerHasLocation: order < 7,
  };
}

/** `?1` or `?0` in the polarity of the dialect's field: interop 3 says "incomplete". */
export function completenessValue(dialect: ClientDialect, complete: boolean): '?0' | '?1' {
  return (dialect.completeness === 'Upload-Complete') === complete ? '?1' : '?0';
}

export function versionLines(dialect: ClientDialect): HeaderLine[] {
  return dialect.version === undefined ? [] : [['Upload-Draft-Interop-Version', dialect.version]];
}

/** The fields that make a request a creation. */
export function creationLines(
  dialect: ClientDialect,
  step: { readonly complete: boolean; readonly length?: number },
): HeaderLine[] {
  return [
    ...versionLines(dialect),
    [dialect.completeness, completenessValue(dialect, step.complete)],
    ...lengthLines(step.length),
  ];
}

/** The fields of an append. */
export function appendLines(
  dialect: ClientDialect,
  step: { readonly offset: number; readonly complete: boolean; readonly length?: number },
): HeaderLine[] {
  return [
    ...versionLines(dialect),
    ['Upload-Offset', `${step.offset}`],
    [dialect.completeness, completenessValue(dialect, step.complete)],
    ...lengthLines(step.length),
    ...(dialect.appendType === undefined ? [] : [['Content-Type', dialect.appendType] as const]),
  ];
}

function lengthLines(length: number | undefined): HeaderLine[] {
  return length === undefined ? [] : [['Upload-Length', `${length}`]];
}

/** What a response says of an upload. */
export interface Progress {
  readonly offset: number | undefined;
  readonly complete: boolean | undefined;
  readonly length: number | undefined;
  readonly location: string | undefined;
}

export function progressOf(dialect: ClientDialect, head: ResponseHead): Progress {
  const said = head.header(dialect.completeness);
  return {
    offset: numberOf(head.header('Upload-Offset')),
    complete: said === '?0' || said === '?1' ? said === completenessValue(dialect, true) : undefined,
    length: numberOf(head.header('Upload-Length')),
    location: head.header('Location'),
  };
}

function numberOf(value: string | undefined): number | undefined {
  return value !== undefined && /^\d+$/.test(value) ? Number(value) : undefined;
}

/** Sends one request and reads its final response, over whatever HTTP version. */
export type Send = (request: WireRequest) => Promise<WireResponse>;

/** The client's side of one upload: knows its URL, not its offset, which only the server can tell. */
export class ResumableUpload {
  constructor(
    readonly dialect: ClientDialect,
    private readonly send: Send,
    readonly url: string,
  ) {}

  /** Path and query of the upload resource. */
  get target(): string {
    const { pathname, search } = new URL(this.url);
    return pathname + search;
  }

  /** Asks for the offset (HEAD). */
  retrieve(): Promise<WireResponse> {
    return this.send({ method: 'HEAD', target: this.target, headers: versionLines(this.dialect) });
  }

  /** The offset; fails when the upload cannot be resumed. */
  async offset(): Promise<number> {
    const response = await this.retrieve();
    const { offset } = progressOf(this.dialect, response);
    if (response.status !== 204 || offset === undefined) throw new Error(`no offset, but ${response.status}`);
    return offset;
  }

  append(
    body: string | Uint8Array,
    step: { readonly offset: number; readonly complete: boolean; readonly length?: number },
    headers: readonly HeaderLine[] = [],
  ): Promise<WireResponse> {
    const lines = [...appendLines(this.dialect, step), ...headers];
    return this.send({ method: 'PATCH', target: this.target, headers: lines, body });
  }

  /** Asks for the offset and sends everything from there to the end, in pieces of at most `pieceSize`. */
  async finish(whole: Uint8Array, pieceSize = whole.length): Promise<WireResponse> {
    for (let offset = await this.offset(); ;) {
      const end = Math.min(offset + Math.max(pieceSize, 1), whole.length);
      const complete = end === whole.length;
      const response = await this.append(whole.subarray(offset, end), { offset, complete });
      if (complete) return response;
      if (response.status !== this.dialect.appendedStatus) throw new Error(`append answered with ${response.status}`);
      offset = progressOf(this.dialect, response).offset ?? end;
    }
  }

  cancel(): Promise<WireResponse> {
    return this.send({ method: 'DELETE', target: this.target, headers: versionLines(this.dialect) });
  }
}

/** Creates an upload with a first part of its bytes, or none, and more to come. */
export async function createUpload(
  dialect: ClientDialect,
  send: Send,
  creation: WireRequest & { readonly length?: number },
): Promise<ResumableUpload> {
  const { length, ...request } = creation;
  const headers = [...creationLines(dialect, { complete: false, length }), ...(request.headers ?? [])];
  const response = await send({ ...request, headers, body: request.body ?? '' });
  const { location } = progressOf(dialect, response);
  if (response.status !== 201 || location === undefined) {
    throw new Error(`creation answered with ${response.status}: ${response.body.toString('utf8').slice(0, 500)}`);
  }
  return new ResumableUpload(dialect, send, location);
}
