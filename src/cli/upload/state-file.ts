import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { Store } from '../../client/upload.js';

/** The properties that make two runs the same upload. */
export interface UploadIdentity {
  readonly url: string;
  readonly method: string;
  readonly file: string;
  readonly form: string | undefined;
  readonly type: string | undefined;
}

/** The version of a file. */
export interface FileVersion {
  readonly size: number;
  readonly modifiedMs: number;
}

interface State extends FileVersion {
  readonly boundary: string;
  readonly upload: string;
}

/**
 * Keeps the URL of an upload in a file that only its user can read, so that the same command continues after an
 * interruption. The URL gives access to the upload.
 */
export class StateFile implements Store {
  private constructor(
    private readonly path: string,
    private readonly version: FileVersion,
    /** Separates the parts of a form; the same in every run, because the bytes have to be. */
    readonly boundary: string,
    private value: string | undefined,
    /** The file has another version than the one that was sent, so the upload begins anew. */
    readonly hasChanged: boolean,
  ) {}

  static async open(identity: UploadIdentity, version: FileVersion): Promise<StateFile> {
    const { url, method, file, form, type } = identity;
    const key = JSON.stringify([url, method, resolve(file), form, type]);
    const path = join(stateDirectory(), `${createHash('sha256').update(key).digest('hex')}.json`);
    const state = await readState(path);
    const isSame = state?.size === version.size && state.modifiedMs === version.modifiedMs;
    if (state && isSame) return new StateFile(path, version, state.boundary, state.upload, false);
    return new StateFile(path, version, randomBoundary(), undefined, state !== undefined);
  }

  get(): string | undefined {
    return this.value;
  }

  async set(_key: string, value: string): Promise<void> {
    this.value = value;
    const { size, modifiedMs } = this.version;
    const state: State = { size, modifiedMs, boundary: this.boundary, upload: value };
    await mkdir(dirname(this.path), { recursive: true, mode: 0o700 });
    // Renamed, so that a crash leaves the old state or the new one.
    const temporary = `${this.path}.${process.pid}`;
    await writeFile(temporary, `${JSON.stringify(state)}\n`, { mode: 0o600 });
    await rename(temporary, this.path);
  }

  async delete(): Promise<void> {
    this.value = undefined;
    await rm(this.path, { force: true });
  }
}

/** A boundary that no content has by chance. */
export function randomBoundary(): string {
  return `rufh-${randomBytes(18).toString('hex')}`;
}

function stateDirectory(): string {
  const base = process.env['XDG_STATE_HOME'] || join(homedir(), '.local', 'state');
  return join(base, 'rufh-proxy', 'uploads');
}

/** Undefined if there is no state, or none that can be used. */
async function readState(path: string): Promise<State | undefined> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) return undefined;
  try {
    const state = JSON.parse(text) as Partial<State>;
    return typeof state.upload === 'string' && typeof state.boundary === 'string' ? (state as State) : undefined;
  } catch {
    // A crash of the machine can leave an empty file.
    return undefined;
  }
}
