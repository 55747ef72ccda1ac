import type { ClientRequest, IncomingMessage } from 'node:http';

/**
 * The answer to a request of ours. Fails when there is none, also with 101: Node ends such a request without an error, and
 * then no time counts for it any more.
 */
export function answerTo(request: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.once('response', resolve);
    request.once('error', reject);
    request.once('upgrade', (_answer, socket) => {
      socket.destroy();
      reject(new Error('the answer is a switch to another protocol, which nobody asked for'));
    });
    request.once('close', () => reject(new Error('the connection has ended without an answer')));
  });
}
