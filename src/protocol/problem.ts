import type { HeaderLine, Headers } from '../model/headers.js';
import { statusPhrase } from '../model/status-phrases.js';
import type { Upload } from '../model/upload.js';
import type { Reply } from './protocol.js';

/** A problem type registered by RUFH §7, or `about:blank` if the status says everything. */
export type ProblemType =
  'about:blank' | 'mismatching-upload-offset' | 'inconsistent-upload-length' | 'completed-upload';

/** The content of a problem response (RFC 9457). */
export interface Problem {
  readonly status: number;
  /** Defaults to `about:blank`. */
  readonly type?: ProblemType;
  /** The problem and how to solve it, for humans. */
  readonly detail: string;
  /** Extension members (RFC 9457 §3.2). */
  readonly members?: Readonly<Record<string, number>>;
}

const REGISTRY = 'https://iana.org/assignments/http-problem-types#';

/** The registered titles (RUFH, IANA considerations). */
const TITLES: Readonly<Record<Exclude<ProblemType, 'about:blank'>, string>> = {
  'mismatching-upload-offset': 'Mismatching Upload Offset',
  'inconsistent-upload-length': 'Inconsistent Upload Length Values',
  'completed-upload': 'Upload Is Completed',
};

/** Responses about an upload's current state must not be cached; RUFH §4.3.2 requires it for offsets. */
export const NO_STORE: HeaderLine = ['Cache-Control', 'no-store'];

/** A complete `application/problem+json` response (RFC 9457 §3) that begins with `headers`. */
export function problemReply(problem: Problem, headers: Headers = []): Reply {
  return {
    status: problem.status,
    headers: [...headers, NO_STORE, ['Content-Type', 'application/problem+json']],
    body: problemBody(problem),
  };
}

/** The problem of an upload that was delivered, but whose stored answer is damaged. */
export function answerLostProblem({ answer }: Upload): Problem {
  const status = answer ? `, and its target answered ${answer.status}` : '';
  return {
    status: 500,
    detail: `The upload was delivered${status}, but the stored answer is damaged and cannot be given again. Do not send it again.`,
  };
}

/** The JSON body of a problem response, for callers that write the head themselves. */
export function problemBody({ status, type = 'about:blank', detail, members }: Problem): string {
  const registered = type !== 'about:blank';
  const title = registered ? TITLES[type] : statusPhrase(status);
  return JSON.stringify({ type: registered ? REGISTRY + type : type, title, status, detail, ...members });
}
