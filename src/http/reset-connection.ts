import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';

/** Ends a connection so that nobody takes it for a proper end: with a reset, or over TLS without the closing alert. */
export function resetConnection(socket: Socket): void {
  if (socket instanceof TLSSocket) socket.destroy();
  else socket.resetAndDestroy();
}
