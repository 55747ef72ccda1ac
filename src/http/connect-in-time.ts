import type { Socket } from 'node:net';

/** A machine that is gone does not refuse a connection: it says nothing. */
export const CONNECT_TIMEOUT_MS = 2_000;

/** Ends a connection that does not come to be in time; tells when it has, which may be at once. */
export function connectInTime(socket: Socket, timeoutMs: number, onConnected: () => void = () => undefined): void {
  if (!socket.connecting) return onConnected();
  const event = 'encrypted' in socket ? 'secureConnect' : 'connect';
  const late = Object.assign(new Error('no connection in time'), { code: 'ETIMEDOUT' });
  const timer = setTimeout(() => socket.destroy(late), timeoutMs);
  socket.once('close', () => clearTimeout(timer));
  socket.once(event, () => {
    clearTimeout(timer);
    onConnected();
  });
}
