import { isUtf8 } from 'node:buffer';
import { type ChildProcess, spawn } from 'node:child_process';
import { pipeline, type Readable } from 'node:stream';
import { request } from 'undici';
import { crc32 } from '../fs/crc32.js';
import { Fault } from '../model/fault.js';
import type { HeaderLine, Headers } from '../model/headers.js';
import type { Gate, Route } from '../model/route.js';
import { type Answer, identifiersOf, type Undelivered, type Upload } from '../model/upload.js';
import { uploadFields } from '../observe/log.js';
import type { DeliveryContext } from './context.js';
import { removeChunks, retryUntilRecorded } from './finish.js';
import { filenameOf, representationType } from './origin-body.js';

/** What comes of asking the gate. */
export type GateOutcome =
  | { readonly kind: 'open' }
  /** Its refusal is recorded as the upload's answer. */
  | { readonly kind: 'answered'; readonly upload: Upload }
  | { readonly kind: 'shut'; readonly why: Undelivered }
  /** It could not be asked: nothing passes, and it is asked again. */
  | { readonly kind: 'failed'; readonly why: Undelivered; readonly until: number }
  /** Its bytes are damaged or missing. */
  | { readonly kind: 'lost'; readonly problem: string }
  | { readonly kind: 'stale' };

export interface GateTask {
  readonly upload: Upload;
  readonly gate: Gate;
  readonly route: Route;
  readonly signal: AbortSignal;
  /** The operator lets the upload pass, also when that was said while the gate was asked. */
  readonly isWaived: () => boolean;
}

/** Asks the route's gate about a whole upload, under its claim and before the origin hears of it. */
export async function passGate(task: GateTask, deps: DeliveryContext): Promise<GateOutcome> {
  const { upload, gate, signal, isWaived } = task;
  const { delivery } = task.route;
  const { store, spool, monotonic, log } = deps;
  const chunks = await store.chunks(upload.id);
  try {
    const verdict = await askGate({ gate, upload, via: deps.via }, spool.read(upload.id, chunks), signal);
    log.info({ ...uploadFields(identifiersOf(upload)), verdict: verdict.kind }, 'gate');
    return isWaived() ? { kind: 'open' } : await outcomeOf(verdict, upload, delivery.keepAnswerMs, deps);
  } catch (error) {
    if (isBytesLost(error)) return { kind: 'lost', problem: error.message };
    if (!(error instanceof GateFailed)) throw error;
    if (isBytesLost(error.cause)) return { kind: 'lost', problem: error.cause.message };
    if (isWaived()) return { kind: 'open' };
    log.error({ ...uploadFields(identifiersOf(upload)), err: error }, 'the gate gave no verdict: nothing passes it');
    const why: Undelivered = { reason: 'unreachable', problem: error.message };
    return { kind: 'failed', why, until: monotonic() + delivery.retry.longestDelayMs };
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
      return { kind: 'shut', why: { reason: 'quarantined', problem: verdict.problem } };
    case 'refused':
      return refuse(upload, verdict.answer, keepAnswerMs, deps);
  }
}

async function refuse(
  upload: Upload,
  said: GateAnswer,
  keepAnswerMs: number,
  deps: DeliveryContext,
): Promise<GateOutcome> {
  const { store, worker, clock } = deps;
  const { status, headers, body } = said;
  const at = clock();
  const answer: Answer = {
    status,
    reason: '',
    headers,
    trailers: [],
    bodySize: body.length,
    body: { in: 'record', crc: crc32(body) },
    at,
  };
  const chunks = await store.chunks(upload.id);
  const kept = { answer, body, expiresAt: at + keepAnswerMs };
  const recorded = await retryUntilRecorded(upload.id, () => store.recordAnswer(upload.id, worker, kept), deps);
  if (recorded === 'stale') return { kind: 'stale' };
  await removeChunks(upload.id, chunks, deps);
  return { kind: 'answered', upload: recorded };
}

/** What a gate says of a whole upload. It sees all of it: nothing is hidden by sending it in pieces. */
export type Verdict =
  | { readonly kind: 'allowed' }
  /** Final for the client: kept and given like an origin's answer. */
  | { readonly kind: 'refused'; readonly answer: GateAnswer }
  /** Final for the client; the bytes are kept for the operator. */
  | { readonly kind: 'quarantined'; readonly problem: string };

interface GateAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Buffer;
}

/** The gate could not be asked, or did not say anything we know: nothing is allowed by a failure. */
class GateFailed extends Error {
  constructor(problem: string, cause?: unknown) {
    super(problem, { cause });
    this.name = 'GateFailed';
  }
}

/** What a gate is told besides the bytes. */
interface GateInput {
  /** The name of this proxy in `Via`: a gate that leads back to it is a loop (RFC 9110 §7.6.3). */
  readonly via?: string;
  readonly method: string;
  readonly target: string;
  readonly length: number;
  readonly contentType: string;
  readonly filename?: string;
  readonly client: string;
}

/**
 * Asks the route's gate. `bytes` is read to its end, or destroyed when the gate has heard enough. `via`: the name by which
 * this proxy knows itself again. Rejects with `GateFailed`.
 */
export async function askGate(
  { gate, upload, via }: { readonly gate: Gate; readonly upload: Upload; readonly via?: string },
  bytes: Readable,
  signal: AbortSignal,
): Promise<Verdict> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(gate.timeoutMs)]);
  const facts = { ...inputOf(upload), via };
  try {
    return await (gate.kind === 'http' ? askService(gate, facts, bytes, limit) : askCommand(gate, facts, bytes, limit));
  } catch (error) {
    if (error instanceof GateFailed) throw error;
    const late =
      limit.aborted && !signal.aborted ? `gave no verdict within ${gate.timeoutMs} ms` : 'could not be asked';
    throw new GateFailed(`the gate ${late}`, error);
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

/** What a client is given of a refusal's body at most. */
const MAX_BODY_BYTES = 1024 * 1024;

/** Names the verdict where the status alone would allow it. */
const VERDICT_HEADER = 'x-upload-verdict';

/**
 * Posts the bytes to a service. 2xx allows, or quarantines with `X-Upload-Verdict: quarantine`; 4xx refuses, and the
 * client gets its status, type and body. Anything else is no verdict.
 */
async function askService(gate: HttpGate, facts: GateInput, bytes: Readable, signal: AbortSignal): Promise<Verdict> {
  const response = await request(gate.url, {
    method: 'POST',
    headers: headersOf(facts),
    body: facts.length === 0 ? null : bytes,
    signal,
    headersTimeout: gate.timeoutMs,
    bodyTimeout: gate.timeoutMs,
  });
  const { statusCode: status } = response;
  const body = status === 204 ? withoutContent(response.body) : await readBody(response.body);
  const said = firstValue(response.headers[VERDICT_HEADER])?.trim().toLowerCase();
  if (status >= 200 && status < 300) {
    return said === 'quarantine' ? { kind: 'quarantined', problem: quarantineProblem(body) } : { kind: 'allowed' };
  }
  if (status < 400 || status > 499) throw new GateFailed(`the gate answered ${status}`);
  const type = firstValue(response.headers['content-type']);
  const headers: HeaderLine[] = type === undefined ? [] : [['Content-Type', type]];
  return { kind: 'refused', answer: { status, headers, body } };
}

function headersOf({ method, target, length, contentType, filename, client, via }: GateInput): Record<string, string> {
  return {
    'Content-Type': contentType,
    'Content-Length': `${length}`,
    'X-Upload-Method': method,
    'X-Upload-Target': target,
    'X-Upload-Client': client,
    ...(via === undefined ? {} : { Via: `1.1 ${via}` }),
    ...(filename === undefined ? {} : { 'X-Upload-Filename': encodeURIComponent(filename) }),
  };
}

/** RFC 9112 §6.3: a 204 ends with its head, whatever length that announces; undici would miss the content. */
function withoutContent(body: Readable): Buffer {
  body.on('error', () => undefined).destroy();
  return Buffer.alloc(0);
}

async function readBody(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of body) {
    if (size < MAX_BODY_BYTES) pieces.push(piece);
    size += piece.length;
  }
  return Buffer.concat(pieces).subarray(0, MAX_BODY_BYTES);
}

function firstValue(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}

function quarantineProblem(body: Buffer): string {
  return body.toString('utf8').trim().slice(0, 500) || 'the gate keeps it back';
}

type CommandGate = Extract<Gate, { kind: 'command' }>;

/** What is kept of a command's output. */
const MAX_OUTPUT_BYTES = 64 * 1024;

const EXIT_REFUSED = 1;
const EXIT_QUARANTINED = 3;

/**
 * Runs a command with the bytes as its standard input. Exit 0 allows; 1 refuses, as virus scanners have it, and its
 * output is the client's answer (422, or what a first line `Status: 415` says); 3 quarantines; others are no verdict.
 */
async function askCommand(gate: CommandGate, facts: GateInput, bytes: Readable, signal: AbortSignal): Promise<Verdict> {
  const { command, env } = withEnvironment(gate.command, environment(facts));
  const [program = '', ...args] = command;
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore'], env });
  const kill = (): void => void child.kill('SIGKILL');
  signal.addEventListener('abort', kill, { once: true });
  try {
    let lost: unknown;
    // A command may decide before it has read everything. Its closed input is no error of the bytes, which `pipeline` would
    // make it if it were given them directly.
    async function* read(): AsyncGenerator<Uint8Array> {
      try {
        yield* bytes as AsyncIterable<Uint8Array>;
      } catch (error) {
        lost = error;
        throw error;
      }
    }
    pipeline(read, child.stdin, () => undefined);
    const [code, output] = await Promise.all([exitOf(child), outputOf(child)]);
    signal.throwIfAborted();
    // Half a file may be harmless where the whole is not.
    if (lost) throw new GateFailed('the bytes could not be read for the gate', lost);
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
      return { kind: 'quarantined', problem: output.toString('utf8').trim().slice(0, 500) || 'the gate keeps it back' };
    default:
      throw new GateFailed(`the gate's command ended with ${code}`);
  }
}

/** As a CGI script would say it (RFC 3875 §6.3.3), in short. */
function refusalFrom(output: Buffer): GateAnswer {
  const [line, status] = /^Status: (4\d\d)[^\n]*\n(?:\r?\n)?/.exec(output.toString('latin1')) ?? [];
  return {
    status: status === undefined ? 422 : Number(status),
    headers: [['Content-Type', 'text/plain; charset=utf-8']],
    body: line === undefined ? output : output.subarray(line.length),
  };
}

/**
 * Nothing of ours but `PATH`: our variables may hold secrets, and some of them change what a program does. A NUL in any value
 * would keep the command from being run at all. A filename is text, what the client's fields say are octets.
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

/** Node gives an environment as UTF-8 only. A shell sets the variables whose octets are something else. */
function withEnvironment(
  command: readonly string[],
  values: Readonly<Record<string, Buffer>>,
): { readonly command: readonly string[]; readonly env: Readonly<Record<string, string>> } {
  const all = Object.entries(values);
  const env = Object.fromEntries(
    all.filter(([, value]) => isUtf8(value)).map(([name, value]) => [name, value.toString()]),
  );
  const others = all.filter(([, value]) => !isUtf8(value));
  if (others.length === 0) return { command, env };
  const settings = others.map(([name, value]) => `export ${name}="$(printf '${escapes(value)}')"`);
  return { command: ['/bin/sh', '-c', `${settings.join('; ')}; exec "$@"`, 'sh', ...command], env };
}

/** Octal escapes alone: nothing of what a client sent can mean anything to the shell. */
function escapes(value: Buffer): string {
  return Array.from(value, (octet) => `\\${octet.toString(8).padStart(3, '0')}`).join('');
}

function exitOf(child: ChildProcess): Promise<number | string> {
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(new GateFailed(`the gate's command cannot be run: ${error.message}`, error)));
    child.once('close', (code, signal) => resolve(code ?? signal ?? 'nothing'));
  });
}

async function outputOf(child: ChildProcess): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let size = 0;
  for await (const piece of child.stdout as AsyncIterable<Buffer>) {
    if (size < MAX_OUTPUT_BYTES) pieces.push(piece);
    size += piece.length;
  }
  return Buffer.concat(pieces).subarray(0, MAX_OUTPUT_BYTES);
}
