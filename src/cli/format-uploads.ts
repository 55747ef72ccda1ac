import { PLAIN_DIALECT, TUS_DIALECT } from '../model/upload.js';

/** An upload in the list of the admin listener; `show` has more. */
export interface ListedUpload {
  readonly tag: string;
  readonly phase: string;
  readonly dialect?: string;
  readonly method: string;
  readonly target: string;
  readonly offset: number;
  readonly length?: number;
  readonly attempts: number;
  readonly newestAttempt?: { readonly problem?: string; readonly status?: number };
  readonly status?: number;
  readonly undelivered?: { readonly reason: string; readonly problem: string };
  readonly dueAt?: string;
  readonly createdAt: string;
}

const COLUMNS = ['TAG', 'PHASE', 'SIZE', 'AGE', 'ATTEMPTS', 'REQUEST', 'WHY'] as const;

/** A table with one line per upload. */
export function uploadTable(uploads: readonly ListedUpload[], now: number): string {
  const rows = uploads.map((upload) => [
    upload.tag,
    upload.phase,
    formatSize(upload),
    formatDuration(now - Date.parse(upload.createdAt)),
    String(upload.attempts),
    `${upload.method} ${truncate(upload.target, 60)}${upload.dialect === PLAIN_DIALECT ? ' (no upload)' : ''}`,
    statusReason(upload, now),
  ]);
  return alignColumns([COLUMNS, ...rows]);
}

/** An upload whose record cannot be read. */
export interface SetAsideUpload {
  readonly tag: string;
  readonly phase: string;
  readonly problem: string;
  readonly since: string;
}

export function setAsideTable(uploads: readonly SetAsideUpload[]): string {
  const rows = uploads.map(({ tag, phase, since, problem }) => [tag, phase, since, problem]);
  return alignColumns([['TAG', 'PHASE', 'SINCE', 'PROBLEM'], ...rows]);
}

/** Rows with every column as wide as its widest entry. */
export function alignColumns(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, at) => Math.max(...rows.map((row) => row[at]!.length)));
  return rows
    .map(
      (row) =>
        row
          .map((cell, at) => cell.padEnd(widths[at]!))
          .join('  ')
          .trimEnd() + '\n',
    )
    .join('');
}

function formatSize({ offset, length }: ListedUpload): string {
  return length === undefined || length === offset
    ? formatBytes(offset)
    : `${formatBytes(offset)} of ${formatBytes(length)}`;
}

/** The reason for the state of an upload, or its next attempt. */
function statusReason(
  { undelivered, dueAt, attempts, newestAttempt, status, phase }: ListedUpload,
  now: number,
): string {
  if (undelivered) return `${undelivered.reason}: ${undelivered.problem}`;
  if (status !== undefined) return `the ${attempts === 0 ? 'gate' : 'origin'} answered ${status}`;
  const unasked = attempts === 0 && dueAt !== undefined ? NOT_ATTEMPTED : undefined;
  const last = phase === 'receiving' ? undefined : (newestAttempt?.problem ?? unasked);
  const next = dueAt === undefined ? undefined : `again in ${formatDuration(Date.parse(dueAt) - now)}`;
  return [next, last].filter((part) => part !== undefined).join(': ');
}

/** The record contains only the problems of attempts; a gate without verdict, or paused requests to the origin, are in the log. */
const NOT_ATTEMPTED = 'the gate gave no verdict, or requests to the origin are paused; see the log';

/** `1.5 GiB`; exact below a KiB. */
export function formatBytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(count, 1)) / 10)));
  const amount = count / 1024 ** power;
  return `${power === 0 || amount >= 100 ? Math.round(amount) : amount.toFixed(1)} ${units[power]!}`;
}

/** The largest unit that fits, and the next: `3d 4h`, `5m 12s`. */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const parts = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ] as const;
  const first = parts.findIndex(([amount]) => amount > 0);
  if (first === -1) return '0s';
  const shown = parts.slice(first, first + 2).filter(([amount]) => amount > 0);
  return shown.map(([amount, unit]) => `${amount}${unit}`).join(' ');
}

function truncate(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** The details of one upload, as the admin listener reports them. */
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

/** The details of one upload as text. */
export function uploadDetails(upload: ShownUpload, now: number): string {
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
    ['version', formatVersion(upload.dialect)],
    ['received', formatReceived(upload)],
    ['created', `${upload.createdAt}, ${formatDuration(now - Date.parse(upload.createdAt))} ago`],
    ['removed', `${upload.expiresAt}, in ${formatDuration(Date.parse(upload.expiresAt) - now)}`],
    ['next try', upload.dueAt && `${upload.dueAt}, in ${formatDuration(Date.parse(upload.dueAt) - now)}`],
    ['Idempotency-Key', upload.idempotencyKey],
    ['answer', answer && `${formatStatus(upload, answer)}, ${formatBytes(answer.bodySize)}, ${answer.at}`],
    ['attempts', String(upload.attempts)],
  ];
  const known = rows.filter((row): row is [string, string] => row[1] !== undefined);
  return alignColumns(known) + attemptTable(upload.newestAttempts);
}

function notAttempted({ attempts, dueAt }: ShownUpload): string | undefined {
  return attempts === 0 && dueAt !== undefined ? NOT_ATTEMPTED : undefined;
}

function formatStatus({ attempts }: ShownUpload, { status, reason }: NonNullable<ShownUpload['answer']>): string {
  return `${`${status} ${reason}`.trim()}${attempts === 0 ? ' (of the gate)' : ''}`;
}

function formatVersion(dialect: string): string {
  if (dialect === PLAIN_DIALECT) return 'none: an ordinary request whose body was spooled';
  if (dialect === TUS_DIALECT) return 'tus 1.0.0';
  return dialect === 'final' ? 'without an interop version' : `interop ${dialect}`;
}

function formatReceived({ offset, length }: ShownUpload): string {
  const total = length === undefined ? 'of unknown length' : `of ${length} (${formatBytes(length)})`;
  return `${offset} ${total}`;
}

function attemptTable(attempts: readonly ShownAttempt[]): string {
  if (attempts.length === 0) return '';
  const rows = attempts.map(({ number, startedAt, endedAt, origin, reached, status, problem }) => [
    `  ${number}`,
    startedAt,
    endedAt === undefined ? 'under way' : formatDuration(Date.parse(endedAt) - Date.parse(startedAt)),
    origin,
    [reached, status].filter((part) => part !== undefined).join(' '),
    problem ?? '',
  ]);
  return alignColumns([['  NO', 'BEGAN', 'TOOK', 'ORIGIN', 'REACHED', 'PROBLEM'], ...rows]);
}
