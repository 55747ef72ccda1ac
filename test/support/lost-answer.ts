import { expect } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import type { OpenRequest } from './client.js';
import { comparable, type FlowClient } from './flow-client.js';
import type { ResumableUpload } from './resumable-client.js';
import { sha256 } from './temporary.js';
import { framed } from './test-proxy.js';

/** What origins say in the end: clients are to get exactly this, however late. */
export const ANSWERS: readonly GivenAnswer[] = [
  { status: 200, headers: [['Content-Type', 'text/plain']], body: 'taken' },
  {
    status: 201,
    headers: [
      ['Location', '/files/42'],
      ['ETag', '"abc"'],
      ['Set-Cookie', 'a=1; Path=/'],
      ['Set-Cookie', 'b=2'],
    ],
    body: '{"id":42}',
  },
  { status: 204, headers: [['X-Scan', 'clean']], body: '' },
  { status: 422, headers: [['Content-Type', 'application/json']], body: '{"error":"not a picture"}' },
  { status: 500, headers: [['X-Trace', 'f00']], body: 'it broke' },
];

export interface GivenAnswer {
  readonly status: number;
  readonly headers: readonly HeaderLine[];
  readonly body: string;
}

/** The answer as it is relayed: with what the origin's Node adds. */
function relayed({ status, headers, body }: GivenAnswer) {
  const lines: HeaderLine[] = status === 204 ? [...headers, ['Date', '<now>']] : framed(headers, body);
  return { status, lines, body };
}

export function isGood({ status }: GivenAnswer): boolean {
  return status < 400;
}

/** Something waits until it is opened. */
export function latch(): { readonly opened: Promise<void>; readonly open: () => void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

export interface LostUpload {
  readonly upload: ResumableUpload;
  readonly lost: LostAnswer;
  /** Until then the origin works on it. */
  readonly letAnswer: () => void;
}

/** The client is gone after its last byte, and the origin has the whole but does not answer before it is let. */
export async function loseAnswer(
  client: FlowClient,
  what: { readonly target: string; readonly method?: string; readonly answer: GivenAnswer; readonly bytes: Buffer },
): Promise<LostUpload> {
  const { target, method, answer, bytes } = what;
  const { proxy } = client;
  const { opened, open } = latch();
  proxy.answer(target, { ...answer, after: opened });
  const { request, upload } = await client.begin({ target, method, length: bytes.length });
  await request.send(bytes);
  await request.end();
  await proxy.requestFor(target);
  request.leave('reset');
  return { upload, lost: new LostAnswer(client, upload, target, bytes), letAnswer: open };
}

/** What is asserted of an upload whose answer was lost. */
export class LostAnswer {
  /** `delivery.keep_answer`: the rest of an answered upload's life. */
  private readonly kept = { maxAgeSeconds: 3600 };

  constructor(
    private readonly client: FlowClient,
    private readonly upload: ResumableUpload,
    private readonly target: string,
    private readonly bytes: Buffer,
  ) {}

  /** Whole, but without a good answer: the last byte is still asked for. */
  async expectHeldBack(after: { readonly answered: boolean; readonly isUnknown?: boolean }): Promise<void> {
    const { answered, isUnknown = false } = after;
    const { length } = this.bytes;
    const retrieved = comparable(await this.upload.retrieve(), answered ? this.kept : {});
    expect(retrieved).toEqual(this.client.expected.retrieved(length - 1, { complete: false, length, isUnknown }));
  }

  async expectComplete(): Promise<void> {
    const { length } = this.bytes;
    const retrieved = comparable(await this.upload.retrieve(), this.kept);
    expect(retrieved).toEqual(this.client.expected.retrieved(length, { complete: true, length }));
  }

  /** The last byte once more, as the end; its answer is still to be read. */
  async repeatEnd(): Promise<OpenRequest> {
    const { length } = this.bytes;
    const request = await this.client.append(this.upload, { offset: length - 1, complete: true, bytes: 1 });
    await request.send(this.bytes.subarray(-1));
    await request.end();
    return request;
  }

  /** That very answer; with a bad one the last byte stays unacknowledged. */
  async expectAnswer(request: OpenRequest, answer: GivenAnswer): Promise<void> {
    const response = await request.readFinal();
    const offset = isGood(answer) ? this.bytes.length : this.bytes.length - 1;
    expect(comparable(response)).toEqual(this.client.expected.answered(relayed(answer), offset));
    expect(response.interims).toEqual([]);
  }

  /** Nobody knows whether the origin has taken it: the client is told so before anything is sent again. */
  async expectUndelivered(request: OpenRequest): Promise<void> {
    const response = await request.readFinal();
    expect(comparable(response)).toEqual(this.client.expected.undelivered(this.bytes.length - 1));
    expect(response.interims).toEqual([]);
  }

  /** Nothing at the full offset, as the end: asks for the answer as well. */
  async repeatNothing(): Promise<OpenRequest> {
    const { length } = this.bytes;
    const request = await this.client.append(this.upload, { offset: length, complete: true, bytes: 0 });
    await request.end();
    return request;
  }

  /** The origin has had the whole so many times, always under the same key. */
  expectRequests(count: number): void {
    const requests = this.client.proxy.requestsFor(this.target);
    expect(requests).toHaveLength(count);
    const key = requests[0]!.header('Idempotency-Key');
    expect(key).toBeDefined();
    for (const request of requests) {
      expect(request).toMatchObject({ size: this.bytes.length, sha256: sha256(this.bytes) });
      expect(request.header('Idempotency-Key')).toBe(key);
    }
  }
}
