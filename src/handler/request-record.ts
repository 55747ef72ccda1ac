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
  /** What became of the response to an upload request. */
  sent?: SendResult;
}
