import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { failWith } from './fail.js';
import { formatBytes, formatDuration } from './format-uploads.js';
import { HttpTransport } from './upload/http-transport.js';
import { ProgressDisplay } from './upload/progress.js';
import { STDIN, transfer, TransferFailed, type TransferResult, type UploadTarget } from './upload/transfer.js';

const EXAMPLES = `
A lost connection, a restart of the proxy and the end of this program interrupt an upload, but do not end it: the
program asks for the offset and sends the rest, and after Ctrl-C or a crash the same command continues. For that it
keeps the address of the upload, which is a secret, in $XDG_STATE_HOME/rufh-proxy/uploads (~/.local/state by default).
Standard input cannot be read again, so its upload ends with the program.

The body of the origin's answer goes to standard output, everything else to standard error.

Examples:
  $ rufh-proxy upload film.mp4 https://example.com/files/
  $ rufh-proxy upload -X PUT *.jpg https://example.com/photos/
        with PUT, a URL that ends with "/" gets the name of the file
  $ rufh-proxy upload --form photo -H "Authorization: Bearer $TOKEN" cat.jpg https://example.com/photos
  $ tar c data | rufh-proxy upload - https://example.com/backups

Exit code: 0 if every answer is a 2xx, 1 if not, 2 if the server cannot be reached or the command is wrong, 130 after
Ctrl-C.`;

interface UploadCommandOptions {
  readonly method: string;
  readonly header: readonly string[];
  readonly user?: string;
  readonly form?: string;
  readonly type?: string;
  readonly output?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly cacert?: string;
  readonly retries: number;
}

/** Adds `upload FILE... URL`. */
export function addUploadCommand(root: Command): Command {
  root
    .command('upload')
    .description('send files to a server that takes resumable uploads, and print its answers')
    .usage('[options] FILE... URL')
    .argument('<file...>', 'files to send, one request for each; "-" for standard input; the last argument is the URL')
    .option('-X, --method <method>', 'method of the request', parseMethod, 'POST')
    .option('-H, --header <line>', 'header field, as "Name: value"; @FILE reads such lines (repeatable)', collect, [])
    .option('-u, --user <user:password>', 'Basic authorization')
    .option('--form <field>', 'send the file as this field of a multipart form')
    .option('--type <type>', 'media type of the file (default: application/octet-stream)')
    .option('-o, --output <file>', 'write the body of the answer to a file')
    .option('--json', 'print one JSON object for each file in place of the body')
    .option('-q, --quiet', 'no progress; errors are printed')
    .option('--cacert <file>', 'trust these certificates (PEM) in place of the usual ones')
    .option('--retries <number>', 'failures in a row, without progress, that end an upload', parseRetries, 30)
    .addHelpText('after', EXAMPLES)
    .action((parameters: string[], options: UploadCommandOptions) => run(parameters, options));
  return root;
}

function collect(line: string, lines: readonly string[]): string[] {
  return [...lines, line];
}

const METHOD = /^[A-Z]+$/;

function parseMethod(text: string): string {
  const method = text.toUpperCase();
  if (METHOD.test(method) && !['GET', 'HEAD', 'OPTIONS', 'DELETE', 'TRACE', 'CONNECT'].includes(method)) return method;
  throw new InvalidArgumentError('It must be a method that takes a body, such as POST or PUT.');
}

function parseRetries(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a whole number.');
}

async function run(parameters: readonly string[], options: UploadCommandOptions): Promise<void> {
  const plan = planOf(parameters, options);
  if ('problem' in plan) return failWith(plan.problem, 2);
  const transport = new HttpTransport({ ca: plan.ca });
  const pause = new AbortController();
  const onSignal = (): void => {
    // The second signal ends the program at once, even if something hangs.
    if (pause.signal.aborted) process.exit(130);
    pause.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  try {
    for (const file of plan.files) {
      if (pause.signal.aborted) break;
      await uploadFile(file, plan.targetOf(file), transport, pause.signal, options);
    }
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
    transport.close();
  }
}

async function uploadFile(
  file: string,
  target: UploadTarget,
  transport: HttpTransport,
  signal: AbortSignal,
  options: UploadCommandOptions,
): Promise<void> {
  const name = file === STDIN ? 'standard input' : printable(basename(file));
  const progress = new ProgressDisplay(process.stderr, name, options.quiet ?? false, () => performance.now());
  const { retries } = options;
  try {
    const result = await transfer(file, target, { transport, progress, signal, retries, stdin: process.stdin });
    progress.say(summaryOf(result));
    await deliver(file, target, result, options);
  } catch (error) {
    progress.clear();
    if (signal.aborted) reportPause(file, name, options);
    else if (error instanceof TransferFailed) reportFailure(file, name, error, options);
    else if (isFileError(error)) reportFailure(file, name, new TransferFailed(error.message), options);
    else throw error;
  }
}

/** The system refused a file of ours: the answer, or the state with which a later run continues. */
function isFileError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error && 'path' in error;
}

function summaryOf({ response, size, tookMs }: TransferResult): string {
  const rate = formatBytes((size / Math.max(tookMs, 1)) * 1000);
  const status = `${response.status} ${printable(response.statusText)}`.trim();
  return `${status}  ${formatBytes(size)} in ${formatDuration(Math.max(tookMs, 1000))} (${rate}/s)`;
}

/** Gives the answer to the user, and its status to the exit code. */
async function deliver(
  file: string,
  { url }: UploadTarget,
  { response, size, tookMs }: TransferResult,
  { output, json }: UploadCommandOptions,
): Promise<void> {
  if (!response.ok) process.exitCode = 1;
  const body = Buffer.from(await response.arrayBuffer());
  if (output !== undefined) await writeFile(output, body);
  if (json) {
    const { status } = response;
    const answer = output === undefined ? { body: body.toString() } : {};
    printJson({ file, url, ok: response.ok, status, size, seconds: Math.round(tookMs) / 1000, ...answer });
  } else if (output === undefined) process.stdout.write(body);
}

function reportPause(file: string, name: string, { json }: UploadCommandOptions): void {
  process.exitCode = 130;
  if (json) printJson({ file, ok: false, paused: file !== STDIN });
  const advice = file === STDIN ? 'standard input cannot be read again' : 'run the same command again to continue';
  process.stderr.write(`rufh-proxy: ${name}: interrupted; ${advice}\n`);
}

function reportFailure(file: string, name: string, error: TransferFailed, { json }: UploadCommandOptions): void {
  if (json) printJson({ file, ok: false, error: error.message });
  failWith(
    `${name}: ${printable(error.message)}`,
    Math.max(Number(process.exitCode ?? 0), error.isUnreachable ? 2 : 1),
  );
}

function printJson(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** Text of a file name or a server must not control the terminal. */
function printable(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
}

interface Plan {
  readonly files: readonly string[];
  readonly targetOf: (file: string) => UploadTarget;
  readonly ca: string | undefined;
}

function planOf(parameters: readonly string[], options: UploadCommandOptions): Plan | { problem: string } {
  const files = parameters.slice(0, -1);
  const last = parameters.at(-1)!;
  const url = /^https?:\/\//i.test(last) && URL.canParse(last) ? new URL(last) : undefined;
  if (!url) return { problem: `the last argument has to be the URL (http://… or https://…), found "${last}"` };
  if (files.length === 0) return { problem: 'no file was given: rufh-proxy upload FILE... URL' };
  if (files.filter((file) => file === STDIN).length > 1) return { problem: 'standard input can be sent only once' };
  if (files.length > 1 && options.output !== undefined && !options.json)
    return { problem: '--output takes the answer to one file, and several were given' };
  try {
    const headers = headersOf(url, options);
    if (options.form !== undefined && headers.has('content-type'))
      return { problem: '--form sets the Content-Type; the media type of the file is set with --type' };
    url.username = url.password = '';
    const { method, form, type } = options;
    const ca = options.cacert === undefined ? undefined : readFileSync(options.cacert, 'utf8');
    const targetOf = (file: string): UploadTarget => {
      return { url: urlOf(url, method, file), method, headers, form, type };
    };
    return { files, targetOf, ca };
  } catch (error) {
    return { problem: (error as Error).message };
  }
}

/** With PUT, a URL that ends with "/" is a folder, in which the file keeps its name. */
function urlOf(url: URL, method: string, file: string): string {
  if (method !== 'PUT' || file === STDIN || !url.pathname.endsWith('/')) return url.href;
  const named = new URL(url);
  named.pathname += encodeURIComponent(basename(file));
  return named.href;
}

/** Fields that the request sets by itself. */
const OWN_FIELDS = ['content-length', 'transfer-encoding', 'connection', 'expect', 'host'];

/** Throws with a reason for a line that is no header field. */
function headersOf(url: URL, { header, user }: UploadCommandOptions): Headers {
  const headers = new Headers();
  const credentials =
    user ??
    (url.username === '' ? undefined : `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`);
  if (credentials !== undefined) headers.set('authorization', `Basic ${Buffer.from(credentials).toString('base64')}`);
  for (const line of header.flatMap(linesOf)) {
    const [, name, value] = /^([^:\s]+):(.*)$/.exec(line) ?? [];
    if (name === undefined || value === undefined) throw new Error(`--header: found "${line}", expected "Name: value"`);
    if (OWN_FIELDS.includes(name.toLowerCase())) throw new Error(`--header: ${name} cannot be set`);
    headers.append(name, value.trim());
  }
  return headers;
}

/** The lines of `@FILE`, so that secrets need not stand in the list of processes. */
function linesOf(text: string): string[] {
  if (!text.startsWith('@')) return [text];
  return readFileSync(text.slice(1), 'utf8')
    .split(/\r?\n/)
    .filter((line) => line.trim() !== '');
}
