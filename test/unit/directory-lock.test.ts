import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { utimesSync } from 'node:fs';
import { readdir, readFile, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { hostname, uptime } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { LockOwner } from '../../src/fs/lock-owner.js';
import { processStart } from '../../src/store/embedded/boot.js';
import { DirectoryLock, type DirectoryLockOptions, thisOwner } from '../../src/store/embedded/directory-lock.js';
import { temporaryDirectory, type TemporaryDirectory, until, within } from '../support/temporary.js';

let directory: TemporaryDirectory;
const held: DirectoryLock[] = [];
const children: ChildProcess[] = [];

/** A heart that beats fast, so that its stopping is seen soon. */
const fast: DirectoryLockOptions = { heartbeatMs: 40, staleMs: 200 };
/** Nothing may depend on waiting where death or life can be proved. */
const unhurried: DirectoryLockOptions = { heartbeatMs: 600_000, staleMs: 6_000_000 };

const DAY_MS = 86_400_000;

const path = (): string => join(directory.path, 'lock');

async function take(options: DirectoryLockOptions = {}): Promise<DirectoryLock> {
  const lock = await DirectoryLock.take(directory.path, options);
  held.push(lock);
  return lock;
}

async function elsewhere(over: Partial<LockOwner>): Promise<LockOwner> {
  return { ...(await thisOwner()), ...over };
}

async function leaveBehind(owner: LockOwner, ageMs = 0): Promise<void> {
  await writeFile(path(), JSON.stringify(owner));
  const then = new Date(Date.now() - ageMs);
  await utimes(path(), then, then);
}

/** A process of its own that will not end by itself. */
async function living(): Promise<ChildProcess & { pid: number }> {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000); console.log("up")']);
  children.push(child);
  await once(child.stdout, 'data');
  return child as ChildProcess & { pid: number };
}

function isRunning({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode === null && signalCode === null;
}

async function killed(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}

beforeEach(async () => {
  directory = await temporaryDirectory();
});
afterEach(async () => {
  await Promise.all(held.splice(0).map((lock) => lock.release()));
  await Promise.all(children.splice(0).filter(isRunning).map(killed));
  await directory.remove();
});

describe('a data directory', () => {
  test('belongs to one at a time, and the other is told who and what to do', async () => {
    const lock = await take();
    const refused = await take().catch((fault: unknown) => fault);
    expect(refused).toMatchObject({ name: 'Fault', code: 'DIRECTORY_IN_USE' });
    expect(String(refused)).toContain(directory.path);
    expect(String(refused)).toContain(`process ${process.pid} on host ${hostname()}`);
    expect(String(refused)).toContain('stop the other process');
    await lock.release();
    await lock.release();
    expect(await readdir(directory.path)).toEqual([]);
    await take();
    expect(await readdir(directory.path)).toEqual(['lock']);
  });

  test('is made when it is missing', async () => {
    const lock = await DirectoryLock.take(join(directory.path, 'new', 'data'));
    held.push(lock);
    expect((await stat(join(directory.path, 'new', 'data'))).mode & 0o777).toBe(0o700);
  });

  test('goes to one of many who start together', async () => {
    const starts = await Promise.allSettled(Array.from({ length: 20 }, () => take()));
    expect(starts.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(await readdir(directory.path)).toEqual(['lock']);
  });

  test('that cannot be made is a fault that says why', async () => {
    await writeFile(join(directory.path, 'file'), '');
    await expect(DirectoryLock.take(join(directory.path, 'file', 'data'))).rejects.toMatchObject({
      code: 'STORAGE_UNAVAILABLE',
      message: expect.stringContaining('ENOTDIR'),
    });
  });
});

describe('a lock that was left behind', () => {
  test('by a killed process is taken over at once, however fresh', async () => {
    const child = await living();
    const owner = await elsewhere({ pid: child.pid, processStart: await processStart(child.pid) });
    await leaveBehind(owner);
    await expect(take(unhurried)).rejects.toMatchObject({ code: 'DIRECTORY_IN_USE' });
    await killed(child);
    await within(take(unhurried), 'the takeover');
  });

  test('by a process whose number another one has now is taken over at once', async () => {
    const child = await living();
    await leaveBehind(await elsewhere({ pid: child.pid, processStart: '1' }));
    await within(take(unhurried), 'the takeover');
  });

  test('by a process that was killed and that nobody has looked after yet is taken over at once', async () => {
    const parent = spawn('sh', ['-c', 'sleep 60 & echo $!; exec sleep 60']);
    children.push(parent);
    const pid = Number(String(await within(once(parent.stdout, 'data'), 'its number')));
    const program = (): Promise<string> => readFile(`/proc/${parent.pid!}/comm`, 'utf8');
    await until(async () => (await program()) === 'sleep\n', 'a parent that looks after nobody');
    process.kill(pid, 'SIGKILL');
    await until(async () => (await processStart(pid)) === 'ended', 'its end');
    const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ');
    await leaveBehind(await elsewhere({ pid, processStart: fields[19] }));
    await within(take(unhurried), 'the takeover');
  });

  test('before the machine started again is taken over at once', async () => {
    const ageMs = (uptime() + 60) * 1000;
    await leaveBehind(await elsewhere({ boot: 'an earlier one', processStart: '1' }), ageMs);
    // Silent for long enough, however short ago the machine started; only its heartbeat would be waited for.
    await within(take({ ...unhurried, staleMs: 60_000 }), 'the takeover');
  });

  test('in another container is taken over when its heart has stopped', async () => {
    const owner = await elsewhere({ pidNamespace: 'pid:[1]', nonce: 'elsewhere' });
    await leaveBehind(owner, 60_000);
    await within(take(fast), 'the takeover of an old one');
    await held.pop()!.release();
    await leaveBehind(owner);
    await within(take(fast), 'the takeover of a fresh one');
  });

  test.each([
    ['another name', { host: 'another' }],
    ['the same name, as a container has that was moved', {}],
  ])('on another machine with %s, whose clock may be wrong, is watched before it is taken over', async (_, host) => {
    const owner = await elsewhere({ ...host, boot: 'another', nonce: 'elsewhere' });
    await leaveBehind(owner, 60_000);
    const taking = DirectoryLock.take(directory.path, fast);
    let beat = Promise.resolve();
    const beating = setInterval(() => {
      beat = utimes(path(), new Date(1000), new Date(Date.now() - 60_000));
    }, 5);
    await expect(taking).rejects.toMatchObject({ code: 'DIRECTORY_IN_USE' });
    clearInterval(beating);
    // Or it would be taken for one of the next holder's.
    await beat;
    await within(take(fast), 'the takeover');
  });

  // Issue 8: a clock that is set by a day, forward or back, while the owner lives.
  test.each([
    ['forward by a day', -DAY_MS],
    ['forward by twenty seconds', -20_000],
    ['back by twenty seconds', 20_000],
    ['back by a day', DAY_MS],
  ])('in another container, since when the clock was set %s, is watched before it is taken over', async (_, byMs) => {
    const { bootedAt, ...rest } = await elsewhere({ pidNamespace: 'pid:[1]', nonce: 'elsewhere' });
    for (const owner of [{ ...rest, bootedAt: bootedAt! + byMs }, rest]) {
      await leaveBehind(owner, -byMs);
      const taking = DirectoryLock.take(directory.path, fast);
      const beating = setInterval(() => utimesSync(path(), new Date(), new Date()), 5);
      await expect(taking.finally(() => clearInterval(beating))).rejects.toMatchObject({ code: 'DIRECTORY_IN_USE' });
      // However late its last beat was by the clock: nobody waits longer than for a fresh one.
      await leaveBehind(owner, -byMs);
      await within(take(fast), 'the takeover');
      await held.pop()!.release();
    }
  });

  test('half-written or foreign is left alone while it is fresh, and taken over later', async () => {
    for (const content of ['', '{"nonce":', '"text"', 'null']) {
      await writeFile(path(), content);
      await within(take(fast), 'the takeover');
      await held.pop()!.release();
    }
  });

  test('is broken by one of many who start together', async () => {
    for (let round = 0; round < 20; round++) {
      await leaveBehind(await elsewhere({ processStart: '1', nonce: `dead-${round}` }));
      const starts = await Promise.allSettled(Array.from({ length: 8 }, () => take(unhurried)));
      expect(starts.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
      expect(starts.filter(({ status }) => status === 'rejected')).toHaveLength(7);
      await Promise.all(held.splice(0).map((lock) => lock.release()));
    }
  });

  test('by one that died while it broke another is broken as well', async () => {
    const dead = await elsewhere({ processStart: '1', nonce: 'dead' });
    await leaveBehind(dead);
    await writeFile(`${path()}.dead.breaking`, JSON.stringify({ ...dead, nonce: 'dead-too' }));
    await writeFile(`${path()}.dead-too.tmp`, 'rest');
    await within(take(unhurried), 'the takeover');
    expect(await readdir(directory.path)).toEqual(['lock']);
  });
});

describe('the holder of a lock', () => {
  test('in another container is recognised by its heartbeat', async () => {
    const owner = await elsewhere({ pidNamespace: 'pid:[1]', nonce: 'elsewhere' });
    const patient = { ...fast, staleMs: 10_000 };
    await take({ ...patient, owner });
    await expect(take(patient)).rejects.toMatchObject({ code: 'DIRECTORY_IN_USE' });
    const before = (await stat(path())).mtimeMs;
    await until(async () => (await stat(path())).mtimeMs > before, 'a heartbeat');
  });

  test.each([
    ['says whose it is', (owner: LockOwner) => JSON.stringify(owner)],
    ['says nothing, as on a full disk', () => ''],
  ])('notices that it was taken for dead, and leaves the new lock alone, which %s', async (_, textOf) => {
    // The next one often gets the number of a file that was removed.
    for (let round = 0; round < 5; round++) {
      const lock = await take({ ...fast, owner: await elsewhere({ nonce: `first-${round}` }) });
      expect(lock.lost.aborted).toBe(false);
      const text = textOf(await elsewhere({ nonce: 'second' }));
      await unlink(path());
      await writeFile(path(), text);
      await until(() => lock.lost.aborted, 'the loss');
      await lock.release();
      expect(await readFile(path(), 'utf8')).toBe(text);
      await unlink(path());
    }
  });

  test('that stood still does not stop the one that took over', async () => {
    const sleeping = { heartbeatMs: 600_000, staleMs: 100 };
    const first = await take({ ...sleeping, owner: await elsewhere({ nonce: 'first', pidNamespace: 'pid:[1]' }) });
    const second = await take({ ...sleeping, heartbeatMs: 20 });
    await first.release();
    const { mtimeMs } = await stat(path());
    await until(async () => (await stat(path())).mtimeMs > mtimeMs, 'a heartbeat');
    expect(second.lost.aborted).toBe(false);
    await second.release();
    expect(await readdir(directory.path)).toEqual([]);
  });
});

test('two processes cannot share a directory, and after SIGKILL the next one starts without waiting', async () => {
  const program = `
    const { DirectoryLock } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/store/embedded/directory-lock.ts'))});
    await DirectoryLock.take(process.argv[1]);
    console.log('locked');
    setInterval(() => {}, 1000);`;
  const run = (): ChildProcess => {
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program, directory.path]);
    children.push(child);
    return child;
  };
  for (let round = 0; round < 2; round++) {
    const child = run();
    expect(String(await within(once(child.stdout!, 'data'), 'the lock'))).toContain('locked');
    const refused = await take(unhurried).catch((fault: unknown) => fault);
    expect(refused).toMatchObject({
      code: 'DIRECTORY_IN_USE',
      message: expect.stringContaining(`process ${child.pid!} `),
    });
    await killed(child);
  }
  await within(take(unhurried), 'the takeover');
});
