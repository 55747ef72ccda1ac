import { chmod, lstat, unlink } from 'node:fs/promises';
import { connect } from 'node:net';

/** Clears `path` for a socket: removes a socket that no process listens on, and rejects for anything else. */
export async function clearSocketPath(path: string): Promise<void> {
  const stats = await lstat(path).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  });
  if (!stats) return;
  if (!stats.isSocket())
    throw inUse(path, 'is an existing file that is not a socket; remove it or choose another path');
  const listening = await isListening(path);
  if (listening === 'unknown')
    throw inUse(path, 'belongs to another user; remove it if no process listens there, or choose another path');
  if (listening) throw inUse(path, 'is in use by another process; stop it or choose another path');
  await unlink(path);
}

/** Sets who may connect to the socket at `path`; 0o660 lets its owner and its group. */
export async function setSocketMode(path: string, mode = 0o660): Promise<void> {
  await chmod(path, mode);
}

function isListening(path: string): Promise<boolean | 'unknown'> {
  return new Promise((resolve, reject) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false);
      // EAGAIN: the queue of connections is full, so a process listens.
      else if (error.code === 'EAGAIN') resolve(true);
      else if (error.code === 'EACCES') resolve('unknown');
      else reject(error);
    });
  });
}

function inUse(path: string, problem: string): Error {
  return Object.assign(new Error(`unix socket ${path} ${problem}`), { code: 'EADDRINUSE', path });
}
