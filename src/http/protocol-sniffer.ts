import type { Socket } from 'node:net';

/** What a connection that speaks HTTP/2 from its first byte begins with (RFC 9113 §3.4); the rest of it follows from this. */
const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n');

/** `late`: nothing decisive came in time; `silent`: nothing at all. */
export type Spoken = 'http1' | 'http2' | 'late' | 'silent' | 'gone';

/**
 * What the client of a fresh connection speaks. Nothing is taken from the connection: the bytes that were looked at are
 * put back. `decided` is called once.
 */
export function sniff(socket: Socket, timeoutMs: number, decided: (spoken: Spoken) => void): void {
  let seen: Buffer = Buffer.alloc(0);
  const finish = (spoken: Spoken): void => {
    clearTimeout(timer);
    socket.off('readable', look).off('end', leave).off('close', leave).off('error', leave);
    // After the connection's end nothing can be put back, and nobody would read it.
    if (spoken !== 'http1' && spoken !== 'http2') return decided(spoken);
    socket.unshift(seen);
    socket.on('error', ignore);
    // Within 'readable' Node has planned to read more. It would do so after the new owner has paused the connection, and
    // from then on nothing could pause it: a body would fill the memory as fast as it comes.
    setImmediate(() => {
      socket.off('error', ignore);
      decided(socket.destroyed ? 'gone' : spoken);
    });
  };
  const leave = (): void => finish('gone');
  const look = (): void => {
    const bytes = socket.read() as Buffer | null;
    if (!bytes) return;
    seen = seen.length === 0 ? bytes : Buffer.concat([seen, bytes]);
    const length = Math.min(seen.length, PREFACE.length);
    if (!seen.subarray(0, length).equals(PREFACE.subarray(0, length))) finish('http1');
    else if (length === PREFACE.length) finish('http2');
  };
  const ignore = (): void => undefined;
  const timer = setTimeout(() => finish(seen.length === 0 ? 'silent' : 'late'), timeoutMs);
  socket.on('readable', look).once('end', leave).once('close', leave).once('error', leave);
}
