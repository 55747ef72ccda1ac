import { PLAIN } from '../model/upload.js';
import { aligned, bytes, NOT_ATTEMPTED, timeWords, type ListedUpload } from './upload-words.js';

/** One upload as the admin listener tells of it. */
export interface ShownUpload extends ListedUpload {
  readonly route: string;
  readonly dialect: string;
  readonly expiresAt: string;
  readonly bound: boolean;
  readonly idempotencyKey: string;
  readonly request: {
    readonly scheme: string;
    readonly authority: string;
    readonly httpVersion: string;
    readonly client: string;
    readonly contentType?: string;
    readonly headerNames: readonly string[];
  };
  readonly newestAttempts: readonly ShownAttempt[];
  readonly answer?: {
    readonly status: number;
    readonly reason: string;
    readonly bodySize: number;
    readonly at: string;
  };
}

interface ShownAttempt {
  readonly number: number;
  readonly origin: string;
  readonly startedAt: string;
  readonly endedAt?: string;
  readonly reached?: string;
  readonly status?: number;
  readonly problem?: string;
}

/** Everything about one upload, for people. */
export function detailWords(upload: ShownUpload, now: number): string {
  const { request, undelivered, answer } = upload;
  const rows: [string, string | undefined][] = [
    ['tag', upload.tag],
    ['phase', upload.phase],
    ['why', undelivered ? `${undelivered.reason}: ${undelivered.problem}` : notAttempted(upload)],
    ['request', `${upload.method} ${upload.target}`],
    ['of', `${request.client}, HTTP/${request.httpVersion}, to ${request.scheme}://${request.authority}`],
    ['type', request.contentType],
    ['headers', request.headerNames.join(', ')],
    ['route', `${upload.route}${upload.bound ? ', bound to its creator' : ''}`],
    ['version', versionWords(upload.dialect)],
    ['received', received(upload)],
    ['created', `${upload.createdAt}, ${timeWords(now - Date.parse(upload.createdAt))} ago`],
    ['removed', `${upload.expiresAt}, in ${timeWords(Date.parse(upload.expiresAt) - now)}`],
    ['next try', upload.dueAt && `${upload.dueAt}, in ${timeWords(Date.parse(upload.dueAt) - now)}`],
    ['Idempotency-Key', upload.idempotencyKey],
    ['answer', answer && `${statusWords(upload, answer)}, ${bytes(answer.bodySize)}, ${answer.at}`],
    ['attempts', String(upload.attempts)],
  ];
  const known = rows.filter((row): row is [string, string] => row[1] !== undefined);
  return aligned(known) + attemptTable(upload.newestAttempts);
}

function notAttempted({ attempts, dueAt }: ShownUpload): string | undefined {
  return attempts === 0 && dueAt !== undefined ? NOT_ATTEMPTED : undefined;
}

function statusWords({ attempts }: ShownUpload, { status, reason }: NonNullable<ShownUpload['answer']>): string {
  return `${`${status} ${reason}`.trim()}${attempts === 0 ? ' (of the gate)' : ''}`;
}

function versionWords(dialect: string): string {
  if (dialect === PLAIN) return 'no upload: an ordinary request whose body was spooled';
  return dialect === 'final' ? 'without an interop version' : `interop ${dialect}`;
}

function received({ offset, length }: ShownUpload): string {
  const whole = length === undefined ? 'of a length that is not known yet' : `of ${length} (${bytes(length)})`;
  return `${offset} ${whole}`;
}

function attemptTable(attempts: readonly ShownAttempt[]): string {
  if (attempts.length === 0) return '';
  const rows = attempts.map(({ number, startedAt, endedAt, origin, reached, status, problem }) => [
    `  ${number}`,
    startedAt,
    endedAt === undefined ? 'under way' : timeWords(Date.parse(endedAt) - Date.parse(startedAt)),
    origin,
    [reached, status].filter((part) => part !== undefined).join(' '),
    problem ?? '',
  ]);
  return aligned([['  NO', 'BEGAN', 'TOOK', 'ORIGIN', 'REACHED', 'PROBLEM'], ...rows]);
}
