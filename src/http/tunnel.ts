import type { Socket } from 'node:net';

/** Two connections that are one from now on: what one sends the other gets, ends and breaks included. */
export function joinSockets(one: Socket, other: Socket): Promise<void> {
  const closed = [forward(one, other), forward(other, one)];
  return Promise.all(closed).then(() => undefined);
}

function forward(from: Socket, to: Socket): Promise<void> {
  from.setTimeout(0);
  from.setNoDelay(true);
  from.setKeepAlive(true, KEEP_ALIVE_MS);
  // Whoever has said everything may still listen.
  from.allowHalfOpen = true;
  from.on('error', () => to.destroy());
  from.pipe(to);
  return new Promise((resolve) => {
    from.once('close', () => {
      // With a proper end everything it sent is on its way; otherwise the other side must not take it for one.
      if (from.readableEnded) to.destroySoon();
      else to.destroy();
      resolve();
    });
  });
}

/** A peer that vanished without a word is noticed by the kernel: a tunnel may be silent for as long as it likes. */
const KEEP_ALIVE_MS = 60_000;
