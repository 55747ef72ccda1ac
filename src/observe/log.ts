import { createHash } from 'node:crypto';
import { pino } from 'pino';
import pretty from 'pino-pretty';
import { LogOutput } from './log-output.js';

interface Write {
  (message: string): void;
  (fields: object, message: string): void;
}

/** Where every room writes what it did. Never given upload ids, credentials or bodies: see `uploadTag`. */
export interface Log {
  readonly trace: Write;
  readonly debug: Write;
  readonly info: Write;
  readonly warn: Write;
  readonly error: Write;
  readonly fatal: Write;
}

/** The log of the process: knows when standard output belongs to it. */
export interface ProcessLog extends Log {
  /**
   * Writes one line whatever the level, as the first on standard output; what comes before it goes to standard error.
   * Says when it is out.
   */
  announce(fields: object, message: string, isOut?: () => void): void;
  /** From here on lines go to standard output: another process has announced for us. */
  useStandardOutput(): void;
}

export interface LogOptions {
  readonly level: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';
  /** `auto`: pretty on a terminal, else json. */
  readonly format: 'auto' | 'json' | 'pretty';
  /** Gets every line, in place of standard output and error. */
  readonly destination?: { write(line: string): void };
  /** Part of every line. */
  readonly fields?: Readonly<Record<string, unknown>>;
}

export function createLog({ level, format, destination, fields: base }: LogOptions): ProcessLog {
  const isPretty = format === 'pretty' || (format === 'auto' && process.stdout.isTTY);
  let opened = destination ? undefined : new LogOutput(process.stderr.fd);
  const print = isPretty ? prettyPrinter() : withoutControls;
  const logger = pino(
    {
      level,
      base: base ?? null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: (fields) => censored(fields, 2) },
    },
    { write: (line: string) => (destination ?? opened!).write(print(line)) },
  );
  const useStandardOutput = () => {
    if (opened) opened = new LogOutput(process.stdout.fd);
  };
  return Object.assign(logger, {
    announce: (fields: object, message: string, isOut?: () => void) => {
      useStandardOutput();
      logger.child({}, { level: 'info' }).info(fields, message);
      if (isOut) opened?.whenEmpty(isOut);
    },
    useStandardOutput,
  });
}

/** A log that says nothing. */
export function silentLog(): Log {
  return createLog({ level: 'silent', format: 'json', destination: { write: () => undefined } });
}

/** Stands for an upload in logs: its id is the right to write to it (RUFH §11), this says nothing about it. */
export function uploadTag(id: string): string {
  return createHash('sha256').update(id).digest('hex').slice(0, 10);
}

const SECRET_FIELDS = new Set(['authorization', 'proxy-authorization', 'cookie', 'set-cookie']);

/** No line is known to carry secrets; should one ever, they do not get out. What pino has for this takes six times as long. */
function censored(fields: Readonly<Record<string, unknown>>, levels: number): Record<string, unknown> {
  let copy: Record<string, unknown> | undefined;
  for (const [name, value] of Object.entries(fields)) {
    const isNested = levels > 0 && typeof value === 'object' && value !== null;
    const shown = isNested ? censored(value as Record<string, unknown>, levels - 1) : value;
    if (SECRET_FIELDS.has(name)) (copy ??= { ...fields })[name] = '[secret]';
    else if (shown !== value) (copy ??= { ...fields })[name] = shown;
  }
  return copy ?? fields;
}

/**
 * JSON escapes control characters up to 0x1F; the others, DEL and C1, stand in strings only and become escapes as well.
 * Clients and origins choose much of what is logged, and a terminal obeys such characters.
 */
function withoutControls(line: string): string {
  return line.replace(/[\x7f-\x9f]/g, (control) => `\\u00${control.charCodeAt(0).toString(16)}`);
}

/** One line an event. Escapes stay escapes: no string in the line can break it or reach the terminal as a command. */
function prettyPrinter(): (line: string) => string {
  const format = pretty.prettyFactory({
    colorize: process.stdout.isTTY,
    translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l',
    singleLine: true,
    // Errors are objects like others: by themselves they take a line for each call.
    errorLikeObjectKeys: [],
  });
  return (line) => format(`${withoutControls(line).trimEnd().replace(ESCAPE, keepEscaped)}\n`);
}

/** An escape of JSON: of a character that can be shown, or of one that cannot. */
const ESCAPE = /\\(?:["\\/]|([bfnrt]|u[0-9a-fA-F]{4}))/g;

function keepEscaped(escape: string, hidden: string | undefined): string {
  return hidden === undefined ? escape : `\\\\${hidden}`;
}

/** A request that is over, however it ended. */
export interface RequestLine {
  readonly kind: string;
  readonly method: string;
  /** As it came; its query values are left out. */
  readonly target: string;
  /** The target's path with dot segments resolved. */
  readonly path: string;
  /** Undefined when no final response was sent. */
  readonly status?: number;
  readonly seconds: number;
  readonly httpVersion?: string;
  readonly client?: string;
  readonly route?: string;
  readonly upload?: LoggedUpload;
  /** How far the upload was before this request and after it, in committed bytes. */
  readonly offsets?: { readonly before: number; readonly after: number };
  /** Why the request ended before its time. */
  readonly interrupted?: string;
}

/** By what an upload's lines are found. Its id is the right to write to it, and becomes its tag. */
export interface LoggedUpload {
  readonly id: string;
  /** The target of its creation; query values are left out. */
  readonly target: string;
  readonly idempotencyKey: string;
  /** The address of its creator. */
  readonly client: string;
}

/** One line a request. `uploadsPath` is the path of upload resources, whose last segment is a secret. */
export function logRequest(
  log: Log,
  uploadsPath: string,
  { target, path, upload, offsets, seconds, ...rest }: RequestLine,
): void {
  const fields = {
    ...rest,
    target: withoutSecrets(target, path, uploadsPath),
    // The client here is the one of the request.
    ...(upload ? { ...uploadFields(upload), client: rest.client } : {}),
    ...(offsets
      ? { bytes: offsets.after - offsets.before, offsetBefore: offsets.before, offsetAfter: offsets.after }
      : {}),
    ms: Math.round(seconds * 1000),
  };
  if ((rest.status ?? 0) >= 500) log.warn(fields, 'request');
  else log.info(fields, 'request');
}

/** What every line that tells an upload's story has, so that one of them finds the others. */
export function uploadFields({ id, target, idempotencyKey, client }: LoggedUpload) {
  return { upload: uploadTag(id), uploadPath: withoutQueryValues(target), idempotencyKey, client };
}

/** An upload that has come to its end. */
export interface UploadEndLine {
  readonly upload: LoggedUpload;
  readonly phase: 'answered' | 'undelivered' | 'cancelled' | 'invalid' | 'expired';
  readonly route: string;
  readonly dialect: string;
  readonly size: number;
  readonly attempts: number;
  readonly status?: number;
  /** From its creation to its end. */
  readonly seconds: number;
  readonly problem?: string;
}

/** One line an upload's end. */
export function logUploadEnd(log: Log, line: UploadEndLine): void {
  log[line.phase === 'undelivered' ? 'warn' : 'info'](fieldsOf(line), END_WORDS[line.phase]);
}

/** One line each time that trying ends: the upload is kept, and has not come to its end. */
export function logUndelivered(log: Log, line: UploadEndLine): void {
  log.warn(fieldsOf(line), 'upload kept: not delivered');
}

function fieldsOf({ upload, seconds, ...rest }: UploadEndLine) {
  return { ...uploadFields(upload), ...rest, ms: Math.round(seconds * 1000) };
}

const END_WORDS: Readonly<Record<UploadEndLine['phase'], string>> = {
  answered: 'upload ended',
  undelivered: 'upload ended: never delivered',
  cancelled: 'upload ended: cancelled',
  invalid: 'upload ended: given up',
  expired: 'upload ended: expired',
};

/** A request target fit for a log: an upload's id is replaced by its tag, query values are left out. */
export function withoutSecrets(target: string, path: string, uploadsPath: string): string {
  if (!path.startsWith(uploadsPath)) {
    const shown = withoutQueryValues(target);
    return namesUploads(target, uploadsPath) ? withoutIds(shown) : shown;
  }
  const [id, rest] = splitOnce(path.slice(uploadsPath.length), '/');
  const tag = id === '' ? '' : uploadTag(id);
  return uploadsPath + tag + withoutIds((rest === undefined ? '' : `/${rest}`) + queryNames(target));
}

/** A misspelled URL of an upload, with a slash too many or its letters escaped, still says which one was meant. */
function namesUploads(target: string, uploadsPath: string): boolean {
  const plain = target.replace(/%([0-9a-f]{2})/gi, (_escape, hex: string) => String.fromCharCode(parseInt(hex, 16)));
  return plain.toLowerCase().includes(uploadsPath.slice(1, -1).toLowerCase());
}

function withoutIds(text: string): string {
  return text.replace(/[A-Za-z0-9_-]{20,}/g, (id) => uploadTag(id));
}

/** The target of a request that is not about an upload resource: its query values may be tokens or signatures. */
export function withoutQueryValues(target: string): string {
  return splitOnce(target, '?')[0] + queryNames(target);
}

function queryNames(target: string): string {
  const [, query] = splitOnce(target, '?');
  return query === undefined ? '' : `?${query.split('&').map(valueless).join('&')}`;
}

function valueless(pair: string): string {
  const [name, value] = splitOnce(pair, '=');
  return value === undefined ? name : `${name}=`;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
