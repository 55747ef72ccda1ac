/** A machine failed, not the client. `retryable`: trying the same again later can help. */
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

export type FaultCode =
  /** No room left for bytes or records. */
  | 'STORAGE_FULL'
  /** The directory cannot be read or written. */
  | 'STORAGE_UNAVAILABLE'
  /** The store does not answer, or takes nothing right now. Whether the step was done is unknown: doing it again is safe. */
  | 'STORE_UNAVAILABLE'
  /** A chunk of that name exists already. */
  | 'CHUNK_EXISTS'
  /** Bytes that were committed are not there any more. */
  | 'BYTES_LOST'
  /** Another process uses this data directory. */
  | 'DIRECTORY_IN_USE'
  /** The authorization service cannot say whose a request is. */
  | 'AUTHORIZATION_UNAVAILABLE'
  /** Only one node's own state is known to be sound; what was read is not. */
  | 'RECORD_DAMAGED'
  /** A caller asked for what the interface forbids. Nothing was changed. */
  | 'CONTRACT_BROKEN';
