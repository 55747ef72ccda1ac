import { constants } from 'node:os';
import { Fault } from '../model/fault.js';

/** A quota and a size limit of the file system end as a full disk does: with bytes that had no room. */
const NO_ROOM: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Node has no name for some numbers of the system, EDQUOT and ESTALE among them: "Unknown system error -122". */
const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno).map(([name, number]) => [-number, name]),
);

interface SystemError {
  readonly code: string;
  readonly errno?: number;
  readonly syscall?: string;
  readonly message: string;
}

/** What the operating system's refusal means to us. Errors that are not the system's come back as they are. */
export function storageFault(error: unknown, failed: string): Error {
  if (!isSystemError(error)) return error as Error;
  const code = nameOf(error);
  const why = `${code}${error.syscall ? ` in ${error.syscall}` : ''}`;
  // The system's text names the path, and with it an upload's secret name.
  const cause = new Error(error.message.replaceAll(/'[^']*'/g, '(path)'));
  return NO_ROOM.has(code)
    ? new Fault('STORAGE_FULL', `${failed}: no room left (${why})`, true, { cause })
    : new Fault('STORAGE_UNAVAILABLE', `${failed} (${why})`, true, { cause });
}

/** The system refused because there is no room left. */
export function isNoRoom(error: unknown): boolean {
  return hasCode(error, ...NO_ROOM);
}

/** What the system gives for a name; undefined where it says, with one of these codes, that nothing has it. */
export async function unlessMissing<T>(
  reading: Promise<T>,
  codes: readonly string[] = ['ENOENT'],
): Promise<T | undefined> {
  try {
    return await reading;
  } catch (error) {
    if (!hasCode(error, ...codes)) throw error;
    return undefined;
  }
}

/** The error is the system's, with this code. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return isSystemError(error) && codes.includes(nameOf(error));
}

function nameOf({ code, errno }: SystemError): string {
  return code.startsWith('E') ? code : (NAMES.get(errno ?? 0) ?? code);
}

/** By its shape: under a test runner, errors of Node itself are no `instanceof` the Error one sees. */
function isSystemError(error: unknown): error is SystemError {
  if (typeof error !== 'object' || error === null || error instanceof Fault) return false;
  return 'syscall' in error && 'code' in error && typeof error.code === 'string';
}
