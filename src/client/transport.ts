/** Content that a transport can send as the body of one request. */
export interface Piece {
  /** In bytes. */
  readonly size: number;
}

/** Content that can be read at any offset that the server does not have yet. A `Blob` is one. */
export interface Source<P extends Piece> {
  /** In bytes; undefined while the end is unknown. */
  readonly size?: number;
  /** The bytes from `start` up to `end`, or to the end of the content if that comes first. */
  slice(start: number, end: number): P | Promise<P>;
}

/** One request, as the protocol needs it. */
interface TransportRequest<P extends Piece> {
  readonly url: string;
  readonly method: string;
  readonly headers: Headers;
  readonly body?: P;
  readonly signal: AbortSignal;
  /** Called with the number of bytes of the body that were sent so far, if the transport knows it. */
  readonly onProgress: (sent: number) => void;
}

/** Sends one request. Rejects if there is no response. */
export type Transport<P extends Piece> = (request: TransportRequest<P>) => Promise<Response>;
