import { createHash } from 'node:crypto';
import { pino } from 'pino';
import pretty from 'pino-pretty';
import { LogOutput } from './log-output.js';
import { type PlainFields, PlainLines } from './plain-lines.js';

interface Write {
  (message: string): void;
  (fields: object, message: string): void;
}

/** The log. Callers never pass upload ids (see `uploadTag`), credentials or bodies. */
export interface Log {
  readonly trace: Write;
  readonly debug: Write;
  readonly info: Write;
  readonly warn: Write;
  readonly error: Write;
  readonly fatal: Write;
  /** Writes the line of a finished request, which may come a moment later than others. Without it, `info` and `warn` do. */
  request?(level: 'info' | 'warn', fields: PlainFields): void;
  /** Changes the lowest level that is written. */
  setLevel?(level: LogLevel): void;
}

/** The lowest level that is written. */
type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';

/** The log of the process: standard error during the start, standard output once the process is announced. */
export interface ProcessLog extends Log {
  /**
   * Writes one line whatever the level, and switches to standard output for it. Calls `onWritten` when it is written.
   */
  announce(fields: object, message: string, onWritten?: () => void): void;
  /** Switches to standard output, for a process that another one announces. */
  useStandardOutput(): void;
}

export interface LogOptions {
  readonly level: LogLevel;
  /** `auto`: pretty on a terminal, else json. */
  readonly format: 'auto' | 'json' | 'pretty';
  /** Replaces standard output and error. */
  readonly destination?: { write(line: string): void };
  /** Added to every line. */
  readonly fields?: Readonly<Record<string, unknown>>;
}

/**
 * Creates the log of the process; query values and secrets are the callers' business, known secret fields are redacted.
 */
export function createLog({ level, format, destination, fields: base }: LogOptions): ProcessLog {
  const isPretty = format === 'pretty' || (format === 'auto' && process.stdout.isTTY);
  let output = destination ? undefined : new LogOutput(process.stderr.fd);
  const formatLine = isPretty ? prettyPrinter() : escapeControls;
  const write = (line: string): void => (destination ?? output!).write(formatLine(line));
  const writeSoon = (line: string): void =>
    destination ? destination.write(formatLine(line)) : output!.writeSoon(formatLine(line));
  const logger = pino(
    {
      level,
      base: base ?? null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: (fields) => redacted(fields, 2) },
    },
    { write },
  );
  const requestLines = new PlainLines(base, writeSoon);
  const useStandardOutput = () => {
    if (output) output = new LogOutput(process.stdout.fd);
  };
  return Object.assign(logger, {
    request: (level: 'info' | 'warn', fields: PlainFields) => {
      if (logger.isLevelEnabled(level)) requestLines.write(level, fields, 'request');
    },
    announce: (fields: object, message: string, onWritten?: () => void) => {
      useStandardOutput();
      logger.child({}, { level: 'info' }).info(fields, message);
      if (onWritten) output?.onEmpty(onWritten);
    },
    useStandardOutput,
    setLevel: (level: LogLevel) => {
      logger.level = level;
    },
  });
}

/** A log that drops every line. */
export function silentLog(): Log {
  return createLog({ level: 'silent', format: 'json', destination: { write: () => undefined } });
}

/** The length of an id that is a SHA-256 in base64url. Other ids are tokens, as in earlier versions. */
const HASHED_ID_LENGTH = 43;

/** Identifies an upload in logs: the beginning of the SHA-256 of its token, which grants write access (RUFH §11). */
export function uploadTag(id: string): string {
  return id.length === HASHED_ID_LENGTH ? Buffer.from(id, 'base64url').toString('hex', 0, 5) : tagOfToken(id);
}

function tagOfToken(token: string): string {
  return createHash('sha256').update(token).digest('hex').slice(0, 10);
}

const SECRET_FIELDS: ReadonlySet<string> = new Set(['authorization', 'proxy-authorization', 'cookie', 'set-cookie']);

/** Replaces secrets, although no line is known to contain any; pino's own redaction takes six times as long. */
function redacted(fields: Readonly<Record<string, unknown>>, levels: number): Record<string, unknown> {
  let copy: Record<string, unknown> | undefined;
  for (const [name, value] of Object.entries(fields)) {
    const isNested = levels > 0 && typeof value === 'object' && value !== null;
    const safeValue = isNested ? redacted(value as Record<string, unknown>, levels - 1) : value;
    if (SECRET_FIELDS.has(name)) (copy ??= { ...fields })[name] = '[secret]';
    else if (safeValue !== value) (copy ??= { ...fields })[name] = safeValue;
  }
  return copy ?? fields;
}

/**
 * Escapes DEL and the C1 control characters, which JSON leaves as they are. Clients and origins choose much of the
 * logged text, and terminals execute such characters.
 */
function escapeControls(line: string): string {
  return line.replace(/[\x7f-\x9f]/g, (control) => `\\u00${control.charCodeAt(0).toString(16)}`);
}

/** Formats each event as one line. Escapes stay, so that no value can break the line or control the terminal. */
function prettyPrinter(): (line: string) => string {
  const format = pretty.prettyFactory({
    colorize: process.stdout.isTTY,
    translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l',
    singleLine: true,
    // Errors are formatted like other objects; pino-pretty would print one line per stack frame.
    errorLikeObjectKeys: [],
  });
  return (line) => format(`${escapeControls(line).trimEnd().replace(ESCAPE, keepEscaped)}\n`);
}

/** A JSON escape; the group matches only those of characters that cannot be printed. */
const ESCAPE = /\\(?:["\\/]|([bfnrt]|u[0-9a-fA-F]{4}))/g;

function keepEscaped(escape: string, unprintable: string | undefined): string {
  return unprintable === undefined ? escape : `\\\\${unprintable}`;
}

/** A finished request, however it ended. */
export interface RequestLine {
  readonly kind: string;
  readonly method: string;
  /** As received; `logRequest` drops its query values. */
  readonly target: string;
  /** The target's path without dot segments. */
  readonly path: string;
  /** Undefined if no final response was sent. */
  readonly status?: number;
  readonly seconds: number;
  readonly httpVersion?: string;
  readonly client?: string;
  readonly route?: string;
  readonly upload?: LoggedUpload;
  /** The upload's committed bytes before and after this request. */
  readonly offsets?: { readonly before: number; readonly after: number };
  /** The reason why the request ended early. */
  readonly interrupted?: string;
}

/** The values by which an upload's lines are found. The id is a secret and is logged as its tag. */
export interface LoggedUpload {
  readonly id: string;
  /** The target of the creation request; its query values are not logged. */
  readonly target: string;
  readonly idempotencyKey: string;
  /** The address of the client that created the upload. */
  readonly client: string;
}

/** Logs one line for a request. `uploadsPath` is the path of upload resources, whose last segment is a secret. */
export function logRequest(log: Log, uploadsPath: string, line: RequestLine): void {
  const { kind, route, interrupted, method, httpVersion, status, client, target, path, upload, offsets, seconds } =
    line;
  const fields = {
    kind,
    route,
    interrupted,
    method,
    httpVersion,
    status,
    // The client of this request, which may not be the one that created the upload.
    client,
    target: withoutSecrets(target, path, uploadsPath),
    upload: upload && uploadTag(upload.id),
    uploadPath: upload && withoutQueryValues(upload.target),
    idempotencyKey: upload?.idempotencyKey,
    bytes: offsets && offsets.after - offsets.before,
    offsetBefore: offsets?.before,
    offsetAfter: offsets?.after,
    ms: Math.round(seconds * 1000),
  };
  const level = (status ?? 0) >= 500 ? 'warn' : 'info';
  if (log.request) log.request(level, fields);
  else log[level](fields, 'request');
}

/** The fields that all lines about one upload share. */
export function uploadFields({ id, target, idempotencyKey, client }: LoggedUpload) {
  return { upload: uploadTag(id), uploadPath: withoutQueryValues(target), idempotencyKey, client };
}

/** An upload that ended, or whose delivery was given up. */
export interface UploadEndLine {
  readonly upload: LoggedUpload;
  readonly phase: 'answered' | 'undelivered' | 'cancelled' | 'invalid' | 'expired';
  readonly route: string;
  readonly dialect: string;
  readonly size: number;
  readonly attempts: number;
  readonly status?: number;
  /** Time since the creation. */
  readonly seconds: number;
  readonly problem?: string;
}

/** Logs the end of an upload. */
export function logUploadEnd(log: Log, line: UploadEndLine): void {
  log[line.phase === 'undelivered' ? 'warn' : 'info'](fieldsOf(line), END_MESSAGES[line.phase]);
}

/** Logs that delivery was given up; the upload is kept and has not ended. */
export function logUndelivered(log: Log, line: UploadEndLine): void {
  log.warn(fieldsOf(line), 'upload kept: not delivered');
}

function fieldsOf({ upload, seconds, ...rest }: UploadEndLine) {
  return { ...uploadFields(upload), ...rest, ms: Math.round(seconds * 1000) };
}

const END_MESSAGES: Readonly<Record<UploadEndLine['phase'], string>> = {
  answered: 'upload ended',
  undelivered: 'upload ended: never delivered',
  cancelled: 'upload ended: cancelled',
  invalid: 'upload ended: given up',
  expired: 'upload ended: expired',
};

/** A request target without secrets: upload ids are replaced by their tags, query values dropped. */
export function withoutSecrets(target: string, path: string, uploadsPath: string): string {
  if (!path.startsWith(uploadsPath)) {
    const withoutValues = withoutQueryValues(target);
    return mayContainId(target, uploadsPath) ? withoutIds(withoutValues) : withoutValues;
  }
  const [id, rest] = splitOnce(path.slice(uploadsPath.length), '/');
  const tag = id === '' ? '' : tagOfToken(id);
  return uploadsPath + tag + withoutIds((rest === undefined ? '' : `/${rest}`) + queryNames(target));
}

/**
 * Whether the target is a misspelled upload URL, for example with an extra slash or escaped letters; it has an id, too.
 */
function mayContainId(target: string, uploadsPath: string): boolean {
  const decoded = target.includes('%')
    ? target.replace(/%([0-9a-f]{2})/gi, (_escape, hex: string) => String.fromCharCode(parseInt(hex, 16)))
    : target;
  return decoded.toLowerCase().includes(uploadsPath.slice(1, -1).toLowerCase());
}

function withoutIds(text: string): string {
  return text.replace(/[A-Za-z0-9_-]{20,}/g, tagOfToken);
}

/** A request target without its query values, which may be tokens or signatures. */
export function withoutQueryValues(target: string): string {
  return splitOnce(target, '?')[0] + queryNames(target);
}

function queryNames(target: string): string {
  const [, query] = splitOnce(target, '?');
  return query === undefined ? '' : `?${query.split('&').map(withoutValue).join('&')}`;
}

function withoutValue(pair: string): string {
  const [name, value] = splitOnce(pair, '=');
  return value === undefined ? name : `${name}=`;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
