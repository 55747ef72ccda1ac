import { createHash, randomFillSync } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';

export interface DemoFile {
  readonly path: string;
  readonly name: string;
  readonly size: number;
  readonly sha256: string;
}

/** Something the person who started the demo can put right. */
export class Hindrance extends Error {}

const MEBIBYTE = 1024 * 1024;
const MADE_SIZE = 256 * MEBIBYTE;
/** Below this there is no room for three cuts and a kill. */
const SMALLEST = 64;

/** The file that is named, or one made on the spot in `directory`. */
export async function demoFile(named: string | undefined, directory: string): Promise<DemoFile> {
  return named === undefined ? makeFile(directory) : readFile(named);
}

async function readFile(named: string): Promise<DemoFile> {
  // npm runs scripts in the package's directory; the person means their own.
  const path = resolve(process.env['INIT_CWD'] ?? '.', named);
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile()) throw new Hindrance(`${path} is no file that could be uploaded.`);
  if (found.size < SMALLEST) {
    throw new Hindrance(`${path} has ${found.size} bytes: too few to be cut three times (at least ${SMALLEST}).`);
  }
  await needSpace(found.size);
  const hash = createHash('sha256');
  for await (const bytes of createReadStream(path, { highWaterMark: MEBIBYTE })) hash.update(bytes as Buffer);
  return { path, name: basename(path), size: found.size, sha256: hash.digest('hex') };
}

async function makeFile(directory: string): Promise<DemoFile> {
  await needSpace(2 * MADE_SIZE);
  const path = join(directory, 'holiday.mov');
  const hash = createHash('sha256');
  const file = await open(path, 'w');
  try {
    const bytes = Buffer.alloc(MEBIBYTE);
    for (let written = 0; written < MADE_SIZE; written += bytes.length) {
      hash.update(randomFillSync(bytes));
      await file.write(bytes);
    }
  } finally {
    await file.close();
  }
  return { path, name: basename(path), size: MADE_SIZE, sha256: hash.digest('hex') };
}

async function needSpace(bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(tmpdir());
  if (bavail * bsize > bytes * 1.05) return;
  const needed = Math.ceil((bytes * 1.05) / MEBIBYTE);
  throw new Hindrance(`The demo needs ${needed} MiB in ${tmpdir()}; TMPDIR=/some/where names another place.`);
}
