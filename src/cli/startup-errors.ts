import { isNativeError } from 'node:util/types';
import type { Config } from '../config/config.js';
import type { Address } from '../config/values.js';
import { Fault } from '../model/fault.js';
import { WorkerFailed } from '../workers/worker-process.js';

/** Explains a failed start in one line, with a remedy; unknown errors are returned with their stack. */
export function describeStartupError(error: unknown, config: Pick<Config, 'data' | 'admin'>): string {
  if (error instanceof Fault) return faultAdvice(error, config.data);
  if (error instanceof WorkerFailed) return error.message;
  if (!isNativeError(error)) return String(error);
  const { code, syscall, address, port, path } = error as NodeJS.ErrnoException & { address?: string; port?: number };
  if (syscall === 'listen' || syscall === 'bind') {
    const isSocketFile = port === undefined || port < 0;
    const where = isSocketFile ? (address ?? path ?? 'the address') : `${address ?? ''}:${port}`;
    const advice = (isSocketFile ? SOCKET_FILE_ADVICE : PORT_ADVICE)[code ?? ''];
    if (advice && isAddress(config.admin?.address, where))
      return `the admin listener cannot listen on ${where}: ${advice}${ADMIN_HINT}`;
    if (advice) return `cannot listen on ${where}: ${advice}`;
  }
  if (code === 'EADDRINUSE')
    return isAddress(config.admin?.address, path ?? '')
      ? `the admin listener cannot listen: ${error.message}${ADMIN_HINT}`
      : `cannot listen: ${error.message}`;
  if (code === 'ENOTFOUND' && syscall === 'getaddrinfo') {
    return `cannot listen: the name ${'hostname' in error ? String(error.hostname) : ''} cannot be resolved on this machine`;
  }
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    return `no permission for ${path ?? config.data}: give the user of this process write permission, or choose another --data`;
  }
  return error.stack ?? error.message;
}

const ADMIN_HINT = '. Set another address with `admin` or --admin, or disable it with "false"';

function isAddress(address: Address | undefined, where: string): boolean {
  if (address?.kind === 'unix') return address.path === where;
  return address !== undefined && `${address.host}:${address.port}` === where;
}

/** The system reports EACCES also for a missing directory. */
const SOCKET_FILE_ADVICE: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another process is listening there; stop it, or choose another path',
  EACCES:
    'its directory does not exist or is not writable for the user of this process; fix that, or choose another path',
  ENOTDIR: 'a part of the path is a file; choose another path',
  EROFS: 'the file system is read-only; choose another path',
};

const PORT_ADVICE: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another process is listening there; stop it, or choose another address (port 0 picks a free port)',
  EACCES: 'no permission; choose a port above 1023, or give the process CAP_NET_BIND_SERVICE',
  EADDRNOTAVAIL: 'this machine has no such address',
};

function faultAdvice({ code, message }: Fault, data: string): string {
  switch (code) {
    case 'STORAGE_UNAVAILABLE':
      return `${message}; check that the user of this process can write to ${data}`;
    case 'STORAGE_FULL':
      return `${message}; free some space on the disk of ${data}`;
    case 'DIRECTORY_IN_USE':
    case 'STORE_UNAVAILABLE':
      return message;
    case 'CHUNK_EXISTS':
    case 'BYTES_LOST':
    case 'SECRET_UNREADABLE':
    case 'AUTHORIZATION_UNAVAILABLE':
    case 'RECORD_DAMAGED':
    case 'CONTRACT_BROKEN':
      return message.includes(data) ? message : `${message} (${data})`;
  }
}
