import { uploadTag, type Log } from './log.js';

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
export function logGivenUp(log: Log, line: UploadEndLine): void {
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
