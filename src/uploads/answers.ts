import type { Delivery, DeliveryResult } from '../delivery/delivery.js';
import type { SmallContent } from '../delivery/small-content.js';
import type { InterimListener } from '../delivery/waiters.js';
import type { Headers } from '../model/headers.js';
import type { AppendIntent, Interrupted, InterimUpdate, Outcome, RelayedAnswer } from '../model/messages.js';
import { type Digest, isAnsweredEarly, shownOffset, type Upload } from '../model/upload.js';
import type { Body } from './request-body.js';
import { refused, goneReason } from './validate.js';

/** The part of a request that matters once its upload is complete. */
export interface AnswerCall {
  readonly body: Body;
  /** The credentials of this request, used by a delivery that it triggers. */
  readonly credentials: Headers;
  /** The lines of this request that records do not have in clear, for values that are not stored. */
  readonly secretLines?: Headers;
  /** Asked before the upload counts as complete, and before its delivery; an answer refuses the client. */
  readonly mayComplete?: (upload: Upload) => Promise<RelayedAnswer | undefined>;
  /** The header fields that the authorization service adds for the origin, once `mayComplete` has asked it. */
  readonly addedHeaders?: () => Headers | undefined;
  /** Aborted when the client has left: ends waiting, never a delivery. */
  readonly clientLeft: AbortSignal;
  /**
   * Aborted when no answer can reach the client any more, which a half-closed connection still allows; `left` by
   * default.
   */
  readonly clientGone?: AbortSignal;
  /** The client does not wait for the origin (RFC 7240 §4.1), or the route does not allow it to. */
  readonly doesNotWait?: boolean;
  /** Sends an interim response now and then, because proxies in between close silent connections. */
  readonly sendInterim?: (news: InterimUpdate) => unknown;
  /** Receives the interim responses of the origin. */
  readonly onInterim?: InterimListener;
  /** The bytes of the upload, while they are in memory. */
  readonly content?: SmallContent;
}

/** Some proxies close a connection that was silent for 30 s. */
const HEARTBEAT_MS = 10_000;

/**
 * The origin's answer to a complete upload, for the request that completed it and for those that ask again.
 * Reasons: docs/decisions/0005.
 */
export class Answers {
  constructor(private readonly delivery: Pick<Delivery, 'result'>) {}

  /** Waits for the origin as long as the client does. */
  async answer(
    upload: Upload,
    to: 'create' | 'append',
    call: AnswerCall,
    reprDigest?: Digest,
  ): Promise<Outcome | Interrupted> {
    const result = await this.result(upload, to, call);
    if (result.kind === 'pending' && call.doesNotWait) return { kind: 'accepted', upload: result.upload };
    switch (result.kind) {
      case 'answered':
        return { ...result, to, reprDigest };
      case 'gone':
        return refused({ reason: 'gone', detail: goneReason(result.upload) });
      case 'answer-lost':
      case 'undelivered':
      case 'pending':
      case 'parked':
      case 'interrupted':
        return result;
    }
  }

  /** An append to a complete upload: only a repetition of its end gets the answer (RUFH §4.4.2, last paragraph but two). */
  async repeat(intent: AppendIntent, upload: Upload, call: AnswerCall): Promise<Outcome | Interrupted> {
    if (isAnsweredEarly(upload)) return this.answer(upload, 'append', call);
    const heldBackStart = upload.heldBack ? upload.offset - 1 : upload.offset;
    const atAnEnd = intent.offset === upload.offset || intent.offset === heldBackStart;
    if (!atAnEnd && upload.phase !== 'answered')
      return refused({ reason: 'mismatching-offset', upload, provided: intent.offset });
    if (!atAnEnd || !intent.complete) return refused({ reason: 'already-complete', upload });
    const repeated = await repeatsTheEnd(intent, upload, call.body);
    if (typeof repeated === 'object') return repeated;
    if (!repeated) return refused({ reason: 'already-complete', upload });
    const answer = upload.phase === 'answered' ? undefined : await call.mayComplete?.(upload);
    if (answer) return { kind: 'turned-away', answer };
    return this.answer(upload, 'append', call);
  }

  private async result(
    upload: Upload,
    during: 'create' | 'append',
    {
      credentials,
      secretLines,
      addedHeaders,
      clientLeft,
      clientGone,
      doesNotWait,
      sendInterim,
      onInterim,
      content,
    }: AnswerCall,
  ): Promise<DeliveryResult | Interrupted> {
    // The offset repeats what was shown before: there is nothing else to report before the origin answers.
    const sendProgress = (): unknown =>
      sendInterim?.({ kind: 'progress', during, upload, offset: shownOffset(upload) });
    const heartbeat = setInterval(sendProgress, HEARTBEAT_MS);
    try {
      const newest = { credentials, secretLines, addedHeaders: addedHeaders?.() };
      const request = {
        ...newest,
        signal: clientLeft,
        disconnected: clientGone,
        snapshot: upload,
        onInterim,
        content,
        ...(doesNotWait && { waitMs: 0 }),
      };
      return await this.delivery.result(upload.id, request);
    } catch (error) {
      if (clientLeft.aborted) return { kind: 'interrupted', reason: 'client-left' };
      throw error;
    } finally {
      clearInterval(heartbeat);
    }
  }
}

/** A request on an upload, without anything of its protocol. */
export interface UploadCall extends AnswerCall {
  /** Sends an interim response; false when the client cannot receive any. */
  readonly sendInterim: (news: InterimUpdate) => boolean;
  /** Whether an interim response about progress would be sent now; true by default. */
  readonly wantsProgress?: () => boolean;
  /** Called with the upload before its body, and whenever the offset has moved. */
  readonly onOffset?: (upload: Upload) => void;
}

/**
 * Whether an append to a complete upload repeats its end: nothing at the full offset, or the held-back last byte just
 * before it. A byte other than the stored one means that the client sends another file.
 */
export async function repeatsTheEnd(
  intent: AppendIntent,
  upload: Pick<Upload, 'offset' | 'heldBack'>,
  body: Body,
): Promise<boolean | Interrupted> {
  const expected = intent.offset === upload.offset ? undefined : upload.heldBack?.lastByte;
  const expectedSize = expected === undefined ? 0 : 1;
  if (intent.declaredLength !== undefined && intent.declaredLength !== upload.offset) return false;
  if (intent.contentLength !== undefined && intent.contentLength !== expectedSize) return false;
  const bytes: number[] = [];
  for (let batch = await body.next(); batch; batch = await body.next()) {
    for (const buffer of batch) bytes.push(...buffer.subarray(0, 2));
    if (bytes.length > expectedSize) {
      body.stop();
      return false;
    }
  }
  const { ending } = body;
  if (ending !== 'clean')
    return { kind: 'interrupted', reason: ending === 'idle' || ending === 'slow' ? ending : 'client-left' };
  return bytes.length === expectedSize && bytes[0] === expected;
}
