import { Fault } from '../model/fault.js';
import type { Phase, Upload } from '../model/upload.js';

/** The phases in which an upload's bytes are on the disk; they are removed once it is answered or has ended. */
export const HOLDS_BYTES: ReadonlySet<Phase> = new Set(['receiving', 'complete', 'delivering', 'undelivered']);

/**
 * The room of an upload without a length: twice as much each time it is full, then in steps. `parts/record.lua` has the
 * same numbers.
 */
const FIRST_BYTES = 64 * 1024;
const STEP_BYTES = 4 * 1024 * 1024;

/** The part of an upload that says how much room it needs. */
export type Measured = Pick<Upload, 'phase' | 'offset' | 'length'>;

/**
 * The bytes of the spool that an upload takes: those that are there, and those that may still come. It follows from the
 * record alone, so that nothing stays reserved for an upload that has ended.
 * Reasons: docs/decisions/0037.
 */
export function roomOf({ phase, offset, length }: Measured): number {
  if (!HOLDS_BYTES.has(phase)) return 0;
  if (phase !== 'receiving') return offset;
  return length ?? nextRoom(offset);
}

function nextRoom(offset: number): number {
  if (offset >= STEP_BYTES) return (Math.floor(offset / STEP_BYTES) + 1) * STEP_BYTES;
  let bytes = FIRST_BYTES;
  while (bytes <= offset) bytes *= 2;
  return bytes;
}

/** How many uploads there may be, and how many bytes they may take; missing: no limit. */
export interface Room {
  readonly uploads?: number;
  readonly bytes?: number;
}

/** The limits of a step that takes room. */
export interface Capacity {
  /** For the uploads of the same client, of the same route, and for all. */
  readonly client?: Room;
  readonly route?: Room;
  readonly all?: Room;
  /** The bytes that may be reserved and not written yet, on the disk of the upload's node. */
  readonly unwrittenBytes?: number;
}

/** The limit that a step would exceed. */
export type Excess =
  'client-uploads' | 'client-bytes' | 'route-uploads' | 'route-bytes' | 'all-uploads' | 'all-bytes' | 'unwritten-bytes';

/** The result of a creation for which there is no room; nothing was created. */
export interface NoRoom {
  readonly exceeds: Excess;
}

/** Whether a creation found no room. */
export function isNoRoom(result: object | string): result is NoRoom {
  return typeof result === 'object' && 'exceeds' in result;
}

/** The fault of a step that would take more room than there is; it has changed nothing. */
export function noRoomFault({ exceeds }: NoRoom): Fault {
  return new Fault('STORAGE_FULL', 'the spool has no room for more bytes', true, { cause: { exceeds } });
}

/** Whether a step failed with `noRoomFault`, rather than because the disk is full. */
export function isNoRoomFault(error: unknown): error is Fault {
  return error instanceof Fault && typeof error.cause === 'object' && error.cause !== null && isNoRoom(error.cause);
}
