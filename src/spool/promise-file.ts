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

/** Keeps the number in a file that exists, unless a larger one is there; durably where that is asked for. */
export async function raisePromise(path: string, number: number, durable: boolean): Promise<void> {
  const before = await readWhole(path);
  const numbers = numbersIn(before);
  if (Math.max(...numbers) >= number) return;
  const fd = await open(path, 'r+');
  const slot = numbers[0]! <= numbers[1]! ? 0 : 1;
  const start = slot * SLOT_BYTES;
  try {
    await writeAll(fd, Buffer.from(lineOf(number), 'latin1'), start);
    if (durable) await fdatasync(fd);
  } catch (error) {
    // A number whose sync failed must not be found: the next one would believe it, and a sync that succeeds then proves nothing.
    await writeAll(fd, slotOf(before, start), start).catch(() => undefined);
    throw error;
  } finally {
    await close(fd);
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
