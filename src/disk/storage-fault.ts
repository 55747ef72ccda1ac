import { Fault } from '../model/fault.js';

/** A quota and a size limit of the file system end as a full disk does: with bytes that had no room. */
const NO_ROOM: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

interface SystemError {
  readonly code: string;
  readonly syscall?: string;
  readonly message: string;
}

/** What the operating system's refusal means to us. Errors that are not the system's come back as they are. */
export function storageFault(error: unknown, failed: string): Error {
  if (!isSystemError(error)) return error as Error;
  const why = `${error.code}${error.syscall ? ` in ${error.syscall}` : ''}`;
  // The system's text names the path, and with it an upload's secret name.
  const cause = new Error(error.message.replaceAll(/'[^']*'/g, '(path)'));
  return NO_ROOM.has(error.code)
    ? new Fault('STORAGE_FULL', `${failed}: no room left (${why})`, true, { cause })
    : new Fault('STORAGE_UNAVAILABLE', `${failed} (${why})`, true, { cause });
}

/** The system refused because there is no room left. */
export function isNoRoom(error: unknown): boolean {
  return hasCode(error, ...NO_ROOM);
}

/** The error is the system's, with this code. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return isSystemError(error) && codes.includes(error.code);
}

/** By its shape: under a test runner, errors of Node itself are no `instanceof` the Error one sees. */
function isSystemError(error: unknown): error is SystemError {
  if (typeof error !== 'object' || error === null || error instanceof Fault) return false;
  return 'syscall' in error && 'code' in error && typeof error.code === 'string';
}
