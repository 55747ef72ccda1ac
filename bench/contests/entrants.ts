import type { Contestant, Figures } from '../contest.js';
import type { Server } from '../programs.js';

/** Fields of an upload that is whole with its creation (RUFH §4.2). */
export const WHOLE = { 'Upload-Draft-Interop-Version': '10', 'Upload-Complete': '?1' };

/** Fields of an upload whose end is still to come: it is received and not delivered. */
export const PART = { 'Upload-Draft-Interop-Version': '10', 'Upload-Complete': '?0' };

/** Fields of a tus creation that brings its bytes with it, or none of so many. */
export function tusCreation(length: number, hasBytes: boolean): Record<string, string> {
  const headers = { 'Tus-Resumable': '1.0.0', 'Upload-Length': `${length}` };
  return hasBytes ? { ...headers, 'Content-Type': 'application/offset+octet-stream' } : headers;
}

/** A contestant that is measured where its server is there. */
export function entrant(
  name: string,
  server: Pick<Server, 'url' | 'pid'> | { readonly missing: string },
  run: (server: Pick<Server, 'url' | 'pid'>) => Promise<Figures>,
): Contestant {
  return 'missing' in server ? { name, missing: server.missing } : { name, run: () => run(server) };
}
