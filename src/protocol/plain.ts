import type { CreateIntent, Outcome, Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import { PLAIN_DIALECT, type Undelivered } from '../model/upload.js';
import { knownContentLength } from './parse.js';
import { answerLostProblem, problemReply } from './problem.js';
import type { Protocol, Reply, ReplyContext } from './protocol.js';
import { adviceLine, problemOf } from './refusals.js';
import { limitLine, lines, retryAfterLine } from './upload-headers.js';
import { final } from './versions.js';

/**
 * The protocol of an ordinary request whose body is spooled. The client sees no upload (no 104, `Location` or offset):
 * it gets the origin's answer unchanged, or an ordinary error.
 */
export const plain: Protocol = {
  name: PLAIN_DIALECT,
  parseCreation: plainCreation,
  parseUploadRequest: () => ({ reason: 'unknown-upload' }),
  interim: () => undefined,
  render,
};

/** A complete creation from an ordinary request. Its digests are not checked, because they are for the origin. */
export function plainCreation(head: RequestHead): CreateIntent {
  return {
    kind: 'create',
    dialect: PLAIN_DIALECT,
    complete: true,
    contentLength: knownContentLength(head),
    appendLimitsApply: false,
    contentDigests: [],
    reprDigests: [],
  };
}

function render(outcome: Outcome, context: ReplyContext): Reply {
  switch (outcome.kind) {
    case 'answered':
    case 'parked':
    case 'turned-away': {
      const { status, reason, headers, body, bodySize, trailers } = outcome.answer;
      return { status, reason, headers, body, bodySize, trailers };
    }
    case 'refused':
      return refused(outcome.refusal, context);
    case 'undelivered':
      return undelivered(outcome.failure, outcome.retryAfterSeconds);
    case 'pending':
      return outcome.failure
        ? undelivered(outcome.failure, outcome.retryAfterSeconds)
        : problemReply({ status: 504, detail: 'The origin did not answer in time.' });
    case 'answer-lost':
      return problemReply(answerLostProblem(outcome.upload));
    case 'accepted':
    case 'created':
    case 'appended':
    case 'retrieved':
    case 'cancelled':
    case 'discovered':
      throw new Error(`an ordinary request cannot be ${outcome.kind}`);
  }
}

/** Words a refusal for a client that knows of no upload. The limits are added only if the client is asked to upload. */
function refused(refusal: Refusal, context: ReplyContext): Reply {
  const { reason } = refusal;
  if (reason === 'too-large')
    return problemReply({ status: 413, detail: `A request may have at most ${refusal.maxSize} bytes here.` });
  if (reason === 'storage-full')
    return problemReply(
      { status: 507, detail: 'There is no room for this request now. Nothing of it was kept.' },
      lines(adviceLine(refusal)),
    );
  if (reason === 'unavailable')
    return problemReply({ status: 503, detail: 'This request cannot be taken now. Nothing of it was kept.' }, [
      retryAfterLine(refusal.retryAfterSeconds),
    ]);
  // 410 would mean that the target itself no longer exists.
  if (reason === 'gone') return problemReply({ status: 500, detail: GIVEN_UP });
  const limits = reason === 'upload-required' ? limitLine(final, undefined, context) : undefined;
  return problemReply(problemOf(refusal, final), lines(limits, adviceLine(refusal)));
}

const GIVEN_UP =
  'This request was given up before the origin had answered it: its stored bytes were lost or damaged, or an operator has ' +
  'ended it. It can be sent again.';

/** The statuses are those of a gateway (RFC 9110 §15.6.3, §15.6.4). */
function undelivered({ reason }: Undelivered, retryAfterSeconds: number): Reply {
  switch (reason) {
    case 'refused':
      return problemReply({ status: 503, detail: 'The origin cannot take this request now.' }, [
        retryAfterLine(retryAfterSeconds),
      ]);
    case 'unreachable':
      return problemReply({ status: 502, detail: 'The origin cannot be reached. It has not got this request.' });
    case 'outcome-unknown':
      return problemReply({
        status: 502,
        detail: 'The origin got this request, may have done what it asks, and did not answer.',
      });
    case 'unauthorized':
      return problemReply({ status: 502, detail: 'The origin wants other credentials.' });
    case 'quarantined':
      return problemReply({ status: 403, detail: 'This request is kept back and will not be given to the origin.' });
  }
}
