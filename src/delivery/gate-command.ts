import { isUtf8 } from 'node:buffer';
import { spawn, type ChildProcess } from 'node:child_process';
import { pipeline, type Readable } from 'node:stream';
import type { Gate } from '../model/route.js';
import { GateFailed, type GateAnswer, type GateFacts, type Verdict } from './gate.js';

type CommandGate = Extract<Gate, { kind: 'command' }>;

/** What is kept of a command's output. */
const LONGEST_OUTPUT = 64 * 1024;

const REFUSED = 1;
const QUARANTINED = 3;

/**
 * Runs a command with the bytes as its standard input. Exit 0 allows; 1 refuses, as virus scanners have it, and its
 * output is the client's answer (422, or what a first line `Status: 415` says); 3 quarantines; others are no verdict.
 */
export async function askCommand(
  gate: CommandGate,
  facts: GateFacts,
  bytes: Readable,
  signal: AbortSignal,
): Promise<Verdict> {
  const { command, env } = withVariables(gate.command, environment(facts));
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
    case REFUSED:
      return { kind: 'refused', answer: answerOf(output) };
    case QUARANTINED:
      return { kind: 'quarantined', problem: output.toString('utf8').trim().slice(0, 500) || 'the gate keeps it back' };
    default:
      throw new GateFailed(`the gate's command ended with ${code}`);
  }
}

/** As a CGI script would say it (RFC 3875 §6.3.3), in short. */
function answerOf(output: Buffer): GateAnswer {
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
function environment({ method, target, length, contentType, filename, client }: GateFacts): Record<string, Buffer> {
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
function withVariables(
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
    if (size < LONGEST_OUTPUT) pieces.push(piece);
    size += piece.length;
  }
  return Buffer.concat(pieces).subarray(0, LONGEST_OUTPUT);
}
