import type { HeaderLine, Headers } from '../model/headers.js';
import type { Upload } from '../model/upload.js';
import type { Reply } from './protocol.js';

/** What kind of problem it is: one that RUFH §7 registers, or one that its status says all about. */
export type ProblemType =
  'about:blank' | 'mismatching-upload-offset' | 'inconsistent-upload-length' | 'completed-upload';

/** A refusal in words: what was wrong and what to do about it. */
export interface Problem {
  readonly status: number;
  /** `about:blank` when not given. */
  readonly type?: ProblemType;
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

/** RFC 9457 §4.2.1: a problem without a type of its own is called what its status is called. */
const STATUS_PHRASES: ReadonlyMap<number, string> = new Map([
  [400, 'Bad Request'],
  [403, 'Forbidden'],
  [404, 'Not Found'],
  [405, 'Method Not Allowed'],
  [408, 'Request Timeout'],
  [409, 'Conflict'],
  [410, 'Gone'],
  [413, 'Content Too Large'],
  [415, 'Unsupported Media Type'],
  [417, 'Expectation Failed'],
  [422, 'Unprocessable Content'],
  [428, 'Precondition Required'],
  [429, 'Too Many Requests'],
  [431, 'Request Header Fields Too Large'],
  [500, 'Internal Server Error'],
  [501, 'Not Implemented'],
  [502, 'Bad Gateway'],
  [503, 'Service Unavailable'],
  [504, 'Gateway Timeout'],
  [505, 'HTTP Version Not Supported'],
  [507, 'Insufficient Storage'],
]);

/** What is said of one upload at one moment is nobody else's to keep (RUFH §4.3.2 for offsets, and so for the rest). */
export const NO_STORE: HeaderLine = ['Cache-Control', 'no-store'];

/** A whole response of ours about a problem, as `application/problem+json` (RFC 9457 §3), after `headers`. */
export function problemReply(problem: Problem, headers: Headers = []): Reply {
  return {
    status: problem.status,
    headers: [...headers, NO_STORE, ['Content-Type', 'application/problem+json']],
    body: problemBody(problem),
  };
}

/** An upload whose answer was kept and is damaged. */
export function answerLostProblem({ answer }: Upload): Problem {
  const said = answer ? `, and its target answered ${answer.status}` : '';
  return {
    status: 500,
    detail: `The upload was delivered${said}, but the stored answer is damaged and cannot be given again. Do not send it again.`,
  };
}

/** The body alone, for a response that is put together elsewhere. */
export function problemBody({ status, type = 'about:blank', detail, members }: Problem): string {
  const registered = type !== 'about:blank';
  const title = registered ? TITLES[type] : STATUS_PHRASES.get(status);
  return JSON.stringify({ type: registered ? REGISTRY + type : type, title, status, detail, ...members });
}
