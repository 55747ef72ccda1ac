import type { RequestHead } from '../model/request-head.js';
import { shortText, type StoryWriter } from '../model/story.js';
import type { Upload } from '../model/upload.js';
import type { RequestKind } from '../observe/metrics.js';
import type { SendResult } from '../server/response.js';

/** Data of a request for its log line and for the story of its upload. */
export interface RequestRecord {
  kind: RequestKind;
  route?: string;
  /** The upload when the request arrived, or when it began to write. */
  before?: Upload;
  /** The upload when its offset moved last. */
  after?: Upload;
  interrupted?: string;
  /** The protocol version of an upload request. */
  dialect?: string;
  /** How the response to an upload request ended. */
  sent?: SendResult;
}

/** A request that is over. */
interface EndedRequest {
  readonly head: Pick<RequestHead, 'method' | 'httpVersion' | 'connection'>;
  readonly record: RequestRecord;
  /** Missing if no final response was sent. */
  readonly status: number | undefined;
  readonly seconds: number;
}

/** The kinds of requests that can change the offset of an upload, or show it. */
const WITH_OFFSETS: ReadonlySet<string> = new Set(['create', 'append', 'spooled', 'retrieve']);

/** Notes a request in the story of its upload, if it has one. A relayed request is noted by the node with the bytes. */
export function noteRequest(story: StoryWriter | undefined, { head, record, status, seconds }: EndedRequest): void {
  const { kind, before, after, dialect, interrupted, sent } = record;
  if (!story || !after || kind === 'relayed' || kind === 'preflight' || kind === 'pass-through') return;
  const ms = Math.round(seconds * 1000);
  const end = interrupted ?? (sent === undefined || sent === 'complete' ? undefined : sent);
  const offsets = before && WITH_OFFSETS.has(kind) ? { from: before.offset, to: after.offset } : {};
  const event = {
    kind: 'request',
    action: kind,
    method: shortText(head.method),
    client: head.connection.clientAddress,
    ...(dialect !== undefined && { dialect }),
    http: head.httpVersion,
    ...offsets,
    ms,
    ...(status !== undefined && { status }),
    ...(end !== undefined && { interrupted: end }),
  } as const;
  story.note(after.id, event, seconds * 1000);
}
