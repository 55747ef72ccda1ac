/** Who holds a lock, with all that is needed to tell whether it still lives. */
export interface LockOwner {
  /** Tells this lock from every other one. */
  readonly nonce: string;
  readonly pid: number;
  readonly processStart?: string;
  readonly pidNamespace?: string;
  readonly boot?: string;
  /** When its machine was started, by the clock of the wall as it was when the lock was taken; missing in older locks. */
  readonly bootedAt?: number;
  readonly host: string;
  /** For people. */
  readonly since: string;
}

/** It becomes part of a file's name. */
const NONCE = /^[\w-]{1,64}$/;

/** How every lock file begins; one that a killed process or a full disk left behind may end anywhere in it. */
const FIRST_BYTES = '{"nonce":"';

/** The lock file of this owner. */
export function lockText(owner: LockOwner): string {
  return `${JSON.stringify(owner)}\n`;
}

/** The owner that a lock file names; undefined when it is no lock of ours, or still being written. */
export function parseOwner(text: string): LockOwner | undefined {
  try {
    const owner = JSON.parse(text) as Partial<LockOwner> | null;
    const isOwner = typeof owner?.nonce === 'string' && NONCE.test(owner.nonce) && Number.isInteger(owner.pid);
    return isOwner && typeof owner.host === 'string' ? (owner as LockOwner) : undefined;
  } catch {
    // Not JSON: somebody else's file, or half of one.
    return undefined;
  }
}

/** Whether a file that names no owner may be the beginning of a lock of ours: an empty one may be. */
export function isPartialLock(text: string): boolean {
  return FIRST_BYTES.startsWith(text) || text.startsWith(FIRST_BYTES);
}

/** The names that making and breaking the lock of this name leave behind when they are killed, one in the other. */
export function lockLeftoverPattern(name: string): RegExp {
  return new RegExp(`^${name}(\\.[\\w-]+(\\.\\d+)?\\.(tmp|breaking))+$`);
}
