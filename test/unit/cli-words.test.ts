import { chmod, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { alignColumns, formatBytes, formatDuration } from '../../src/cli/format-uploads.js';
import { describeStartupError } from '../../src/cli/startup-errors.js';
import { clearSocketPath } from '../../src/fs/unix-socket.js';
import { Fault, type FaultCode } from '../../src/model/fault.js';
import { temporaryDirectory, withoutRights } from '../support/temporary.js';

describe('startup errors', () => {
  const config = { data: '/srv/uploads' };

  function systemError(
    fields: Partial<NodeJS.ErrnoException> & { address?: string; port?: number; hostname?: string },
  ): Error {
    return Object.assign(new Error(`${fields.syscall ?? ''} ${fields.code ?? ''}`), fields);
  }

  test('a port that is taken is told with what to do, as Node reports it', async () => {
    const first = createServer();
    await new Promise<void>((resolve) => first.listen(0, '127.0.0.1', resolve));
    const { port } = first.address() as { port: number };
    const error = await new Promise((resolve) => createServer().once('error', resolve).listen(port, '127.0.0.1'));
    await new Promise((resolve) => first.close(resolve));
    expect(describeStartupError(error, config)).toBe(
      `cannot listen on 127.0.0.1:${port}: another process is listening there; stop it, or choose another address (port 0 picks a free port)`,
    );
  });

  test.each([
    [{ code: 'EACCES', syscall: 'listen', address: '0.0.0.0', port: 80 }, 'cannot listen on 0.0.0.0:80: no permission'],
    [
      { code: 'EADDRNOTAVAIL', syscall: 'listen', address: '192.0.2.1', port: 8080 },
      'this machine has no such address',
    ],
    [
      { code: 'EADDRINUSE', syscall: 'listen', address: '/run/a.sock', port: -1 },
      'cannot listen on /run/a.sock: another process is listening there; stop it, or choose another path',
    ],
    [
      { code: 'EACCES', syscall: 'listen', address: '/run/none/a.sock', port: -1 },
      'cannot listen on /run/none/a.sock: its directory does not exist or is not writable for the user of this process',
    ],
    [{ code: 'ENOTDIR', syscall: 'listen', address: '/etc/passwd/a', port: -1 }, 'a part of the path is a file'],
    [{ code: 'ENOTFOUND', syscall: 'getaddrinfo', hostname: 'nohost' }, 'the name nohost cannot be resolved'],
    [{ code: 'EACCES', syscall: 'mkdir', path: '/srv/uploads' }, 'no permission for /srv/uploads: give the user'],
    [{ code: 'EROFS', syscall: 'open', path: '/srv/uploads/lock' }, 'no permission for /srv/uploads/lock'],
  ])('a failed start is told so that one knows what to do (%#)', (fields, told) => {
    expect(describeStartupError(systemError(fields), config)).toContain(told);
  });

  // Issue 9, §6.
  test.each([
    ['a file', 'is an existing file that is not a socket; remove it or choose another path'],
    ['a socket in use', 'is in use by another process; stop it or choose another path'],
    [
      'the socket of another user',
      'belongs to another user; remove it if no process listens there, or choose another path',
    ],
  ])('what is at the path of a Unix socket is told, and of which listener it is: %s', async (what, why) => {
    const directory = await temporaryDirectory();
    await chmod(directory.path, 0o755);
    const path = join(directory.path, 'a.sock');
    const server = createServer();
    if (what === 'a file') await writeFile(path, '');
    else await new Promise<void>((resolve) => server.listen(path, resolve));
    if (what !== 'a file') await chmod(path, what === 'a socket in use' ? 0o777 : 0);
    const error: unknown = await withoutRights(() => clearSocketPath(path)).catch((reason: unknown) => reason);
    expect(describeStartupError(error, config)).toBe(`cannot listen: unix socket ${path} ${why}`);
    const admin = { address: { kind: 'unix', path }, open: [], hosts: [], insecure: false } as const;
    expect(describeStartupError(error, { ...config, admin })).toBe(
      `the admin listener cannot listen: unix socket ${path} ${why}. Set another address with \`admin\` or --admin, or disable it with "false"`,
    );
    await new Promise((resolve) => server.close(resolve));
    await directory.remove();
  });

  test.each<[FaultCode, string]>([
    ['DIRECTORY_IN_USE', 'the message'],
    ['STORAGE_UNAVAILABLE', 'the message; check that the user of this process can write to /srv/uploads'],
    ['STORAGE_FULL', 'the message; free some space on the disk of /srv/uploads'],
    ['RECORD_DAMAGED', 'the message (/srv/uploads)'],
  ])('%s is told so that one knows what to do', (code, told) => {
    expect(describeStartupError(new Fault(code, 'the message', false), config)).toContain(told);
  });

  describe('what we do not know', () => {
    test('is told with its stack', () => {
      expect(describeStartupError(new Error('strange'), config)).toMatch(/^Error: strange\n\s+at /);
    });

    test('is told even when it is no error', () => {
      expect(describeStartupError('strange', config)).toBe('strange');
    });
  });
});

describe('formatted uploads', () => {
  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [1536, '1.5 KiB'],
    [200 * 1024, '200 KiB'],
    [5 * 2 ** 30, '5.0 GiB'],
    [3 * 2 ** 50, '3072 TiB'],
  ])('%i bytes are %s', (count, words) => {
    expect(formatBytes(count)).toBe(words);
  });

  test.each([
    [-5, '0s'],
    [400, '0s'],
    [59_000, '59s'],
    [60_000, '1m'],
    [312_000, '5m 12s'],
    [3_600_000, '1h'],
    [3 * 86_400_000 + 4 * 3_600_000 + 59_000, '3d 4h'],
    [86_400_000 + 5000, '1d'],
  ])('%i milliseconds are %s', (ms, words) => {
    expect(formatDuration(ms)).toBe(words);
  });

  test('columns are as wide as their widest entry, and lines have no spaces at their end', () => {
    expect(
      alignColumns([
        ['A', 'B'],
        ['longer', ''],
      ]),
    ).toBe('A       B\nlonger\n');
  });
});
