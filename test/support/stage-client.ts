import { expect } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { ExpectedResponses } from './expected-responses.js';
import { TRANSPORTS, type OpenRequest, type Transport } from './open-request.js';
import {
  appendLines,
  clientDialect,
  creationLines,
  DIALECTS,
  ResumableUpload,
  type ClientDialect,
  type DialectName,
} from './resumable-client.js';
import type { Stage } from './stage.js';
import { told } from './told.js';
import type { WireRequest, WireResponse } from './wire-response.js';

/** Every dialect over every transport, each with a seed of its own. */
export const VARIANTS = TRANSPORTS.flatMap((transport, at) =>
  DIALECTS.map((interop, number) => ({ transport, interop, seed: at * 100 + number + 1 })),
);

/** Every dialect, and over HTTP/2 those that stand for the others: what a refusal says does not depend on the transport. */
export const FEWER_VARIANTS = VARIANTS.filter(
  ({ transport, interop }) => transport === 'HTTP/1.1' || ['3', '6', 'final'].includes(interop),
);

/** A request whose body is still to be sent, and the upload that it feeds. */
export interface EagerAppend {
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

/** A client of one dialect over one transport on a stage. Whatever it is told on the way to its upload is asserted. */
export class StageClient {
  readonly dialect: ClientDialect;
  readonly expected: ExpectedResponses;

  constructor(
    readonly stage: Stage,
    readonly transport: Transport,
    interop: DialectName,
    /** The members of `Upload-Limit` that the stage's configuration makes, but the lifetime. */
    limits?: string,
  ) {
    this.dialect = clientDialect(interop);
    // A response over HTTP/1.1 that HAProxy relayed reads like one over HTTP/2.
    this.expected = new ExpectedResponses(this.dialect, stage.app.isRelayed ? 'HTTP/2' : transport, limits);
  }

  send(request: WireRequest): Promise<WireResponse> {
    return this.stage.send(this.transport, request);
  }

  at(url: string): ResumableUpload {
    return new ResumableUpload(this.dialect, (request) => this.send(request), url);
  }

  /** Begins an upload whose whole body is about to be sent: a 104 says where to go on, else a creation without content. */
  begin(creation: Creation): Promise<EagerAppend> {
    return this.dialect.version === undefined ? this.beginCarefully(creation) : this.beginOptimistically(creation);
  }

  /** Asks for a place first (RUFH §4.2, careful creation). */
  async place({ target, method = 'POST', lines = [], length }: Creation): Promise<ResumableUpload> {
    const headers = [...creationLines(this.dialect, { complete: false, length }), ...lines];
    const response = await this.send({ method, target, headers, body: '' });
    const url = this.urlIn(response.header('Location'));
    expect(told(response)).toEqual(this.expected.created(url, 0));
    expect(response.interims.map((interim) => told(interim))).toEqual(this.expected.interims(url));
    return this.at(url);
  }

  /** An append whose body is about to be sent. */
  append(upload: ResumableUpload, step: { offset: number; complete: boolean; bytes?: number }): Promise<OpenRequest> {
    const headers = [...appendLines(this.dialect, step), ...lengthLine(step.bytes)];
    return this.stage.begin(this.transport, { method: 'PATCH', target: upload.target, headers });
  }

  private async beginOptimistically({ target, method = 'POST', lines = [], length }: Creation): Promise<EagerAppend> {
    const headers = [...creationLines(this.dialect, { complete: true }), ...lines, ...lengthLine(length)];
    const request = await this.stage.begin(this.transport, { method, target, headers });
    const interim = await request.readInterim();
    const url = this.urlIn(interim.header('Location'));
    expect([told(interim)]).toEqual(this.expected.interims(url));
    return { request, upload: this.at(url) };
  }

  private async beginCarefully(creation: Creation): Promise<EagerAppend> {
    const upload = await this.place(creation);
    const request = await this.append(upload, { offset: 0, complete: true, bytes: creation.length });
    return { request, upload };
  }

  private urlIn(location: string | undefined): string {
    expect(location).toMatch(new RegExp(`^${this.stage.base}/\\.uploads/[A-Za-z0-9_-]{32}$`));
    return location!;
  }
}

function lengthLine(bytes: number | undefined): HeaderLine[] {
  return bytes === undefined ? [] : [['Content-Length', `${bytes}`]];
}
