import { basename } from 'node:path';
import { isNativeError } from 'node:util/types';
import type { AppendSizes } from '../../client/append-size.js';
import { upload } from '../../client/upload.js';
import { backoffMs } from '../../client/wait.js';
import { formatBytes, formatDuration } from '../format-uploads.js';
import { type Content, FileChanged, FileContent, FormContent, StreamContent } from './content.js';
import type { HttpTransport } from './http-transport.js';
import type { ProgressDisplay } from './progress.js';
import { type FileVersion, randomBoundary, StateFile } from './state-file.js';

/** The request that every file becomes. */
export interface UploadTarget {
  readonly url: string;
  readonly method: string;
  readonly headers: Headers;
  /** The name of the form's field; undefined if the body is the file itself. */
  readonly form: string | undefined;
  /** The media type of the file. */
  readonly type: string | undefined;
}

/** The surroundings of a transfer. */
export interface TransferOptions {
  readonly transport: HttpTransport;
  readonly progress: ProgressDisplay;
  readonly signal: AbortSignal;
  /** So many failures without progress in between end the transfer. */
  readonly retries: number;
  readonly stdin: NodeJS.ReadStream;
}

/** The end of a transfer that has an answer. */
export interface TransferResult {
  readonly response: Response;
  /** In bytes. */
  readonly size: number;
  readonly tookMs: number;
}

/** Another run of the same command could continue the upload. */
export class TransferFailed extends Error {
  constructor(
    message: string,
    readonly isUnreachable = false,
  ) {
    super(message);
  }
}

/** The name of standard input in place of a file. */
export const STDIN = '-';

/** A pipe is not read further ahead than this. */
const STREAM_SIZES: AppendSizes = { first: 8 * 1024 * 1024, largest: 16 * 1024 * 1024 };
/** A file goes as one append, like an ordinary request; only when that fails are smaller ones sent. */
const FILE_SIZES: AppendSizes = { first: Infinity, largest: Infinity };

/** Uploads one file. Rejects with `TransferFailed`, or with the signal's reason. */
export async function transfer(path: string, target: UploadTarget, options: TransferOptions): Promise<TransferResult> {
  const file = path === STDIN ? undefined : await openFile(path);
  const state = file && (await openState(path, target, file));
  const { progress } = options;
  if (state?.hasChanged)
    progress.say('the file has changed since its upload was interrupted, so it is sent from its beginning');
  const boundary = state?.boundary ?? randomBoundary();
  const content = contentOf(file ?? new StreamContent(options.stdin), path, boundary, target);
  try {
    return await send(content, state, withMediaType(target, boundary), options);
  } finally {
    await content.close();
  }
}

/** Undefined for a pipe, which is read like standard input. */
async function openFile(path: string): Promise<FileContent> {
  try {
    const file = await FileContent.open(path);
    if (file) return file;
  } catch (error) {
    throw new TransferFailed(describeFileError(error as NodeJS.ErrnoException));
  }
  throw new TransferFailed('it is no regular file: give its bytes to standard input, and "-" as the file');
}

async function openState(path: string, target: UploadTarget, version: FileVersion): Promise<StateFile> {
  const { url, method, form, type } = target;
  return StateFile.open({ url, method, file: path, form, type }, version);
}

function contentOf(file: Content, path: string, boundary: string, { form, type }: UploadTarget): Content {
  if (form === undefined) return file;
  const fileName = path === STDIN ? 'stdin' : basename(path);
  return new FormContent(file, { field: form, fileName, type: type ?? DEFAULT_TYPE, boundary });
}

const DEFAULT_TYPE = 'application/octet-stream';

function withMediaType(target: UploadTarget, boundary: string): UploadTarget {
  const headers = new Headers(target.headers);
  if (target.form !== undefined) headers.set('content-type', `multipart/form-data; boundary=${boundary}`);
  else if (!headers.has('content-type')) headers.set('content-type', target.type ?? DEFAULT_TYPE);
  return { ...target, headers };
}

async function send(
  content: Content,
  state: StateFile | undefined,
  target: UploadTarget,
  { transport, progress, signal, retries }: TransferOptions,
): Promise<TransferResult> {
  const startedAt = performance.now();
  const isResumed = state?.get() !== undefined;
  if (!isResumed) await assertResumable(target, transport, signal);
  const onAbort = (): void => void content.close();
  if (!state) signal.addEventListener('abort', onAbort, { once: true });
  let loaded = 0;
  let isFirst = true;
  try {
    const response = await upload({
      ...target,
      source: content,
      transport: transport.send,
      key: state && 'state',
      store: state,
      signal,
      sizes: state ? FILE_SIZES : STREAM_SIZES,
      onProgress: (update) => {
        if (isFirst && isResumed) progress.say(`continues at ${formatBytes(update.loaded)}`);
        isFirst = false;
        loaded = update.loaded;
        progress.update(update);
      },
      retry: (failures, cause) => {
        if (failures > retries || isFinal(cause)) return undefined;
        const delayMs = backoffMs(failures);
        progress.say(`${describeCause(cause)}; tries again in ${formatDuration(Math.max(delayMs, 1000))}`);
        return delayMs;
      },
    });
    return { response, size: content.size ?? loaded, tookMs: performance.now() - startedAt };
  } catch (error) {
    signal.throwIfAborted();
    throw await failure(error, state);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

const PROBE_MS = 10_000;
/** Answers that say nothing about the target: the client has to log in, or the origin has a problem. */
const UNDECIDED = [401, 403, 407, 429];

/**
 * Asks the server with OPTIONS whether it takes resumable uploads (RUFH §4.1.4), because another one would take the
 * empty request that begins an upload for an ordinary one.
 */
async function assertResumable(
  { url, headers }: UploadTarget,
  transport: HttpTransport,
  signal: AbortSignal,
): Promise<void> {
  const probe = AbortSignal.any([signal, AbortSignal.timeout(PROBE_MS)]);
  const asked = new Headers(headers);
  asked.delete('content-type');
  asked.set('upload-draft-interop-version', '10');
  const request = { url, method: 'OPTIONS', headers: asked, signal: probe, onProgress: () => undefined };
  const response = await transport.send(request).catch((error: unknown) => {
    signal.throwIfAborted();
    if (probe.aborted) return undefined;
    throw new TransferFailed(`${url} cannot be reached: ${describeCause(error)}${adviceFor(error)}`, true);
  });
  if (!response || response.headers.has('upload-limit')) return;
  if (response.status >= 500 || UNDECIDED.includes(response.status)) return;
  throw new TransferFailed(
    `${url} takes no resumable uploads: its answer to OPTIONS (${response.status}) has no Upload-Limit. ` +
      'Is this the address of the proxy, and is the path one of its routes?',
  );
}

async function failure(error: unknown, state: StateFile | undefined): Promise<TransferFailed> {
  const cause = isNativeError(error) && error.cause !== undefined ? error.cause : error;
  if (cause instanceof FileChanged) {
    await state?.delete();
    return new TransferFailed(`${cause.message}; run the command again to send it from its beginning`);
  }
  const advice = state?.get() === undefined ? '' : '; run the same command again to continue';
  return new TransferFailed(`${describeCause(cause)}${adviceFor(cause)}${advice}`);
}

/** Errors of certificates, and of the file; another attempt would end in the same way. */
function isFinal(cause: unknown): boolean {
  if (cause instanceof FileChanged) return true;
  const { code = '', syscall } = cause as NodeJS.ErrnoException;
  return isCertificateError(code) || (syscall === 'read' && /^E(?:IO|ISDIR|ACCES)$/.test(code));
}

function isCertificateError(code: string): boolean {
  return /CERT|SIGNATURE|ISSUER|ERR_TLS/.test(code);
}

function adviceFor(cause: unknown): string {
  return isCertificateError((cause as NodeJS.ErrnoException).code ?? '')
    ? '; --cacert FILE trusts the certificate of your own server'
    : '';
}

function describeCause(cause: unknown): string {
  if (cause instanceof Response) return `the server answered ${cause.status}`;
  const { code, name, message } = cause as NodeJS.ErrnoException;
  if (name === 'AbortError') return 'nothing moved for a while';
  return code === undefined || message.includes(code) ? message : `${message} (${code})`;
}

function describeFileError({ code, message }: NodeJS.ErrnoException): string {
  if (code === 'ENOENT') return 'there is no such file';
  if (code === 'EACCES') return 'this user may not read it';
  return message;
}
