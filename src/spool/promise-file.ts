import { crc32 } from 'node:zlib';
import { close, fdatasync, open, readWhole, writeAll } from '../disk/files.js';

/** Two places of this many bytes, written in turn: a write that is torn leaves the one before it as it was. */
const SLOT_BYTES = 32;
const SLOTS = [0, 1] as const;

const LINE = /^(\d{16}) ([0-9a-f]{8})\n$/;

/** The largest number in the file; 0 when there is none, or none was ever written whole. */
export async function readPromise(path: string): Promise<number> {
  return Math.max(...numbersIn(await readWhole(path)), 0);
}

export interface PromiseDurability {
  /** It has to survive a power cut. */
  readonly durable: boolean;
  /**
   * Up to which number this process knows that it does. A larger one was written by another process, which may have been
   * killed before it synced it, or after that had failed: it is written and synced once more before anything relies on it.
   */
  readonly proven: number;
}

/** Keeps the number in a file that exists, unless a larger one is there; gives the one that is certainly kept from now on. */
export async function raisePromise(
  path: string,
  number: number,
  { durable, proven }: PromiseDurability,
): Promise<number> {
  const before = await readWhole(path);
  const numbers = numbersIn(before);
  const largest = Math.max(...numbers);
  const isProven = !durable || largest <= proven;
  if (largest >= number && isProven) return largest;
  const fd = await open(path, 'r+');
  try {
    if (!isProven) await put(fd, numbers.indexOf(largest), largest, { before, durable });
    if (largest < number) await put(fd, numbers[0]! <= numbers[1]! ? 0 : 1, number, { before, durable });
  } finally {
    await close(fd);
  }
  return Math.max(largest, number);
}

interface Writing {
  /** All bytes of the file, as they were. */
  readonly before: Buffer;
  readonly durable: boolean;
}

async function put(fd: number, slot: number, number: number, { before, durable }: Writing): Promise<void> {
  const start = slot * SLOT_BYTES;
  try {
    await writeAll(fd, Buffer.from(lineOf(number), 'latin1'), start);
    if (durable) await fdatasync(fd);
  } catch (error) {
    // A number whose sync failed must not be found: the next one would believe it, and a sync that succeeds then proves nothing.
    await writeAll(fd, slotOf(before, start), start).catch(() => undefined);
    throw error;
  }
}

/** The bytes of a slot; blank where the file ends before it does. */
function slotOf(bytes: Buffer, start: number): Buffer {
  const slot = Buffer.alloc(SLOT_BYTES, ' ');
  slot.set(bytes.subarray(start, start + SLOT_BYTES));
  return slot;
}

function lineOf(number: number): string {
  const digits = String(number).padStart(16, '0');
  return `${digits} ${checksum(digits)}\n`;
}

/** One a slot; -1 for what is no number of ours. */
function numbersIn(bytes: Buffer): number[] {
  return SLOTS.map((slot) => {
    const start = slot * SLOT_BYTES;
    const [, digits, sum] = LINE.exec(bytes.toString('latin1', start, start + 26)) ?? [];
    return digits !== undefined && sum === checksum(digits) ? Number(digits) : -1;
  });
}

function checksum(digits: string): string {
  return crc32(digits).toString(16).padStart(8, '0');
}
