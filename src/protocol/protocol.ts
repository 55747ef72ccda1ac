import type { HeaderLine, Headers } from '../model/headers.js';
import type { Intent, InterimUpdate, Outcome, Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import type { Limits } from '../model/route.js';

/** A response, ready to be written: every header and the exact body. */
export interface Reply {
  readonly status: number;
  /** Only for a relayed answer and for 104; otherwise Node's phrase. */
  readonly reason?: string;
  readonly headers: readonly HeaderLine[];
  readonly body?: string | AsyncIterable<Uint8Array>;
  /** Length of an iterable body when it is known. */
  readonly bodySize?: number;
  /** Asked for when `body` has ended. */
  readonly trailers?: () => Headers;
}

/** What the wire needs beyond the outcome itself. */
export interface ReplyContext {
  /** The absolute URL of an upload resource as this client sees it. */
  readonly uploadUrl: (id: string) => string;
  /** The limits of the route, for answers that have no upload. */
  readonly limits: Limits;
  readonly nowMs: number;
}

/** One form of resumable uploads on the wire. Pure: it decides what is meant and how an outcome looks, nothing else. */
export interface Protocol {
  /** What an upload remembers as its dialect: '3' … '10', 'final'. */
  readonly name: string;
  /** A creation on a target, already detected as one. */
  parseCreation(head: RequestHead): Intent | Refusal;
  /** A request on an upload resource. */
  parseUploadRequest(head: RequestHead, id: string): Intent | Refusal;
  /** An interim response, or undefined where this form has none for such news. */
  interim(news: InterimUpdate, context: ReplyContext): Reply | undefined;
  render(outcome: Outcome, context: ReplyContext): Reply;
}

/** A parse result is a refusal when it has a reason. */
export function isRefusal(parsed: Intent | Refusal): parsed is Refusal {
  return 'reason' in parsed;
}
