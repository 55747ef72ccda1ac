import type { ServerHttp2Stream } from 'node:http2';

const RESET_STREAMS = new WeakSet<ServerHttp2Stream>();

/**
 * Notices whether the client resets its request (RFC 9113 §6.4) instead of ending it; call it before anything reads from the
 * stream. Node emits 'end' for both. Once the response has ended it emits no 'aborted', and the code of the reset may be
 * NO_ERROR, so only the order tells them apart: a reset stream is closed before its end is pushed (Node 20 to 26).
 */
export function watchForReset(stream: ServerHttp2Stream): void {
  const push = stream.push.bind(stream);
  let hasEnded = hasEndedAlready(stream);
  stream.push = (bytes: unknown, encoding?: BufferEncoding) => {
    if (bytes === null && !hasEnded) {
      hasEnded = true;
      if (stream.closed) RESET_STREAMS.add(stream);
    }
    return push(bytes, encoding);
  };
}

/** Whether the end came in the same read as the head, before anyone could watch. Node has no public API for it. */
function hasEndedAlready(stream: ServerHttp2Stream): boolean {
  const { _readableState: state } = stream as ServerHttp2Stream & { readonly _readableState?: { ended?: boolean } };
  return stream.endAfterHeaders || state?.ended === true;
}

/** Whether the client has reset its request, so that a body which seems to end is not complete. */
export function wasReset(stream: ServerHttp2Stream): boolean {
  return RESET_STREAMS.has(stream);
}
