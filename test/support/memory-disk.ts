import { Stats } from 'node:fs';
import { Readable } from 'node:stream';
import type { DirectoryEntry, FileSystem } from '../../src/fs/files.js';

/** A file or directory: as every process sees it, and as a power cut leaves it. */
interface Inode {
  readonly kind: 'file' | 'directory';
  readonly number: number;
  modifiedAt: number;
  bytes: Buffer;
  readonly names: Map<string, Inode>;
  durableBytes: Buffer;
  durableNames: Map<string, Inode>;
  /** Parts that the next sync puts on the disk, as start and end. */
  unsynced: [number, number][];
  /** Names that the next sync of the directory puts on the disk; undefined for one that goes. */
  unsyncedNames: Map<string, Inode | undefined>;
}

interface OpenFile {
  readonly disk: MemoryDisk;
  readonly boot: number;
  readonly inode: Inode;
}

/**
 * The code an operation fails with; undefined for one that this kind of trouble never meets. `flags`: those of `open`, and
 * `grows` for a write that makes its file longer.
 */
export type Trouble = (operation: Operation, flags?: string) => string | undefined;

export type Operation = keyof FileSystem;

/** So many failures of a disk that has gone bad are enough to see how they are met. */
const ENOUGH_FAILURES = 3;

const disks = new Map<string, MemoryDisk>();
const openFiles = new Map<number, OpenFile>();
let lastNumber = 100;

/**
 * A disk in memory whose n-th operation fails, once or from then on. It keeps apart what every process sees and what a power
 * cut leaves. A sync that fails forgets what it should have written, as Linux does: the next one succeeds without it.
 */
export class MemoryDisk {
  /** Operations that could have failed so far. */
  operations = 0;
  failures = 0;
  /** Fulfilled when a lasting trouble was met often enough, or so many operations as wanted have followed it. */
  readonly isHopeless: Promise<void>;
  private readonly name = `disk-${lastNumber++}`;
  private readonly root = newInode('directory');
  private boot = 1;
  private trouble:
    { readonly at: number; readonly isLasting: boolean; readonly code: Trouble; readonly until: number } | undefined;
  private giveUp: () => void = () => undefined;

  constructor() {
    disks.set(this.name, this);
    this.isHopeless = new Promise((resolve) => (this.giveUp = resolve));
  }

  /** Where the process that runs now finds it: one from before the last crash has another path, and reaches nothing. */
  get path(): string {
    return `/${this.name}/boot-${this.boot}`;
  }

  /** Whether a trouble was met that still lasts. */
  get isSick(): boolean {
    return this.trouble?.isLasting === true && this.operations >= this.trouble.at;
  }

  /** An empty directory that has always been there. */
  makeDirectory(name: string): void {
    const directory = newInode('directory');
    this.root.names.set(name, directory);
    this.root.durableNames.set(name, directory);
  }

  /** The n-th operation from now on that can fail like this does. */
  fail(at: number, isLasting: boolean, code: Trouble, livesOn = Infinity): void {
    const first = this.operations + at;
    this.trouble = { at: first, isLasting, code, until: first + livesOn };
  }

  heal(): void {
    this.trouble = undefined;
  }

  /** The process is gone; after a power cut so is all that was not synced. */
  crash(how: 'kill' | 'power-cut'): void {
    this.boot++;
    if (how === 'power-cut') cutPower(this.root);
  }

  /** Every file was last touched so much earlier. */
  age(ms: number, inode = this.root): void {
    inode.modifiedAt -= ms;
    for (const child of inode.names.values()) this.age(ms, child);
  }

  /** The path of every file. */
  files(inode = this.root, path = ''): string[] {
    return [...inode.names].flatMap(([name, child]) =>
      child.kind === 'file' ? [`${path}${name}`] : this.files(child, `${path}${name}/`),
    );
  }

  /** The bytes of a file, as every process sees them. */
  contents(path: string): Buffer {
    return Buffer.from(this.find(path.split('/'))!.bytes);
  }

  /** The file has these bytes from now on, also after a power cut. */
  damage(path: string, bytes: Uint8Array): void {
    const inode = this.find(path.split('/'))!;
    inode.bytes = Buffer.from(bytes);
    inode.durableBytes = Buffer.from(bytes);
    inode.unsynced = [];
  }

  /** Another disk with the same files, as every process sees them; a power cut leaves them as they are. */
  copy(): MemoryDisk {
    const other = new MemoryDisk();
    copyNames(this.root, other.root);
    return other;
  }

  forget(): void {
    disks.delete(this.name);
    for (const [fd, { disk }] of openFiles) if (disk === this) openFiles.delete(fd);
  }

  /** How many descriptors are open. */
  get descriptors(): number {
    return [...openFiles.values()].filter(({ disk }) => disk === this).length;
  }

  /** Whether the process of this boot is still there. */
  runs(boot: number): boolean {
    return boot === this.boot;
  }

  /** Counts one operation; gives the code it fails with. */
  meet(operation: Operation, boot: number, flags?: string): string | undefined {
    if (!this.runs(boot)) return 'EIO';
    const code = (this.trouble?.code ?? anything)(operation, flags);
    if (code === undefined) return undefined;
    const number = ++this.operations;
    if (!this.trouble || number < this.trouble.at) return undefined;
    if (number === this.trouble.until) this.giveUp();
    if (number > this.trouble.at && !this.trouble.isLasting) return undefined;
    if (++this.failures === ENOUGH_FAILURES) this.giveUp();
    return code;
  }

  find(parts: readonly string[]): Inode | undefined {
    return parts.reduce<Inode | undefined>((inode, name) => inode?.names.get(name), this.root);
  }
}

function anything(): string {
  return 'EIO';
}

function newInode(kind: Inode['kind']): Inode {
  return {
    kind,
    number: lastNumber++,
    modifiedAt: Date.now(),
    bytes: Buffer.alloc(0),
    names: new Map(),
    durableBytes: Buffer.alloc(0),
    durableNames: new Map(),
    unsynced: [],
    unsyncedNames: new Map(),
  };
}

function copyNames(from: Inode, to: Inode): void {
  for (const [name, child] of from.names) {
    const bytes = Buffer.from(child.bytes);
    const copied = { ...newInode(child.kind), modifiedAt: child.modifiedAt, bytes, durableBytes: Buffer.from(bytes) };
    copyNames(child, copied);
    to.names.set(name, copied);
    to.durableNames.set(name, copied);
  }
}

function cutPower(inode: Inode): void {
  inode.bytes = Buffer.from(inode.durableBytes);
  inode.names.clear();
  for (const [name, child] of inode.durableNames) inode.names.set(name, child);
  forgetUnsynced(inode);
  for (const child of inode.names.values()) cutPower(child);
}

function forgetUnsynced(inode: Inode): void {
  inode.unsynced = [];
  inode.unsyncedNames.clear();
}

function putOnDisk(inode: Inode): void {
  const bytes = Buffer.alloc(inode.bytes.length);
  inode.durableBytes.copy(bytes);
  for (const [start, end] of inode.unsynced) inode.bytes.copy(bytes, start, start, end);
  inode.durableBytes = bytes;
  for (const [name, child] of inode.unsyncedNames)
    if (child) inode.durableNames.set(name, child);
    else inode.durableNames.delete(name);
  forgetUnsynced(inode);
}

function failure(code: string, operation: string): Error {
  return Object.assign(new Error(`${code}: ${operation}`), { code, syscall: operation });
}

interface Place {
  readonly disk: MemoryDisk;
  readonly boot: number;
  readonly parts: readonly string[];
}

function placeOf(path: string): Place {
  const [name = '', boot = '', ...parts] = path.split('/').filter((part) => part !== '');
  const disk = disks.get(name);
  if (!disk) throw failure('EIO', 'a disk that is gone');
  return { disk, boot: Number(boot.slice('boot-'.length)), parts };
}

function meet({ disk, boot }: Place | OpenFile, operation: Operation, flags?: string): void {
  const code = disk.meet(operation, boot, flags);
  if (code !== undefined) throw failure(code, operation);
}

function found({ disk, parts }: Place, operation: Operation): Inode {
  const inode = disk.find(parts);
  if (!inode) throw failure('ENOENT', operation);
  return inode;
}

function above({ disk, parts }: Place, operation: Operation): { readonly directory: Inode; readonly name: string } {
  const directory = disk.find(parts.slice(0, -1));
  if (!directory) throw failure('ENOENT', operation);
  return { directory, name: parts.at(-1)! };
}

function setName({ directory, name }: ReturnType<typeof above>, inode: Inode | undefined): void {
  if (inode) directory.names.set(name, inode);
  else directory.names.delete(name);
  directory.unsyncedNames.set(name, inode);
}

function statsOf(inode: Inode, isNamed = true): Stats {
  return Object.assign(Object.create(Stats.prototype) as Stats, {
    ino: inode.number,
    dev: 1,
    uid: process.geteuid?.() ?? 0,
    mode: 0o700,
    birthtimeMs: 1,
    size: inode.bytes.length,
    mtimeMs: inode.modifiedAt,
    nlink: isNamed ? 1 : 0,
    isFile: () => inode.kind === 'file',
    isDirectory: () => inode.kind === 'directory',
  });
}

function opened(fd: number): OpenFile {
  const file = openFiles.get(fd);
  if (!file) throw failure('EBADF', 'descriptor');
  return file;
}

function put(inode: Inode, bytes: Uint8Array, position: number): void {
  const size = Math.max(inode.bytes.length, position + bytes.length);
  const all = Buffer.alloc(size);
  inode.bytes.copy(all);
  all.set(bytes, position);
  inode.bytes = all;
  inode.modifiedAt = Date.now();
  inode.unsynced.push([position, position + bytes.length]);
}

function resize(inode: Inode, size: number): void {
  const all = Buffer.alloc(size);
  inode.bytes.copy(all);
  inode.bytes = all;
}

/** A write that fails has put the first half of its bytes. */
function write(fd: number, bytes: Uint8Array, position: number, operation: 'write' | 'writev'): number {
  const file = opened(fd);
  try {
    meet(file, operation, position + bytes.length > file.inode.bytes.length ? 'grows' : undefined);
  } catch (error) {
    if (file.disk.runs(file.boot)) put(file.inode, bytes.subarray(0, bytes.length >> 1), position);
    throw error;
  }
  put(file.inode, bytes, position);
  return bytes.length;
}

function sync(fd: number, operation: 'fsync' | 'fdatasync'): void {
  const file = opened(fd);
  try {
    meet(file, operation);
  } catch (error) {
    if (file.disk.runs(file.boot)) forgetUnsynced(file.inode);
    throw error;
  }
  putOnDisk(file.inode);
}

function open(path: string, flags: string): number {
  const place = placeOf(path);
  meet(place, 'open', flags);
  const known = place.disk.find(place.parts);
  if (known && flags === 'wx') throw failure('EEXIST', 'open');
  if (!known && flags.startsWith('r')) throw failure('ENOENT', 'open');
  const inode = known ?? newInode('file');
  if (!known) setName(above(place, 'open'), inode);
  if (flags === 'w') resize(inode, 0);
  const fd = lastNumber++;
  openFiles.set(fd, { disk: place.disk, boot: place.boot, inode });
  return fd;
}

function close(fd: number): void {
  const file = opened(fd);
  // Whatever the system says, the descriptor is gone.
  openFiles.delete(fd);
  meet(file, 'close');
}

function read(fd: number, into: Uint8Array, position: number, operation: 'read' | 'readv'): number {
  const file = opened(fd);
  meet(file, operation);
  const bytes = file.inode.bytes.subarray(position, position + into.length);
  into.set(bytes);
  return bytes.length;
}

function readv(fd: number, buffers: readonly Uint8Array[], position: number): number {
  const bytes = new Uint8Array(buffers.reduce((sum, { length }) => sum + length, 0));
  const got = read(fd, bytes, position, 'readv');
  let at = 0;
  for (const buffer of buffers) {
    buffer.set(bytes.subarray(at, at + buffer.length));
    at += buffer.length;
  }
  return got;
}

function unlink(path: string): void {
  const place = placeOf(path);
  meet(place, 'unlink');
  found(place, 'unlink');
  setName(above(place, 'unlink'), undefined);
}

function rmdir(path: string): void {
  const place = placeOf(path);
  meet(place, 'rmdir');
  if (found(place, 'rmdir').names.size > 0) throw failure('ENOTEMPTY', 'rmdir');
  setName(above(place, 'rmdir'), undefined);
}

function mkdir(path: string): void {
  const place = placeOf(path);
  meet(place, 'mkdir');
  if (place.disk.find(place.parts)) throw failure('EEXIST', 'mkdir');
  setName(above(place, 'mkdir'), newInode('directory'));
}

function removeTree(path: string): void {
  const place = placeOf(path);
  const tree = place.disk.find(place.parts);
  if (!tree) return;
  for (const name of [...tree.names.keys()]) unlink(`${path}/${name}`);
  rmdir(path);
}

function rename(from: string, to: string): void {
  const place = placeOf(from);
  meet(place, 'rename');
  const inode = found(place, 'rename');
  setName(above(placeOf(to), 'rename'), inode);
  setName(above(place, 'rename'), undefined);
}

function link(existing: string, path: string): void {
  const place = placeOf(path);
  meet(place, 'link');
  if (place.disk.find(place.parts)) throw failure('EEXIST', 'link');
  setName(above(place, 'link'), found(placeOf(existing), 'link'));
}

function fstat(fd: number): Stats {
  const file = opened(fd);
  meet(file, 'fstat');
  return statsOf(file.inode, isNamed(file.disk.find([])!, file.inode));
}

function isNamed(directory: Inode, inode: Inode): boolean {
  return [...directory.names.values()].some((child) => child === inode || isNamed(child, inode));
}

function look(path: string, operation: Operation): Inode {
  const place = placeOf(path);
  meet(place, operation);
  return found(place, operation);
}

function* entriesOf({ names }: Inode): Generator<DirectoryEntry> {
  for (const [name, { kind }] of [...names])
    yield {
      name,
      isFile: () => kind === 'file',
      isDirectory: () => kind === 'directory',
      isSymbolicLink: () => false,
    };
}

/** Nothing is done before its caller has gone on, and a failure is a rejection. */
async function soon<T>(task: () => T): Promise<T> {
  await Promise.resolve();
  return task();
}

/** All disks of this kind; which one is meant, the path says. */
export const memoryDisks: FileSystem = {
  open: (path, flags) => soon(() => open(path, flags)),
  close: (fd) => soon(() => close(fd)),
  read: (fd, into, position) => soon(() => read(fd, into, position, 'read')),
  readv: (fd, buffers, position) => soon(() => readv(fd, buffers, position)),
  write: (fd, bytes, position) => soon(() => write(fd, bytes, position, 'write')),
  writev: (fd, buffers, position) => soon(() => write(fd, Buffer.concat(buffers), position, 'writev')),
  fsync: (fd) => soon(() => sync(fd, 'fsync')),
  fdatasync: (fd) => soon(() => sync(fd, 'fdatasync')),
  ftruncate: (fd, size) =>
    soon(() => {
      meet(opened(fd), 'ftruncate');
      resize(opened(fd).inode, size);
    }),
  fstat: (fd) => soon(() => fstat(fd)),
  stat: (path) => soon(() => statsOf(look(path, 'stat'))),
  lstat: (path) => soon(() => statsOf(look(path, 'lstat'))),
  access: (path) => soon(() => void look(path, 'access')),
  utimes: (path, _accessedAt, modifiedAt) => soon(() => void (look(path, 'utimes').modifiedAt = modifiedAt.getTime())),
  mkdir: (path) => soon(() => mkdir(path)),
  rmdir: (path) => soon(() => rmdir(path)),
  readdir: (path) => soon(() => [...look(path, 'readdir').names.keys()]),
  readdirEntries: (path) => soon(() => [...entriesOf(look(path, 'readdirEntries'))]),
  opendir: (path) => soon(() => Readable.from(entriesOf(look(path, 'opendir')))),
  rename: (from, to) => soon(() => rename(from, to)),
  link: (existing, path) => soon(() => link(existing, path)),
  unlink: (path) => soon(() => unlink(path)),
  removeTree: (path) => soon(() => removeTree(path)),
  openSync: (path) => open(path, 'r'),
  readSync: (fd, into, position) => read(fd, into, position, 'read'),
  closeSync: (fd) => close(fd),
  readdirEntriesSync: (path) => [...entriesOf(look(path, 'readdirEntries'))],
};
