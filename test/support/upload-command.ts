import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { within } from './temporary.js';

const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));

/** Where and with what the command runs. */
export interface UploadCommandOptions {
  /** Its working directory, which keeps its state too. */
  readonly directory: string;
  readonly input?: Buffer;
}

/** One run of `rufh-proxy upload`. Needs `npm run build`. */
export class UploadCommand {
  output = '';
  errors = '';
  /** Fulfilled with its exit code, or the name of the signal that ended it. */
  readonly exited: Promise<number | NodeJS.Signals>;

  private constructor(private readonly child: ChildProcess) {
    this.exited = new Promise((resolve) => child.once('close', (code, signal) => resolve(code ?? signal!)));
    child.stdout!.on('data', (bytes: Buffer) => (this.output += bytes.toString()));
    child.stderr!.on('data', (bytes: Buffer) => (this.errors += bytes.toString()));
  }

  static start(line: readonly string[], { directory, input }: UploadCommandOptions): UploadCommand {
    const env = { ...process.env, NODE_OPTIONS: '', XDG_STATE_HOME: directory };
    const child = spawn(process.execPath, [BINARY, 'upload', ...line], { cwd: directory, env });
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
    return new UploadCommand(child);
  }

  static async run(line: readonly string[], options: UploadCommandOptions): Promise<UploadCommand & { code: unknown }> {
    const command = UploadCommand.start(line, options);
    const code = await within(command.exited, `"upload ${line.join(' ')}" to end`, 60_000);
    return Object.assign(command, { code });
  }

  /** Sends a signal and waits for its end. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<number | NodeJS.Signals> {
    this.child.kill(signal);
    return within(this.exited, `the command to end after ${signal}`);
  }
}

/** The files in which commands keep the addresses of their uploads. */
export function stateFiles(directory: string): string[] {
  const state = join(directory, 'rufh-proxy', 'uploads');
  try {
    return readdirSync(state).map((name) => join(state, name));
  } catch {
    // No command has kept one yet.
    return [];
  }
}
