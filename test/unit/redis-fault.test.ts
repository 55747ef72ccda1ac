import { expect, test } from '@jest/globals';
import { storeFault } from '../../src/store/redis/errors.js';
import { settingsFor } from '../support/opened-redis.js';

const settings = settingsFor(6379, { password: 'correct-horse' });

function systemError(syscall: string, code: string, message: string): Error {
  return Object.assign(new Error(message), { syscall, code });
}

test('a file that cannot be read is not a socket that is not there', () => {
  const missing = systemError('open', 'ENOENT', "ENOENT: no such file or directory, open '/opt/lua/commit.lua'");
  expect(storeFault(missing, settings).message).toMatch(/ENOENT: no such file or directory, open/);
  const closed = systemError('scandir', 'EACCES', "EACCES: permission denied, scandir '/opt/lua'");
  expect(storeFault(closed, settings).message).toMatch(/EACCES: permission denied, scandir/);
  const socket = systemError('connect', 'ENOENT', 'connect ENOENT /run/redis.sock');
  expect(storeFault(socket, settings).message).toMatch(/there is no such socket/);
});

test('a server that repeats what it was told does not make us repeat the password', () => {
  const words = "ERR unknown command 'AUTH', with args beginning with: 'correct-horse'";
  const fault = storeFault(new Error(words), settings);
  expect(`${fault.message} ${String(fault.cause)}`).not.toContain('correct-horse');
  expect(fault.message).toContain("ERR unknown command 'AUTH'");
});
