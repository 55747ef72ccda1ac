import type { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';

/**
 * Where the connection ends with the response, Node closes it at once, and a client that is still sending gets a reset
 * that may take the response away (RFC 9112 §9.6). Here the end is sent, and the closing waits for the body's end: whoever
 * calls this limits how long that may take.
 */
export function lingerBeforeClosing(req: IncomingMessage): void {
  const { socket } = req;
  const close = (): void => Socket.prototype.destroySoon.call(socket);
  socket.destroySoon = () => {
    if (req.complete || req.destroyed) return close();
    socket.end();
    req.once('close', close);
  };
}
