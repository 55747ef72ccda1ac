/** A failure of a machine, not of the client. `retryable`: the same step may succeed later. */
export class Fault extends Error {
  constructor(
    readonly code: FaultCode,
    message: string,
    readonly retryable: boolean,
    options?: { cause?: unknown },
  ) {
    super(message, options);
    this.name = 'Fault';
  }
}

/** The kinds of `Fault`. */
export type FaultCode =
  /** No space is left for bytes or records. */
  | 'STORAGE_FULL'
  /** The directory cannot be read or written. */
  | 'STORAGE_UNAVAILABLE'
  /**
   * The store does not answer or accepts nothing right now. The step may or may not have happened; repeating it is
   * safe.
   */
  | 'STORE_UNAVAILABLE'
  /** A chunk of that name exists already. */
  | 'CHUNK_EXISTS'
  /** No key opens a value that is kept encrypted. */
  | 'SECRET_UNREADABLE'
  /** Committed bytes are missing or damaged. */
  | 'BYTES_LOST'
  /** Another process uses this data directory. */
  | 'DIRECTORY_IN_USE'
  /** The authorization service did not give a usable response. */
  | 'AUTHORIZATION_UNAVAILABLE'
  /** Stored data is damaged: a record, or the file with the node's name. */
  | 'RECORD_DAMAGED'
  /** A caller broke the contract of the interface. Nothing was changed. */
  | 'CONTRACT_BROKEN';
