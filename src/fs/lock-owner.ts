/** The owner of a lock, with all that is needed to tell whether its process still runs. */
export interface LockOwner {
  /** Random; distinguishes this lock from every other one. */
  readonly nonce: string;
  readonly pid: number;
  readonly processStart?: string;
  readonly pidNamespace?: string;
  readonly boot?: string;
  /** The start of its machine, by the wall clock at the time the lock was taken; missing in older locks. */
  readonly bootedAt?: number;
  readonly host: string;
  /** The time when the lock was taken, as an ISO date for humans. */
  readonly since: string;
}

/** A nonce becomes part of a file name. */
const NONCE = /^[\w-]{1,64}$/;

/** The first bytes of every lock file. A killed process or a full disk can leave a file that ends anywhere. */
const FIRST_BYTES = '{"nonce":"';

/** The content of this owner's lock file. */
export function lockText(owner: LockOwner): string {
  return `${JSON.stringify(owner)}\n`;
}

/** The owner in a lock file; undefined if the file is not a lock of ours or is still being written. */
export function parseOwner(text: string): LockOwner | undefined {
  try {
    const owner = JSON.parse(text) as Partial<LockOwner> | null;
    const isOwner = typeof owner?.nonce === 'string' && NONCE.test(owner.nonce) && Number.isInteger(owner.pid);
    return isOwner && typeof owner.host === 'string' ? (owner as LockOwner) : undefined;
  } catch {
    // Not JSON: another program's file, or a partly written lock.
    return undefined;
  }
}

/** Whether a file without an owner may be a partly written lock of ours; an empty file may be. */
export function isPartialLock(text: string): boolean {
  return FIRST_BYTES.startsWith(text) || text.startsWith(FIRST_BYTES);
}

/**
 * Matches the temporary files that making and breaking this lock leave behind when the process is killed; one such
 * name can contain another.
 */
export function lockLeftoverPattern(name: string): RegExp {
  return new RegExp(`^${name}(\\.[\\w-]+(\\.\\d+)?\\.(tmp|breaking))+$`);
}
