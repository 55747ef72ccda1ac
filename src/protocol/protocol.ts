import type { HeaderLine, Headers } from '../model/headers.js';
import type { Intent, InterimUpdate, Outcome, Refusal } from '../model/messages.js';
import type { RequestHead } from '../model/request-head.js';
import type { Limits } from '../model/route.js';
import type { Upload } from '../model/upload.js';

/** A response, ready to be written: status, every header and the exact body. */
export interface Reply {
  readonly status: number;
  /** The reason phrase of a relayed answer or a 104; missing: Node's phrase for the status. */
  readonly reason?: string;
  readonly headers: readonly HeaderLine[];
  readonly body?: string | AsyncIterable<Uint8Array>;
  /** Length of an iterable body in bytes, if known. */
  readonly bodySize?: number;
  /** Called when `body` has ended. */
  readonly trailers?: () => Headers;
}

/** Facts that a response needs besides the outcome. */
export interface ReplyContext {
  /** The absolute URL of an upload resource for this client. */
  readonly uploadUrl: (upload: Upload) => string;
  /** The limits of the route, for responses without an upload. */
  readonly limits: Limits;
  readonly nowMs: number;
  /** The upload of the request as it was on arrival, for responses that say nothing about its state. */
  readonly upload?: Upload;
}

/** One version of an upload protocol: pure functions from requests to intents and from outcomes to responses. */
export interface Protocol {
  /** The dialect stored with an upload: '3' … '10', 'final', `TUS_DIALECT`, or `PLAIN_DIALECT`. */
  readonly name: string;
  /** Parses a request that `detect` classified as a creation. */
  parseCreation(head: RequestHead): Intent | Refusal;
  /** Parses a request to the upload resource `id`. */
  parseUploadRequest(head: RequestHead, id: string): Intent | Refusal;
  /** An interim response; undefined if this version has none for the update. */
  interim(update: InterimUpdate, context: ReplyContext): Reply | undefined;
  render(outcome: Outcome, context: ReplyContext): Reply;
}

/** Distinguishes refusals from intents: only refusals have a reason. */
export function isRefusal(parsed: Intent | Refusal): parsed is Refusal {
  return 'reason' in parsed;
}
