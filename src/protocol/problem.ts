/** What kind of problem it is: one that RUFH §7 registers, or one that its status says all about. */
export type ProblemType =
  'about:blank' | 'mismatching-upload-offset' | 'inconsistent-upload-length' | 'completed-upload';

/** A refusal in words: what was wrong and what to do about it. */
export interface Problem {
  readonly status: number;
  readonly type: ProblemType;
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
  [404, 'Not Found'],
  [405, 'Method Not Allowed'],
  [409, 'Conflict'],
  [410, 'Gone'],
  [413, 'Content Too Large'],
  [415, 'Unsupported Media Type'],
  [502, 'Bad Gateway'],
  [503, 'Service Unavailable'],
  [507, 'Insufficient Storage'],
]);

/** The body of a refusal, as `application/problem+json` (RFC 9457 §3). */
export function problemBody({ status, type, detail, members }: Problem): string {
  const known = type !== 'about:blank';
  const title = known ? TITLES[type] : STATUS_PHRASES.get(status);
  return JSON.stringify({ type: known ? REGISTRY + type : type, title, status, detail, ...members });
}
