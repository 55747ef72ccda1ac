import { isUtf8 } from 'node:buffer';
import { type ChildProcess, spawn } from 'node:child_process';
import { pipeline, type Readable } from 'node:stream';
import { crc32 } from '../fs/crc32.js';
import { Fault } from '../model/fault.js';
import { fieldValue, type HeaderLine, type Headers } from '../model/headers.js';
import type { Gate, Route } from '../model/route.js';
import { identifiersOf, type Undelivered, type Upload } from '../model/upload.js';
import { uploadFields } from '../observe/log.js';
import type { DeliveryContext } from './context.js';
import { removeChunks, retryUntilRecorded } from './finish.js';
import { filenameOf, representationType } from './origin-body.js';
import { type Origin, type OriginAnswer, Unanswered } from './origin.js';

/** The result of asking the gate about an upload. */
export type GateOutcome =
  | { readonly kind: 'open' }
  /** The gate refused the upload, and its refusal is recorded as the answer. */
  | { readonly kind: 'answered'; readonly upload: Upload }
  /** The gate quarantined the upload. */
  | { readonly kind: 'quarantined'; readonly failure: Undelivered }
  /** The gate gave no verdict, so the upload does not pass; ask again at `until` (monotonic). */
  | { readonly kind: 'failed'; readonly failure: Undelivered; readonly until: number }
  /** Bytes of the upload are damaged or missing. */
  | { readonly kind: 'lost'; readonly problem: string }
  /** The upload was cancelled or taken over by another worker. */
  | { readonly kind: 'stale' };

/** A complete upload and the gate to ask about it. */
export interface GateTask {
  readonly upload: Upload;
  readonly gate: Gate;
  readonly route: Route;
  readonly signal: AbortSignal;
  /** The operator lets the upload pass; may become true while the gate is being asked. */
  readonly isWaived: () => boolean;
}

/** Asks the route's gate about a complete upload, under the upload's claim and before the origin's request. */
export async function passGate(task: GateTask, deps: DeliveryContext): Promise<GateOutcome> {
  const { upload, gate, signal, isWaived } = task;
  const { delivery } = task.route;
  const { store, spool, monotonic, log } = deps;
  const chunks = await store.chunks(upload.id);
  try {
    const verdict = await askGate(
      { gate, upload, via: deps.via, origin: deps.origin },
      spool.read(upload.id, chunks),
      signal,
    );
    log.info({ ...uploadFields(identifiersOf(upload)), verdict: verdict.kind }, 'gate');
    return isWaived() ? { kind: 'open' } : await outcomeOf(verdict, upload, delivery.keepAnswerMs, deps);
  } catch (error) {
    if (isBytesLost(error)) return { kind: 'lost', problem: error.message };
    if (!(error instanceof GateFailed)) throw error;
    if (isBytesLost(error.cause)) return { kind: 'lost', problem: error.cause.message };
    if (isWaived()) return { kind: 'open' };
    log.error(
      { ...uploadFields(identifiersOf(upload)), err: error },
      'the gate gave no verdict: the upload is not delivered',
    );
    const failure: Undelivered = { reason: 'unreachable', problem: error.message };
    return { kind: 'failed', failure, until: monotonic() + delivery.retry.longestDelayMs };
  }
}

function isBytesLost(error: unknown): error is Fault {
  return error instanceof Fault && error.code === 'BYTES_LOST';
}

async function outcomeOf(
  verdict: Verdict,
  upload: Upload,
  keepAnswerMs: number,
  deps: DeliveryContext,
): Promise<GateOutcome> {
  switch (verdict.kind) {
    case 'allowed':
      return { kind: 'open' };
    case 'quarantined':
      return { kind: 'quarantined', failure: { reason: 'quarantined', problem: verdict.problem } };
    case 'refused':
      return refuse(upload, verdict.answer, keepAnswerMs, deps);
  }
}

async function refuse(
  upload: Upload,
  refusal: GateAnswer,
  keepAnswerMs: number,
  deps: DeliveryContext,
): Promise<GateOutcome> {
  const { store, worker, clock } = deps;
  const { status, headers, body } = refusal;
  const at = clock();
  const answer = deps.secrets.withholdAnswer(upload.id, {
    status,
    reason: '',
    headers,
    trailers: [],
    bodySize: body.length,
    body: { in: 'record', crc: crc32(body) },
    at,
  });
  const chunks = await store.chunks(upload.id);
  const kept = { answer, body, expiresAt: at + keepAnswerMs };
  const recorded = await retryUntilRecorded(upload.id, () => store.recordAnswer(upload.id, worker, kept), deps);
  if (recorded === 'stale') return { kind: 'stale' };
  await removeChunks(upload.id, chunks, deps);
  return { kind: 'answered', upload: recorded };
}

/** A gate's verdict on a complete upload. */
export type Verdict =
  | { readonly kind: 'allowed' }
  /** The client gets `answer`, which is kept like an origin's. */
  | { readonly kind: 'refused'; readonly answer: GateAnswer }
  /** The client is refused; the bytes are kept for the operator. */
  | { readonly kind: 'quarantined'; readonly problem: string };

interface GateAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Buffer;
}

/** The gate could not be asked, or gave no verdict that we know. A failure never lets an upload pass. */
class GateFailed extends Error {
  constructor(problem: string, cause?: unknown) {
    super(problem, { cause });
    this.name = 'GateFailed';
  }
}

/** The facts about an upload that a gate gets with its bytes. */
interface GateInput {
  /** This proxy's name in `Via`, by which it detects a gate that leads back to it (RFC 9110 §7.6.3). */
  readonly via?: string;
  readonly method: string;
  readonly target: string;
  readonly length: number;
  readonly contentType: string;
  readonly filename?: string;
  readonly client: string;
}

/** A gate, the upload it is asked about, and the client that sends requests. */
interface GateQuestion {
  readonly gate: Gate;
  readonly upload: Upload;
  /** This proxy's name in `Via`. */
  readonly via?: string;
  readonly origin: Origin;
}

/**
 * Asks a gate about an upload. `bytes` is read to its end, or destroyed when the gate decides earlier. Rejects with
 * `GateFailed` if there is no verdict.
 */
export async function askGate(
  { gate, upload, via, origin }: GateQuestion,
  bytes: Readable,
  signal: AbortSignal,
): Promise<Verdict> {
  const limited = AbortSignal.any([signal, AbortSignal.timeout(gate.timeoutMs)]);
  const input = { ...inputOf(upload), via };
  try {
    return await (gate.kind === 'http'
      ? askService({ gate, input, origin }, bytes, limited)
      : askCommand(gate, input, bytes, limited));
  } catch (error) {
    if (error instanceof GateFailed) throw error;
    const problem =
      limited.aborted && !signal.aborted ? `gave no verdict within ${gate.timeoutMs} ms` : 'could not be asked';
    throw new GateFailed(`the gate ${problem}`, error);
  } finally {
    bytes.destroy();
  }
}

function inputOf({ request, offset }: Upload): GateInput {
  return {
    method: request.method,
    target: request.target,
    length: offset,
    contentType: representationType(request),
    filename: filenameOf(request),
    client: request.clientAddress,
  };
}

type HttpGate = Extract<Gate, { kind: 'http' }>;

/** Longest body of a refusal that is passed to the client. */
const MAX_BODY_BYTES = 1024 * 1024;

/** The response header by which a service quarantines an upload despite a 2xx status. */
const VERDICT_HEADER = 'x-upload-verdict';

/**
 * Posts the bytes to a service. 2xx allows, or quarantines with `X-Upload-Verdict: quarantine`; 4xx refuses, and the
 * client gets its status, type and body. Any other status is no verdict.
 */
async function askService(
  { gate, input, origin }: { readonly gate: HttpGate; readonly input: GateInput; readonly origin: Origin },
  bytes: Readable,
  signal: AbortSignal,
): Promise<Verdict> {
  const { status, headers: received, body: content } = await sendTo(gate, input, { origin, bytes, signal });
  const body = await readUpTo(MAX_BODY_BYTES, content);
  const verdict = fieldValue(received, VERDICT_HEADER)?.trim().toLowerCase();
  if (status >= 200 && status < 300) {
    return verdict === 'quarantine' ? { kind: 'quarantined', problem: quarantineProblem(body) } : { kind: 'allowed' };
  }
  if (status < 400 || status > 499) throw new GateFailed(`the gate answered ${status}`);
  const type = received.find(([name]) => name.toLowerCase() === 'content-type')?.[1];
  const headers: HeaderLine[] = type === undefined ? [] : [['Content-Type', type]];
  return { kind: 'refused', answer: { status, headers, body } };
}

async function sendTo(
  { url, timeoutMs }: HttpGate,
  input: GateInput,
  { origin, bytes, signal }: { readonly origin: Origin; readonly bytes: Readable; readonly signal: AbortSignal },
): Promise<OriginAnswer> {
  const { origin: base, host, pathname, search } = new URL(url);
  const { length } = input;
  const request = {
    origin: base,
    method: 'POST',
    target: pathname + search,
    headers: [['Host', host], ...headersOf(input)] as const,
    content: length === 0 ? {} : { size: length, body: bytes },
    timeoutMs,
    connection: 'kept',
  } as const;
  try {
    return await origin.send(request, signal);
  } catch (error) {
    // The reason may be damaged bytes.
    throw error instanceof Unanswered ? error.cause : error;
  }
}

function headersOf({ method, target, contentType, filename, client, via }: GateInput): HeaderLine[] {
  return [
    ['Content-Type', contentType],
    ['X-Upload-Method', method],
    ['X-Upload-Target', target],
    ['X-Upload-Client', client],
    ...(via === undefined ? [] : [['Via', `1.1 ${via}`] as const]),
    ...(filename === undefined ? [] : [['X-Upload-Filename', encodeURIComponent(filename)] as const]),
  ];
}

/** Reads a stream to its end and returns its first `maxBytes`. */
async function readUpTo(maxBytes: number, stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of stream) {
    if (size < maxBytes) pieces.push(piece);
    size += piece.length;
  }
  return Buffer.concat(pieces).subarray(0, maxBytes);
}

function quarantineProblem(text: Buffer): string {
  return text.toString('utf8').trim().slice(0, 500) || 'the gate keeps it back';
}

type CommandGate = Extract<Gate, { kind: 'command' }>;

/** Longest output of a command that is kept. */
const MAX_OUTPUT_BYTES = 64 * 1024;

const EXIT_REFUSED = 1;
const EXIT_QUARANTINED = 3;

/**
 * Runs a command with the bytes as its standard input. Exit code 0 allows; 1 refuses, as with virus scanners, and the output is
 * the client's answer (422, or the status of a first line `Status: 415`); 3 quarantines; any other is no verdict.
 */
async function askCommand(gate: CommandGate, input: GateInput, bytes: Readable, signal: AbortSignal): Promise<Verdict> {
  const { command, env } = withEnvironment(gate.command, environment(input));
  const [program = '', ...args] = command;
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore'], env });
  const kill = (): void => void child.kill('SIGKILL');
  signal.addEventListener('abort', kill, { once: true });
  try {
    let readError: unknown;
    // A command may decide before it has read everything. `pipeline` would report its closed input as an error of `bytes`, so
    // read errors are kept apart here.
    async function* read(): AsyncGenerator<Uint8Array> {
      try {
        yield* bytes as AsyncIterable<Uint8Array>;
      } catch (error) {
        readError = error;
        throw error;
      }
    }
    pipeline(read, child.stdin, () => undefined);
    const [code, output] = await Promise.all([exitOf(child), readUpTo(MAX_OUTPUT_BYTES, child.stdout)]);
    signal.throwIfAborted();
    // A verdict on part of a file does not count.
    if (readError) throw new GateFailed('the bytes could not be read for the gate', readError);
    return verdictOf(code, output);
  } finally {
    signal.removeEventListener('abort', kill);
  }
}

function verdictOf(code: number | string, output: Buffer): Verdict {
  switch (code) {
    case 0:
      return { kind: 'allowed' };
    case EXIT_REFUSED:
      return { kind: 'refused', answer: refusalFrom(output) };
    case EXIT_QUARANTINED:
      return { kind: 'quarantined', problem: quarantineProblem(output) };
    default:
      throw new GateFailed(`the gate's command ended with ${code}`);
  }
}

/** Reads an optional first line like `Status: 415`, in the form of CGI (RFC 3875 §6.3.3). */
function refusalFrom(output: Buffer): GateAnswer {
  const [line, status] = /^Status: (4\d\d)[^\n]*\n(?:\r?\n)?/.exec(output.toString('latin1')) ?? [];
  return {
    status: status === undefined ? 422 : Number(status),
    headers: [['Content-Type', 'text/plain; charset=utf-8']],
    body: line === undefined ? output : output.subarray(line.length),
  };
}

/**
 * The command's environment: of our own variables only `PATH`, because others may hold secrets or change the command's
 * behaviour. Control characters are removed, because a NUL would keep the command from starting. A filename is text, the rest
 * are octets.
 */
function environment({ method, target, length, contentType, filename, client }: GateInput): Record<string, Buffer> {
  const octets = (value: string): Buffer => Buffer.from(printable(value), 'latin1');
  return {
    PATH: Buffer.from(process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin'),
    UPLOAD_METHOD: octets(method),
    UPLOAD_TARGET: octets(target),
    UPLOAD_LENGTH: octets(`${length}`),
    UPLOAD_CONTENT_TYPE: octets(contentType),
    UPLOAD_FILENAME: Buffer.from(printable(filename ?? '')),
    UPLOAD_CLIENT: octets(client),
  };
}

function printable(value: string): string {
  return value.replace(/[\x00-\x1f\x7f]/g, '');
}

/** Node passes an environment only as UTF-8, so a shell sets the variables whose octets are not UTF-8. */
function withEnvironment(
  command: readonly string[],
  values: Readonly<Record<string, Buffer>>,
): { readonly command: readonly string[]; readonly env: Readonly<Record<string, string>> } {
  const all = Object.entries(values);
  const env = Object.fromEntries(
    all.filter(([, value]) => isUtf8(value)).map(([name, value]) => [name, value.toString()]),
  );
  const nonUtf8 = all.filter(([, value]) => !isUtf8(value));
  if (nonUtf8.length === 0) return { command, env };
  const exports = nonUtf8.map(([name, value]) => `export ${name}="$(printf '${escapes(value)}')"`);
  return { command: ['/bin/sh', '-c', `${exports.join('; ')}; exec "$@"`, 'sh', ...command], env };
}

/** Octal escapes only, so that the shell cannot interpret anything that a client sent. */
function escapes(value: Buffer): string {
  return Array.from(value, (octet) => `\\${octet.toString(8).padStart(3, '0')}`).join('');
}

function exitOf(child: ChildProcess): Promise<number | string> {
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(new GateFailed(`the gate's command cannot be run: ${error.message}`, error)));
    child.once('close', (code, signal) => resolve(code ?? signal ?? 'nothing'));
  });
}
