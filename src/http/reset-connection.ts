import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';

/**
 * Ends a connection so that nobody takes it for a proper end: with a reset, or over TLS without the closing alert. A Unix
 * socket knows no reset, and asking for one throws: it is only closed.
 */
export function resetConnection(socket: Socket): void {
  const canBeReset = !(socket instanceof TLSSocket) && socket.remoteAddress !== undefined;
  if (canBeReset) socket.resetAndDestroy();
  else socket.destroy();
}
