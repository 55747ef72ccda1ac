import { ConnectionClosed } from './wire-reader.js';

/** Whether a request failed because its connection ended, or none was taken: something a client has to live with. */
export function isCut(error: unknown): boolean {
  if (error instanceof ConnectionClosed) return true;
  const { code = '' } = error as NodeJS.ErrnoException;
  return ['ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(code);
}
