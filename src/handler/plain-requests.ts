import { Fault } from '../model/fault.js';
import type { Interrupted, Outcome, RelayedAnswer } from '../model/messages.js';
import type { Undelivered, Upload } from '../model/upload.js';
import { type Log, uploadTag } from '../observe/log.js';
import { plain } from '../protocol/plain.js';
import { problemReply } from '../protocol/problem.js';
import type { Reply, ReplyContext } from '../protocol/protocol.js';
import type { Uploads } from '../uploads/uploads.js';

export interface PlainRepliesOptions {
  readonly uploads: Pick<Uploads, 'cancel'>;
  readonly log: Log;
}

/** The origin certainly has not processed the request, so its client may send it again. */
const NOT_DELIVERED: ReadonlySet<Undelivered['reason']> = new Set(['unreachable', 'refused', 'unauthorized']);

/**
 * Renders the outcome of an ordinary request that went through the spool. Its client cannot resume, so an answered
 * upload is removed, and after an error the request is not delivered later, because the client may send it again.
 * Reasons: docs/decisions/0019.
 */
export class PlainReplies {
  constructor(private readonly options: PlainRepliesOptions) {}

  /** Renders the reply, after removing an upload that must not be delivered any more. */
  async replyTo(outcome: Outcome | Interrupted, context: ReplyContext): Promise<Reply | Interrupted> {
    if (outcome.kind === 'interrupted') return interruptedReply(outcome, context);
    const isKept = outcome.kind === 'answered' && outcome.upload.clientKey !== undefined;
    if (!isKept && (outcome.kind === 'answered' || outcome.kind === 'parked'))
      return plain.render({ ...outcome, answer: this.readOnce(outcome.upload, outcome.answer) }, context);
    const isFinal =
      (outcome.kind === 'pending' && outcome.upload.clientKey === undefined) ||
      (outcome.kind === 'undelivered' && NOT_DELIVERED.has(outcome.failure.reason));
    if (isFinal) await this.remove(outcome.upload);
    return plain.render(outcome, context);
  }

  /** Removes the upload once its answer was read, because it is read only once; otherwise the cleanup removes it. */
  private readOnce(upload: Upload, answer: RelayedAnswer): RelayedAnswer {
    const remove = (): Promise<void> => this.remove(upload);
    const hasNoBody = answer.bodySize === 0 || answer.status === 204 || answer.status === 304;
    if (hasNoBody) void remove();
    return { ...answer, body: withCleanup(answer.body, remove) };
  }

  private async remove({ id }: Upload): Promise<void> {
    try {
      await this.options.uploads.cancel({ kind: 'cancel', id });
    } catch (fault) {
      if (!(fault instanceof Fault)) throw fault;
      this.options.log.warn(
        { upload: uploadTag(id), err: fault },
        'removing an ordinary request failed: it stays until it expires',
      );
    }
  }
}

async function* withCleanup(body: AsyncIterable<Uint8Array>, cleanUp: () => Promise<void>): AsyncGenerator<Uint8Array> {
  try {
    yield* body;
  } finally {
    void cleanUp();
  }
}

/** The reply to a client whose body was not received completely. */
function interruptedReply(outcome: Interrupted, context: ReplyContext): Reply | Interrupted {
  switch (outcome.reason) {
    case 'client-left':
      return outcome;
    case 'idle':
      return problemReply({ status: 408, detail: 'The body of this request stopped coming. Nothing of it was kept.' });
    case 'slow':
      return problemReply({ status: 408, detail: 'The body of this request came too slowly. Nothing of it was kept.' });
    case 'taken-over':
      return problemReply({ status: 409, detail: TAKEN_OVER });
    case 'draining':
    case 'lost':
      return plain.render({ kind: 'refused', refusal: STOPPING }, context);
  }
}

const TAKEN_OVER = 'A newer request with the same Idempotency-Key has taken the place of this one.';

const STOPPING = { reason: 'unavailable', detail: 'This server is being stopped.', retryAfterSeconds: 1 } as const;
