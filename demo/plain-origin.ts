import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** One upload as the origin saw it. */
export interface OriginUpload {
  readonly method: string;
  readonly target: string;
  /** Flat: name, value, name, value … */
  readonly headers: readonly string[];
  readonly size: number;
  readonly whole: boolean;
  readonly sha256?: string;
  /** What it answered. */
  readonly answer?: unknown;
}

/** The example origin in a process of its own. */
export interface PlainOrigin {
  readonly url: string;
  received(): Promise<readonly OriginUpload[]>;
  stop(): void;
}

const PROGRAM = fileURLToPath(new URL('./origin.mjs', import.meta.url));

export async function startPlainOrigin(): Promise<PlainOrigin> {
  const env = { ...process.env, PORT: '0', HOST: '127.0.0.1' };
  const child = spawn(process.execPath, [PROGRAM], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const url = await new Promise<string>((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`the origin ended with ${code ?? 'a signal'}`)));
    createInterface({ input: child.stdout }).on('line', (line) => {
      const announced = /^listening on (\S+)$/.exec(line)?.[1];
      if (announced !== undefined) resolve(announced);
    });
  });
  return {
    url,
    received: async () => (await (await fetch(url)).json()) as OriginUpload[],
    stop: () => child.kill('SIGKILL'),
  };
}
