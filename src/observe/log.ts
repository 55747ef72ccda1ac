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
