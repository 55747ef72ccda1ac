import { Fault } from '../model/fault.js';
import { withoutUploadFields, type HeaderLine } from '../model/headers.js';
import type { RelayedAnswer } from '../model/outcome.js';
import { calledUrl, type RequestHead } from '../model/request-head.js';
import type { Route } from '../model/route.js';
import { type Upload, shownOffset } from '../model/upload.js';
import { answerLostProblem, NO_STORE, problemReply } from '../protocol/problem.js';
import type { Reply } from '../protocol/protocol.js';
import type { Uploads } from '../uploads/uploads.js';
import { answerFor } from './answer-fields.js';
import type { Found } from './places.js';

/** When whoever waits may look again. */
const LOOK_AGAIN: HeaderLine = ['Retry-After', '2'];

const UNREADABLE = 'The stored answer cannot be read right now. Try again later.';

const NOT_FOUND = { status: 404, detail: 'There is no such upload, or it is not yours.' };

export interface UploadPagesOptions {
  readonly uploads: Pick<Uploads, 'keptAnswer'>;
  /** What clients see in place of the request's own scheme and authority; without a trailing slash. */
  readonly publicUrl?: string;
  /** Sent with every answer of an origin. */
  readonly altSvc?: string;
}

/** What a client that does not wait for its answer can look at: where the delivery is, and in the end the answer. */
export class UploadPages {
  constructor(private readonly options: UploadPagesOptions) {}

  /** Fails with the signal and its reason when the client leaves before. */
  async reply({ upload, page, route }: Found, head: RequestHead, to: AbortSignal): Promise<Reply> {
    const { method } = head;
    if (method !== 'GET' && method !== 'HEAD')
      return problemReply({ status: 405, detail: 'This can only be read.' }, [['Allow', 'GET, HEAD']]);
    if (!upload) return problemReply(NOT_FOUND);
    return page === 'answer' ? this.answer(upload, route, head, to) : status(upload);
  }

  private async answer(upload: Upload, route: Route, head: RequestHead, to: AbortSignal): Promise<Reply> {
    const { uploads, publicUrl = calledUrl(head), altSvc } = this.options;
    const answer = await uploads.keptAnswer(upload, to).catch((fault: unknown) => {
      if (!(fault instanceof Fault)) throw fault;
      return 'unreadable' as const;
    });
    if (answer === 'unreadable') return problemReply({ status: 503, detail: UNREADABLE }, [LOOK_AGAIN]);
    if (answer === 'lost') return problemReply(answerLostProblem(upload));
    if (!answer) return problemReply({ status: 404, detail: 'The origin has not answered yet.' }, [LOOK_AGAIN]);
    const { target } = upload.request;
    return withoutOurFields(answerFor(answer, { route, publicUrl, target }, altSvc));
  }
}

/** As in the answer to an append. */
function withoutOurFields(answer: RelayedAnswer): RelayedAnswer {
  const headers = withoutUploadFields(answer.headers);
  return { ...answer, headers, trailers: () => withoutUploadFields(answer.trailers()) };
}

function status(upload: Upload): Reply {
  const { phase, length, attempts, attemptCount, answer } = upload;
  const last = attempts.at(-1);
  const isOver = phase === 'answered' || phase === 'undelivered';
  const told = {
    phase,
    offset: shownOffset(upload),
    length,
    attempts: attemptCount,
    lastAttempt: last && {
      startedAt: iso(last.startedAt),
      endedAt: last.endedAt && iso(last.endedAt),
      reached: last.reached,
      status: last.status,
    },
    undelivered: upload.undelivered?.reason,
    answer: answer && { status: answer.status, at: 'answer' },
  };
  return {
    status: 200,
    headers: [...(isOver ? [] : [LOOK_AGAIN]), NO_STORE, ['Content-Type', 'application/json']],
    body: JSON.stringify(told),
  };
}

function iso(at: number): string {
  return new Date(at).toISOString();
}
